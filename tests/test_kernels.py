"""The kernels against big integers and their definitions, on small rings and at the ends of their bounds."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit
from strategies import examples
from test_encrypted import MODELS, data

import glyphc
from glyphc.analysis.series import fit
from glyphc.backends.kernels.arithmetic import anchor, canonical, collapse, fma, low, product, product_by, reduce
from glyphc.backends.kernels.basis import Basis, automorphism, bit_reversal, is_prime, primes_below, root_of_unity
from glyphc.backends.kernels.bootstrap import Bootstrapper
from glyphc.backends.kernels.evaluator import Ciphertext, Evaluator, combine_four_rows
from glyphc.backends.kernels.keygen import KeyMaker
from glyphc.backends.kernels.keys import make_basis, stacked, whole_key
from glyphc.backends.kernels.keyswitch import KeyShape, Plan, inner_rows
from glyphc.backends.kernels.shape import EngineShape
from glyphc.backends.kernels.slots import coefficients, slot_values, transform
from glyphc.backends.kernels.uniform import UniformRows
from glyphc.ir.noise import DECODING_FLOOR, bootstrap
from glyphc.ir.parameters import INSECURE, Parameters
from glyphc.ir.series import OUTPUT_BITS, evaluate_series, rms_slope
from glyphc.runtime import run

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

N = 512
# The largest primes of each size that is used.
SIZES = (36, 40, 48)
PRIMES = {bits: next(primes_below(bits, N)) for bits in SIZES}


# -- arithmetic --


@njit(error_model="numpy")
def _arithmetic(a, w, q, inverse):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    return product(a, w, q, inverse), product_by(a, w, w * inverse, q), reduce(a, q, inverse)


@given(st.sampled_from(SIZES), st.data())
@examples(300)
def test_products_are_exact_up_to_their_bound(bits: int, data: st.DataObject) -> None:
    q = PRIMES[bits]
    w = data.draw(st.sampled_from([1, 2, q // 2, q - 1]) | st.integers(1, q - 1))
    most = min(2**53 - 1, ((q << 51) - 1) // w)
    a = data.draw(st.sampled_from([0, 1, q - 1, q, most, most - 1]) | st.integers(0, most)) % (most + 1)
    a = data.draw(st.sampled_from([a, -a]))
    by_inverse, by_ratio, reduced = (int(r) for r in _arithmetic(float(a), float(w), float(q), 1.0 / q))
    for r in (by_inverse, by_ratio):
        assert (r - a * w) % q == 0
        assert abs(r) < q
    assert (reduced - a) % q == 0
    assert abs(reduced) <= 0.51 * q


@njit(error_model="numpy")
def _summed(a, w, bound, q, inverse):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    start = anchor(bound)
    total, left = start, 0.0
    for j in range(a.shape[0]):
        following = fma(a[j], w[j], total)
        left += low(total, a[j], w[j], following)
        total = following
    return collapse(total, left, start, q, inverse)


@given(st.sampled_from(SIZES), st.sampled_from(SIZES), st.data())
@examples(300)
def test_sums_of_products_are_exact_up_to_their_bound(bits: int, source: int, data: st.DataObject) -> None:
    """15 of them, with factors below another prime, which may be a larger one; all at their ends, too."""
    q, d = PRIMES[bits], PRIMES[source]
    count = data.draw(st.integers(1, 15))
    a, w = (
        data.draw(st.lists(st.sampled_from([-most, most]) | st.integers(-most, most), min_size=count, max_size=count))
        for most in (d - 1, q // 2)
    )
    if data.draw(st.booleans()):
        a, w = [d - 1] * count, [data.draw(st.sampled_from([-1, 1])) * (q // 2)] * count
    found = _summed(np.array(a, dtype=float), np.array(w, dtype=float), count * 0.5 * q * d, float(q), 1.0 / q)
    assert (int(found) - sum(x * y for x, y in zip(a, w, strict=True))) % q == 0
    assert abs(found) <= 0.51 * q


@given(st.integers(0, 1 << 20))
def test_primes(start: int) -> None:
    assert is_prime(start) == (start > 1 and all(start % d for d in range(2, int(start**0.5) + 1)))


def test_canonical() -> None:
    assert [canonical.py_func(r, 7.0) for r in (-6.0, -1.0, 0.0, 6.0)] == [1.0, 6.0, 0.0, 6.0]


# -- transforms --


@pytest.mark.parametrize("n", [256, 512, 1024, 4096, 8192])
@pytest.mark.parametrize("extreme", [False, True])
def test_transforms_are_their_definition(n: int, extreme: bool) -> None:
    basis = Basis.of(n, [next(primes_below(bits, n)) for bits in SIZES])
    which = np.arange(len(SIZES))
    rng = np.random.default_rng(n)
    for row, q in enumerate(basis.primes):
        a = [q - 1] * n if extreme else [int(v) for v in rng.integers(0, q, n)]
        x = np.array([a], dtype=np.float64)
        basis.forward(x, which[row : row + 1])
        assert x.min() >= 0 and x.max() < q
        psi = root_of_unity(q, n)
        # where the value at psi^e stands, told from the monomial X
        monomial = np.zeros((1, n))
        monomial[0, 1] = 1
        basis.forward(monomial, which[row : row + 1])
        for position in (0, 1, 2, n // 2, n - 1, int(rng.integers(n))):
            at = int(monomial[0, position])
            value = 0
            for c in reversed(a):
                value = (value * at + c) % q
            assert int(x[0, position]) == value
            assert pow(at, n, q) == q - 1
        assert len(set(monomial[0])) == n
        assert psi in monomial[0]
        basis.backward(x, which[row : row + 1], basis.scaling([row]), x)
        assert np.abs(x).max() < q
        assert [int(v) % q for v in x[0]] == a


@pytest.mark.parametrize("sign", [1, -1])
def test_the_longest_transform_stays_exact(sign: int) -> None:
    """16 stages without a reduction: coefficients that are so large in the values at psi, by big integers, that every
    sum on the way to this value is as large as it can be; and at the ends everywhere."""
    n = 65536
    q = next(primes_below(48, n))
    basis, which = Basis.of(n, [q]), np.array([0])
    monomial = np.zeros((1, n))
    monomial[0, 1] = 1
    basis.forward(monomial, which)
    for at in (0, 12345, n - 1):
        root = int(monomial[0, at])
        power, powers = 1, []
        for _ in range(n):
            powers.append(power)
            power = power * root % q
        for a in ([sign * (q - 1)] * n, [sign * (q - 1) * (1 if p <= q // 2 else -1) for p in powers]):
            x = np.array([a], dtype=np.float64)
            basis.forward(x, which)
            assert x.min() >= 0 and x.max() < q
            assert int(x[0, at]) == sum(c * p for c, p in zip(a, powers, strict=True)) % q
            y = np.empty_like(x)
            basis.backward(x, which, basis.scaling([0]), y)
            assert np.abs(y).max() < q
            assert [int(v) % q for v in y[0, ::97]] == [v % q for v in a[::97]]


def substituted(polynomial: I64, index: int) -> I64:
    """a(X^index) of a(X) modulo X^n + 1, n coefficients."""
    n = len(polynomial)
    exponents = np.arange(n) * index % (2 * n)
    out = np.zeros_like(polynomial)
    out[exponents % n] = np.where(exponents < n, polynomial, -polynomial)
    return out


def test_automorphisms_substitute() -> None:
    basis = Basis.of(N, [PRIMES[40]])
    rng = np.random.default_rng(1)
    a = rng.integers(-1000, 1000, N)
    for index in (3, 5, 2 * N - 1, N + 1):
        x, image = (basis.residues(p, np.array([0])) for p in (a, substituted(a, index)))
        for y in (x, image):
            basis.forward(y, np.array([0]))
        np.testing.assert_array_equal(x[0][automorphism(basis, index)], image[0])


@pytest.mark.parametrize("n", [256, 2048, 4096, 16384])
def test_automorphisms_take_chunks_to_chunks(n: int) -> None:
    """What the levels of transforms are cut by: they compute no other chunk than the one that they read."""
    basis = Basis.of(n, [])
    size = basis.rows * basis.columns
    for index in (3, 5, pow(5, n // 8, 2 * n), 2 * n - 1, n + 1):
        of = automorphism(basis, index).reshape(-1, size) // size
        assert (of == of[:, :1]).all()


def test_unusable_rings_and_primes_are_refused() -> None:
    with pytest.raises(ValueError, match="power of two from 256 to 65536, not 128"):
        Basis.of(128, [])
    with pytest.raises(ValueError, match="no prime below"):
        Basis.of(N, [PRIMES[40] + 2])
    with pytest.raises(ValueError, match="no prime below"):
        Basis.of(N, [next(primes_below(50, N))])


# -- conversions and key switching --


def chain() -> tuple[Basis, KeyShape]:
    """Seven primes of a chain, three digits, three auxiliary primes."""
    levels, wide = primes_below(40, N), primes_below(48, N)
    primes = [next(wide), *(next(levels) for _ in range(6)), *(next(wide) for _ in range(3))]
    return Basis.of(N, primes), KeyShape(tuple(range(7)), 3, (7, 8, 9))


def as_values(basis: Basis, integers: Sequence[int], which: Sequence[int]) -> F64:
    x = np.array([[v % basis.primes[p] for v in integers] for p in which], dtype=np.float64)
    basis.forward(x, np.array(which))
    return x


def as_integers(basis: Basis, values: F64, which: Sequence[int]) -> list[int]:
    """Centred modulo the product of the primes."""
    y = np.empty_like(values)
    basis.backward(np.ascontiguousarray(values), np.array(which), basis.scaling(which), y)
    q = prod(basis.primes[p] for p in which)
    total = [0] * basis.n
    for row, p in zip(y, which, strict=True):
        other = q // basis.primes[p]
        one = other * pow(other, -1, basis.primes[p])
        total = [t + int(v) * one for t, v in zip(total, row, strict=True)]
    return [t % q - q if t % q > q // 2 else t % q for t in total]


def extremes(q: int, seed: int) -> list[int]:
    rng = np.random.default_rng(seed)
    words = [int.from_bytes(rng.bytes(80), "little") % q for _ in range(N)]
    words[:6] = [0, 1, q - 1, q // 2, q // 2 + 1, q // 3]
    return words


@pytest.mark.parametrize("limbs", [1, 3, 5, 7])
def test_decomposition_and_division_round_exactly(limbs: int) -> None:
    basis, shape = chain()
    plan = Plan(basis, shape, limbs)
    which = [int(p) for p in plan.which]
    q = prod(basis.primes[:limbs])
    x = extremes(q, limbs)
    digits = np.empty((plan.digits, plan.rows, N))
    plan.decompose(as_values(basis, x, range(limbs)), digits, np.empty((limbs, N)))
    for number, (own, _, _) in enumerate(plan.conversions):
        size = prod(basis.primes[p] for p in which[own])
        for digit, value in zip(as_integers(basis, digits[number], which), x, strict=True):
            assert (digit - value) % size == 0
            assert abs(digit) <= size // 2 + 1
    whole = prod(basis.primes[p] for p in which)
    for dropped in (0, 1) if limbs > 1 else (0,):
        y = extremes(whole, limbs + 10)
        scratch = np.empty((2 * plan.rows, N)), np.empty((2 * limbs, N))
        both = y, y[::-1]
        out = np.empty((2, limbs - dropped, N))
        plan.divide(np.stack([as_values(basis, z, which) for z in both]), out, dropped, scratch)
        divisor = prod(basis.primes[p] for p in which[limbs - dropped :])
        kept = prod(basis.primes[: limbs - dropped])
        quotients = [z for element in out for z in as_integers(basis, element, range(limbs - dropped))]
        for found, value in zip(quotients, [*both[0], *both[1]], strict=True):
            centred = value - whole if value > whole // 2 else value
            # off by one only where the quotient lies half way between integers
            assert (found - (2 * centred + divisor) // (2 * divisor)) % kept in (0, 1, kept - 1)
            assert abs((found * divisor - centred + kept * divisor // 2) % (kept * divisor) - kept * divisor // 2) <= (
                divisor // 2 + divisor // 2**40
            )


def test_multiples_are_summed_exactly() -> None:
    """Of four ciphertexts, everything as large as it may be, and what was there before."""
    basis = Basis.of(256, [next(primes_below(bits, 256)) for bits in SIZES])
    n, rows = basis.n, len(SIZES)
    tops = np.array(basis.primes)[:, None]
    x = np.ones((2, rows, n)) * (tops - 1.0)
    for signs in ((1, 1, 1, 1), (-1, -1, -1, -1), (1, -1, 1, 1)):
        low = np.array(signs)[:, None] * (tops[:, 0] // 2).astype(float)
        out = x.copy()
        combine_four_rows(0, rows, x, x, x, x, low, -low, out, False, basis.moduli, basis.inverses)
        for i, q in enumerate(basis.primes):
            each = sum(signs) * (q // 2) * (q - 1)
            assert (out[:, i, : n // 2] == (q - 1 + each) % q).all()
            assert (out[:, i, n // 2 :] == (q - 1 - each) % q).all()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 6, 7])
def test_keys_are_multiplied_exactly(count: int) -> None:
    """Any number of digits, with and without what is added to them, everything as large as it may be."""
    basis = Basis.of(2048, [next(primes_below(bits, 2048)) for bits in SIZES])
    n, rows = basis.n, len(SIZES)
    rng = np.random.default_rng(count)
    tops = np.array(basis.primes)[:, None]
    digits = np.broadcast_to(tops - 1.0, (count, rows, n)) * np.ones(n)
    key = np.where(rng.integers(0, 2, (2, count, rows, n)) == 1, 1.0, -1.0) * (tops // 2)
    key[..., : n // 2] = tops // 2  # all of one sign
    addends, factors = np.ones((2, 2, n)) * (tops[:2] - 1.0), np.array([-(q // 2) for q in basis.primes], dtype=float)
    out = np.empty((2, rows, n))
    which = np.arange(rows)
    inner_rows(0, rows, digits, key, which, addends, factors, out, which, basis.moduli, basis.inverses)
    for h in range(2):
        for i, q in enumerate(basis.primes):
            for j in (0, 1, n // 2 - 1, n // 2, n - 2, n - 1):
                wanted = sum(int(digits[d, i, j]) * int(key[h, d, i, j]) for d in range(count))
                wanted += int(addends[h, i, j]) * int(factors[i]) if i < 2 else 0
                assert out[h, i, j] == wanted % q


def test_uniform_residues_follow_from_seed_and_name() -> None:
    q = PRIMES[40]
    row = UniformRows(bytes(32), "a").row(20000, q)
    np.testing.assert_array_equal(row, UniformRows(bytes(32), "a").row(20000, q))
    assert (row != UniformRows(bytes(32), "b").row(20000, q)).mean() > 0.99
    assert row.min() >= 0 and row.max() < q
    assert abs(row.mean() / q - 0.5) < 0.01


def test_a_key_is_its_own_half_and_the_seeds(full: Client) -> None:
    maker = KeyMaker(full.basis, full.secret, full.error)
    spec = next(full.shape.specs())
    key = maker.make(spec, bytes(range(32)))
    again = whole_key(full.basis, spec, key.values[0], bytes(range(32)), np.empty_like(key.values))
    np.testing.assert_array_equal(again.values, key.values)
    assert np.abs(key.values).max() <= max(full.basis.moduli) / 2


# -- slots --


@pytest.mark.parametrize(("slots", "levels"), [(8, 1), (64, 2), (64, 3), (256, 5)])
def test_levels_make_up_the_transform(slots: int, levels: int) -> None:
    rng = np.random.default_rng(slots)
    a = rng.normal(size=2 * slots)
    z = slot_values(a)
    # the definition: slot j is the value at zeta^(5^j)
    zeta = np.exp(1j * np.pi / (2 * slots))
    for j in (0, 1, slots - 1):
        assert np.isclose(z[j], np.polyval(a[::-1], zeta ** pow(5, j, 4 * slots)))
    np.testing.assert_allclose(coefficients(z), a, atol=1e-9)
    packed = (a[:slots] + 1j * a[slots:])[bit_reversal(slots.bit_length() - 1)]
    for back, vector, wanted in ((False, packed, z), (True, z, packed)):
        for level in transform(slots, levels, back):
            vector = sum(
                np.resize(d, slots) * np.roll(vector, -turns * level.stride) for turns, d in level.diagonals.items()
            )
        np.testing.assert_allclose(vector, wanted, atol=1e-9)


# -- ciphertexts --


class Client:
    """A secret and its keys, for tests: errors from numpy."""

    def __init__(self, slots: int, degree: int, budget: tuple[int, int] = (3, 3)) -> None:
        self.random = np.random.default_rng(7)
        self.parameters = Parameters(
            ring=N, plaintext_bits=20, bgv_bits=55, slots=slots, degree=degree, level_budget=budget, security=INSECURE
        )
        self.shape = EngineShape(self.parameters)
        self.basis = make_basis(self.shape)
        self.secret = np.zeros(N, dtype=np.int64)
        self.secret[self.random.choice(N, 96, replace=False)] = self.random.choice([-1, 1], 96)
        maker = KeyMaker(self.basis, self.secret, self.error)
        keys = dict(maker.keys(self.shape, bytes(32)))
        self.evaluator = Evaluator(self.shape, self.basis, keys)

    def error(self) -> I64:
        return np.rint(self.random.normal(0, 3.19, N)).astype(np.int64)

    def encrypt(self, message: F64, limbs: int, scale: float) -> Ciphertext:
        which = np.arange(limbs)
        a = np.stack([UniformRows(self.random.bytes(32), "a").row(N, self.basis.primes[p]) for p in which])
        m, s = (
            self.basis.residues(np.rint(message * scale) + self.error(), which),
            self.basis.residues(self.secret, which),
        )
        for x in (m, s):
            self.basis.forward(x, which)
        rows = [
            [(int(u) - int(v) * int(w)) % self.basis.primes[p] for u, v, w in zip(m[p], a[p], s[p], strict=True)]
            for p in which
        ]
        return Ciphertext(np.stack([np.array(rows, dtype=np.float64), a]), scale)

    def decrypt(self, x: Ciphertext) -> F64:
        limbs = min(x.limbs, 2)
        which = np.arange(limbs)
        s = self.basis.residues(self.secret, which)
        self.basis.forward(s, which)
        rows = [
            [
                (int(u) + int(v) * int(w)) % self.basis.primes[p]
                for u, v, w in zip(x.elements[0, p], x.elements[1, p], s[p], strict=True)
            ]
            for p in which
        ]
        return (
            np.array(as_integers(self.basis, np.array(rows, dtype=np.float64), list(which)), dtype=np.float64) / x.scale
        )

    def slots(self, x: Ciphertext) -> npt.NDArray[np.complex128]:
        return slot_values(self.decrypt(x))


@pytest.fixture(scope="module")
def full() -> Client:
    return Client(N // 2, 13)


def test_products_rotations_and_sums(full: Client) -> None:
    e, limbs, scale = full.evaluator, full.shape.encoded_limbs, 2.0**40
    rng = np.random.default_rng(3)
    u, v = (rng.uniform(-1, 1, N // 2) + 1j * rng.uniform(-1, 1, N // 2) for _ in range(2))
    x, y = (full.encrypt(coefficients(w), limbs, scale) for w in (u, v))
    whole = scale * scale / full.basis.primes[limbs - 1]
    found = e.combine([(x, y), (x, x)], [(y, 0.5 - 2j)], 0.25j, limbs, whole)
    np.testing.assert_allclose(full.slots(found), u * v + u * u + (0.5 - 2j) * v + 0.25j, atol=1e-6)
    assert found.limbs == limbs - 1
    terms = [(z, (0.1 * k - 0.4) + 0.3j * k) for k in range(4) for z in (x, y)]
    for count, constant in ((4, 0), (4, 0.5), (8, 0), (7, 0.5j)):
        found = e.combine([(x, y)], terms[:count], constant, limbs, whole)
        wanted = u * v + constant + sum(f * (u if z is x else v) for z, f in terms[:count])
        np.testing.assert_allclose(full.slots(found), wanted, atol=1e-6)
    conjugate = e.automorphism(x, 2 * N - 1, full.shape.key_shape(limbs))
    np.testing.assert_allclose(full.slots(conjugate), u.conj(), atol=1e-6)
    np.testing.assert_allclose(full.slots(e.add(x, y, -1j)), u - 1j * v, atol=1e-6)
    with pytest.raises(ValueError, match="scale of a product"):
        e.combine([(x, y)], [], 0, limbs, 1.1 * whole)
    with pytest.raises(ValueError, match="one scale"):
        e.add(x, found)


def test_keys_of_baby_steps_are_kept_once(full: Client) -> None:
    keys = full.evaluator.keys
    for plan in (*full.shape.encoding, *full.shape.decoding):
        names = full.shape.baby_keys(plan)
        array = stacked(keys, names)
        assert all(np.shares_memory(array[at], keys[name].values) for at, name in enumerate(names))
        # what does not lie side by side is copied
        others = names[::-1]
        np.testing.assert_array_equal(stacked(keys, others), array[::-1])


@pytest.mark.parametrize(("slots", "degree", "budget"), [(N // 2, 13, (3, 3)), (N // 4, 6, (2, 3)), (16, 27, (2, 1))])
def test_bootstraps_apply_series_to_all_phases(slots: int, degree: int, budget: tuple[int, int], full: Client) -> None:
    client = full if slots == N // 2 else Client(slots, degree, budget)
    boot = Bootstrapper(client.evaluator)
    x = np.random.default_rng(4).uniform(-0.45, 0.45, N)
    q0 = client.basis.primes[0]
    powers = boot.powers(client.encrypt(x, 1, float(q0)), degree)
    grid = N // (2 * slots)
    for series in (fit(np.tanh, degree), fit(np.sin, degree - 2)):
        found = Ciphertext(boot.evaluate(powers, series).elements, q0 / 2.0**OUTPUT_BITS)
        values = client.decrypt(found)
        errors = values[::grid] - evaluate_series(series, x[::grid])
        # what is predicted and simulated is OpenFHE's noise: here it is smaller, and has no longer tail
        predicted = np.hypot(bootstrap(N, rms_slope(series)), DECODING_FLOOR * 2.0**OUTPUT_BITS)
        assert np.sqrt(np.mean(errors**2)) < predicted
        assert np.abs(errors).max() < 8 * predicted
        off = np.delete(values, np.arange(0, N, grid))
        assert off.size == 0 or np.abs(off).max() < 1e-5


# -- whole programs --


@pytest.mark.parametrize(
    ("name", "ring", "batch", "encrypted"),
    [("breast-cancer", 1024, 32, None), ("digits", 1024, 1, None), ("breast-cancer", 1024, 8, "all")],
)
def test_programs_agree_with_the_simulation(name: str, ring: int, batch: int, encrypted: str | None) -> None:
    """With fresh inputs, unpacking, several layers, sparse bootstraps; with plain and with encrypted weights."""
    model = MODELS / f"{name}-mlp.onnx"
    program = glyphc.compile(model, data(name, "train"), batch, insecure_ring=ring, encrypt_weights=encrypted)
    x = data(name, "test")[:batch]
    (found,) = run(program, x, engine="kernels").outputs.values()
    clear, simulated = (np.asarray(program.run(x, mode=m)) for m in ("clear", "simulate"))
    deviation = np.sqrt(np.mean((simulated - clear) ** 2))
    assert np.sqrt(np.mean((found - clear) ** 2)) < 2 * deviation + 1e-3 * np.ptp(clear)
    # what differs between them is noise, which is far smaller than the error of the series
    assert np.sqrt(np.mean((found - simulated) ** 2)) < 0.2 * deviation + 1e-3 * np.ptp(clear)
