"""Layouts place every value once, and products of laid-out polynomials are the contractions that we rely on.

The reference for products is written here, with integers: what is tested is the arithmetic of exponents, so
nothing may round.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples, layouts

from glyphc.ir.errors import IRError
from glyphc.ir.layout import Layout, next_power_of_two

I64 = npt.NDArray[np.int64]
seeds = st.integers(0, 2**32 - 1)


def multiply(a: I64, b: I64) -> I64:
    """a * b modulo X^N + 1."""
    n = len(a)
    full = np.convolve(a, b)
    full = np.concatenate([full, np.zeros(2 * n - len(full), dtype=np.int64)])
    return full[:n] - full[n:]


def monomial(exponent: int, n: int, coefficient: int = 1) -> I64:
    """coefficient * X^exponent for any integer exponent: X^N = -1."""
    out = np.zeros(n, dtype=np.int64)
    out[exponent % n] = coefficient * (-1) ** (exponent // n)
    return out


def automorphism(a: I64, g: int) -> I64:
    """a(X^g) modulo X^N + 1, g odd."""
    return sum((monomial(i * g, len(a), int(c)) for i, c in enumerate(a)), np.zeros(len(a), dtype=np.int64))


def test_the_reference_itself() -> None:
    """Products by the schoolbook, one pair of terms at a time."""
    rng = np.random.default_rng(1)
    for n in (1, 2, 4, 16):
        a, b = rng.integers(-(2**20), 2**20, (2, n))
        schoolbook = [0] * n
        for i in range(n):
            for j in range(n):
                sign, at = (1, i + j) if i + j < n else (-1, i + j - n)
                schoolbook[at] += sign * int(a[i]) * int(b[j])
        assert multiply(a, b).tolist() == schoolbook
    assert multiply(monomial(3, 4), monomial(2, 4)).tolist() == [0, -1, 0, 0]
    assert monomial(-1, 4).tolist() == [0, 0, 0, -1]
    assert monomial(-5, 4).tolist() == [0, 0, 0, 1]
    assert monomial(8, 4).tolist() == [1, 0, 0, 0]
    assert multiply(monomial(-3, 8), monomial(3, 8)).tolist() == monomial(0, 8).tolist()
    # 1 + 2X + 3X^2 + 4X^3 at X^3: X^3, X^6 = -X^2, X^9 = X
    assert automorphism(np.array([1, 2, 3, 4]), 3).tolist() == [1, 4, -3, 2]


# -- layouts themselves --------------------------------------------------------------------------------------


@given(layouts(), seeds)
@examples(100)
def test_pack_and_unpack_are_inverse(layout: Layout, seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples = int(rng.integers(0, layout.batch + 1))
    values = rng.integers(-(2**62), 2**62, (samples, layout.features))
    packed = layout.pack(values)
    assert packed.shape == (layout.ciphertexts, layout.ring)
    np.testing.assert_array_equal(layout.unpack(packed, samples), values)
    # everything that was packed stands somewhere, and nothing else does
    assert sorted(packed[packed != 0].tolist()) == sorted(values[values != 0].tolist())
    # garbage elsewhere is not read
    garbage = rng.integers(-(2**62), 2**62, packed.shape)
    for number, row in enumerate(packed):
        chunk, part = divmod(number, layout.parts)
        positions = layout.positions(part, len(range(chunk, samples, layout.chunks)))
        garbage[number, positions] = row[positions]
    np.testing.assert_array_equal(layout.unpack(garbage, samples), values)
    # parts that hold no feature may be missing, in every chunk
    kept = [n for n in range(layout.ciphertexts) if n % layout.parts < layout.features]
    np.testing.assert_array_equal(layout.unpack(garbage[kept], samples), values)


@given(layouts())
@examples(100)
def test_each_value_has_a_place_of_its_own(layout: Layout) -> None:
    places = {}
    for sample in range(layout.batch):
        for feature in range(layout.features):
            number = sample % layout.chunks * layout.parts + feature % layout.parts
            place = number, layout.exponent_of(feature, sample)
            assert 0 <= place[0] < layout.ciphertexts
            assert 0 <= place[1] < layout.ring
            assert place[1] % layout.grid == 0
            assert place not in places
            places[place] = sample, feature
    # the other two ways to ask say the same
    listed = {}
    for number in range(layout.ciphertexts):
        chunk, part = divmod(number, layout.parts)
        features, members = list(layout.features_of(part)), range(chunk, layout.batch, layout.chunks)
        assert layout.positions(part).shape == (layout.per_chunk, len(features))
        positions = layout.positions(part, len(members))
        assert len(features) <= layout.per_part
        assert len(members) <= layout.per_chunk
        for (row, index), exponent in np.ndenumerate(positions):
            listed[number, int(exponent)] = members[row], features[index]
    assert listed == places
    assert layout.occupancy == len(places) / (layout.ciphertexts * layout.ring)


def test_places_in_a_small_layout() -> None:
    """Five features of two samples in two ciphertexts of 16 coefficients, written out."""
    layout = Layout(ring=16, batch=2, features=5, parts=2, stride=2, batch_stride=8, grid=2, zero_elsewhere=True)
    values = np.array([[10, 11, 12, 13, 14], [20, 21, 22, 23, 24]])
    assert layout.pack(values).tolist() == [
        [10, 0, 12, 0, 14, 0, 0, 0, 20, 0, 22, 0, 24, 0, 0, 0],
        [11, 0, 13, 0, 0, 0, 0, 0, 21, 0, 23, 0, 0, 0, 0, 0],
    ]
    assert layout.per_part == 3
    assert layout.occupancy == 10 / 32
    assert layout.positions(1).tolist() == [[0, 2], [8, 10]]
    assert layout.exponent_of(4, 1) == 12
    assert list(layout.features_of(1)) == [1, 3]


def test_places_in_a_small_layout_of_several_chunks() -> None:
    """Three features of five samples: sample s in chunk s % 2, there at block s // 2; two parts each, written out."""
    layout = Layout(
        ring=16, batch=5, features=3, parts=2, stride=2, batch_stride=4, grid=2, zero_elsewhere=True, chunks=2
    )
    values = np.array([[10 * s + i for i in range(1, 4)] for s in range(1, 6)])
    assert layout.pack(values).tolist() == [
        [11, 0, 13, 0, 31, 0, 33, 0, 51, 0, 53, 0, 0, 0, 0, 0],
        [12, 0, 0, 0, 32, 0, 0, 0, 52, 0, 0, 0, 0, 0, 0, 0],
        [21, 0, 23, 0, 41, 0, 43, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [22, 0, 0, 0, 42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert (layout.ciphertexts, layout.per_chunk, layout.per_part) == (4, 3, 2)
    assert layout.occupancy == 15 / 64
    assert layout.exponent_of(2, 3) == 6
    assert layout.positions(0).tolist() == [[0, 2], [4, 6], [8, 10]]
    assert layout.positions(0, 2).tolist() == [[0, 2], [4, 6]]
    # one sample only: it stands in the first chunk, the second is empty
    assert not layout.pack(values[:1])[2:].any()


SIZES = st.fixed_dictionaries(
    {
        "ring": st.sampled_from([1, 8, 32]),
        "batch": st.integers(1, 4) | st.integers(0, 4),
        "features": st.integers(1, 5) | st.integers(0, 5),
        "parts": st.integers(1, 3) | st.integers(0, 3),
        "stride": st.integers(1, 6) | st.integers(-1, 6),
        "batch_stride": st.integers(1, 12) | st.integers(-1, 12),
        "grid": st.integers(1, 3) | st.integers(0, 3),
        "zero_elsewhere": st.booleans(),
        "chunks": st.integers(1, 3) | st.integers(0, 3),
    }
)


def is_sound(s: dict[str, Any]) -> bool:
    """By looking at every value: all in the ring, on the grid, in places of their own, sample by sample."""
    if any(s[k] < 1 for k in ("ring", "batch", "features", "parts", "stride", "batch_stride", "grid", "chunks")):
        return False
    if s["stride"] % s["grid"] or s["batch_stride"] % s["grid"]:
        return False
    taken: set[tuple[int, int]] = set()
    # all chunks are alike, and the first has the most samples
    for b in range(-(-s["batch"] // s["chunks"])):
        for i in range(s["features"]):
            # the place belongs to the value with all exponents up to the next feature
            block = range(s["stride"]) if s["batch"] > s["chunks"] else range(1)
            base = b * s["batch_stride"] + i // s["parts"] * s["stride"]
            if base >= s["ring"]:
                return False
            mine = {(i % s["parts"], base + k) for k in block}
            if mine & taken:
                return False
            taken |= mine
    return True


@given(SIZES)
@examples(400)
def test_exactly_the_unsound_layouts_are_rejected(sizes: dict[str, Any]) -> None:
    if is_sound(sizes):
        Layout(**sizes)
    else:
        with pytest.raises(IRError):
            Layout(**sizes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features": 5}, "overlap with the next sample"),
        ({"stride": 5}, "overlap with the next sample"),
        ({"batch": 3}, "does not fit into 32 coefficients"),
        ({"ring": 16}, "does not fit into 16 coefficients"),
        ({"stride": 2}, "off the grid of 4"),
        ({"batch_stride": 18}, "off the grid of 4"),
        ({"parts": 0}, "positive"),
        ({"chunks": 0}, "positive"),
        ({"stride": -4}, "positive"),
    ],
)
def test_rejections_say_why(change: dict[str, int], words: str) -> None:
    good = {
        "ring": 32,
        "batch": 2,
        "features": 4,
        "parts": 1,
        "stride": 4,
        "batch_stride": 16,
        "grid": 4,
        "zero_elsewhere": True,
    }
    Layout(**good)
    with pytest.raises(IRError, match=words):
        Layout(**{**good, **change})


def test_next_power_of_two() -> None:
    assert [next_power_of_two(i) for i in (0, 1, 2, 3, 4, 5, 64, 65)] == [1, 1, 2, 4, 4, 8, 64, 128]


# -- contractions --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    """A linear layer on laid-out inputs: features i at b*S + (i//P)*s of part i%P, outputs k at b*S + k*K."""

    N: int
    B: int
    S: int
    P: int
    s: int
    K: int
    F_in: int
    F_out: int

    def source(self, fresh: bool) -> Layout:
        return Layout(self.N, self.B, self.F_in, self.P, self.s, self.S, self.s, fresh)

    def target(self) -> Layout:
        return Layout(self.N, self.B, self.F_out, 1, self.K, self.S, gcd(self.K, self.S), False)


def powers(low: int, high: int) -> st.SearchStrategy[int]:
    return st.sampled_from([1 << i for i in range(low.bit_length() - 1, high.bit_length()) if 1 << i <= high])


@st.composite
def resident_sizes(draw: st.DrawFn) -> Sizes:
    """Inputs on multiples of s in all of the ring; all outputs fit below s."""
    N = draw(powers(64, 512))
    s = draw(powers(1, N // 2))
    blocks = N // s  # places per ciphertext
    B = draw(st.integers(1, min(5, blocks)))
    per_block = draw(st.integers(1, blocks // B))
    S = per_block * s
    P = draw(st.integers(1, 4))
    F_in = draw(st.integers(1, min(14, per_block * P)))
    K = draw(st.integers(1, s))
    F_out = draw(st.integers(1, min(6, s // K)))
    return Sizes(N, B, S, P, s, K, F_in, F_out)


@st.composite
def fresh_sizes(draw: st.DrawFn) -> Sizes:
    """All inputs of a sample fit below the stride K of the outputs; nothing else is in the ring."""
    N = draw(powers(64, 512))
    P = draw(st.integers(1, 4))
    F_in = draw(st.integers(1, 14))
    Q = -(-F_in // P)
    s = draw(st.integers(1, 3))
    K = draw(st.integers((Q - 1) * s + 1, (Q - 1) * s + 4))
    F_out = draw(st.integers(1, min(6, N // K)))
    # the source layout also asks for Q whole strides per sample, and for samples on its grid
    least = max(F_out * K, Q * s)
    S = draw(st.integers(least, min(N, least + 9)))
    S = min(S + -S % s, N - N % s)
    B = draw(st.integers(1, max(1, min(5, N // S))))
    return Sizes(N, B, S, P, s, K, F_in, F_out)


def contract(sizes: Sizes, layout: Layout, x: I64, w: I64, garbage: I64) -> I64:
    """sum_r X_r * W_r with W_r = sum_k sum_{i = r mod P} w[k, i] X^(k*K - (i//P)*s)."""
    total = np.zeros(sizes.N, dtype=np.int64)
    for r, X in enumerate(layout.pack(x) + garbage):
        W = np.zeros(sizes.N, dtype=np.int64)
        for k in range(sizes.F_out):
            for i in range(r, sizes.F_in, sizes.P):
                W += monomial(k * sizes.K - i // sizes.P * sizes.s, sizes.N, int(w[k, i]))
        total += multiply(X, W)
    return total


def operands(sizes: Sizes, seed: int) -> tuple[I64, I64, np.random.Generator]:
    rng = np.random.default_rng(seed)
    x = rng.integers(-(2**15), 2**15, (sizes.B, sizes.F_in))
    return x, rng.integers(-(2**10), 2**10, (sizes.F_out, sizes.F_in)), rng


def garbage_on_grid(layout: Layout, rng: np.random.Generator) -> I64:
    """Numbers at all multiples of the grid that carry nothing useful."""
    garbage = np.zeros((layout.parts, layout.ring), dtype=np.int64)
    garbage[:, :: layout.grid] = rng.integers(-(2**15), 2**15, garbage[:, :: layout.grid].shape)
    for part in range(layout.parts):
        garbage[part, layout.positions(part)] = 0
    return garbage


@given(resident_sizes(), seeds)
@examples(150)
def test_resident_inputs_with_garbage(sizes: Sizes, seed: int) -> None:
    x, w, rng = operands(sizes, seed)
    layout = sizes.source(fresh=False)
    z = contract(sizes, layout, x, w, garbage_on_grid(layout, rng))
    np.testing.assert_array_equal(sizes.target().unpack(z[None], sizes.B), x @ w.T)
    # the same by the bare formula, without a layout to read them
    for b in range(sizes.B):
        for k in range(sizes.F_out):
            assert z[b * sizes.S + k * sizes.K] == int(np.dot(x[b], w[k]))


@given(fresh_sizes(), seeds)
@examples(150)
def test_fresh_inputs(sizes: Sizes, seed: int) -> None:
    x, w, _ = operands(sizes, seed)
    layout = sizes.source(fresh=True)
    z = contract(sizes, layout, x, w, np.zeros((sizes.P, sizes.N), dtype=np.int64))
    np.testing.assert_array_equal(sizes.target().unpack(z[None], sizes.B), x @ w.T)
    for b in range(sizes.B):
        for k in range(sizes.F_out):
            assert z[b * sizes.S + k * sizes.K] == int(np.dot(x[b], w[k]))


def test_resident_layers_chain() -> None:
    """The outputs of a resident layer, split along the fast index, are the resident inputs of the next."""
    N, B, rng = 128, 2, np.random.default_rng(3)
    x, w1, w2 = (rng.integers(-50, 50, shape) for shape in [(B, 6), (4, 6), (3, 4)])
    first = Sizes(N, B, S=64, P=1, s=8, K=2, F_in=6, F_out=4)
    layout = first.source(fresh=False)
    z = contract(first, layout, x, w1, garbage_on_grid(layout, rng))
    # outputs k at 64b + 2k become part k at 64b, with garbage of the first product at all multiples of 8
    parts = split(z * (np.arange(N) % 2 == 0), stride=2, parts=4)
    second = Sizes(N, B, S=64, P=4, s=8, K=2, F_in=4, F_out=3)
    resident = second.source(fresh=False)
    garbage = np.array(parts) - resident.pack(4 * (x @ w1.T))
    assert np.any(garbage)
    z = contract(second, resident, 4 * (x @ w1.T), w2, garbage)
    np.testing.assert_array_equal(second.target().unpack(z[None], B), 4 * (x @ w1.T) @ w2.T)


@pytest.mark.parametrize(
    "sizes",
    [
        Sizes(N=64, B=2, S=32, P=2, s=4, K=2, F_in=6, F_out=3),  # F_out*K = 6 > s: outputs meet garbage
        Sizes(N=64, B=2, S=32, P=1, s=4, K=4, F_in=6, F_out=2),  # K = s: outputs meet each other's terms
    ],
)
def test_the_bound_for_resident_inputs_is_needed(sizes: Sizes) -> None:
    x, w, rng = operands(sizes, 7)
    layout = sizes.source(fresh=False)
    z = contract(sizes, layout, x, w, garbage_on_grid(layout, rng))
    assert np.any(sizes.target().unpack(z[None], sizes.B) != x @ w.T)


def test_the_bounds_for_fresh_inputs_are_needed() -> None:
    def right(sizes: Sizes, garbage: bool) -> bool:
        x, w, rng = operands(sizes, 7)
        layout = sizes.source(fresh=not garbage)
        none = np.zeros((sizes.P, sizes.N), dtype=np.int64)
        z = contract(sizes, layout, x, w, garbage_on_grid(layout, rng) if garbage else none)
        at = np.arange(sizes.B)[:, None] * sizes.S + np.arange(sizes.F_out) * sizes.K
        return np.array_equal(z[at], x @ w.T)

    sound = Sizes(N=64, B=4, S=12, P=1, s=1, K=6, F_in=6, F_out=2)
    assert right(sound, garbage=False)
    assert not right(sound, garbage=True)
    # (Q-1)*s = K: outputs meet each other's terms
    assert not right(replace(sound, K=5), garbage=False)
    # F_out*K > S: outputs meet the next sample's
    assert not right(replace(sound, F_out=3), garbage=False)


# -- traces and splits ---------------------------------------------------------------------------------------


def on_multiples(n: int, s: int, seed: int) -> I64:
    c = np.zeros(n, dtype=np.int64)
    c[::s] = np.random.default_rng(seed).integers(-(2**40), 2**40, n // s)
    return c


@given(powers(64, 512).flatmap(lambda n: st.tuples(st.just(n), powers(1, n // 2))), seeds)
@examples(60)
def test_one_automorphism_parts_even_from_odd(n_and_s: tuple[int, int], seed: int) -> None:
    n, s = n_and_s
    c = on_multiples(n, s, seed)
    moved = automorphism(c, 1 + n // s)
    at = np.arange(n)
    np.testing.assert_array_equal(c + moved, np.where(at % (2 * s) == 0, 2 * c, 0))
    np.testing.assert_array_equal(c - moved, np.where(at % (2 * s) == s, 2 * c, 0))


def split(c: I64, stride: int, parts: int) -> list[I64]:
    """Even and odd multiples of the stride apart, the odd ones moved down by it; then each half again."""
    if parts == 1:
        return [c]
    n = len(c)
    moved = automorphism(c, 1 + n // stride)
    halves = c + moved, multiply(c - moved, monomial(-stride, n))
    even, odd = (split(half, 2 * stride, parts // 2) for half in halves)
    return [part for pair in zip(even, odd, strict=True) for part in pair]


@given(powers(64, 256), powers(1, 8), powers(1, 8), seeds)
@examples(40)
def test_a_tree_of_them_splits_along_the_fast_index(n: int, stride: int, parts: int, seed: int) -> None:
    """What the instruction ``Split`` promises, and with it the op ``Unpack``."""
    c = on_multiples(n, stride, seed)
    for r, part in enumerate(split(c, stride, parts)):
        expected = np.zeros(n, dtype=np.int64)
        for m in range(n // (stride * parts)):
            expected[stride * parts * m] = parts * c[stride * (r + parts * m)]
        np.testing.assert_array_equal(part, expected)


@given(st.integers(1, 3), st.integers(1, 8), powers(1, 8), seeds)
@examples(60)
def test_splitting_a_laid_out_tensor(batch: int, features: int, parts: int, seed: int) -> None:
    """A tensor in one part becomes the same in several: feature i in part i % parts, multiplied by parts."""
    stride = 2
    block = stride * parts * -(-features // parts)
    n = 4 * next_power_of_two(block * batch)
    one = Layout(n, batch, features, 1, stride, block, stride, True)
    several = Layout(n, batch, features, parts, stride * parts, block, stride * parts, True)
    x = np.random.default_rng(seed).integers(-(2**30), 2**30, (batch, features))
    np.testing.assert_array_equal(split(one.pack(x)[0], stride, parts), several.pack(parts * x))
