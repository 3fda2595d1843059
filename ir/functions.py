"""Univariate functions: the nonlinearities of a network, by name.

A function is data (name and parameters), so graphs stay comparable and printable; what it computes is looked up in
a table. All functions are elementwise on float64 arrays and follow the ONNX operators of the same names.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import IRError

F64 = npt.NDArray[np.floating[Any]]
_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: F64) -> F64:
    # tanh form: no overflow for large |x|
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def _softplus(x: F64) -> F64:
    return np.asarray(np.logaddexp(0.0, x))


def _elu(x: F64, alpha: float) -> F64:
    return np.asarray(np.where(x >= 0, x, alpha * np.expm1(np.minimum(x, 0.0))))


def _gelu(x: F64) -> F64:
    return np.asarray(0.5 * x * (1.0 + _erf(x / math.sqrt(2.0))))


def _gelu_tanh(x: F64) -> F64:
    return np.asarray(0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))))


def _round(x: F64, grid: float) -> F64:
    return np.asarray(grid * np.rint(x / grid))  # halves to even, as in ONNX


def _shrink(x: F64, bias: float, limit: float) -> F64:
    return np.asarray(np.where(x < -limit, x + bias, np.where(x > limit, x - bias, 0.0)))


def _elu_slope(x: F64, alpha: float) -> F64:
    return np.asarray(np.where(x >= 0, 1.0, alpha * np.exp(np.minimum(x, 0.0))))


def _gelu_slope(x: F64) -> F64:
    density = np.exp(-0.5 * x**2) / math.sqrt(2.0 * math.pi)
    return np.asarray(0.5 * (1.0 + _erf(x / math.sqrt(2.0))) + x * density)


def _gelu_tanh_slope(x: F64) -> F64:
    c = math.sqrt(2.0 / math.pi)
    t = np.tanh(c * (x + 0.044715 * x**3))
    return np.asarray(0.5 * (1.0 + t) + 0.5 * x * (1.0 - t**2) * c * (1.0 + 3 * 0.044715 * x**2))


def _mish_slope(x: F64) -> F64:
    t = np.tanh(_softplus(x))
    return np.asarray(t + x * (1.0 - t**2) * _sigmoid(x))


def _silu_slope(x: F64) -> F64:
    s = _sigmoid(x)
    return np.asarray(s * (1.0 + x * (1.0 - s)))


def _table(x: F64, lo: float, hi: float, *values: float) -> F64:
    return np.asarray(np.interp(x, np.linspace(lo, hi, len(values)), values))


def _table_with_jumps(x: F64, lo: float, hi: float, count: float, *rest: float) -> F64:
    end = 2 * int(count)
    y = _table(x, lo, hi, *rest[end:])
    for at, height in zip(rest[0:end:2], rest[1:end:2], strict=True):
        y = y + np.where(x > at, height, 0.0)
    return y


def _smooth_step(x: F64, lo: float, hi: float) -> F64:
    t = np.clip((x - lo) / (hi - lo), 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t))


def _polynomial(x: F64, lo: float, hi: float, *coefficients: float) -> F64:
    return np.asarray(np.polynomial.chebyshev.chebval((2.0 * x - lo - hi) / (hi - lo), np.array(coefficients)))


# Domains are open intervals: where the end itself belongs to it, functions are continued a little beyond.
_CLOSED = 1.0 + 2.0**-20


@dataclass(frozen=True)
class _Definition:
    """parameters: how many (None: those of a table or polynomial). domain: open interval where it is defined."""

    parameters: int | None
    compute: Callable[..., F64]
    domain: tuple[float, float] = (-math.inf, math.inf)


_TABLE: dict[str, _Definition] = {
    "abs": _Definition(0, np.abs),
    "acos": _Definition(0, lambda x: np.arccos(np.clip(x, -1.0, 1.0)), (-_CLOSED, _CLOSED)),
    "acosh": _Definition(0, lambda x: np.arccosh(np.maximum(x, 1.0)), (2.0 - _CLOSED, math.inf)),
    "affine": _Definition(2, lambda x, a, b: a * x + b),
    "asin": _Definition(0, lambda x: np.arcsin(np.clip(x, -1.0, 1.0)), (-_CLOSED, _CLOSED)),
    "asinh": _Definition(0, np.arcsinh),
    "atan": _Definition(0, np.arctan),
    "atanh": _Definition(0, np.arctanh, (-1.0, 1.0)),
    "between": _Definition(2, lambda x, lo, hi: ((x > lo) & (x < hi)).astype(np.float64)),
    "ceil": _Definition(1, lambda x, grid: grid * np.ceil(x / grid)),
    "celu": _Definition(1, lambda x, a: np.maximum(x, 0) + np.minimum(0, a * np.expm1(np.minimum(x, 0) / a))),
    "clip": _Definition(2, lambda x, lo, hi: np.clip(x, lo, hi)),
    "cos": _Definition(0, np.cos),
    "cosh": _Definition(0, np.cosh),
    "elu": _Definition(1, _elu),
    "elu_slope": _Definition(1, _elu_slope),
    "erf": _Definition(0, _erf),
    "exp": _Definition(0, np.exp),
    # exp of what is never positive but for noise (the last step of a softmax): its guard band must not reach far above
    # zero, where exp would stretch the range of the result
    "exp_nonpositive": _Definition(0, np.exp, (-math.inf, 0.25)),
    "floor": _Definition(1, lambda x, grid: grid * np.floor(x / grid)),
    "fmod": _Definition(1, np.fmod),
    "gelu": _Definition(0, _gelu),
    "gelu_slope": _Definition(0, _gelu_slope),
    "gelu_tanh": _Definition(0, _gelu_tanh),
    "gelu_tanh_slope": _Definition(0, _gelu_tanh_slope),
    "greater": _Definition(1, lambda x, c: (x > c).astype(np.float64)),
    "hard_sigmoid": _Definition(2, lambda x, a, b: np.clip(a * x + b, 0.0, 1.0)),
    "hard_swish": _Definition(0, lambda x: x * np.clip(x / 6.0 + 0.5, 0.0, 1.0)),
    "hard_swish_slope": _Definition(0, lambda x: np.where(np.abs(x) < 3, x / 3 + 0.5, (x > 0).astype(np.float64))),
    "leaky_relu": _Definition(1, lambda x, a: np.where(x >= 0, x, a * x)),
    "less": _Definition(1, lambda x, c: (x < c).astype(np.float64)),
    "log": _Definition(0, np.log, (0.0, math.inf)),
    "maximum": _Definition(1, lambda x, c: np.maximum(x, c)),
    "minimum": _Definition(1, lambda x, c: np.minimum(x, c)),
    "mish": _Definition(0, lambda x: x * np.tanh(_softplus(x))),
    "mish_slope": _Definition(0, _mish_slope),
    "mod": _Definition(1, np.mod),
    # of integers: whether they are zero
    "near_zero": _Definition(0, lambda x: (np.abs(x) < 0.5).astype(np.float64)),
    "polynomial": _Definition(None, _polynomial),
    "pow": _Definition(1, lambda x, p: np.power(x, p)),
    "quadratic": _Definition(3, lambda x, a, b, c: (a * x + b) * x + c),
    # of integers, cut off towards zero: it jumps between them
    "quotient": _Definition(1, lambda x, c: np.trunc(np.rint(x) / c)),
    "reciprocal": _Definition(0, lambda x: 1.0 / x, (0.0, math.inf)),
    "relu": _Definition(0, lambda x: np.maximum(x, 0.0)),
    "round": _Definition(1, _round),
    "selu": _Definition(2, lambda x, a, g: g * _elu(x, a)),
    "sigmoid": _Definition(0, _sigmoid),
    "shrink": _Definition(2, _shrink),
    "sign": _Definition(0, np.sign),
    "silu": _Definition(0, lambda x: x * _sigmoid(x)),
    "silu_slope": _Definition(0, _silu_slope),
    "sin": _Definition(0, np.sin),
    "sinh": _Definition(0, np.sinh),
    # 0 up to lo, 1 from hi on, with a slope of 0 at both: a decision that small errors of its argument do not change
    "smooth_step": _Definition(2, _smooth_step),
    "softplus": _Definition(0, _softplus),
    "softsign": _Definition(0, lambda x: x / (1.0 + np.abs(x))),
    # continued by zero: its argument is never far below zero in a network that uses it
    "sqrt": _Definition(0, lambda x: np.sqrt(np.maximum(x, 0.0))),
    "swish": _Definition(1, lambda x, a: x * _sigmoid(a * x)),
    "table": _Definition(None, _table),
    "table_with_jumps": _Definition(None, _table_with_jumps),
    # the branch around zero
    "tan": _Definition(0, np.tan, (-math.pi / 2, math.pi / 2)),
    "tanh": _Definition(0, np.tanh),
    "thresholded_relu": _Definition(1, lambda x, a: np.where(x > a, x, 0.0)),
    "trunc": _Definition(0, np.trunc),
}
NAMES = frozenset(_TABLE)
_TABLES = frozenset(("table", "table_with_jumps"))

# By how much of its width values may leave a table: they are sums of rounded products, the limits are round numbers.
_TABLE_SLACK = 2.0**-20


def parameter_count(name: str) -> int | None:
    """How many parameters a function of that name takes; None for tables and polynomials, which take any number."""
    return _TABLE[name].parameters


@dataclass(frozen=True)
class Function:
    """A named univariate function, e.g. ``Function("leaky_relu", (0.01,))``. Unknown names raise IRError.

    ``Function("table", (lo, hi, y_0, ..., y_n))`` interpolates linearly between n+1 equidistant points and continues
    by its end values. ``Function("table_with_jumps", (lo, hi, k, x_1, h_1, ..., x_k, h_k, y_0, ..., y_n))`` adds steps
    to such a table: h_j to the right of x_j. ``Function("polynomial", (lo, hi, c_0, ..., c_n))`` is the sum of
    c_k T_k(u), Chebyshev's polynomials of u = (2x - lo - hi) / (hi - lo).
    """

    name: str
    parameters: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        definition = _TABLE.get(self.name)
        if definition is None:
            raise IRError(f"unknown function {self.name!r}; known: {', '.join(sorted(_TABLE))}")
        count = definition.parameters
        if count is not None and len(self.parameters) != count:
            raise IRError(f"function {self.name!r} takes {count} parameter(s), not {len(self.parameters)}")
        if not all(math.isfinite(p) for p in self.parameters):
            raise IRError(f"function {self.name!r} has a parameter that is not finite")
        if self.name == "polynomial" and (len(self.parameters) < 3 or not self.parameters[0] < self.parameters[1]):
            raise IRError(f"function {self.name!r} takes lo < hi and at least one coefficient")
        if self.name in _TABLES:
            self._check_table()

    def _check_table(self) -> None:
        if len(self.parameters) < 4 or not self.parameters[0] < self.parameters[1]:
            raise IRError(f"function {self.name!r} takes lo < hi and at least two values")
        if self.name == "table_with_jumps":
            count = self.parameters[2]
            if count < 0 or count != int(count) or len(self.parameters) < 3 + 2 * count + 2:
                raise IRError(f"function {self.name!r} takes a number of jumps, two numbers for each, and two values")

    def _table_parts(self) -> tuple[int, tuple[float, ...]]:
        """Number of values of a table, and where it jumps."""
        if self.name == "table":
            return len(self.parameters) - 2, ()
        end = 3 + 2 * int(self.parameters[2])
        return len(self.parameters) - end, self.parameters[3:end:2]

    def __call__(self, x: F64) -> F64:
        with np.errstate(all="ignore"):  # callers check that results are finite and name the node
            return np.asarray(_TABLE[self.name].compute(np.asarray(x, dtype=np.float64), *self.parameters))

    def __str__(self) -> str:
        if self.name in _TABLES:
            count, jumps = self._table_parts()
            at = f", jumps at {', '.join(f'{x:.4g}' for x in jumps)}" if jumps else ""
            return f"table({count} values over [{self.parameters[0]:g}, {self.parameters[1]:g}]{at})"
        if self.name == "polynomial":
            return (
                f"polynomial(degree {len(self.parameters) - 3} over [{self.parameters[0]:g}, {self.parameters[1]:g}])"
            )
        return self.name + (f"({', '.join(f'{p:g}' for p in self.parameters)})" if self.parameters else "")

    def domain(self, lo: float, hi: float) -> tuple[float, float]:
        """The open interval around [lo, hi] where the function is defined; IRError if it is not defined on [lo, hi].

        A table that covers [lo, hi] is defined everywhere: for the few values beyond it that a guard band lets
        through, its end values are a better guess than nothing.
        """
        if self.name in _TABLES:
            first, last = self.parameters[:2]
            slack = _TABLE_SLACK * (last - first)
            if lo < first - slack or hi > last + slack:
                raise IRError(f"{self} does not cover [{lo:.6g}, {hi:.6g}]")
            return -math.inf, math.inf
        left, right = _TABLE[self.name].domain
        if self.name == "reciprocal" and hi < 0:
            left, right = -math.inf, 0.0
        if self.name == "pow" and not self.parameters[0].is_integer():
            left, right = 0.0, math.inf
        if self.name == "pow" and self.parameters[0] < 0:
            left, right = (-math.inf, 0.0) if hi < 0 and self.parameters[0].is_integer() else (0.0, math.inf)
        if lo <= left or hi >= right:
            raise IRError(f"{self} is not defined on all of [{lo:g}, {hi:g}]")
        return left, right


def compose(functions: tuple[Function, ...], x: F64) -> F64:
    """Apply ``functions`` in order: the first one first."""
    for function in functions:
        x = function(x)
    return x
