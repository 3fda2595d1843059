"""Trigonometric series: fits are as good as they say, and evaluate to what their definition says."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import examples

from glyphc.analysis.series import DEAD_ZONE, HALF_RANGE, fit
from glyphc.ir.functions import Function
from glyphc.ir.parameters import MAX_DEGREES
from glyphc.ir.series import Series, evaluate_series, rms_slope

F64 = npt.NDArray[np.float64]

DEGREES = (1, 5, 13, 27, 59)
SMOOTH = (
    Function("tanh"),
    Function("sigmoid"),
    Function("softplus"),
    Function("silu"),
    Function("gelu"),
    Function("erf"),
    Function("sin"),
    Function("cos"),
    Function("exp"),
    Function("affine", (2.0, -1.0)),
)
KINKED = (Function("relu"), Function("leaky_relu", (0.1,)), Function("abs"), Function("clip", (-1.0, 0.5)))


def by_definition(series: Series, x: float) -> float:
    """2 Re sum_k c_k e^(2 pi i k x), term by term, in Python's own arithmetic."""
    terms = (
        2 * (re * math.cos(2 * math.pi * k * x) - im * math.sin(2 * math.pi * k * x))
        for k, (re, im) in enumerate(zip(series.real, series.imag, strict=True))
    )
    return math.fsum(terms)


def stretched(function: Callable[[F64], F64], reach: float, half_range: float) -> Callable[[F64], F64]:
    """The function on [-reach, reach], as a function of phases up to half_range."""
    return lambda x: np.asarray(function(x * (reach / half_range)))


def measured(series: Series, function: Callable[[F64], F64], jumps: tuple[float, ...] = ()) -> tuple[float, float]:
    """Largest and rms error as shares of the function's range, on points of no particular kind."""
    x = np.random.default_rng(1).uniform(-series.half_range, series.half_range, 40001)
    x = np.concatenate([x, [-series.half_range, 0.0, series.half_range]])
    y = function(x)
    far = np.ones(len(x), dtype=bool)
    for jump in jumps:
        far &= np.abs(x - jump) >= series.dead_zone
    error = evaluate_series(series, x[far]) - y[far]
    span = np.ptp(y)
    return float(np.abs(error).max() / span), float(np.sqrt(np.mean(error**2)) / span)


@st.composite
def smooth_functions(draw: st.DrawFn) -> Callable[[F64], F64]:
    """Of phases: a few waves, slower than the series' own, and a polynomial, anywhere and of any size."""
    numbers = st.floats(-1, 1)
    waves = draw(st.lists(st.tuples(numbers, st.floats(0.1, 12), st.floats(-4, 4)), max_size=4))
    powers = draw(st.lists(numbers, max_size=5))
    shift, scale, level = draw(numbers), draw(st.sampled_from([1e-4, 1.0, 1e4])), draw(numbers)

    def function(x: F64) -> F64:
        y = np.full(x.shape, level)
        for size, frequency, phase in waves:
            y = y + size * np.sin(frequency * (x - shift) + phase)
        return scale * (y + np.polyval(powers, x - shift))

    # errors are shares of the range: without any, there is nothing to compare
    assume(np.ptp(function(np.linspace(-0.2, 0.2, 101))) > 0.1 * scale)
    return function


# -- evaluation --


@given(
    st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), min_size=1, max_size=60),
    st.lists(st.floats(-0.5, 0.5), min_size=1, max_size=5),
)
@examples(100)
def test_evaluation_is_the_sum_of_the_terms(coefficients: list[tuple[float, float]], phases: list[float]) -> None:
    real, imag = zip(*coefficients, strict=True)
    series = Series(real, imag, 0.45, 0.0, 0.0)
    assert series.degree == len(coefficients) - 1
    got = evaluate_series(series, np.array(phases))
    for value, phase in zip(got, phases, strict=True):
        assert value == pytest.approx(by_definition(series, phase), abs=1e-11)


def test_evaluation_keeps_the_shape_and_the_period() -> None:
    series = Series((0.1, 0.2, -0.3), (0.0, 0.4, 0.5), 0.45, 0.0, 0.0)
    x = np.random.default_rng(2).uniform(-0.5, 0.5, (3, 4, 5))
    assert evaluate_series(series, x).shape == (3, 4, 5)
    np.testing.assert_allclose(evaluate_series(series, x + 7), evaluate_series(series, x), atol=1e-12)


@pytest.mark.parametrize("half_range", [0.1, 0.225, HALF_RANGE])
def test_the_slope_is_what_a_disturbance_of_the_phase_becomes(half_range: float) -> None:
    rng = np.random.default_rng(3)
    real, imag = rng.normal(size=(2, 9))
    series = Series(tuple(real), tuple(imag), half_range, 0.0, 0.0)
    x = rng.uniform(-half_range, half_range, 100_000)
    spread = np.sqrt(np.mean((evaluate_series(series, x + 1e-7) - evaluate_series(series, x - 1e-7)) ** 2))
    assert rms_slope(series) == pytest.approx(spread / 2e-7, rel=0.02)


