"""Predicted noise against measured noise: real ciphertexts on a small ring, and the simulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import hypot

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_masks import Untold
from test_passes_layout import mlp

import glyphc
from glyphc.analysis import noise
from glyphc.backends.base import execute
from glyphc.backends.engine import engine
from glyphc.backends.openfhe.client import generate_keys
from glyphc.backends.openfhe.evaluator import OpenFHEMachine
from glyphc.backends.openfhe.linear import LinearEngine
from glyphc.backends.simulate import SimulatedMachine
from glyphc.backends.spectra import NegacyclicFFT
from glyphc.codec import encode
from glyphc.ir.evaluate import quantize
from glyphc.ir.functions import Function
from glyphc.ir.galois import Conjugation
from glyphc.ir.graph import Graph, Node
from glyphc.ir.instructions import ClientSpec, ConjugateDot, Conjugates, Polynomials, Schedule
from glyphc.ir.matrices import Full
from glyphc.ir.noise import SIGMA, baby_step_noise, giant_step_noise, key_switch
from glyphc.ir.ops import Apply, Bootstrap, Const, Dense, Input, Linear, Output
from glyphc.ir.parameters import INSECURE, Parameters
from glyphc.ir.series import OUTPUT_BITS, evaluate_series
from glyphc.ir.types import Level
from glyphc.ways.weight_polynomials import weight_polynomials

RING = 2048
CONJUGATES = Conjugation.of(RING, 16, 4)
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


def white_noise(client, ciphertext, message: F64) -> float:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Standard deviation of e in m + t*e, in units of the last place, by decrypting to a modulus where e shows."""
    from glyphc.backends.openfhe.bridge import residues

    contexts = client.contexts
    ring, t = contexts.bgv_ring, contexts.parameters.plaintext_modulus
    secret = residues(client._secret, ring.n, (ring.q,), 1)[0].astype(object)
    c0, c1 = (c.astype(object) for c in residues(ciphertext, ring.n, (ring.q,), 2))
    phase = ring.to_coefficients(np.array((c0 + c1 * secret) % ring.q, dtype=np.uint64))
    e = (ring.centre(phase).astype(np.float64) - message) / t
    assert np.allclose(e, np.rint(e), atol=1e-3)
    return float(e.std())


def phases(client, ciphertext) -> F64:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """The torus phases that a ciphertext behind a bootstrap holds, with all of its noise."""
    from glyphc.backends.openfhe.bridge import residues

    ring, bgv = client.contexts.torus_ring, client.contexts.bgv_ring
    secret = bgv.centre(bgv.to_coefficients(residues(client._secret, bgv.n, (bgv.q,), 1)[0]))
    s = ring.to_evaluation(ring.reduce(secret)).astype(object)
    c0, c1 = (c.astype(object) for c in residues(ciphertext, ring.n, (ring.q,), 2))
    return np.asarray(ring.centre(ring.to_coefficients(np.array((c0 + c1 * s) % ring.q, dtype=np.uint64))) / ring.q)


@pytest.fixture(scope="module")
def plain_keys():  # type: ignore[no-untyped-def]  # noqa: ANN201
    # with a bootstrap, hence its sparse secret: only bootstrapped values are ever split
    return generate_keys(
        Parameters(
            RING,
            20,
            54,
            unpack_strides=(1,),
            slots=8,
            degree=13,
            level_budget=(2, 2),
            security=INSECURE,
            conjugates=tuple(sorted(CONJUGATES.elements)),
        )
    )


def test_fresh_encryption_noise(plain_keys) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    client, _ = plain_keys
    message = np.arange(RING, dtype=np.int64)
    assert white_noise(client, client.encrypt(message), message) == pytest.approx(SIGMA, rel=0.1)


def test_key_switching_noise(plain_keys) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """One level of a split doubles the noise and adds a key switch."""
    client, evaluation = plain_keys
    message = np.arange(RING, dtype=np.int64)
    even, _ = LinearEngine(evaluation, {}).split(client.encrypt(message), 2, 1, 2)
    expected = np.zeros(RING)
    expected[::2] = 2 * message[::2]
    # at the even positions 2e remains of the fresh noise, at the odd ones nothing: a variance of 2 sigma^2 in the mean
    added = np.sqrt(white_noise(client, even, expected) ** 2 - 2 * SIGMA**2)
    # it varies from key to key, since a key's noise is drawn once
    assert 0.5 < added / key_switch(RING, 54) < 2.5


