"""Training's linear algebra on the kernels against its definition: phases in big integers, at the ends of residues."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from math import prod, sqrt

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

from glyphc.backends.errors import BackendError
from glyphc.backends.kernels.basis import Basis, primes_below
from glyphc.backends.kernels.ckks_linear import LinearArithmetic, LinearKernels
from glyphc.backends.kernels.ckks_wire import KernelsWire
from glyphc.backends.kernels.estimate import thread_bytes
from glyphc.backends.kernels.evaluator import Ciphertext
from glyphc.backends.kernels.keyfiles import fingerprint
from glyphc.backends.kernels.keygen import KeyMaker
from glyphc.backends.kernels.linear_shape import LinearShape, key_shape
from glyphc.backends.kernels.shape import LARGEST_LINEAR_BITS, EngineShape, check_shape
from glyphc.backends.openfhe.ckks_contexts import make_linear_contexts
from glyphc.backends.openfhe.residues import ResidueError, pack
from glyphc.backends.processors import set_threads
from glyphc.ir.parameters import INSECURE, MOST_LINEAR_LIMBS, Parameters

F64 = npt.NDArray[np.float64]
Integers = list[int]
N = 256
WEIGHT = 64
# What a switch adds to a phase at most: half a unit and one for each coefficient of the secret that is not zero, for
# the division; and the keys' errors (at most 20) times a digit of at most 2^-9 P at every coefficient.
ERROR = 1 + WEIGHT // 2 + 20 * N // 512


def parameters(bits: int, limbs: int) -> Parameters:
    return Parameters(
        N, 20, 44, (), 16, 13, (2, 2), linear_bits=bits, linear_limbs=limbs, decoded_limbs=2, security=INSECURE
    )


class Setting:
    """A secret, a machine with its keys, ciphertexts with extreme residues, and their phases."""

    def __init__(self, bits: int, limbs: int) -> None:
        random = np.random.default_rng(11)
        p = parameters(bits, limbs)
        shape = LinearShape(p, tuple(islice(primes_below(bits, N), limbs)), (N,))
        self.basis = Basis.of(N, shape.primes)
        self.secret = np.zeros(N, dtype=np.int64)
        self.secret[random.choice(N, WEIGHT, replace=False)] = random.choice([-1, 1], WEIGHT)
        maker = KeyMaker(
            self.basis, self.secret, lambda: np.clip(np.rint(random.normal(0, 3.19, N)), -20, 20).astype(np.int64)
        )
        keys = {spec.name: maker.make(spec, bytes(32)) for spec in shape.specs()}
        self.scales = [float(shape.moduli[0])]
        for q in shape.moduli[1:]:
            self.scales.append(sqrt(self.scales[-1] * q))
        self.moduli = shape.moduli
        self.machine = LinearKernels(LinearArithmetic(shape, self.basis, keys), self.scales)

    def ciphertext(self, limbs: int, seed: int) -> Ciphertext:
        """Any residues at all, in evaluation order, the largest and the smallest ones among them."""
        random = np.random.default_rng(seed)
        rows = [random.integers(0, q, (2, N)) for q in self.moduli[:limbs]]
        for row, q in zip(rows, self.moduli, strict=False):
            row[:, : N // 2] = random.choice([0, 1, q // 2, q // 2 + 1, q - 1], (2, N // 2))
        return Ciphertext(np.stack(rows, axis=1).astype(np.float64), self.scales[limbs - 1])

    def phase(self, x: Ciphertext) -> Integers:
        """c0 + c1*s, centred."""
        s, q = [int(v) for v in self.secret], prod(self.moduli[: x.limbs])
        c0, c1 = (self.coefficients(element) for element in x.elements)
        return [centred(a + b, q) for a, b in zip(c0, product(c1, s), strict=True)]

    def coefficients(self, element: F64) -> Integers:
        which = np.arange(len(element))
        y = np.empty_like(element)
        self.basis.backward(np.ascontiguousarray(element), which, self.basis.scaling(list(which)), y)
        assert (element >= 0).all(), "residues are canonical"
        assert (element < self.basis.moduli[which][:, None]).all(), "residues are canonical"
        whole = prod(self.moduli[: len(element)])
        total = [0] * N
        for row, q in zip(y, self.moduli, strict=False):
            one = whole // q * pow(whole // q, -1, q)
            total = [t + int(v) * one for t, v in zip(total, row, strict=True)]
        return [centred(t, whole) for t in total]


def centred(value: int, q: int) -> int:
    value %= q
    return value - q if value > q // 2 else value


def product(a: Sequence[int], b: Sequence[int]) -> Integers:
    """Modulo X^N + 1."""
    whole = [*np.convolve(np.array(a, dtype=object), np.array(b, dtype=object)), 0]
    return [x - y for x, y in zip(whole[:N], whole[N:], strict=True)]


def image(phase: Sequence[int], index: int) -> Integers:
    out = [0] * N
    for e, value in enumerate(phase):
        at = e * index % (2 * N)
        out[at % N] = value if at < N else -value
    return out


# One digit; and several of the largest primes, as many as there may be.
SETTINGS = {(30, 3): None, (LARGEST_LINEAR_BITS, MOST_LINEAR_LIMBS): None}


@pytest.fixture(scope="module", params=list(SETTINGS), ids=str)
def setting(request: pytest.FixtureRequest) -> Setting:
    return Setting(*request.param)


def assert_near(found: Sequence[int], wanted: Sequence[int], q: int, bound: float) -> None:
    assert max(abs(centred(a - b, q)) for a, b in zip(found, wanted, strict=True)) <= bound


def test_automorphisms_substitute(setting: Setting) -> None:
    for limbs in {1, 2, len(setting.moduli)}:
        x = setting.ciphertext(limbs, limbs)
        q, phase = prod(setting.moduli[:limbs]), setting.phase(x)
        assert_near(setting.phase(setting.machine.reverse(x)), image(phase, 2 * N - 1), q, ERROR)
        halves = setting.machine.unpack(x, 2, 4, 2)
        moved = image(phase, 1 + N // 4)
        assert_near(setting.phase(halves[0]), [a + b for a, b in zip(phase, moved, strict=True)], q, ERROR)
        difference = [a - b for a, b in zip(phase, moved, strict=True)]
        assert_near(setting.phase(halves[1]), [*difference[4:], *(-v for v in difference[:4])], q, ERROR)


def test_products_are_those_of_phases(setting: Setting) -> None:
    """Before the division by the last prime, a sum of products of the messages' phases."""
    for limbs in {2, len(setting.moduli)}:
        pairs = [(setting.ciphertext(limbs, s), setting.ciphertext(len(setting.moduli), s + 1)) for s in (1, 5)]
        found = setting.machine.product(pairs)
        assert (found.limbs, found.scale) == (limbs - 1, setting.scales[limbs - 2])
        q, last = prod(setting.moduli[:limbs]), setting.moduli[limbs - 1]
        wanted = [0] * N
        for a, b in pairs:
            phases = setting.phase(a), setting.phase(setting.machine.reduced(b, limbs))
            wanted = [x + y for x, y in zip(wanted, product(*phases), strict=True)]
        assert_near([last * v for v in setting.phase(found)], wanted, q, last * ERROR)


