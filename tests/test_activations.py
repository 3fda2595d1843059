"""Activations of the user's own: registered, sampled and refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

import glyphc
from glyphc.errors import ActivationError
from glyphc.frontends.custom_activations import POINTS, registered
from glyphc.ir.functions import Function
from tests.activation_models import F64, SAMPLING, deviation

pytestmark = pytest.mark.usefixtures("_own_activations")

# -- registering ---------------------------------------------------------------------------------------------


def test_names_come_and_go() -> None:
    assert glyphc.activations() == ()
    table = glyphc.register_activation("wave", np.sin, -2, 2)
    glyphc.register_activation("bump", [0, 1, 0], -1, 1)
    assert glyphc.activations() == ("bump", "wave")
    assert registered("wave") is table
    glyphc.unregister_activation("wave")
    assert glyphc.activations() == ("bump",)
    assert registered("wave") is None


def test_tables() -> None:
    table = glyphc.register_activation("bump", np.array([0, 4, 1], dtype=np.int8), -1, 1)
    assert table == Function("table", (-1.0, 1.0, 0.0, 4.0, 1.0))
    np.testing.assert_allclose(table(np.array([-9, -1, -0.5, 0, 0.5, 1, 9])), [0, 0, 2, 4, 2.5, 1, 1])


@pytest.mark.parametrize(
    ("function", "lo", "hi"),
    [
        (np.tanh, -8.0, 8.0),
        (np.exp, -4.0, 4.0),
        (np.sin, -math.pi, math.pi),
        (lambda x: x / (1 + np.exp(-1.7 * x)), -8.0, 8.0),
        (lambda x: x**3 - x, -2.0, 2.0),
        (np.log, 0.1, 4.0),
    ],
)
def test_smooth_functions_are_sampled_finely(function: Callable[[F64], F64], lo: float, hi: float) -> None:
    table = glyphc.register_activation("own", function, lo, hi)
    assert table.name == "table" and len(table.parameters) == POINTS + 2
    assert deviation(table, function, lo, hi) < SAMPLING


@given(
    st.integers(0, 2**32 - 1),
    st.floats(-100, 100),
    st.floats(0.01, 100),
    st.floats(-1000, 1000),
    st.floats(1e-6, 1e6),
)
@examples(50)
def test_any_interval_and_scale(seed: int, lo: float, width: float, shift: float, scale: float) -> None:
    hi = lo + width
    a, b = np.random.default_rng(seed).normal(size=(2, 4))

    def function(x: F64) -> F64:
        u = (x - lo) / width
        return np.asarray(shift + scale * sum(a[k] * np.cos(k * u + b[k]) for k in range(4)))

    table = glyphc.register_activation("own", function, lo, hi, replace=True)
    x = np.random.default_rng(seed).uniform(lo, hi, 1000)
    y = function(x)
    # float64 keeps less of what is small beside its shift
    assert np.abs(table(x) - y).max() <= SAMPLING * 4 * scale + 1e-12 * abs(shift)


@pytest.mark.parametrize(
    ("function", "jumps"),
    [
        (np.sign, (0.0,)),
        (np.floor, (-2.0, -1.0, 0.0, 1.0, 2.0)),
        (lambda x: np.where(x > 0.7310585, 1 + np.cos(x), x), (0.7310585,)),
        (lambda x: np.floor(1.3 * x) + np.sin(x), tuple(k / 1.3 for k in range(-3, 4))),
        (lambda x: (x > 2.5) * 1.0, (2.5,)),
    ],
)
def test_jumps_stay_jumps(function: Callable[[F64], F64], jumps: tuple[float, ...]) -> None:
    table = glyphc.register_activation("own", function, -2.9, 2.9)
    assert table.name == "table_with_jumps"
    assert table.parameters[2] == len(jumps)
    assert table.parameters[3 : 3 + 2 * len(jumps) : 2] == pytest.approx(jumps, abs=1e-9)
    assert deviation(table, function, -2.9, 2.9) < 2**-13  # a kink may hide behind a jump
    beside = np.array([j + side for j in jumps for side in (-1e-6, 1e-6)])
    np.testing.assert_allclose(table(beside), function(beside), atol=1e-3)


def test_jumps_at_the_ends() -> None:
    for function in (np.floor, np.ceil):
        table = glyphc.register_activation("own", function, -3, 3, replace=True)
        x = np.linspace(-2.99, 2.99, 1000)
        np.testing.assert_allclose(table(x), function(x), atol=1e-9)


def test_a_lonely_point_is_no_jump() -> None:
    """Like sin(x)/x where 0/0 has been replaced by something silly."""
    table = glyphc.register_activation("own", lambda x: np.where(x == 0, 5.0, np.cos(x)), -2, 2)
    assert table.name == "table"
    np.testing.assert_allclose(table(np.array([0.0])), 1.0, atol=1e-6)


@pytest.mark.parametrize(
    ("function", "lo", "worst"),
    [(lambda x: np.abs(x - 0.1234), -4.0, 2**-12), (np.sqrt, 0.0, 2**-7), (lambda x: np.floor(500 * x), -4.0, 2**-9)],
)
def test_kinks_and_cusps_are_followed(function: Callable[[F64], F64], lo: float, worst: float) -> None:
    table = glyphc.register_activation("own", function, lo, 4)
    assert table.name == "table"
    assert deviation(table, function, lo, 4) < worst


@pytest.mark.parametrize(
    "function",
    [
        lambda x: np.maximum(x, 0, out=x),
        np.vectorize(math.tanh),
        np.frompyfunc(math.tanh, 1, 1),
        lambda x: x > 0.5,
        lambda x: np.rint(x).astype(np.int16),
        lambda x: np.tanh(x.astype(np.float32)),
        lambda x: [float(v) for v in x],
        lambda x: 0 * x + 3,
        lambda x: np.longdouble(x),
    ],
)
def test_what_callables_may_do(function: Callable[[F64], Any]) -> None:
    table = glyphc.register_activation("own", function, -2, 2, points=65)
    x = np.linspace(-1.9, 1.91, 39)
    tolerance = 0.01 * max(1.0, float(np.ptp(np.asarray(function(x.copy()), dtype=np.float64))))
    far = np.abs(np.abs(x) - 0.5) > 0.01
    wanted = np.asarray(function(x.copy()), dtype=np.float64)
    assert np.abs(table(x) - wanted)[far].max() <= tolerance


def test_a_callable_sees_nothing_outside_its_interval() -> None:
    seen: list[F64] = []

    def function(x: F64) -> F64:
        seen.append(x.copy())
        return np.sqrt(x - 0.1)

    # 0.1 and 0.7 are not dyadic, so sums and differences of them are rounded
    glyphc.register_activation("own", function, 0.1, 0.7)
    everything = np.concatenate(seen)
    assert (everything.min(), everything.max()) == (0.1, 0.7)


# -- refusals ------------------------------------------------------------------------------------------------


def _fail(x: F64) -> F64:
    raise KeyError("weights are\nnot loaded")


def _chance(x: F64, rng: np.random.Generator = np.random.default_rng(0)) -> F64:  # noqa: B008
    return np.asarray(x * (rng.random(x.shape) > 0.5))


BAD_CALLABLES: list[tuple[Callable[[F64], Any], str]] = [
    (np.log, r"is nan at x = -2"),
    (lambda x: 1 / x, r"is inf at x = 0;"),
    (lambda x: np.where(x > 1, np.nan, x), r"is nan at x = 1\.00"),
    (lambda x: np.exp(40 * x), r"at x = 0\.8\d*; .* at most 1e\+15"),
    (lambda x: 1 / (x - 0.1234), r"steep|at most"),
    (lambda x: x[1:], r"shape \(4096,\) for an argument of shape \(4097,\)"),
    (lambda x: 3.0, r"shape \(\) .* one value for each element"),
    (lambda x: x[:, None], r"shape \(4097, 1\)"),
    (lambda x: None, r"the callable returns"),
    (lambda x: "tanh", r"<U4, not real numbers"),
    (lambda x: 1j * x, r"complex128, not real numbers"),
    (lambda x: [[1], [2, 3]], r"cannot be read as real numbers"),
    (lambda x: np.array([object()] * len(x)), r"cannot be read as real numbers"),
    (lambda x: np.array([1j] * len(x), dtype=object), r"cannot be read as real numbers"),
    (lambda x: np.array(["2020-01-01"] * len(x), dtype="datetime64[D]"), r"datetime64.*not real numbers"),
    (_fail, r"raised KeyError \('weights are\\nnot loaded'\)"),
    (math.tanh, r"raised TypeError .* np\.vectorize"),
    (lambda: 0.0, r"raised TypeError"),
    (lambda x: np.exp(x) / np.exp(x).sum(), r"not elementwise: at x = "),
    (lambda x: x - x.mean(), r"not elementwise"),
    (lambda x: x / np.abs(x).max(), r"not elementwise"),
    (np.sort, r"not elementwise"),
    (np.cumsum, r"not elementwise"),
    (lambda x: np.roll(x, 1), r"not elementwise"),
    (lambda x: x[::-1], r"not elementwise"),
    (_chance, r"not elementwise"),
    (lambda x: np.sin(1e4 * x), r"too steep or too restless for 4097 points: near x = "),
    (lambda x: np.abs(x - 4.5e-4) ** 0.2, r"more points"),
    (lambda x: np.sign(np.sin(100 * x)), r"jumps at \d+ places"),
]


@pytest.mark.parametrize(("function", "words"), BAD_CALLABLES)
def test_bad_callables(function: Callable[[F64], Any], words: str) -> None:
    with pytest.raises(ActivationError, match=words) as e:
        glyphc.register_activation("own", function, -2, 2)
    assert str(e.value).startswith("activation 'own'") and "\n" not in str(e.value)
    assert glyphc.activations() == ()


def test_the_error_of_a_callable_keeps_its_traceback() -> None:
    with pytest.raises(ActivationError) as e:
        glyphc.register_activation("own", _fail, -2, 2)
    assert isinstance(e.value.__cause__, KeyError)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([], r"0 values in the table; 2 to 16385"),
        ([1.0], r"1 values in the table"),
        (np.zeros(16386), r"16386 values"),
        (3.0, r"no callable.*shape \(\)"),
        (None, r"no callable"),
        ("relu", r"no callable"),
        ({"a": 1}, r"no callable"),
        ([[1, 2], [3, 4]], r"shape \(2, 2\)"),
        ([[1, 2], [3]], r"cannot be read"),
        (["a", "b"], r"<U1"),
        ([1, 2j], r"complex128"),
        ([1, np.nan, 2], r"is nan at x = 0;"),
        ([1, None, 2], r"is nan at x = 0|cannot be read"),
        ([1, 2, -np.inf], r"is -inf at x = 2;"),
        ([1, 1e16], r"is 1e\+16 at x = 2;"),
    ],
)
def test_bad_tables(values: Any, words: str) -> None:
    with pytest.raises(ActivationError, match=words) as e:
        glyphc.register_activation("own", values, -2, 2)
    assert "'own'" in str(e.value)


@pytest.mark.parametrize(
    ("lo", "hi", "words"),
    [
        (1, 1, "empty"),
        (2, -2, r"\[2, -2\] is empty; lo must be less than hi"),
        (-math.inf, 0, "must be finite"),
        (0, math.nan, "limit nan .* must be finite"),
        (0, 10**400, "must be finite"),
        (0, "1", "limit '1' of its interval is not a real number"),
        (None, 1, "limit None"),
        (0, 1j, "not a real number"),
        (False, True, "not a real number"),
        ([0], 1, "not a real number"),
        (1e15 - 1, 1e15, "too narrow"),
        (0.0, 5e-324, "too narrow"),
        (1.0, np.nextafter(1.0, 2.0), "too narrow"),
    ],
)
def test_bad_intervals(lo: Any, hi: Any, words: str) -> None:
    for function in (np.tanh, [1.0, 2.0]):
        with pytest.raises(ActivationError, match=f"activation 'own': .*{words}"):
            glyphc.register_activation("own", function, lo, hi)


@pytest.mark.parametrize("points", [-1, 0, 1, 16386, 10**30, 2.0, "9", None, True])
def test_bad_numbers_of_points(points: Any) -> None:
    with pytest.raises(ActivationError, match=r"activation 'own': .*points"):
        glyphc.register_activation("own", np.tanh, -2, 2, points=points)


def test_too_few_points_for_a_function() -> None:
    with pytest.raises(ActivationError, match=r"restless for 9 points.*more points"):
        glyphc.register_activation("own", np.tanh, -8, 8, points=9)
    glyphc.register_activation("own", lambda x: 2 * x, -8, 8, points=2)


@pytest.mark.parametrize("name", ["", "my relu", "2nd", "a-b", "a.b", "größe", 7, None, ("a",)])
def test_bad_names(name: Any) -> None:
    with pytest.raises(ActivationError, match="cannot name an activation"):
        glyphc.register_activation(name, np.tanh, -2, 2)


def test_names_in_use() -> None:
    glyphc.register_activation("own", np.tanh, -2, 2)
    with pytest.raises(ActivationError, match=r"'own' is registered already.*replace=True"):
        glyphc.register_activation("own", np.sin, -2, 2)
    first = registered("own")
    with pytest.raises(ActivationError, match="nan"):
        glyphc.register_activation("own", np.log, -2, 2, replace=True)
    assert registered("own") is first, "a failure changes nothing"
    assert glyphc.register_activation("own", np.sin, -2, 2, replace=True) is registered("own") is not first
    for name in ("Relu", "Gemm", "Softmax"):
        with pytest.raises(ActivationError, match=f"'{name}' is an operator of ONNX"):
            glyphc.register_activation(name, np.tanh, -2, 2)
    with pytest.raises(ActivationError, match=r"no activation 'other'.*registered: own"):
        glyphc.unregister_activation("other")


@given(
    st.one_of(
        st.lists(st.one_of(st.floats(), st.none(), st.text(max_size=2), st.complex_numbers()), max_size=5),
        st.floats(),
        st.binary(max_size=3),
        st.lists(st.lists(st.floats(), max_size=3), max_size=3),
    ),
    st.one_of(st.floats(), st.integers(), st.text(max_size=3)),
    st.one_of(st.floats(), st.integers(), st.text(max_size=3)),
)
@examples(300)
def test_anything_at_all(values: Any, lo: Any, hi: Any) -> None:
    """A function of the IR, or an error of glyphc's; never one of numpy's."""
    for given_values in (values, lambda x: np.full(x.shape, values) if np.isscalar(values) else values):
        try:
            table = glyphc.register_activation("own", given_values, lo, hi, replace=True)
        except ActivationError:
            continue
        assert np.all(np.isfinite(table(np.linspace(float(lo), float(hi), 7))))