def test_noise_of_sums_over_conjugates(plain_keys) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Encrypted, simulated and predicted: of baby steps it is multiplied by the weights, of giant steps not."""
    client, evaluation = plain_keys
    random = np.random.default_rng(3)
    parts, stride, babies = CONJUGATES.parts, CONJUGATES.stride, CONJUGATES.babies
    rows = random.integers(-3, 4, (parts, 40))
    exponents = random.integers(0, RING, rows.shape).astype(np.int32)
    weights = Polynomials(np.arange(parts + 1) * rows.shape[1], exponents.ravel(), rows.ravel())
    engine = LinearEngine(evaluation, {"w": weights})
    message = np.zeros(RING, dtype=np.int64)
    source = client.encrypt(message)
    images = engine.conjugates(source, Conjugates(tuple(range(1, babies)), 0, parts, stride, 0))
    numbers = {"parts": parts, "stride": stride, "babies": babies}
    dot = ConjugateDot(babies, tuple(range(babies)), "w", None, 0, **numbers)
    measured = white_noise(client, engine.conjugate_dot([source, *images], dot), message)
    energy = sum(np.square(weights.dense(r, RING)).sum() for r in range(parts))
    switch = key_switch(RING, 54)
    # what a part has of the fresh noise is 1/P of it, P times as large
    fresh = SIGMA * np.sqrt(parts * energy)
    predicted = np.hypot(
        np.hypot(baby_step_noise(switch, CONJUGATES) * np.sqrt(energy), fresh), giant_step_noise(switch, CONJUGATES)
    )
    assert 0.5 < measured / predicted < 2.0
    parameters = client.contexts.parameters
    machine = SimulatedMachine(Schedule(ClientSpec(parameters, (), (), 1), (), {"w": weights}))
    sources = [machine.encrypt(message)] * babies
    simulated = float(machine.conjugate_dot(sources, dot).std()) * 2.0 ** (54 - parameters.plaintext_bits)
    assert simulated == pytest.approx(predicted, rel=0.1)


@given(st.integers(1, 6), st.integers(0, 2**32 - 1), st.booleans())
def test_baby_steps_add_no_more_than_is_predicted(bits: int, seed: int, one: bool) -> None:
    """Whatever the weights: the energy that meets key switches, and that one of them gets all of it at worst."""
    random, parts = np.random.default_rng(seed), 1 << bits
    steps = Conjugation.of(256, parts, 2)
    dense = random.integers(-9, 10, (parts, steps.ring)) * (random.random((parts, steps.ring)) < 0.2)
    if one:
        # what is an image of one polynomial under the second conjugate alone
        turn = steps.stride + 2 * steps.ring // parts * steps.frequency(1)
        dense = np.array([shifted(dense[0], r * turn) for r in range(parts)])
    residues, exponents = np.nonzero(dense)
    met = sum(
        float(np.square(weight).sum())
        for _, baby, weight in steps.weights(residues, exponents, dense[residues, exponents])
        if baby
    )
    bound = baby_step_noise(1.0, steps) * np.sqrt(np.square(dense).sum())
    assert np.sqrt(met) <= bound * (1 + 1e-9)
    if one:
        assert np.sqrt(met) == pytest.approx(bound)


def shifted(polynomial: I64, by: int) -> I64:
    """X^by times a polynomial, modulo X^n + 1."""
    n = len(polynomial)
    places = np.arange(n) + by
    out = np.empty_like(polynomial)
    out[places % n] = np.where(places // n % 2, -polynomial, polynomial)
    return out


@dataclass(frozen=True)
class Case:
    """skip: the last layer reads the input too, beside two functions of the first layer."""

    functions: tuple[Function, ...]
    seed: int
    skip: bool = False

    def __str__(self) -> str:
        return f"{self.functions[0]}{' and skip' if self.skip else ''}"


CASES = [Case((Function("relu"),), 1), Case((Function("tanh"),), 2), Case((Function("sigmoid"),), 3)]
JOINED = [Case((Function("relu"),), 4, skip=True), Case((Function("tanh"),), 5, skip=True)]


def program(case: Case) -> tuple[glyphc.Program, F64]:
    """12 -> 8 -> f -> 5 on random weights and data; with a skip, 12 and 8 -> sigmoid and 8 -> f -> 5."""
    random = np.random.default_rng(case.seed)
    x = random.normal(size=(64, 12))
    graph = Graph(Level.SOURCE, 1)

    def dense(operands: list[Node], rows: int, name: str) -> Node:
        weights = tuple(
            Const(graph.add_constant(f"{name}.w", random.normal(size=(rows, v.type.size)) / np.sqrt(v.type.size)))
            for v in operands
        )
        bias = Const(graph.add_constant(f"{name}.b", random.normal(size=rows) / 4))
        return graph.add(Dense(weights, bias), tuple(operands), location=name)

    source = graph.add(Input("x", (12,)))
    hidden = dense([source], 8, "a")
    read = [graph.add(Apply(case.functions), (hidden,), location="f")]
    if case.skip:
        read = [source, graph.add(Apply((Function("sigmoid"),)), (hidden,), location="g"), *read]
    graph.add(Output("y"), (dense(read, 5, "b"),))
    return glyphc.compile(graph, x, batch=64, insecure_ring=RING), x


def measured_errors(p: glyphc.Program, x: F64, machine, encrypt, decrypt) -> dict[int, F64]:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Error of the output in integers, against the exact function of the same fixed-point input."""
    port, out = p.client.inputs[0], p.client.outputs[0]
    inputs = {port.name: [encrypt(c) for c in encode(port, x)]}
    result = execute(p.schedule.instructions, machine, inputs)[out.name]
    coefficients = np.array([decrypt(c) for c in result])
    exact = p.run(x, mode="clear")
    assert isinstance(exact, np.ndarray)
    got = out.layout.unpack(coefficients, len(x))
    want = quantize(exact, out.fixed)
    return got - want


