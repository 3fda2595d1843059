"""BGV sums on the kernels, on two limbs and on one, against big integers: what they hold, and with how much noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from math import prod, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_networks import SHAPE, skipping, strided
from onnx import ModelProto
from strategies import examples
from test_image_layouts import IMAGES
from test_kernels import as_integers
from test_masks import Untold
from test_noise_model import Silent

import glyphc
from glyphc.analysis import noise
from glyphc.analysis.cost import CostModel
from glyphc.analysis.estimate import Estimate, estimate
from glyphc.analysis.kernels_cost import KERNELS
from glyphc.backends import gaussian
from glyphc.backends.base import execute
from glyphc.backends.engine import engine
from glyphc.backends.kernels.evaluator import Evaluator
from glyphc.backends.kernels.fresh import Encryptor
from glyphc.backends.kernels.keygen import KeyMaker
from glyphc.backends.kernels.keys import make_basis
from glyphc.backends.kernels.linear import LinearAlgebra, Sum
from glyphc.backends.kernels.shape import EngineShape
from glyphc.backends.simulate import SimulatedMachine
from glyphc.codec import encode
from glyphc.ir.functions import Function
from glyphc.ir.galois import Conjugation, image
from glyphc.ir.graph import Graph
from glyphc.ir.instructions import ClientSpec, ConjugateDot, Conjugates, Polynomials, Schedule
from glyphc.ir.noise import SECRET_WEIGHT, key_switch
from glyphc.ir.ops import Apply, Const, Dense, Input, Output
from glyphc.ir.parameters import INSECURE, MOST_SUM_PRIMES, SUM_PRIME_BITS, Parameters
from glyphc.ir.types import Level

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Phases = npt.NDArray[np.object_]

N, T = 1024, 1 << 20
STEPS = Conjugation.of(N, 16, 4)
PRIMES = (2, 3, MOST_SUM_PRIMES)


class Setting:
    """A secret of the usual weight, and everything that computes under it."""

    def __init__(self, primes: int) -> None:
        bits = 54 if primes == MOST_SUM_PRIMES else SUM_PRIME_BITS - 1
        more = {"conjugates": tuple(sorted(STEPS.elements)), "security": INSECURE, "sum_primes": primes}
        self.parameters = Parameters(N, 20, bits, (1, 2), **more)  # type: ignore[arg-type]
        self.shape = EngineShape(self.parameters)
        self.basis = make_basis(self.shape)
        random = np.random.default_rng(primes)
        self.secret = np.zeros(N, dtype=np.int64)
        self.secret[random.choice(N, SECRET_WEIGHT, replace=False)] = random.choice([-1, 1], SECRET_WEIGHT)
        self.encrypt = Encryptor(self.shape, self.basis, self.secret)
        keys = dict(KeyMaker(self.basis, self.secret, lambda: gaussian.gaussian(N)).keys(self.shape, bytes(32)))
        self.evaluator = Evaluator(self.shape, self.basis, keys)
        self.which = list(self.shape.linear)
        self.q = prod(self.basis.primes[p] for p in self.which)
        self._s = self.basis.residues(self.secret, np.array(self.which))
        self.basis.forward(self._s, np.array(self.which))

    def linear(self, **polynomials: Polynomials) -> LinearAlgebra:
        return LinearAlgebra(self.evaluator, polynomials, {})

    def phases(self, x: Sum) -> Phases:
        """c0 + c1*s, modulo the modulus of sums, exactly."""
        moduli = [self.basis.primes[p] for p in self.which]
        rows = [
            [(int(u) + int(v) * int(w)) % q for u, v, w in zip(a, b, s, strict=True)]
            for a, b, s, q in zip(x[0], x[1], self._s, moduli, strict=True)
        ]
        return np.array(as_integers(self.basis, np.array(rows, dtype=np.float64), self.which), dtype=object)

    def off(self, found: Phases, wanted: Phases) -> F64:
        """Their difference, centred, in units of the modulus' last place."""
        return np.array((found - wanted + self.q // 2) % self.q - self.q // 2, dtype=np.float64)


@cache
def setting(primes: int) -> Setting:
    return Setting(primes)


def product(a: Phases, w: I64) -> Phases:
    """Modulo X^N + 1, by the definition."""
    out = np.zeros(N, dtype=object)
    for at in np.flatnonzero(w):
        moved = np.roll(a, at)
        moved[:at] = -moved[:at]
        out += moved * int(w[at])
    return out


def sparse(random: np.random.Generator, rows: int, terms: int = 6, most: int = 3) -> Polynomials:
    exponents = np.array([random.choice(N, terms, replace=False) for _ in range(rows)], dtype=np.int32)
    values = random.integers(-most, most + 1, exponents.shape)
    return Polynomials(np.arange(rows + 1) * terms, exponents.ravel(), values.ravel())


def messages(random: np.random.Generator, stride: int = 1) -> I64:
    out = random.integers(-T // 2, T // 2, N)
    out[np.arange(N) % stride != 0] = 0
    return out


@pytest.mark.parametrize("primes", PRIMES)
def test_keys_have_the_primes_that_parameters_say(primes: int) -> None:
    shape = setting(primes).shape
    assert len(shape.linear_shape.primes) == primes
    assert len(set(shape.linear_shape.primes)) == primes
    assert shape.linear_shape.digits == 1
    assert shape.linear[0] == 0
    assert max(p for spec in shape.specs() for p in spec.shape.primes) < len(shape.primes)


@pytest.mark.parametrize("primes", PRIMES)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 6), largest=st.sampled_from([1, 1 << 20]))
@examples(6)
def test_products_are_exact(primes: int, seed: int, count: int, largest: int) -> None:
    """Of any number of ciphertexts, with a bias and a sum that goes on, and exact quotients."""
    own, random = setting(primes), np.random.default_rng(seed)
    linear = own.linear(w=sparse(random, count, most=largest), v=sparse(random, count + 1))
    sources = [own.encrypt(messages(random)) for _ in range(count)]
    phases = [own.phases(x) for x in sources]
    first = linear.dot(sources, "w", None)
    wanted = sum(product(a, linear._polynomials["w"].dense(j, N)) for j, a in enumerate(phases))
    assert not own.off(own.phases(first), wanted).any()
    second = linear.dot(sources, "v", first)
    wanted += sum(product(a, linear._polynomials["v"].dense(j, N)) for j, a in enumerate(phases))
    bias = linear._polynomials["v"].dense(count, N).astype(object) * own.q
    # m*Q/t, rounded
    assert np.abs(own.off(own.phases(second), wanted + (2 * bias + T) // (2 * T))).max() <= 1
    quotient = linear.divided(first, 8)
    assert not own.off(own.phases(quotient) * 8, own.phases(first)).any()


@pytest.mark.parametrize("primes", PRIMES)
def test_images_are_those_of_phases(primes: int) -> None:
    """Conjugates, and both halves of a split: exact but for the noise of a key switch, which is as predicted."""
    own, random = setting(primes), np.random.default_rng(primes)
    source = own.encrypt(messages(random))
    phases, errors = own.phases(source), []
    made = own.linear().conjugates(source, Conjugates(tuple(range(1, STEPS.babies)), 0, STEPS.parts, STEPS.stride, 0))
    for found, g in zip(made, STEPS.baby_elements, strict=True):
        assert found.shape == source.shape and found.min() >= 0
        errors.append(own.off(own.phases(found), image(phases, g)))
    moved = image(phases, 1 + N)
    even, odd = own.linear().split(source, 2, 1, 2)
    monomial = np.zeros(N, dtype=np.int64)
    monomial[-1] = -1
    errors.append(own.off(own.phases(even), phases + moved))
    errors.append(own.off(own.phases(odd), product(phases - moved, monomial)))
    limbs = own.parameters.sum_limbs
    predicted = key_switch(N, limbs * SUM_PRIME_BITS, (primes - limbs) * SUM_PRIME_BITS)
    # a key's error is drawn once, and meets all coefficients alike
    assert 0.5 < np.std(errors) / predicted < 1.5
    assert np.abs(errors).max() < 12 * predicted


@pytest.mark.parametrize("primes", PRIMES)
def test_sums_over_conjugates_have_the_noise_that_is_simulated(primes: int) -> None:
    own, random = setting(primes), np.random.default_rng(primes)
    weights = sparse(random, STEPS.parts, 20)
    message = messages(random, STEPS.stride)
    numbers = {"parts": STEPS.parts, "stride": STEPS.stride, "babies": STEPS.babies}
    dot = ConjugateDot(STEPS.babies, tuple(range(STEPS.babies)), "w", None, 0, **numbers)
    images = Conjugates(tuple(range(1, STEPS.babies)), 0, STEPS.parts, STEPS.stride, 0)

    linear, source = own.linear(w=weights), own.encrypt(message)
    found = linear.conjugate_dot([source, *linear.conjugates(source, images)], dot, None)
    # by the definition: the parts of what stands on the stride, and of the noise between
    phases = own.phases(source)
    exact = sum(product(part(phases, r), weights.dense(r, N)) for r in range(STEPS.parts))
    errors = own.off(own.phases(found), exact)

    machine = SimulatedMachine(Schedule(ClientSpec(own.parameters, (), (), 1), (), {"w": weights}))
    simulated = machine.conjugate_dot([np.zeros(N)] * STEPS.babies, dot).std() / own.parameters.plaintext_modulus
    assert (0.4 if own.parameters.sum_limbs == 1 else 0.0) < errors.std() / own.q / simulated < 1.3


def part(phases: Phases, r: int) -> Phases:
    """P X^(-s*r) c_r of what stands on the stride; of what stands between, what conjugates make of it."""
    out: Phases = np.zeros(N, dtype=object)
    for number in range(STEPS.parts):
        turn = -(2 * N // STEPS.parts) * r * STEPS.frequency(number)
        out += shifted(image(phases, STEPS.element(number)), turn)
    return shifted(out, -STEPS.stride * r)


def shifted(a: Phases, by: int) -> Phases:
    """X^by times a polynomial."""
    places = (np.arange(N) + by) % (2 * N)
    out = np.empty_like(a)
    out[places % N] = np.where(places < N, a, -a)
    return out


@pytest.mark.parametrize("primes", PRIMES)
def test_bootstraps_begin_with_the_same_phases(primes: int) -> None:
    own, random = setting(primes), np.random.default_rng(primes)
    source, q0 = own.encrypt(messages(random)), own.basis.primes[0]
    torus = own.linear().to_torus(source)
    assert torus.shape == (2, 1, N)
    back = own.phases(own.linear().from_torus(torus))
    assert np.abs(own.off(back, own.phases(source))).max() * q0 / own.q < 12 * sqrt((1 + SECRET_WEIGHT) / 12)


# -- costs --


@pytest.mark.parametrize("primes", PRIMES)
def test_predicted_memory_of_keys_is_what_they_take(primes: int) -> None:
    own = setting(primes)
    keys = [own.evaluator.keys[own.shape.linear_key(g).name] for g in own.parameters.conjugates]
    assert KERNELS.conjugate_bytes(own.parameters) == sum(key.values.nbytes for key in keys)
    assert CostModel().conjugate_bytes(own.parameters) == 4 * 8 * N * len(keys)


def test_fewer_primes_are_predicted_to_take_less() -> None:
    """Of seconds and memory on the kernels; in OpenFHE nothing changes."""
    program = CASES[0].compiled(CASES[0].samples())
    found: dict[str, list[Estimate]] = {"openfhe": [], "kernels": []}
    for primes in PRIMES:
        client = replace(program.client, parameters=replace(program.client.parameters, sum_primes=primes))
        for model in (CostModel(), KERNELS):
            found[model.engine].append(estimate(replace(program.schedule, client=client), model))
    one, other, two = found["kernels"]
    assert one.seconds < other.seconds < two.seconds
    assert one.key_bytes < other.key_bytes < two.key_bytes
    assert one.memory_bytes < other.memory_bytes < two.memory_bytes
    # weights, and no less than these
    weights = 8 * program.client.parameters.ring * sum(map(len, program.schedule.polynomials.values()))
    assert two.memory_bytes - other.memory_bytes >= weights
    assert found["openfhe"] == [found["openfhe"][0]] * 3


# -- programs --


def layers(functions: tuple[str, ...], rows: tuple[int, ...]) -> Graph:
    """12 values through dense layers of random weights, each with a function behind it or none."""
    random = np.random.default_rng(len(rows))
    graph = Graph(Level.SOURCE, 1)
    value = graph.add(Input("x", (12,)))
    for name, count, function in zip("abc", rows, functions, strict=False):
        weights = random.normal(size=(count, value.type.size)) / np.sqrt(value.type.size)
        constants = graph.add_constant(f"{name}.w", weights), graph.add_constant(f"{name}.b", np.zeros(count))
        value = graph.add(Dense((Const(constants[0]),), Const(constants[1])), (value,), location=name)
        value = graph.add(Apply((Function(function),)), (value,)) if function else value
    graph.add(Output("y"), (value,))
    return graph


DENSE = layers(("tanh", ""), (16, 8))
# unpacks by splits
SPLITTING = CostModel(kernels=replace(KERNELS, baby=50.0, giant=50.0))


@dataclass(frozen=True)
class Case:
    """A network for the kernels. split: its values are unpacked so, and not as sums over conjugates."""

    name: str
    model: Graph | ModelProto
    ring: int = 1024
    images: bool = False
    split: bool = False

    def compiled(self, x: F64, **options: Any) -> glyphc.Program:
        options |= {"passes": IMAGES} if self.images else {}
        options |= {"cost": SPLITTING if self.split else CostModel()}
        return glyphc.compile(self.model, x, 16, strategy="glyph", insecure_ring=self.ring, **options)

    def samples(self) -> F64:
        shape = SHAPE if self.images else (12,)
        return np.random.default_rng(7).uniform(-1, 1, (16, *shape))

    def __str__(self) -> str:
        return self.name


CASES = [
    Case("dense", DENSE),
    Case("split", DENSE, split=True),
    Case("images", strided(), images=True),
    Case("residual", skipping(1), images=True),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_results_have_the_noise_that_is_simulated(case: Case) -> None:
    """Of a program whose sums have one prime, beside the series alone: no more than is simulated, nor far less."""
    x = case.samples()
    p = case.compiled(x)
    assert p.client.parameters.sum_primes == 2
    assert case.images or bool(p.client.parameters.unpack_strides) == case.split
    port, out = p.client.inputs[0], p.client.outputs[0]

    def results(machine: object, encrypt: Callable[[I64], object], decrypt: Callable[[object], I64]) -> F64:
        found = execute(p.schedule.instructions, machine, {port.name: [encrypt(c) for c in encode(port, x)]})[out.name]
        return out.layout.unpack(np.array([decrypt(c) for c in found]), len(x)).astype(np.float64)

    def simulated(generator: object) -> F64:
        machine = SimulatedMachine(p.schedule)
        machine._random = generator
        return results(machine, machine.encrypt, machine.decrypt)

    exact, noisy = simulated(Silent()), simulated(np.random.default_rng(8))
    with engine("kernels").session(p.schedule, Untold()) as session:
        real = results(session.machine, session.encrypt, session.decrypt)
    # bootstraps of the kernels have a quarter of what is predicted
    assert 0.2 < (real - exact).std() / (noisy - exact).std() < 1.3


def test_one_prime_adds_little_to_any_error() -> None:
    """What is chosen keeps to the bound, and where fewer primes would do, they are taken."""
    case = CASES[0]
    graph = case.compiled(case.samples()).graph
    usual = replace(graph.parameters, bgv_bits=55, sum_primes=MOST_SUM_PRIMES)  # type: ignore[type-var]
    before = noise.predict(graph, usual, 55)
    chosen = set()
    # a plaintext modulus that leaves less and less room for noise
    for bits in range(usual.plaintext_bits, 48):
        tight = replace(usual, plaintext_bits=bits)
        made = noise.on_one_prime(graph, tight)
        chosen.add(made.sum_primes)
        before, after = (noise.predict(graph, p, p.bgv_bits) for p in (tight, made))
        assert all(after[i].total <= 1.02 * before[i].total for i in before)
        assert not any(noise.shows(graph.node(i), after[i].white) for i in after) or made == tight
        assert made == replace(tight, bgv_bits=made.bgv_bits, sum_primes=made.sum_primes)
    assert chosen == set(PRIMES)


def test_where_sums_keep_two_limbs() -> None:
    """Without bootstraps, with encrypted weights, and in programs for OpenFHE."""
    case, x = CASES[0], CASES[0].samples()
    alone = replace(case, model=layers(("",), (4,))).compiled(x)
    secret, elsewhere = case.compiled(x, encrypt_weights="all"), case.compiled(x, engine="openfhe")
    assert alone.client.parameters.slots == 0
    for program in (alone, secret, elsewhere):
        assert program.client.parameters.sum_primes == MOST_SUM_PRIMES
