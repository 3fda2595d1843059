"""The bound on moduli, and that everything that has to be compiled or trained keeps to it within 16 GB."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import comb, factorial, log2, prod
from pathlib import Path

import pytest

from glyphc.analysis.cost import CONFIGURATIONS, Configuration, CostModel
from glyphc.analysis.security import MAX_LOG_QP_SPARSE, MOST_KEYS, is_secure, secured
from glyphc.backends.kernels.shape import SPARSE_WEIGHT, WRAPS, EngineShape
from glyphc.backends.openfhe.ckks_contexts import make_training_contexts
from glyphc.backends.openfhe.contexts import bootstrap_automorphisms, make_contexts, torus_context
from glyphc.backends.openfhe.keymoulds import automorphism_mould
from glyphc.diagnostics import _security
from glyphc.ir.parameters import INSECURE, MAX_DEGREES, Parameters
from glyphc.train.plan import secure_parameters

LIMIT = MAX_LOG_QP_SPARSE[65536]
# Estimated by scripts/estimate_security.py: log2(QP) and log2 of the operations of the best attack.
ESTIMATES = {1416: 144.9, 1462: 141.06, 1553: 134.0}
MARGIN = 13
# The largest log2(QP) of the contexts without bootstraps, by docs/security.md.
LINEAR, BGV = 264, 115
SIXTEEN_GB = 16e9


def test_the_bound_leaves_128_bits_after_the_margin() -> None:
    assert ESTIMATES[LIMIT] - MARGIN >= 128


def test_contexts_without_bootstraps_are_bounded_by_a_weaker_instance() -> None:
    """Of one secret, the table of docs/security.md: the larger the modulus, the fewer operations an attack takes."""
    page = (Path(__file__).parent.parent / "docs" / "security.md").read_text()
    rows = [line.strip("|").split("|") for line in page.splitlines() if "| weight 192 |" in line]
    lines = [[cell.strip(" *") for cell in row] for row in rows]
    least = {int(bits): float(found) for _, ring, bits, *_, found, _ in lines if ring == "65,536"}
    assert {bits: least[bits] for bits in ESTIMATES} == ESTIMATES
    falling = [least[bits] for bits in sorted(least)]
    assert falling == sorted(falling, reverse=True)
    assert max(LINEAR, BGV) < min(least)
    assert least[min(least)] - MARGIN > 256


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=lambda c: str(c.slots))
@pytest.mark.parametrize("degree", MAX_DEGREES.values())
def test_every_degree_has_parameters(configuration: Configuration, degree: int) -> None:
    """Degree 247 at 65,536 values too, and no context beyond 16 GB."""
    c = configuration
    wanted = Parameters(65536, 27, 55, (), c.slots, degree, c.level_budget, large_digits=c.large_digits)
    found = secured(wanted)
    assert is_secure(found)
    assert found.modulus_bits <= LIMIT
    cost = CostModel()
    assert cost.idle_bytes(found) + cost.work_bytes(found) < SIXTEEN_GB
    assert MOST_KEYS[found.level_budget] * found.torus_key_bytes < SIXTEEN_GB - 3e9


@pytest.mark.parametrize("slots", [4096, 16384, 32768])
@pytest.mark.parametrize(("decoded", "slot_levels"), [(3, 0), (3, 1), (4, 0), (4, 1)])
@pytest.mark.parametrize("degree", [27, 59])
def test_training_has_parameters(slots: int, decoded: int, slot_levels: int, degree: int) -> None:
    found = secure_parameters(slots, degree, None, CostModel(), decoded, slot_levels)
    assert found.modulus_bits <= LIMIT
    assert MOST_KEYS[found.level_budget] * found.torus_key_bytes < SIXTEEN_GB - 3e9


@pytest.mark.parametrize(
    ("budget", "degree", "digits", "bits", "kept"),
    [
        ((5, 5), 27, 5, 47, 0),
        ((5, 5), 59, 6, 47, 0),
        ((3, 4), 247, 5, 47, 0),
        ((4, 4), 59, 4, 47, 0),
        ((5, 5), 27, 7, 44, 3),
        ((5, 5), 27, 7, 45, 2),
    ],
)
def test_openfhe_takes_no_larger_moduli_than_is_said(
    budget: tuple[int, int], degree: int, digits: int, bits: int, kept: int
) -> None:
    """The last two are where a digit nearly fills the auxiliary primes: OpenFHE takes one more."""
    parameters = Parameters(1024, 20, 54, (), 512, degree, budget, bits, digits, levels_kept=kept, security=INSECURE)
    context = torus_context(parameters)
    moduli = automorphism_mould(context, context.KeyGen().secretKey, 5).moduli
    assert round(sum(map(log2, set(moduli))), 2) == parameters.modulus_bits
    assert len(moduli) * 8 * 1024 == parameters.torus_key_bytes


@pytest.mark.parametrize(("limbs", "bits"), [(2, 36), (3, 36), (4, 36), (4, 31)])
def test_openfhe_takes_no_larger_modulus_for_trainings_products(limbs: int, bits: int) -> None:
    """They are under the sparse secret too, so the bound holds for them, and the table's first row."""
    parameters = Parameters(
        *(1024, 20, 54, (), 512, 27, (5, 5)), linear_bits=bits, linear_limbs=limbs, decoded_limbs=2, security=INSECURE
    )
    context = make_training_contexts(parameters).linear
    moduli = automorphism_mould(context, context.KeyGen().secretKey, 5).moduli
    assert round(sum(map(log2, set(moduli))), 2) <= parameters.linear_modulus_bits <= LINEAR