@pytest.mark.parametrize("case", [*CASES, *JOINED], ids=str)
def test_output_error_is_predicted(case: Case) -> None:
    """Encrypted and simulated error of the output agree with the model within a factor of two."""
    p, x = program(case)
    assert len([n for n, op in p.graph.of(Linear) if len(op.weights) == 3]) == case.skip
    parameters = p.client.parameters
    predicted = noise.predict(p.graph, parameters, parameters.bgv_bits)
    output = p.graph.operands(p.graph.outputs[0])[0]
    client, evaluation = generate_keys(parameters)
    real = measured_errors(p, x, OpenFHEMachine(p.schedule, evaluation), client.encrypt, client.decrypt).std()
    machine = SimulatedMachine(p.schedule)
    simulated = measured_errors(p, x, machine, machine.encrypt, machine.decrypt).std()
    assert real == pytest.approx(simulated, rel=0.35)
    assert 0.5 < real / predicted[output.id].total < 2.0


class Silent:
    """In place of a random generator: no noise at all."""

    @staticmethod
    def normal(mean: float, deviation: float | F64, size: int | None = None) -> F64:
        return np.zeros(np.shape(deviation) if size is None else size)


def test_noise_between_values_is_predicted() -> None:
    """Of results that stand between those of bootstraps, without the series' errors: kernels have somewhat less."""
    random, x = np.random.default_rng(6), np.random.default_rng(7).normal(size=(64, 12))
    graph = Graph(Level.SOURCE, 1)
    value = graph.add(Input("x", (12,)))
    for name, rows, function in (("a", 16, "tanh"), ("b", 128, "")):
        weights = random.normal(size=(rows, value.type.size)) / np.sqrt(value.type.size)
        constants = graph.add_constant(f"{name}.w", weights), graph.add_constant(f"{name}.b", np.zeros(rows))
        value = graph.add(Dense((Const(constants[0]),), Const(constants[1])), (value,), location=name)
        value = graph.add(Apply((Function(function),)), (value,)) if function else value
    graph.add(Output("y"), (value,))
    p = glyphc.compile(graph, x, batch=32, insecure_ring=4096, strategy="glyph")
    port, out = p.client.inputs[0], p.client.outputs[0]

    def coefficients(machine: object, encrypt: Callable[[I64], object], decrypt: Callable[[object], I64]) -> F64:
        inputs = {port.name: [encrypt(c) for c in encode(port, x[:32])]}
        found = execute(p.schedule.instructions, machine, inputs)[out.name]
        return out.layout.unpack(np.array([decrypt(c) for c in found]), 32).astype(np.float64)

    def simulated(generator: object) -> F64:
        machine = SimulatedMachine(p.schedule)
        machine._random = generator
        return coefficients(machine, machine.encrypt, machine.decrypt)

    exact, noisy = simulated(Silent()), simulated(np.random.default_rng(8))
    with engine("kernels").session(p.schedule, Untold()) as session:
        real = coefficients(session.machine, session.encrypt, session.decrypt)
    parameters = p.client.parameters
    predicted = noise.predict(p.graph, parameters, parameters.bgv_bits)[p.graph.operands(p.graph.outputs[0])[0].id]
    most = hypot(predicted.white, predicted.bootstrap)
    assert (noisy - exact).std() == pytest.approx(most, rel=0.2)
    assert 0.25 < (real - exact).std() / most < 1.25


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bootstrap_noise_is_predicted(case: Case) -> None:
    """Noise beyond the series itself: measured on the refreshed ciphertext, against the model's constants."""
    p, _ = program(case)
    parameters = p.client.parameters
    (node, op), *_ = p.graph.of(Bootstrap)
    client, evaluation = generate_keys(parameters)
    machine = OpenFHEMachine(p.schedule, evaluation)
    t = parameters.plaintext_modulus
    message = np.rint(np.linspace(-0.99, 0.99, RING) * op.series.half_range * t).astype(np.int64)
    grid = RING // (2 * parameters.slots)
    torus = machine.to_torus(client.encrypt(message), parameters.slots)
    evaluate = next(i for i in p.schedule.instructions if type(i).__name__ == "Evaluate")
    result = machine.evaluate(machine.powers(torus, parameters.slots, parameters.degree), evaluate)
    phase = phases(client, result)
    exact = evaluate_series(op.series, message[::grid] / t) / 2.0**OUTPUT_BITS
    measured = float((phase[::grid] - exact).std()) * t * op.divisor
    predicted = noise.predict(p.graph, parameters, parameters.bgv_bits)[node.id].bootstrap
    assert 1 / 4 < measured / predicted < 2.5


