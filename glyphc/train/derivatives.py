"""Derivatives of the univariate functions, as functions of the IR again."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from glyphc.ir.functions import Function

Chain = tuple[Function, ...]


def _f(name: str, *parameters: float) -> Function:
    return Function(name, parameters)


_CONSTANT_ONE = (_f("affine", 0.0, 1.0),)

_RULES: dict[str, Callable[..., Chain]] = {
    "abs": lambda: (_f("sign"),),
    "acos": lambda: (_f("quadratic", -1.0, 0.0, 1.0), _f("pow", -0.5), _f("affine", -1.0, 0.0)),
    "acosh": lambda: (_f("quadratic", 1.0, 0.0, -1.0), _f("pow", -0.5)),
    "affine": lambda a, b: (_f("affine", 0.0, a),),
    "asin": lambda: (_f("quadratic", -1.0, 0.0, 1.0), _f("pow", -0.5)),
    "asinh": lambda: (_f("quadratic", 1.0, 0.0, 1.0), _f("pow", -0.5)),
    "atan": lambda: (_f("quadratic", 1.0, 0.0, 1.0), _f("reciprocal")),
    "atanh": lambda: (_f("quadratic", -1.0, 0.0, 1.0), _f("reciprocal")),
    "celu": lambda a: (_f("minimum", 0.0), _f("affine", 1 / a, 0.0), _f("exp")),
    "clip": lambda lo, hi: (_f("between", lo, hi),),
    "cos": lambda: (_f("sin"), _f("affine", -1.0, 0.0)),
    "cosh": lambda: (_f("sinh"),),
    "elu": lambda a: (_f("elu_slope", a),),
    "erf": lambda: (_f("quadratic", -1.0, 0.0, 0.0), _f("exp"), _f("affine", 2 / math.sqrt(math.pi), 0.0)),
    "exp": lambda: (_f("exp"),),
    "exp_nonpositive": lambda: (_f("exp_nonpositive"),),
    "fmod": lambda c: _CONSTANT_ONE,
    "gelu": lambda: (_f("gelu_slope"),),
    "gelu_tanh": lambda: (_f("gelu_tanh_slope"),),
    "hard_sigmoid": lambda a, b: (_f("affine", a, b), _f("between", 0.0, 1.0), _f("affine", a, 0.0)),
    "hard_swish": lambda: (_f("hard_swish_slope"),),
    "leaky_relu": lambda a: (_f("greater", 0.0), _f("affine", 1 - a, a)),
    "log": lambda: (_f("reciprocal"),),
    "maximum": lambda c: (_f("greater", c),),
    "minimum": lambda c: (_f("less", c),),
    "mish": lambda: (_f("mish_slope"),),
    "mod": lambda c: _CONSTANT_ONE,
    "polynomial": lambda lo, hi, *c: (_polynomial_slope(lo, hi, c),),
    "pow": lambda p: (_f("pow", p - 1), _f("affine", p, 0.0)) if p else (_f("affine", 0.0, 0.0),),
    "quadratic": lambda a, b, c: (_f("affine", 2 * a, b),),
    "reciprocal": lambda: (_f("pow", -2.0), _f("affine", -1.0, 0.0)),
    "relu": lambda: (_f("greater", 0.0),),
    "selu": lambda a, g: (_f("elu_slope", a), _f("affine", g, 0.0)),
    "sigmoid": lambda: (_f("sigmoid"), _f("quadratic", -1.0, 1.0, 0.0)),
    "shrink": lambda bias, limit: (_f("between", -limit, limit), _f("affine", -1.0, 1.0)),
    "silu": lambda: (_f("silu_slope"),),
    "sin": lambda: (_f("cos"),),
    "sinh": lambda: (_f("cosh"),),
    "smooth_step": lambda lo, hi: (_f("clip", lo, hi), _smooth_step_slope(lo, hi)),
    "softplus": lambda: (_f("sigmoid"),),
    "softsign": lambda: (_f("abs"), _f("affine", 1.0, 1.0), _f("pow", -2.0)),
    "sqrt": lambda: (_f("sqrt"), _f("reciprocal"), _f("affine", 0.5, 0.0)),
    "swish": lambda a: (_f("affine", a, 0.0), _f("silu_slope")),
    "tan": lambda: (_f("tan"), _f("quadratic", 1.0, 0.0, 1.0)),
    "tanh": lambda: (_f("tanh"), _f("quadratic", -1.0, 0.0, 1.0)),
    "thresholded_relu": lambda a: (_f("greater", a),),
}


def derivative(function: Function) -> Chain | None:
    """The derivative as a composition, first function first; None for step functions, whose derivative is zero.

    At kinks one of the one-sided derivatives (the left one for relu and its kin), or a value between them. A table
    stands for a smooth function, so its derivative is the table of central differences; its jumps have none.
    """
    if function.name == "table":
        return (_table_slope(*function.parameters),)
    if function.name == "table_with_jumps":
        lo, hi, count = function.parameters[:3]
        return (_table_slope(lo, hi, *function.parameters[3 + 2 * int(count) :]),)
    rule = _RULES.get(function.name)
    return None if rule is None else rule(*function.parameters)


def chain_derivatives(functions: Chain) -> tuple[Chain, ...] | None:
    """Factors of the derivative of a composition, each a composition of the same argument; None if one is zero."""
    factors: list[Chain] = []
    for at, function in enumerate(functions):
        slope = derivative(function)
        if slope is None:
            return None
        factors.append(functions[:at] + slope)
    return tuple(factors) or (_CONSTANT_ONE,)


def _polynomial_slope(lo: float, hi: float, coefficients: tuple[float, ...]) -> Function:
    slope = np.polynomial.chebyshev.chebder(np.array(coefficients)) * (2.0 / (hi - lo))
    return Function("polynomial", (lo, hi, *map(float, slope)))


def _smooth_step_slope(lo: float, hi: float) -> Function:
    """6 t (1 - t) / (hi - lo) with t = (x - lo) / (hi - lo), between the ends."""
    scale = 6.0 / (hi - lo) ** 3
    return Function("quadratic", (-scale, scale * (lo + hi), -scale * lo * hi))


def _table_slope(lo: float, hi: float, *values: float) -> Function:
    step = (hi - lo) / (len(values) - 1)
    return Function("table", (lo, hi, *map(float, np.gradient(np.array(values), step))))