def test_a_context_for_products_is_held_to_the_bound_too() -> None:
    parameters = secured(Parameters(65536, 27, 55, (), 2048, 27, (5, 4)))
    assert is_secure(replace(parameters, linear_bits=36, linear_limbs=4))
    assert not is_secure(replace(parameters, linear_bits=36, linear_limbs=40))


@pytest.mark.parametrize("plaintext_bits", [12, 26, 30])
def test_openfhe_takes_no_larger_modulus_for_bgv(plaintext_bits: int) -> None:
    parameters = Parameters(2048, plaintext_bits, 55, security=INSECURE)
    context = make_contexts(parameters, bootstraps=False).bgv
    moduli = automorphism_mould(context, context.KeyGen().secretKey, 5).moduli
    assert round(sum(map(log2, set(moduli))), 2) <= parameters.modulus_bits == BGV


@pytest.mark.slow
def test_how_many_keys_bootstraps_have() -> None:
    for budget, most in MOST_KEYS.items():
        counts = [
            len(bootstrap_automorphisms(Parameters(65536, 20, 54, (), slots, 27, budget))) + 1
            for slots in (64, 2048, 8192, 16384, 32768)
            if slots >= 1 << max(budget)
        ]
        assert max(counts) == most, budget


def test_digits_that_openfhe_cannot_cut_are_not_taken() -> None:
    parameters = Parameters(
        65536, 27, 55, (), 32768, 27, (5, 5), large_digits=6
    )  # 25 limbs in six digits: one is empty
    assert not parameters.digits_divide
    assert replace(parameters, large_digits=7).digits_divide
    assert secured(parameters).large_digits == 7


def test_the_security_line_is_of_the_engine_that_would_run() -> None:
    parameters = Parameters(ring=65536, plaintext_bits=20, bgv_bits=55, slots=64, degree=13, level_budget=(2, 2))
    line = _security(parameters, "kernels")
    shape = EngineShape(parameters)
    largest = max(prod(shape.primes[p] for p in spec.shape.primes) for spec in shape.specs())
    assert f"log QP {log2(largest):.0f} under our bound of {LIMIT}" in line
    assert "our bound" not in _security(parameters, "openfhe")


def test_how_often_a_raised_coefficient_leaves_the_kernels_range() -> None:
    """The tail of the Irwin-Hall distribution, exactly; docs/security.md states it."""
    n, below = SPARSE_WEIGHT + 1, Fraction(SPARSE_WEIGHT + 1, 2) - WRAPS
    total = sum((-1) ** k * comb(n, k) * (below - k) ** n for k in range(int(below) + 1))
    tail = float(2 * total / factorial(n))
    stated = (Path(__file__).parent.parent / "docs" / "security.md").read_text()
    assert f"= **2^{log2(tail):.1f}** for a coefficient, **2^{log2(65536 * tail):.1f}**" in stated
