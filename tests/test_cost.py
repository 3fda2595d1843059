"""The cost model and its predictions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from cost_models import CIPHERTEXT, DEGREES, MACHINE, SIZES, N, growing_models, large, models, shipped_row, small
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glyphc.analysis.cost import (
    CONFIGURATIONS,
    FIGURES,
    REFERENCE_DEGREE,
    BootstrapCost,
    Configuration,
    CostModel,
    calibrated,
)
from glyphc.analysis.estimate import estimate, instruction_seconds, peak_bytes
from glyphc.analysis.kernels_cost import KERNELS, KERNELS_SLOTS, for_engine
from glyphc.analysis.slot_figures import FIGURES as SLOT_FIGURES
from glyphc.analysis.slot_figures import SLOT_ROWS, SlotRow, slot_seconds
from glyphc.ir.instructions import (
    ClientSpec,
    ConjugateDot,
    Conjugates,
    Evaluate,
    Free,
    FromTorus,
    Instruction,
    Load,
    Polynomials,
    Powers,
    Schedule,
    Split,
    Store,
    ToTorus,
)
from glyphc.ir.parameters import Parameters
from glyphc.ir.series import Series

# -- predictions --


@given(growing_models(), st.integers(1, N // 2), st.integers(1, N // 2), st.integers(1, 247), st.integers(1, 247))
def test_more_slots_and_higher_degrees_never_cost_less(cost: CostModel, a: int, b: int, c: int, d: int) -> None:
    slots, degrees = sorted((a, b)), sorted((c, d))
    assert cost.bootstrap_seconds(slots[0], c) <= cost.bootstrap_seconds(slots[1], c) * (1 + 1e-9)
    assert cost.bootstrap_seconds(a, degrees[0]) <= cost.bootstrap_seconds(a, degrees[1]) * (1 + 1e-9)
    smaller, larger = large(slots[0], degrees[0]), large(slots[1], degrees[1])
    for figure in (cost.key_bytes, cost.key_seconds, cost.idle_bytes, cost.work_bytes, cost.powers_bytes):
        assert figure(smaller) <= figure(larger) * (1 + 1e-9)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no fault
@given(models(), st.integers(1, N // 2), st.integers(1, 247))
def test_a_prediction_is_positive_whatever_was_measured(cost: CostModel, slots: int, degree: int) -> None:
    assert cost.powers_seconds(slots, degree) > 0
    assert cost.evaluate_seconds(slots, degree) > 0
    assert cost.idle_bytes(large(slots, degree)) > 0


def test_the_shipped_model_grows_with_the_degree() -> None:
    cost = CostModel()
    for slots in (2, *SIZES):
        seconds = [cost.bootstrap_seconds(slots, degree) for degree in DEGREES]
        assert seconds == sorted(seconds)


def test_a_measured_row_is_predicted_as_it_is() -> None:
    cost = CostModel()
    for configuration in cost.configurations:
        for row in configuration.costs:
            at = (configuration.slots, row.degree)
            assert cost.powers_seconds(*at) == pytest.approx(row.powers)
            assert cost.evaluate_seconds(*at) == pytest.approx(row.evaluate)
            assert cost.work_bytes(large(*at)) == pytest.approx(row.work_bytes)
            assert cost.idle_bytes(large(*at)) == pytest.approx(row.idle_bytes)


def test_a_configuration_without_the_degree_follows_those_that_have_it() -> None:
    def with_rows(slots: int, *seconds: tuple[int, float]) -> Configuration:
        costs = tuple(BootstrapCost(degree, *[s] * len(FIGURES)) for degree, s in seconds)
        return Configuration(slots, (2, 2), 2, costs)

    cost = CostModel(
        configurations=(
            with_rows(16, (27, 1.0), (59, 2.0)),
            with_rows(64, (27, 10.0)),
            with_rows(256, (27, 100.0), (59, 400.0), (119, 500.0)),
        )
    )
    assert cost.powers_seconds(64, 59) == pytest.approx(30.0)  # halfway between twice and four times
    assert cost.powers_seconds(64, 119) == pytest.approx(50.0)  # only one knows
    assert cost.powers_seconds(64, 247) == pytest.approx(50.0)  # nobody knows: as at the last degree of all
    assert cost.powers_seconds(64, 13) == pytest.approx(10.0)
    assert cost.powers_seconds(128, 27) == pytest.approx(55.0)


def test_smaller_rings_cost_less() -> None:
    cost = CostModel()
    assert cost.bootstrap_seconds(64, 27, 1024) == pytest.approx(cost.bootstrap_seconds(64, 27) / 64 * 10 / 16)
    assert cost.idle_bytes(small()) < cost.idle_bytes(large(32))
    assert cost.key_bytes(small()) < cost.key_bytes(large(32))


def test_a_program_without_bootstraps_needs_little() -> None:
    cost = CostModel()
    parameters = Parameters(ring=N, plaintext_bits=27, bgv_bits=55, unpack_strides=(1, 2))
    assert cost.work_bytes(parameters) == cost.powers_bytes(parameters) == 0
    assert cost.idle_bytes(parameters) < 1e9
    assert 0 < cost.key_bytes(parameters) < 10e6  # of the unpacking
    assert cost.key_seconds(parameters) < 1


# -- estimates of schedules --


def evaluation(target: int, powers: int, degree: int = REFERENCE_DEGREE) -> Evaluate:
    nothing, zeros = cast(Any, None), (0.0,) * (degree + 1)
    return Evaluate(target, powers, Series(zeros, zeros, 0.45, 0.0, 0.0), (), nothing, nothing, 1, node=2)


def schedule(*instructions: Instruction, weights: int = 0, parameters: Parameters | None = None) -> Schedule:
    polynomials = Polynomials(np.zeros(weights + 1, dtype=np.int64), np.zeros(0, dtype=np.int32), np.zeros(0, np.int64))
    return Schedule(ClientSpec(parameters or large(), (), (), 1), instructions, {"w": polynomials})


BOOTSTRAP = (
    Load(0, "x", 0, node=0),
    ToTorus(1, 0, 32768, node=1),
    Powers(2, 1, 32768, REFERENCE_DEGREE, node=2),
    Free((1,), node=2),
    evaluation(3, 2),
    Free((2,), node=2),
    FromTorus(4, 3, node=3),
    Store(4, "y", 0, node=4),
    Free((3, 4), node=4),
)


def test_a_second_function_of_a_value_costs_only_its_own_half() -> None:
    cost, parameters = CostModel(), large()
    one = schedule(*BOOTSTRAP)
    two = schedule(*BOOTSTRAP[:5], evaluation(5, 2), *BOOTSTRAP[5:])
    added = estimate(two, cost).seconds - estimate(one, cost).seconds
    assert added == pytest.approx(cost.evaluate_seconds(32768, REFERENCE_DEGREE))
    assert estimate(two, cost).bootstraps == 1
    seconds = sum(instruction_seconds(i, parameters, cost) for i in BOOTSTRAP)
    assert seconds == pytest.approx(cost.bootstrap_seconds(32768, REFERENCE_DEGREE) + 2 * cost.switch)


def test_a_lower_degree_costs_less_but_not_as_little_as_in_a_context_of_its_own() -> None:
    cost, parameters = CostModel(), large()
    powers, function = Powers(2, 1, 32768, 13, node=2), evaluation(3, 2, degree=13)
    seconds = sum(instruction_seconds(i, parameters, cost) for i in (powers, function))
    assert cost.bootstrap_seconds(32768, 13) < seconds < cost.bootstrap_seconds(32768, REFERENCE_DEGREE)


def test_the_peak_is_that_of_the_bootstrap_with_all_that_is_alive() -> None:
    cost, parameters = CostModel(), large()
    base = cost.idle_bytes(parameters) + cost.work_bytes(parameters)
    # alive at the bootstrap: the input, the switched input or the result
    assert peak_bytes(schedule(*BOOTSTRAP), cost) == pytest.approx(base + 2 * CIPHERTEXT)
    assert peak_bytes(schedule(*BOOTSTRAP, weights=10), cost) == pytest.approx(base + 12 * CIPHERTEXT)


def test_kept_powers_count_and_freed_ones_do_not() -> None:
    cost, parameters = CostModel(), large()
    both = Powers(5, 1, 32768, REFERENCE_DEGREE, node=2)
    alone = peak_bytes(schedule(*BOOTSTRAP), cost)
    kept = peak_bytes(schedule(*BOOTSTRAP[:3], both, *BOOTSTRAP[3:]), cost)
    freed = peak_bytes(schedule(*BOOTSTRAP[:6], both), cost)
    assert kept == pytest.approx(alone + cost.powers_bytes(parameters))
    assert freed == pytest.approx(alone)


def test_stored_results_stay_alive_and_inputs_do_not() -> None:
    cost = CostModel()
    parameters = replace(large(), slots=0, unpack_strides=(1,))
    few = schedule(Load(0, "x", 0, node=0), Split((1, 2), 0, 2, 1, node=1), parameters=parameters)
    idle = cost.idle_bytes(parameters)
    assert peak_bytes(few, cost) == pytest.approx(idle + 3 * CIPHERTEXT)
    more = (Store(1, "y", 0, node=2), Free((0, 1, 2), node=2), Split((3, 4), 0, 2, 1, node=1))
    assert peak_bytes(schedule(*few.instructions, *more, parameters=parameters), cost) == pytest.approx(
        idle + 3 * CIPHERTEXT
    )


@given(
    st.sampled_from((SLOT_ROWS, KERNELS_SLOTS)),
    st.sampled_from(SLOT_FIGURES),
    st.sampled_from((8192, 16384, 32768)),
    st.integers(2, 40),
)
def test_more_limbs_are_not_cheaper(rows: tuple[SlotRow, ...], name: str, ring: int, limbs: int) -> None:
    """Of what is done on each limb, in a transform's time; and of everything beyond what was measured."""
    deepest = max(row.limbs for row in rows)
    if name == "encrypt" or limbs >= deepest:
        assert slot_seconds(rows, name, ring, limbs + 1) >= slot_seconds(rows, name, ring, limbs)