def test_white_noise_grows_by_the_chunks_that_are_merged() -> None:
    """Noise on all coefficients through the products of a layer that makes one ciphertext of four."""
    source = mlp(8, 64, 16, 4, function="tanh")
    x = np.random.default_rng(1).normal(size=(64, 8))
    p = glyphc.compile(source, x, 64, insecure_ring=1024)
    ((node, op),) = [(n, o) for n, o in p.graph.of(Linear) if n.location == "fc2"]
    (operand,) = p.graph.operands(node)
    before, after = operand.type.layout, node.type.layout
    assert before is not None
    assert after is not None
    assert (before.chunks, after.chunks) == (4, 1)
    weight = p.graph.constant(op.weights[0].name).astype(np.int64)
    polynomials = weight_polynomials(Full(weight).parts(before.parts), None, before, after)
    fft, rng = NegacyclicFFT(before.ring), np.random.default_rng(2)
    total = np.zeros(before.ring)
    # where a chunk is moved to makes no difference to noise that stands everywhere
    for _ in range(before.chunks):
        for part in range(len(polynomials)):
            row = polynomials.dense(part, before.ring).astype(np.float64)
            total += fft.inverse(fft.forward(rng.normal(size=before.ring)) * fft.forward(row))
    parameters = p.client.parameters
    predicted = noise.predict(p.graph, parameters, parameters.bgv_bits)
    assert predicted[node.id].white / predicted[operand.id].white == pytest.approx(total.std(), rel=0.1)
