"""Polynomials of ciphertexts on the kernels, with masks and without, on a small ring."""

from __future__ import annotations

import numpy as np
import pytest
from test_kernels import Client, N

from glyphc.backends.kernels.basis import bit_reversal
from glyphc.backends.kernels.polynomials import Powers
from glyphc.backends.kernels.slot_forms import SlotForms
from glyphc.backends.kernels.slots import coefficients


@pytest.fixture(scope="module")
def full() -> Client:
    return Client(N // 2, 13)


@pytest.mark.parametrize("chebyshev", [False, True])
@pytest.mark.parametrize("degree", [1, 2, 3, 5, 6, 7, 13, 14, 15, 30])
def test_polynomials_take_the_levels_that_they_should(full: Client, chebyshev: bool, degree: int) -> None:
    limbs = full.shape.encoded_limbs
    rng = np.random.default_rng(degree)
    u = rng.uniform(-1, 1, N // 2)
    c = rng.normal(size=degree + 1) + 1j * rng.normal(size=degree + 1)
    levels = max(2, (degree + 1).bit_length())  # up to 2^levels - 2
    x = full.encrypt(coefficients(u.astype(np.complex128)), limbs, 2.0**40)
    found = Powers(full.evaluator, x, degree, chebyshev).evaluate(c, limbs - levels, 2.0**40)
    wanted = np.polynomial.chebyshev.chebval(u, c) if chebyshev else np.polynomial.polynomial.polyval(u, c)
    assert found.limbs == limbs - levels
    np.testing.assert_allclose(full.slots(found), wanted, atol=2e-6 * degree)


@pytest.mark.parametrize("degree", [1, 2, 3, 5, 6, 13, 14, 15, 29])
def test_masks_are_multiplied_into_polynomials_without_a_level(full: Client, degree: int) -> None:
    limbs = full.shape.encoded_limbs
    rng = np.random.default_rng(degree)
    u = np.exp(2j * np.pi * rng.uniform(size=N // 2))
    c = rng.normal(size=degree + 1) + 1j * rng.normal(size=degree + 1)
    kept = rng.integers(0, 2, N).astype(bool)
    levels = max(2, (degree + 2).bit_length())  # up to 2^levels - 3
    x = full.encrypt(coefficients(u), limbs, 2.0**40)
    halves = (x, x)
    masks, firsts = SlotForms(full.evaluator).masked_first(halves, kept)
    powers = Powers(full.evaluator, x, degree, chebyshev=False)
    unmasked = powers.evaluate(c, limbs - max(2, (degree + 1).bit_length()), 2.0**40)
    wanted = np.polynomial.polynomial.polyval(u, c)
    np.testing.assert_allclose(full.slots(unmasked), wanted, atol=2e-6 * degree)
    order = bit_reversal(N.bit_length() - 2)
    for half, mask, first in zip(kept.reshape(2, -1)[:, order], masks, firsts, strict=True):
        found = powers.masked(c, mask, first, limbs - levels, 2.0**40)
        assert found.limbs == limbs - levels
        values = full.slots(found)
        np.testing.assert_allclose(values[half], wanted[half], atol=2e-6 * degree)
        np.testing.assert_allclose(values[~half], 0, atol=2e-8 * degree)
