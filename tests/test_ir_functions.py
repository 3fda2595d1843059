"""The functions of the IR, each beside numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from glyphc.ir.errors import IRError
from glyphc.ir.functions import Function, compose
from glyphc.ir.ops import Apply
from tests.one_op import run

FUNCTIONS = {
    Function("relu"): lambda x: x if x > 0 else 0,
    Function("leaky_relu", (0.1,)): lambda x: x if x > 0 else x / 10,
    Function("leaky_relu", (-2.0,)): lambda x: x if x > 0 else -2 * x,
    Function("sigmoid"): lambda x: 1 / (1 + math.exp(-x)),
    Function("tanh"): lambda x: (math.exp(x) - math.exp(-x)) / (math.exp(x) + math.exp(-x)),
    Function("affine", (3.0, -1.0)): lambda x: 3 * x - 1,
    Function("abs"): abs,
    Function("acos"): lambda x: math.acos(min(max(x, -1), 1)),
    Function("acosh"): lambda x: math.acosh(max(x, 1)),
    Function("asin"): lambda x: math.asin(min(max(x, -1), 1)),
    Function("asinh"): math.asinh,
    Function("atan"): math.atan,
    Function("atanh"): math.atanh,
    Function("between", (-1.0, 2.0)): lambda x: 1.0 if -1 < x < 2 else 0.0,
    Function("ceil", (0.5,)): lambda x: math.ceil(2 * x) / 2,
    Function("celu", (2.0,)): lambda x: x if x > 0 else 2 * (math.exp(x / 2) - 1),
    Function("clip", (-1.0, 2.0)): lambda x: min(max(x, -1.0), 2.0),
    Function("cos"): math.cos,
    Function("cosh"): math.cosh,
    Function("elu", (0.5,)): lambda x: x if x > 0 else 0.5 * (math.exp(x) - 1),
    Function("erf"): math.erf,
    Function("exp"): math.exp,
    Function("exp_nonpositive"): math.exp,
    Function("floor", (0.5,)): lambda x: math.floor(2 * x) / 2,
    Function("fmod", (-1.5,)): lambda x: math.fmod(x, -1.5),
    Function("gelu"): lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    Function("gelu_tanh"): lambda x: x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    Function("greater", (0.25,)): lambda x: 1.0 if x > 0.25 else 0.0,
    Function("hard_sigmoid", (0.2, 0.5)): lambda x: min(1.0, max(0.0, 0.2 * x + 0.5)),
    Function("hard_swish"): lambda x: x * min(1.0, max(0.0, x / 6 + 0.5)),
    Function("less", (0.25,)): lambda x: 1.0 if x < 0.25 else 0.0,
    Function("log"): math.log,
    Function("maximum", (0.5,)): lambda x: max(x, 0.5),
    Function("minimum", (0.5,)): lambda x: min(x, 0.5),
    Function("mish"): lambda x: x * math.tanh(math.log1p(math.exp(x))),
    Function("mod", (1.5,)): lambda x: x - 1.5 * math.floor(x / 1.5),
    Function("mod", (-1.5,)): lambda x: x + 1.5 * math.floor(-x / 1.5),
    Function("near_zero"): lambda x: float(abs(x) < 0.5),
    Function("quotient", (-1.5,)): lambda x: math.trunc(round(x) / -1.5),
    Function("polynomial", (-1.0, 3.0, 0.5, 2.0, 0.25)): lambda x: 0.5 + (x - 1) + 0.25 * (2 * ((x - 1) / 2) ** 2 - 1),
    Function("pow", (3.0,)): lambda x: x**3,
    Function("quadratic", (2.0, -1.0, 0.5)): lambda x: 2 * x**2 - x + 0.5,
    Function("reciprocal"): lambda x: 1 / x,
    Function("round", (1.0,)): round,
    Function("selu", (1.5, 1.25)): lambda x: 1.25 * (x if x > 0 else 1.5 * (math.exp(x) - 1)),
    Function("shrink", (0.25, 0.5)): lambda x: x + 0.25 if x < -0.5 else x - 0.25 if x > 0.5 else 0.0,
    Function("sign"): lambda x: (x > 0) - (x < 0),
    Function("silu"): lambda x: x / (1 + math.exp(-x)),
    Function("sin"): math.sin,
    Function("sinh"): math.sinh,
    Function("smooth_step", (-1.0, 3.0)): lambda x: (
        3 * min(max((x + 1) / 4, 0), 1) ** 2 - 2 * min(max((x + 1) / 4, 0), 1) ** 3
    ),
    Function("softplus"): lambda x: math.log1p(math.exp(x)),
    Function("softsign"): lambda x: x / (1 + abs(x)),
    Function("sqrt"): lambda x: math.sqrt(max(x, 0.0)),
    Function("table", (0.0, 2.0, 5.0, 1.0, 3.0)): lambda x: 5 - 4 * min(max(x, 0), 1) + 2 * min(max(x - 1, 0), 1),
    Function("table_with_jumps", (0.0, 2.0, 1.0, 0.5, 4.0, 5.0, 1.0, 3.0)): lambda x: (
        5 - 4 * min(max(x, 0), 1) + 2 * min(max(x - 1, 0), 1) + (4 if x > 0.5 else 0)
    ),
    Function("swish", (0.5,)): lambda x: x / (1 + math.exp(-x / 2)),
    Function("tan"): math.tan,
    Function("thresholded_relu", (1.0,)): lambda x: x if x > 1 else 0.0,
    Function("trunc"): math.trunc,
}
# Defined on positive numbers only.
POSITIVE = {"log", "reciprocal"}


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_functions(function: Function) -> None:
    points = [-20.0, -3.5, -1.0, -1e-9, 0.0, 1e-9, 0.25, 1.0, 2.75, 20.0]
    points = [p for p in points if p > 0 or function.name not in POSITIVE]
    points = [p for p in points if abs(p) < 1 or function.name != "atanh"]
    expected = [FUNCTIONS[function](p) for p in points]
    np.testing.assert_allclose(function(np.array(points)), expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(run(Apply((function,)), [points])[0], expected, rtol=1e-12, atol=1e-14)


def test_every_function_is_tested() -> None:
    from glyphc.ir.functions import _TABLE

    # slopes are compared with differences of their functions in test_train_gradients.py
    assert {f.name for f in FUNCTIONS} == {name for name in _TABLE if not name.endswith("_slope")}


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_saturating_functions_do_not_overflow(name: str) -> None:
    with np.errstate(all="raise", under="ignore"):
        low, high = Function(name)(np.array([-1e300, 1e300]))
    assert (low, high) == ((0 if name == "sigmoid" else -1), 1)


def test_functions_apply_in_order() -> None:
    relu, shift, double = Function("relu"), Function("affine", (1.0, -1.0)), Function("affine", (2.0, 0.0))
    x = [[-2, 0.5, 3]]
    assert run(Apply((relu, shift, double)), x).tolist() == [[-2, -1, 4]]
    assert run(Apply((double, shift, relu)), x).tolist() == [[0, 0, 5]]
    assert run(Apply(()), x).tolist() == x
    assert compose((), np.array(x)).tolist() == x


def test_unknown_functions_and_parameters() -> None:
    with pytest.raises(IRError, match=r"unknown function 'cube'; known: abs, acos, acosh, affine, asin"):
        Function("cube")
    with pytest.raises(IRError, match=r"'leaky_relu' takes 1 parameter\(s\), not 0"):
        Function("leaky_relu")
    with pytest.raises(IRError, match=r"'table' takes lo < hi and at least two values"):
        Function("table", (1.0, 0.0, 2.0, 3.0))
    with pytest.raises(IRError, match="not finite"):
        Function("pow", (math.nan,))
    assert str(Function("leaky_relu", (0.01,))) == "leaky_relu(0.01)"