# -- fits --


def _slack(function: Callable[[F64], F64], degree: int, half_range: float) -> float:
    """Coefficients of less than 1e-12 are replaced by as much, after the errors are taken."""
    y = function(np.linspace(-half_range, half_range, 101))
    return float(((degree + 1) * 4e-12 + 1e-13 * np.abs(y).max()) / np.ptp(y))


@given(
    st.sampled_from(SMOOTH + KINKED),
    st.floats(0.2, 8.0),
    st.sampled_from(DEGREES),
    st.sampled_from([HALF_RANGE, 0.225, 0.3, 0.49]),
    st.sampled_from([(), (1, 2, 3, 2, 1), (0, 0, 1), (0, 0)]),
)
@examples(60)
def test_the_reported_errors_are_honest(
    function: Function, reach: float, degree: int, half_range: float, weights: tuple[int, ...]
) -> None:
    target = stretched(function, reach, half_range)
    series = fit(target, degree, half_range, weights)
    assert (series.degree, series.half_range, series.dead_zone) == (degree, half_range, 0.0)
    largest, rms = measured(series, target)
    slack = _slack(target, degree, half_range)
    assert largest <= series.max_error * 1.01 + slack
    assert largest >= series.max_error * 0.8 - slack
    assert series.rms_error <= series.max_error * (1 + 1e-12)
    if sum(weights) == 0:
        assert rms == pytest.approx(series.rms_error, rel=0.05, abs=slack)


@pytest.mark.parametrize("function", SMOOTH + KINKED, ids=str)
def test_a_higher_degree_is_no_worse(function: Function) -> None:
    for reach in (1.0, 5.0):
        target = stretched(function, reach, HALF_RANGE)
        series = [fit(target, degree) for degree in (3, *MAX_DEGREES.values())]
        for low, high in pairwise(series):
            # below 1e-6 the ridge, not the degree, decides
            assert high.rms_error <= low.rms_error * 1.02 + 1e-6
            assert high.max_error <= low.max_error * 1.05 + 1e-5
        assert series[-1].rms_error < series[0].rms_error / 2


@given(smooth_functions(), st.sampled_from(DEGREES), st.sampled_from([0.2, HALF_RANGE]))
@examples(60)
def test_errors_of_random_functions_are_honest(function: Callable[[F64], F64], degree: int, half_range: float) -> None:
    series = fit(function, degree, half_range)
    largest, rms = measured(series, function)
    assert series.dead_zone == 0.0
    slack = _slack(function, degree, half_range)
    assert largest <= series.max_error * 1.01 + slack
    assert largest >= series.max_error * 0.8 - slack
    assert rms == pytest.approx(series.rms_error, rel=0.05, abs=slack)


@given(smooth_functions())
@examples(30)
def test_random_functions_gain_from_degrees(function: Callable[[F64], F64]) -> None:
    series = [fit(function, degree) for degree in (3, 13, 27, 59)]
    for low, high in pairwise(series):
        assert high.rms_error <= low.rms_error * 1.02 + 1e-6
        assert high.max_error <= low.max_error * 1.05 + 1e-5
    assert series[-1].max_error < 2**-14


@given(
    smooth_functions(),
    st.sampled_from([1e-6, -0.01, 3.0, -1e5]),
    st.floats(-10, 10),
    st.sampled_from((*SMOOTH, *KINKED)),
)
@examples(30)
def test_errors_do_not_depend_on_the_unit(
    smooth: Callable[[F64], F64], factor: float, shift: float, other: Function
) -> None:
    """Whoever scales a function scales its errors; only the smallest ones lose digits beside a large shift."""
    for function in (smooth, stretched(other, 3.0, HALF_RANGE)):
        x = np.linspace(-HALF_RANGE, HALF_RANGE, 101)
        level = shift * factor * float(np.ptp(function(x)))
        scaled = lambda x, f=function, c=level: factor * f(x) + c  # type: ignore[misc]  # noqa: E731
        one, two = fit(function, 13), fit(scaled, 13)
        assert two.max_error == pytest.approx(one.max_error, rel=0.05, abs=1e-6)
        assert two.rms_error == pytest.approx(one.rms_error, rel=0.05, abs=1e-6)


@given(smooth_functions(), st.lists(st.integers(0, 50), min_size=1, max_size=64), st.sampled_from(KINKED))
@examples(40)
def test_weights_change_errors_mildly(smooth: Callable[[F64], F64], weights: list[int], kinked: Function) -> None:
    """Unweighted errors, that is: at most twice the rms, wherever values lie."""
    for function in (smooth, stretched(kinked, 3.0, HALF_RANGE)):
        series = fit(function, 13, HALF_RANGE, tuple(weights))
        plain = fit(function, 13)
        _, rms = measured(series, function)
        assert rms <= 2 * plain.rms_error + 1e-6
        assert series.max_error <= 6 * plain.max_error + 1e-6


