"""What a client draws and encrypts for the engine ``kernels``: errors, fresh ciphertexts, plaintexts, against big
integers and definitions."""

from __future__ import annotations

from math import prod

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from strategies import examples
from test_kernels import as_integers

from glyphc.backends import gaussian
from glyphc.backends.kernels.basis import Basis, primes_below
from glyphc.backends.kernels.fresh import Encryptor
from glyphc.backends.kernels.keys import make_basis
from glyphc.backends.kernels.plaintexts import encoded
from glyphc.backends.kernels.shape import EngineShape
from glyphc.ir.instructions import Polynomials
from glyphc.ir.parameters import INSECURE, Parameters

I64 = npt.NDArray[np.int64]

N = 512
WORDS = 1 << 63


# -- errors --


def shares() -> list[float]:
    """P(|e| = k), by the definition: proportional to e^(-k^2 / (2 * 3.19^2))."""
    weights = [np.exp(-(k * k) / (2 * 3.19**2)) * (2 if k else 1) for k in range(60)]
    return [w / sum(weights) for w in weights]


def test_thresholds_are_the_distribution() -> None:
    found = [int(t) for t in gaussian.thresholds()]
    assert found == sorted(set(found))
    assert found[0] > 0 and found[-1] < WORDS
    steps = np.diff(np.array([0, *found, WORDS], dtype=object))
    for step, share in zip(steps, shares(), strict=False):
        assert abs(step - share * WORDS) < 1.01 + 1e-12 * step
    # what is left beyond the table is less than one word in 2^63
    assert sum(shares()[len(found) + 1 :]) * WORDS < 1


def test_words_at_the_thresholds() -> None:
    table = [int(t) for t in gaussian.thresholds()]
    cases = [(0, 0), (WORDS - 1, len(table))]
    cases += [case for k, t in enumerate(table) for case in ((t - 1, k), (t, k + 1))]
    words = np.array([2 * upper + sign for upper, _ in cases for sign in (0, 1)], dtype=np.uint64)
    out = np.empty(len(words), dtype=np.int64)
    gaussian._invert(words, gaussian.thresholds(), out)
    assert out.tolist() == [size * sign for _, size in cases for sign in (1, -1)]


def test_errors_are_gaussian() -> None:
    drawn = np.concatenate([gaussian.gaussian(1 << 16) for _ in range(4)])
    counts = np.bincount(np.minimum(np.abs(drawn), 12), minlength=13)
    wanted = np.array([*shares()[:12], sum(shares()[12:])]) * len(drawn)
    assert chisquare(counts, wanted).pvalue > 1e-9
    assert abs(drawn.std() - 3.19) < 0.05 and abs(drawn.mean()) < 0.05
    assert abs(np.mean(drawn[1:] * drawn[:-1])) < 0.2  # of 10.2
    assert np.abs(drawn).max() <= len(gaussian.thresholds())


def test_every_polynomial_takes_fresh_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not np.array_equal(gaussian.gaussian(N), gaussian.gaussian(N))
    asked: list[int] = []

    def urandom(count: int) -> bytes:
        asked.append(count)
        return bytes([len(asked)]) * count

    monkeypatch.setattr(gaussian.os, "urandom", urandom)
    first, second = gaussian.gaussian(N), gaussian.gaussian(N)
    assert asked == [32, 32]
    assert not np.array_equal(first, second)


# -- fresh ciphertexts --


