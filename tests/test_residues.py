"""Residues as bytes, seeds, and products with a fixed element."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import examples

from glyphc.backends.openfhe.residues import ResidueError, Uniform, pack, unpack, unpack_towers, width
from glyphc.backends.openfhe.ring import Factor, Ring

U64 = npt.NDArray[np.uint64]
MODULI = st.integers(2, 1 << 62)


def ring(n: int, bits: int = 50) -> Ring:
    """A ring with a prime just below 2^bits."""
    q = (1 << bits) // (2 * n) * (2 * n) + 1
    while True:
        q -= 2 * n
        if all(pow(base, q - 1, q) == 1 for base in (2, 3, 5, 7, 11)):
            for base in range(2, 100):
                psi = pow(base, (q - 1) // (2 * n), q)
                if pow(psi, n, q) == q - 1:
                    return Ring(n, q, psi)


@given(MODULI, st.data())
def test_residues_survive_packing(q: int, data: st.DataObject) -> None:
    values = np.array(data.draw(st.lists(st.integers(0, q - 1), max_size=20)), dtype=np.uint64)
    packed = pack(values, q)
    assert len(packed) == len(values) * width(q)
    assert 256 ** (width(q) - 1) < max(q, 2) <= 256 ** width(q)
    assert np.array_equal(unpack(packed, len(values), q), values)


@given(st.integers(2, 1 << 40), st.integers(0, 1 << 40))
def test_residues_out_of_range_are_refused(q: int, beyond: int) -> None:
    value = q + beyond
    if value < 256 ** width(q):
        with pytest.raises(ResidueError, match="not below its modulus"):
            unpack(value.to_bytes(width(q), "little"), 1, q)


def test_other_lengths_are_refused() -> None:
    with pytest.raises(ResidueError, match="3 bytes where 2 residues take 4"):
        unpack(b"123", 2, 1 << 16)
    with pytest.raises(ResidueError, match="3 bytes where 2 elements take 4"):
        list(unpack_towers(b"123", 1, (1 << 16, 1 << 16)))


@settings(deadline=None)
@given(st.integers(2, 1 << 61), st.binary(min_size=32, max_size=32), st.text(max_size=10))
def test_streams_repeat_and_stay_in_range(q: int, seed: bytes, name: str) -> None:
    first, again = Uniform(seed, name), Uniform(seed, name)
    drawn = [first.draw(50, q), first.draw(3, q)]
    assert all(int(d.max()) < q for d in drawn)
    assert all(np.array_equal(d, again.draw(len(d), q)) for d in drawn)


def test_streams_of_other_names_and_seeds_differ() -> None:
    q = 1 << 60
    streams = [Uniform(bytes(32), "a"), Uniform(bytes(32), "b"), Uniform(bytes(31) + b"x", "a")]
    assert len({tuple(s.draw(8, q).tolist()) for s in streams}) == 3
    with pytest.raises(ResidueError, match="32 bytes"):
        Uniform(b"short", "a")


@pytest.mark.parametrize("q", [3, 257, (1 << 47) + 3, (1 << 60) - 93, (1 << 61) - 1, 3 << 59])
def test_streams_are_uniform(q: int) -> None:
    """Chi-squared over 16 equal cells (as equal as q allows), far beyond what chance does (15 degrees of freedom)."""
    count = 1 << 16
    drawn = Uniform(bytes(range(32)), "test").draw(count, q)
    cells = min(16, q)
    edges = [q * c // cells for c in range(cells + 1)]
    found = np.histogram(drawn.astype(np.float64), bins=np.array(edges, dtype=np.float64))[0]
    wanted = np.array([(b - a) / q * count for a, b in pairwise(edges)])
    assert np.sum((found - wanted) ** 2 / wanted) < 60


@examples(30)
@given(st.integers(1, 6), st.integers(0, 31), st.integers(0, 2**32))
def test_a_factors_automorphism_is_that_of_the_polynomial(log_n: int, half_index: int, seed: int) -> None:
    r = ring(1 << log_n)
    index = (2 * half_index + 1) % (2 * r.n)
    a, b = (np.random.default_rng(seed + k).integers(0, r.q, r.n).astype(np.uint64) for k in range(2))
    # a(X^index): exponents are multiplied, X^n = -1
    image = np.zeros(r.n, dtype=np.uint64)
    for j, value in enumerate(a.tolist()):
        exponent = j * index % (2 * r.n)
        image[exponent % r.n] = value if exponent < r.n else (r.q - value) % r.q
    factor = Factor.of(r, r.to_evaluation(a)).automorphism(index)
    assert np.array_equal(factor.values, r.to_evaluation(image))
    products = [int(x) * int(y) % r.q for x, y in zip(factor.values, b, strict=True)]
    assert factor.times(b).tolist() == products


@given(st.integers(0, 2**63), st.integers(0, 2**63))
def test_sums_and_differences(x: int, y: int) -> None:
    r = ring(8)
    a, b = (np.full(8, v % r.q, dtype=np.uint64) for v in (x, y))
    assert int(r.add(a, b)[0]) == (x + y) % r.q
    assert int(r.subtract(a, b)[0]) == (x - y) % r.q
