"""Sums over Galois conjugates, on exact integer polynomials: they are what sums over parts are."""

from __future__ import annotations

import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glyphc.ir.errors import IRError
from glyphc.ir.galois import Conjugation, baby_steps, image

I64 = npt.NDArray[np.int64]


def product(a: I64, b: I64) -> I64:
    """Modulo X^n + 1."""
    n = len(a)
    whole = np.convolve(a, b)
    whole = np.concatenate([whole, np.zeros(2 * n - len(whole), dtype=np.int64)])
    return np.asarray(whole[:n] - whole[n:])


@st.composite
def conjugations(draw: st.DrawFn) -> Conjugation:
    """Of every number of parts and stride, up to parts that fill the ring, with any number of baby steps."""
    bits = draw(st.integers(1, 8))
    parts = draw(st.integers(1, bits))
    stride = draw(st.integers(0, bits - parts))
    babies = draw(st.integers(1, parts))
    return Conjugation(1 << bits, 1 << parts, 1 << stride, 1 << babies)


@settings(deadline=None)  # a busy machine is no fault
@given(conjugations(), st.integers(0, 2**32 - 1))
def test_a_sum_over_conjugates_is_a_sum_over_parts(steps: Conjugation, seed: int) -> None:
    random = np.random.default_rng(seed)
    n, parts, stride = steps.ring, steps.parts, steps.stride
    source = np.zeros(n, dtype=np.int64)
    source[::stride] = random.integers(-50, 50, n // stride)
    weights = random.integers(-9, 9, (parts, n)) * (random.random((parts, n)) < 0.4)
    weights[random.random(parts) < 0.3] = 0  # residues that nobody reads
    wanted = np.zeros(n, dtype=np.int64)
    for r in range(parts):
        part = np.zeros(n, dtype=np.int64)
        part[:: stride * parts] = parts * source[stride * r :: stride * parts]
        wanted += product(part, weights[r])
    babies = [source, *(image(source, g) for g in steps.baby_elements)]
    giants = [1, *steps.giant_elements]
    residues, exponents = np.nonzero(weights)
    sums = np.zeros((len(giants), n), dtype=np.int64)
    seen = set()
    for giant, baby, weight in steps.weights(residues, exponents, weights[residues, exponents]):
        sums[giant] += product(babies[baby], weight)
        seen.add((giant, baby))
    assert len(seen) == parts == len(giants) * len(babies)
    np.testing.assert_array_equal(sum(image(s, g) for s, g in zip(sums, giants, strict=True)), wanted)


@settings(deadline=None)  # a busy machine is no fault
@given(conjugations())
def test_elements_are_a_group_on_multiples_of_the_stride(steps: Conjugation) -> None:
    order = 2 * steps.ring // steps.stride
    numbers = [steps.element(k) for k in range(steps.parts)]
    assert {g % order for g in numbers} == {
        (1 + 2 * steps.ring // (steps.stride * steps.parts) * k) % order for k in range(steps.parts)
    }
    giants, babies = (1, *steps.giant_elements), (1, *steps.baby_elements)
    for number, g in enumerate(numbers):
        giant, baby = divmod(number, steps.babies)
        assert giants[giant] * babies[baby] % (2 * steps.ring) == g
        assert g % 2 == 1
        assert 1 <= g < 2 * steps.ring
    assert steps.elements == (*steps.baby_elements, *steps.giant_elements)


@settings(deadline=None)  # a busy machine is no fault
@given(st.integers(1, 16))
def test_there_are_about_as_many_baby_steps_as_giant_steps(bits: int) -> None:
    babies = baby_steps(1 << bits)
    assert babies in ((1 << bits) // babies, 2 * (1 << bits) // babies)


@settings(deadline=None)  # a busy machine is no fault
@given(st.integers(0, 6), st.integers(0, 63), st.integers(0, 63), st.integers(0, 2**32 - 1))
def test_images_are_those_of_automorphisms(bits: int, first: int, second: int, seed: int) -> None:
    n = 1 << bits
    a, b = np.random.default_rng(seed).integers(-9, 9, (2, n))
    g, h = 2 * first + 1, 2 * second + 1
    np.testing.assert_array_equal(image(product(a, b), g), product(image(a, g), image(b, g)))
    np.testing.assert_array_equal(image(image(a, g), h), image(a, g * h))
    np.testing.assert_array_equal(image(a + 0.5, 1), a + 0.5)


def test_many_parts_are_made_in_several_turns() -> None:
    """More than are made at a time, of weights that say which part they meet."""
    steps = Conjugation.of(512, 256, 2)
    random = np.random.default_rng(3)
    residues, exponents, values = random.integers(0, [[256], [512], [9]], (3, 400))
    source = np.zeros(512, dtype=np.int64)
    source[::2] = random.integers(-9, 9, 256)
    babies = [source, *(image(source, g) for g in steps.baby_elements)]
    sums = np.zeros((steps.giants, 512), dtype=np.int64)
    for giant, baby, weight in steps.weights(residues, exponents, values):
        sums[giant] += product(babies[baby], weight)
    got = sum(image(s, g) for s, g in zip(sums, (1, *steps.giant_elements), strict=True))
    wanted = np.zeros(512, dtype=np.int64)
    for residue, exponent, value in zip(residues, exponents, values, strict=True):
        monomial = np.zeros(512, dtype=np.int64)
        monomial[exponent] = 256 * value * source[2 * residue]
        wanted += monomial
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    ("ring", "parts", "stride", "babies"),
    [(64, 3, 1, 2), (64, 1, 1, 1), (64, 4, 32, 2), (64, 8, 1, 1), (64, 8, 1, 16), (64, 8, 0, 2), (64, -8, 1, 2)],
)
def test_other_numbers_are_refused(ring: int, parts: int, stride: int, babies: int) -> None:
    with pytest.raises(IRError, match=r"powers of two|are not 2 to"):
        Conjugation(ring, parts, stride, babies)


@pytest.mark.parametrize(("parts", "terms"), [(64, 1 << 14), (64, 1 << 18), (4, 1 << 14)])
def test_making_weights_takes_the_memory_that_is_said(parts: int, terms: int) -> None:
    """One turn after another: no more than is said, and not much less."""
    random, steps = np.random.default_rng(0), Conjugation.of(4096, parts, 4)
    tracemalloc.start()
    try:
        residues, exponents, values = (random.integers(0, most, terms) for most in (parts, 4096, 9))
        for _ in steps.weights(residues, exponents, values):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    said = steps.encoding_bytes(terms, threads=1)
    assert said / 2 < peak < said + 16 * 8 * steps.ring