@pytest.mark.parametrize("bits", [2, 20, 30])
def test_fresh_ciphertexts_are_their_messages(bits: int) -> None:
    """(b + a*s) - m*Q/t is a small error, exactly, for messages of any size and at the ends."""
    parameters = Parameters(N, bits, 55, (1,), security=INSECURE)
    shape = EngineShape(parameters)
    basis = make_basis(shape)
    rng = np.random.default_rng(bits)
    secret = rng.integers(-1, 2, N)
    encrypt = Encryptor(shape, basis, secret)
    t, which = parameters.plaintext_modulus, list(shape.linear)
    q = prod(basis.primes[p] for p in which)
    s = basis.residues(secret, np.array(which))
    basis.forward(s, np.array(which))
    errors = []
    for _ in range(4):
        message = rng.integers(-t // 2, t // 2, N)
        message[:4] = -t // 2, t // 2 - 1, 0, t // 2
        b, a = encrypt(message)
        for rows in (b, a):
            assert rows.min() >= 0 and all(row.max() < basis.primes[p] for row, p in zip(rows, which, strict=True))
        phase = np.empty_like(b)
        for i, p in enumerate(which):
            phase[i] = [(int(x) + int(y) * int(z)) % basis.primes[p] for x, y, z in zip(b[i], a[i], s[i], strict=True)]
        for found, m in zip(as_integers(basis, phase, which), message.tolist(), strict=True):
            wanted = (2 * m * q + t) // (2 * t)
            error = (found - wanted + q // 2) % q - q // 2
            assert abs(error) <= len(gaussian.thresholds()) + 1
            errors.append(error)
    assert 2.9 < np.std(errors) < 3.5
    assert abs(np.mean(errors)) < 0.5


def test_fresh_ciphertexts_share_nothing() -> None:
    shape = EngineShape(Parameters(N, 20, 55, (1,), security=INSECURE))
    encrypt = Encryptor(shape, make_basis(shape), np.random.default_rng(0).integers(-1, 2, N))
    message = np.arange(N)
    first, second = encrypt(message), encrypt(message)
    assert (first == second).mean() < 0.01


# -- plaintexts --


@given(st.data())
@examples(25)
def test_plaintexts_are_their_polynomials(data: st.DataObject) -> None:
    """Values at every root, by big integers: some terms, some that share an exponent, numbers at the ends."""
    n = 256
    basis = Basis.of(n, [next(primes_below(bits, n)) for bits in (40, 48)])
    numbers = st.sampled_from([0, 1, -1, 2**31, -(2**52) + 1, 2**52 - 1]) | st.integers(-(2**40), 2**40)
    rows = data.draw(
        st.lists(st.lists(st.tuples(st.sampled_from([0, 1, n - 1]) | st.integers(0, n - 1), numbers), max_size=5))
    )
    factors = data.draw(st.tuples(*(st.sampled_from([1, -1, q - 1, q // 2, q // 2 + 1]) for q in basis.primes)))
    # two numbers may share an exponent: their sum stays below 2^53
    rows = [[(e, v) for at, (e, v) in enumerate(row) if sum(x == e for x, _ in row[:at]) < 2] for row in rows]
    terms = [term for row in rows for term in row]
    polynomials = Polynomials(
        np.cumsum([0, *map(len, rows)]),
        np.array([e for e, _ in terms], dtype=np.int32),
        np.array([v for _, v in terms], dtype=np.int64),
    )
    which = np.array([1, 0])
    found = encoded(basis, polynomials, which, factors[::-1])
    roots = np.zeros((2, n))
    roots[:, 1] = 1
    basis.forward(roots, which)
    assert found.shape == (len(rows), 2, n)
    for row, values in zip(rows, found, strict=True):
        for i, p in enumerate(which):
            q = basis.primes[p]
            for position in (0, 1, n // 2, n - 1):
                at = int(roots[i, position])
                wanted = factors[p] * sum(v * pow(at, e, q) for e, v in row)
                assert (int(values[i, position]) - wanted) % q == 0
                assert abs(values[i, position]) <= q / 2


def test_exponents_beyond_the_ring_are_refused() -> None:
    basis = Basis.of(256, [next(primes_below(40, 256))])
    for exponent in (-1, 256):
        rows = Polynomials(np.array([0, 1]), np.array([exponent], dtype=np.int32), np.array([1]))
        with pytest.raises(IndexError, match="beyond a ring of dimension 256"):
            encoded(basis, rows, np.array([0]), (1,))