def test_sums_over_conjugates_cost_their_steps() -> None:
    """Two sources of sixteen parts: three baby steps each, three giant steps, 32 products and a bias."""
    cost = CostModel(product=1.0, automorphism=100.0, baby=0.5, giant=2.0)
    numbers = {"parts": 16, "stride": 1, "babies": 4}
    babies = Conjugates((1, 2, 3), 0, 16, 1, 0)
    dot = ConjugateDot(9, tuple(range(8)), "w", None, 0, **numbers)
    assert instruction_seconds(babies, large(), cost) == pytest.approx(3 * 0.5 * 100)
    assert instruction_seconds(dot, large(), cost) == pytest.approx(3 * 2.0 * 100 + 33)
    more = replace(large(), conjugates=(3, 5, 7))
    assert cost.key_bytes(more) - cost.key_bytes(large()) == cost.idle_bytes(more) - cost.idle_bytes(large()) > 0


@given(st.integers(0, 1000), st.integers(0, 1000))
@settings(deadline=None)
def test_more_weights_never_take_less_memory(a: int, b: int) -> None:
    less, more = (peak_bytes(schedule(*BOOTSTRAP, weights=w), CostModel()) for w in sorted((a, b)))
    assert less <= more


# -- scaling what was not measured --


def flat(configurations: tuple[Configuration, ...]) -> list[float]:
    return [getattr(row, name) for c in configurations for row in c.costs for name in FIGURES]