@pytest.mark.parametrize("function", SMOOTH, ids=str)
@pytest.mark.parametrize("reach", [1.0, 4.0])
def test_smooth_functions_need_a_small_degree(function: Function, reach: float) -> None:
    assert fit(stretched(function, reach, HALF_RANGE), 59).max_error <= 2**-12


@pytest.mark.parametrize("function", KINKED, ids=str)
def test_kinks_cost_precision_but_not_much(function: Function) -> None:
    series = fit(stretched(function, 4.0, HALF_RANGE), 59)
    assert series.max_error <= 2**-7
    assert series.rms_error <= 2**-10


@given(st.integers(1, 8), st.integers(0, 2**32 - 1))
@examples(30)
def test_a_trigonometric_polynomial_is_recovered(degree: int, seed: int) -> None:
    """On nearly the whole torus a polynomial is the only fit to itself."""
    rng = np.random.default_rng(seed)
    wanted = Series(tuple(rng.normal(size=degree + 1)), (0.0, *rng.normal(size=degree)), 0.49, 0.0, 0.0)
    series = fit(lambda x: evaluate_series(wanted, x), degree, 0.49)
    np.testing.assert_allclose(series.real, wanted.real, atol=1e-6)
    np.testing.assert_allclose(series.imag, wanted.imag, atol=1e-6)
    assert series.max_error < 1e-6


@pytest.mark.parametrize("half_range", [0.225, 0.3, HALF_RANGE])
def test_between_its_nodes_and_up_to_the_edge(half_range: float) -> None:
    """The fit is about phases up to half_range; the function is not asked for anything beyond."""
    seen = []

    def target(x: F64) -> F64:
        seen.append(float(np.abs(x).max()))
        return np.tanh(x * 8)

    fit(target, 27, half_range)
    assert max(seen) <= half_range * (1 + 1e-12)


def test_weights_make_a_fit_better_where_values_are() -> None:
    target = stretched(Function("relu"), 4.0, HALF_RANGE)
    x = np.linspace(-0.05, 0.05, 2001)
    errors = []
    for weights in ((), (0, 0, 0, 0, 1, 1, 0, 0, 0, 0)):
        series = fit(target, 13, HALF_RANGE, weights)
        errors.append(np.sqrt(np.mean((evaluate_series(series, x) - target(x)) ** 2)))
        assert series.max_error < 2**-4, "the whole range stays covered"
    assert errors[1] < errors[0]


@pytest.mark.parametrize("bin", range(5))
def test_the_rms_error_is_weighted(bin: int) -> None:
    target = stretched(Function("relu"), 4.0, HALF_RANGE)
    series = fit(target, 13, HALF_RANGE, tuple(int(k == bin) for k in range(5)))
    x = np.linspace(-HALF_RANGE, HALF_RANGE, 10001)[2000 * bin : 2000 * bin + 2001]
    rms = np.sqrt(np.mean((evaluate_series(series, x) - target(x)) ** 2)) / 4.0
    assert series.rms_error == pytest.approx(rms, rel=0.1)


# -- flatter fits --


@pytest.mark.parametrize(
    ("function", "reach", "degree", "wanted"),
    [
        (Function("softsign"), 6.0, 59, 2**-12),
        (Function("abs"), 4.0, 27, 2**-7.5),
        (Function("relu"), 4.0, 59, 2**-9.5),
        (Function("clip", (-1.0, 1.0)), 4.0, 27, 2**-7.5),
        (Function("floor", (1.0,)), 3.5, 27, 2**-7.5),
    ],
    ids=str,
)
def test_a_narrow_miss_is_made_flatter(function: Function, reach: float, degree: int, wanted: float) -> None:
    target = stretched(function, reach, HALF_RANGE)
    plain, flat = fit(target, degree), fit(target, degree, max_error=wanted)
    assert flat.max_error <= wanted < plain.max_error
    assert plain.rms_error < flat.rms_error < 1.5 * plain.rms_error
    assert rms_slope(flat) <= 1.1 * rms_slope(plain), "a bootstrap's noise grows with the slope"
    assert max(map(abs, flat.real + flat.imag)) < 3 * max(map(abs, plain.real + plain.imag))
    if not flat.dead_zone:
        assert measured(flat, target)[0] == pytest.approx(flat.max_error, rel=0.02)