def test_constants_monomials_and_sums_are_exact(setting: Setting) -> None:
    limbs = len(setting.moduli)
    a, b = (setting.ciphertext(limbs, seed) for seed in (3, 4))
    q, x, y = prod(setting.moduli), setting.phase(a), setting.phase(b)
    difference = [v - w for v, w in zip(x, y, strict=True)]
    assert_near(setting.phase(setting.machine.sum([(a, 1), (b, -1)])), difference, q, 0)
    shifts = [image_of_monomial(x, e) for e in (0, 5, -3, N + 1)]
    wanted = [-7 * sum(column) for column in zip(*shifts, strict=True)]
    assert_near(setting.phase(setting.machine.convolved(a, (0, 5, -3, N + 1), -7)), wanted, q, 0)
    raised = round(0.125 * a.scale)
    assert_near(setting.phase(setting.machine.raised(a, 0.125)), [v + raised for v in x], q, 0)
    message = np.linspace(-1, 1, N)
    wanted = [v + int(m) for v, m in zip(x, np.rint(message * a.scale), strict=True)]
    assert_near(setting.phase(setting.machine.with_public(a, message)), wanted, q, 0)
    with pytest.raises(ValueError, match="is too large for 1 limbs"):
        setting.machine.with_public(setting.ciphertext(1, 0), np.full(N, 0.6))


def image_of_monomial(phase: Sequence[int], by: int) -> Integers:
    by %= 2 * N
    sign, by = (1, by) if by < N else (-1, by - N)
    return [sign * v for v in (*(-w for w in phase[N - by :]), *phase[: N - by])]