@given(st.sampled_from(SIZES), st.floats(0.01, 100))
def test_one_measured_configuration_scales_all(slots: int, factor: float) -> None:
    measured = shipped_row(slots, factor=factor)
    result = calibrated(CONFIGURATIONS, {(slots, REFERENCE_DEGREE): measured})
    assert flat(result) == pytest.approx([factor * x for x in flat(CONFIGURATIONS)])
    marked = [(c.slots, row.degree) for c in result for row in c.costs if row.measured]
    assert marked == [(slots, REFERENCE_DEGREE)]


def test_between_two_measured_configurations_factors_are_between_theirs() -> None:
    ends = {(SIZES[0], 27): shipped_row(SIZES[0], factor=2.0), (SIZES[-1], 27): shipped_row(SIZES[-1], factor=4.0)}
    result = calibrated(CONFIGURATIONS, ends)
    pairs = zip(result, CONFIGURATIONS, strict=True)
    factors = [new.figure("powers", 27) / old.figure("powers", 27) for new, old in pairs]
    assert factors[0] == pytest.approx(2.0)
    assert factors[-1] == pytest.approx(4.0)
    assert factors == sorted(factors)


def test_measured_rows_are_kept_and_new_degrees_added() -> None:
    slots = SIZES[1]
    measured = {(slots, 27): shipped_row(slots, factor=3.0), (slots, 119): BootstrapCost(119, 9, 8, 7, 6, 5, 4, 3)}
    configuration = calibrated(CONFIGURATIONS, measured)[1]
    assert [row for row in configuration.costs if row.measured] == [measured[slots, 27], measured[slots, 119]]
    degrees = [row.degree for row in configuration.costs]
    assert degrees == sorted(set(degrees))