@pytest.mark.parametrize("wanted", [1.0, 2**-9.0, 2**-12, 0.0])
def test_what_is_good_enough_or_out_of_reach_stays(wanted: float) -> None:
    """Relu at degree 59 errs by 2^-9.05 at most, and by 2^-9.9 whatever its weights."""
    target = stretched(Function("relu"), 4.0, HALF_RANGE)
    assert fit(target, 59, max_error=wanted) == fit(target, 59)
    target = stretched(Function("selu", (1.67, 1.05)), 4.0, HALF_RANGE)
    assert fit(target, 119, max_error=2**-12) == fit(target, 119), "tried, but not reached"


@given(smooth_functions(), st.sampled_from(KINKED), st.floats(0.3, 2.5), st.sampled_from([(), (1, 5, 1)]))
@examples(40)
def test_flattening_keeps_its_word(
    smooth: Callable[[F64], F64], kinked: Function, share: float, weights: tuple[int, ...]
) -> None:
    for function in (smooth, stretched(kinked, 3.0, HALF_RANGE)):
        plain = fit(function, 13, HALF_RANGE, weights)
        wanted = share * plain.max_error
        series = fit(function, 13, HALF_RANGE, weights, max_error=wanted)
        assert series == plain or plain.max_error > wanted >= series.max_error
        assert series.rms_error <= 2 * plain.rms_error


# -- jumps --


@pytest.mark.parametrize(
    ("function", "jumps"),
    [
        (Function("sign"), (0.0,)),
        (Function("greater", (0.3,)), (0.3,)),
        (Function("floor", (2.0,)), (-2.0, 0.0, 2.0)),
        (Function("thresholded_relu", (1.0,)), (1.0,)),
    ],
    ids=str,
)
@pytest.mark.parametrize("zone", [DEAD_ZONE, 0.1])
def test_errors_are_honest_outside_dead_zones(function: Function, jumps: tuple[float, ...], zone: float) -> None:
    reach = 3.0
    target = stretched(function, reach, HALF_RANGE)
    series = fit(target, 119, HALF_RANGE, dead_zone=zone)
    assert 0 < series.dead_zone <= zone * HALF_RANGE
    largest, _ = measured(series, target, tuple(j / reach * HALF_RANGE for j in jumps))
    # at the very edge of a dead zone the error is steep
    assert largest <= series.max_error * 2
    assert largest < 0.01


def test_a_wider_dead_zone_allows_a_better_fit() -> None:
    target = stretched(Function("sign"), 1.0, HALF_RANGE)
    errors = [fit(target, 59, HALF_RANGE, dead_zone=zone).max_error for zone in (1 / 64, 1 / 32, 1 / 16, 1 / 8)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 4


def test_steep_functions_have_no_dead_zone() -> None:
    for steepness in (10.0, 100.0, 1000.0):
        assert fit(lambda x, s=steepness: np.tanh(s * x), 13, HALF_RANGE).dead_zone == 0.0  # type: ignore[misc]


# -- odd functions --


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["everywhere", "an edge", "a half"])
def test_functions_that_are_not_finite(value: float, where: str) -> None:
    inside = {"everywhere": 1.0, "an edge": 0.44, "a half": 0.0}

    def target(x: F64) -> F64:
        return np.full(x.shape, value) if where == "everywhere" else np.where(x > inside[where], value, x)

    with pytest.raises(ValueError, match="finite"):
        fit(target, 13)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e-6])
def test_constants(value: float) -> None:
    series = fit(lambda x: np.full(x.shape, value), 13)
    x = np.linspace(-HALF_RANGE, HALF_RANGE, 1001)
    assert np.abs(evaluate_series(series, x) - value).max() <= 1e-6 * abs(value) + 1e-10
    assert series.max_error < 1e-5


def test_what_is_constant_but_for_rounding_has_no_jumps() -> None:
    """Tanh far out is 1 in steps of float64's last digit."""
    series = fit(lambda x: np.tanh(18 + 4 * x), 13)
    assert series.dead_zone == 0.0
    assert series.max_error < 1e-8


@pytest.mark.parametrize("function", [*SMOOTH, *KINKED], ids=str)
def test_no_coefficient_is_zero(function: Function) -> None:
    """OpenFHE skips zero coefficients, and with them powers that it needs later."""
    series = fit(stretched(function, 2.0, HALF_RANGE), 27)
    assert len(series.real) == len(series.imag) == 28
    assert all(c != 0.0 for c in series.real + series.imag)


@pytest.mark.parametrize("scale", [1e-3, 0.25, 1e3])
def test_errors_are_shares_of_the_range(scale: float) -> None:
    one = fit(stretched(Function("relu"), 1.0, HALF_RANGE), 27)
    other = fit(lambda x: scale * np.maximum(x / HALF_RANGE, 0) + 5 * scale, 27)
    assert other.max_error == pytest.approx(one.max_error, rel=0.1)
    assert other.rms_error == pytest.approx(one.rms_error, rel=0.1)