def test_scaling_rounds_once(setting: Setting) -> None:
    limbs = len(setting.moduli)
    a = setting.ciphertext(limbs, 9)
    found = setting.machine.scaled(a, -0.3)
    last = setting.moduli[-1]
    constant = round(-0.3 * setting.scales[limbs - 2] * last / a.scale)
    wanted = [constant * v for v in setting.phase(a)]
    assert_near([last * v for v in setting.phase(found)], wanted, prod(setting.moduli), last * ERROR)


def test_packing_in_threads_is_packing(setting: Setting) -> None:
    """A level's automorphisms are spread over threads, each with memory of its own: the same bits."""
    sources = [setting.ciphertext(1, seed) if seed % 3 else None for seed in range(32)]
    found = []
    try:
        for threads in (1, 4):
            set_threads(threads)
            packed = setting.machine.pack(sources, 64, 2)
            found.append([packed, *setting.machine.unpack(packed, 32, 2, 31)])
    finally:
        set_threads(0)
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a.elements, b.elements)


def test_what_a_thread_keeps_is_predicted(setting: Setting) -> None:
    try:
        set_threads(4)
        setting.machine.unpack(setting.ciphertext(len(setting.moduli), 1), 32, 2, 31)
    finally:
        set_threads(0)
    held: dict[int, float] = {}
    for (thread, name), array in setting.machine._arithmetic._memory.items():
        # products are not spread over threads
        if name != "tensor":
            held[thread] = held.get(thread, 0) + array.nbytes
    assert max(held.values()) == thread_bytes(setting.machine._parameters)


@examples(20)
@given(st.integers(20, LARGEST_LINEAR_BITS), st.integers(1, MOST_LINEAR_LIMBS))
def test_auxiliary_primes_exceed_digits(bits: int, limbs: int) -> None:
    shape = key_shape(parameters(bits, limbs), limbs)
    moduli = list(islice(primes_below(bits, N), limbs))
    largest = max(prod(moduli[at : at + shape.digit]) for at in range(0, limbs, shape.digit))
    auxiliary = prod(islice(primes_below(48, N), len(shape.special)))
    assert auxiliary >= largest << 7
    assert len(shape.special) + 1 <= 15


def test_limits_are_told() -> None:
    for p, message in (
        (parameters(LARGEST_LINEAR_BITS + 1, 4), f"primes of up to {LARGEST_LINEAR_BITS} bits"),
        (parameters(36, MOST_LINEAR_LIMBS + 1), f"up to {MOST_LINEAR_LIMBS} limbs"),
    ):
        with pytest.raises(BackendError, match=message):
            check_shape(EngineShape(p))


def test_forms_of_keys_differ_with_the_linear_ones() -> None:
    assert len({fingerprint(parameters(bits, limbs)) for bits, limbs in ((30, 3), (30, 4), (46, 4))}) == 3


def test_files_hold_openfhes_residues_in_its_order() -> None:
    contexts = make_linear_contexts(parameters(36, 3))
    linear = LinearShape.of(contexts, (2,))
    basis = Basis.of(N, linear.primes)
    wire = KernelsWire.of(contexts, basis)
    random, limbs = np.random.default_rng(5), 2
    rings = contexts.linear_rings[:limbs]
    polynomials = [[random.integers(0, r.q, N).astype(np.uint64) for r in rings] for _ in range(2)]
    polynomials[0][0][:3] = 0, 1, rings[0].q - 1
    data = b"".join(
        pack(r.to_evaluation(c), r.q) for element in polynomials for r, c in zip(rings, element, strict=True)
    )
    x = wire.read(data, limbs)
    assert wire.write(x, limbs) == data
    assert x.scale == contexts.scales[limbs - 1]
    which = np.arange(limbs)
    for element, wanted in zip(x.elements, polynomials, strict=True):
        y = np.empty_like(element)
        basis.backward(element, which, basis.scaling(list(which)), y)
        np.testing.assert_array_equal(np.where(y < 0, y + basis.moduli[which][:, None], y), np.stack(wanted))
    beyond = np.full(N, rings[0].q, dtype=np.uint64)
    with pytest.raises(ResidueError, match="not below its modulus"):
        wire.read(pack(beyond, rings[0].q) + data[len(pack(beyond, rings[0].q)) :], limbs)
    with pytest.raises(ValueError, match="a ciphertext on 3 limbs has 2"):
        wire.write(x, 3)