@given(st.sets(st.sampled_from([(s, d) for s in SIZES for d in (27, 59)]), min_size=1))
def test_measuring_what_ships_changes_nothing(keys: set[tuple[int, int]]) -> None:
    result = calibrated(CONFIGURATIONS, {key: shipped_row(*key) for key in keys})
    model, shipped = CostModel(configurations=result), CostModel()
    for slots in SIZES:
        assert model.bootstrap_seconds(slots, 27) == pytest.approx(shipped.bootstrap_seconds(slots, 27))


def test_what_was_not_measured_of_the_kernels_is_scaled_to_the_users_machine() -> None:
    twice = tuple(
        replace(c, costs=tuple(replace(r, powers=2 * r.powers, evaluate=2 * r.evaluate) for r in c.costs))
        for c in CONFIGURATIONS
    )
    model = CostModel(configurations=twice, machine=MACHINE)
    kernels = for_engine(model, "kernels")
    assert kernels.bootstrap_seconds(64, 27) == pytest.approx(2 * KERNELS.bootstrap_seconds(64, 27))
    assert kernels.product == pytest.approx(2 * KERNELS.product)
    assert kernels.training.rows[0].branch == pytest.approx(2 * KERNELS.training.rows[0].branch)
    assert kernels.training.series == pytest.approx(2 * KERNELS.training.series)
    assert kernels.configurations[0].costs[0].key_bytes == KERNELS.configurations[0].costs[0].key_bytes
    assert "scaled" in kernels.machine.text
    assert "a processor" in kernels.machine.text
    assert for_engine(replace(model, kernels=KERNELS), "kernels").machine == KERNELS.machine
    assert for_engine(CostModel(), "kernels").configurations == KERNELS.configurations


def test_what_was_not_measured_of_openfhe_is_scaled_to_the_users_machine() -> None:
    half = tuple(
        replace(c, costs=tuple(replace(r, powers=r.powers / 2, evaluate=r.evaluate / 2) for r in c.costs))
        for c in KERNELS.configurations
    )
    model = CostModel(kernels=replace(KERNELS, configurations=half, machine=MACHINE))
    openfhe = for_engine(model, "openfhe")
    assert openfhe.bootstrap_seconds(64, 27) == pytest.approx(CostModel().bootstrap_seconds(64, 27) / 2)
    assert openfhe.product == pytest.approx(CostModel().product / 2)
    assert "scaled from kernels)" in openfhe.machine.text
    assert for_engine(replace(model, machine=replace(MACHINE, date="later")), "openfhe").product == CostModel().product
