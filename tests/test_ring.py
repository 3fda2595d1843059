"""Arithmetic of OpenFHE's elements against big integers, at the ends of what residues may be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit
from strategies import examples

from glyphc.backends.kernels.basis import primes_below, root_of_unity
from glyphc.backends.openfhe.residues import ResidueError, pack, unpack, width
from glyphc.backends.openfhe.ring import Factor, Ring, _mulhi, _shoup

N = 16
# The largest primes of some sizes; 2^61 is the bound.
PRIMES = {bits: next(primes_below(bits, N)) for bits in (20, 44, 54, 61)}
RINGS = {bits: Ring(N, q, root_of_unity(q, N)) for bits, q in PRIMES.items()}


def residues(q: int) -> st.SearchStrategy[list[int]]:
    one = st.sampled_from([0, 1, q - 1, q // 2, q // 2 + 1]) | st.integers(0, q - 1)
    return st.lists(one, min_size=N, max_size=N)


@given(st.sampled_from(sorted(PRIMES)), st.data())
@examples(100)
def test_elements(bits: int, data: st.DataObject) -> None:
    """Values at odd powers of psi in bit-reversed order, products with numbers and with elements."""
    ring, q = RINGS[bits], PRIMES[bits]
    a, b = (data.draw(residues(q)) for _ in range(2))
    x, y = (ring.to_evaluation(np.array(v, dtype=np.uint64)) for v in (a, b))
    for i in range(N):
        at = pow(ring.psi, 2 * int(f"{i:04b}"[::-1], 2) + 1, q)
        assert int(x[i]) == sum(c * pow(at, k, q) for k, c in enumerate(a)) % q
    assert ring.to_coefficients(x).tolist() == a
    c = data.draw(st.sampled_from([1, -1, q - 1, q // 2]) | st.integers(-q, q))
    assert ring.scale(x, c).tolist() == [int(v) * c % q for v in x]
    assert Factor.of(ring, y).times(x).tolist() == [int(v) * int(w) % q for v, w in zip(x, y, strict=True)]
    for index in (3, 2 * N - 1):
        image = [0] * N
        for k, v in enumerate(b):
            sign = -1 if k * index // N % 2 else 1
            image[k * index % N] = sign * v % q
        wanted = ring.to_evaluation(np.array(image, dtype=np.uint64))
        assert np.array_equal(Factor.of(ring, y).automorphism(index).values, wanted)


@njit
def _high(a, b):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    return _mulhi(a, b)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
@examples(100)
def test_high_products(a: int, b: int) -> None:
    assert int(_high(np.uint64(a), np.uint64(b))) == a * b >> 64


@given(st.sampled_from(sorted(PRIMES)), st.data())
@examples(50)
def test_quotients(bits: int, data: st.DataObject) -> None:
    q = PRIMES[bits]
    values = data.draw(residues(q))
    assert _shoup(np.array(values, dtype=np.uint64), np.uint64(q)).tolist() == [(v << 64) // q for v in values]


@given(st.sampled_from(sorted(PRIMES)), st.data())
@examples(50)
def test_bytes(bits: int, data: st.DataObject) -> None:
    q = PRIMES[bits]
    values = data.draw(residues(q))
    packed = pack(np.array(values, dtype=np.uint64), q)
    assert packed == b"".join(v.to_bytes(width(q), "little") for v in values)
    assert unpack(packed, N, q).tolist() == values
    with pytest.raises(ResidueError, match="not below its modulus"):
        unpack(q.to_bytes(width(q), "little") + packed[width(q) :], N, q)
    with pytest.raises(ResidueError, match="bytes where"):
        unpack(packed[:-1], N, q)
