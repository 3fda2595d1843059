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


def _table(x: F64, lo: float, hi: float, *values: float) -> F64:
    return np.asarray(np.interp(x, np.linspace(lo, hi, len(values)), values))


@dataclass(frozen=True)
class _Definition:
    """parameters: how many (None: any number, at least 4). domain: open interval where it is defined."""

    parameters: int | None
    compute: Callable[..., F64]
    domain: tuple[float, float] = (-math.inf, math.inf)


_TABLE: dict[str, _Definition] = {
    "abs": _Definition(0, np.abs),
    "affine": _Definition(2, lambda x, a, b: a * x + b),
    "celu": _Definition(1, lambda x, a: np.maximum(x, 0) + np.minimum(0, a * np.expm1(np.minimum(x, 0) / a))),
    "clip": _Definition(2, lambda x, lo, hi: np.clip(x, lo, hi)),
    "cos": _Definition(0, np.cos),
    "elu": _Definition(1, _elu),
    "erf": _Definition(0, _erf),
    "exp": _Definition(0, np.exp),
    "floor": _Definition(1, lambda x, grid: grid * np.floor(x / grid)),
    "gelu": _Definition(0, _gelu),
    "gelu_tanh": _Definition(0, _gelu_tanh),
    "greater": _Definition(1, lambda x, c: (x > c).astype(np.float64)),
    "hard_sigmoid": _Definition(2, lambda x, a, b: np.clip(a * x + b, 0.0, 1.0)),
    "hard_swish": _Definition(0, lambda x: x * np.clip(x / 6.0 + 0.5, 0.0, 1.0)),
    "leaky_relu": _Definition(1, lambda x, a: np.where(x >= 0, x, a * x)),
    "less": _Definition(1, lambda x, c: (x < c).astype(np.float64)),
    "log": _Definition(0, np.log, (0.0, math.inf)),
    "maximum": _Definition(1, lambda x, c: np.maximum(x, c)),
    "minimum": _Definition(1, lambda x, c: np.minimum(x, c)),
    "mish": _Definition(0, lambda x: x * np.tanh(_softplus(x))),
    "pow": _Definition(1, lambda x, p: np.power(x, p)),
    "reciprocal": _Definition(0, lambda x: 1.0 / x, (0.0, math.inf)),
    "relu": _Definition(0, lambda x: np.maximum(x, 0.0)),
    "round": _Definition(1, _round),
    "selu": _Definition(2, lambda x, a, g: g * _elu(x, a)),
    "sigmoid": _Definition(0, _sigmoid),
    "sign": _Definition(0, np.sign),
    "silu": _Definition(0, lambda x: x * _sigmoid(x)),
    "sin": _Definition(0, np.sin),
    "softplus": _Definition(0, _softplus),
    "softsign": _Definition(0, lambda x: x / (1.0 + np.abs(x))),
    # continued by zero: its argument is never far below zero in a network that uses it
    "sqrt": _Definition(0, lambda x: np.sqrt(np.maximum(x, 0.0))),
    "table": _Definition(None, _table),
    "tanh": _Definition(0, np.tanh),
    "thresholded_relu": _Definition(1, lambda x, a: np.where(x > a, x, 0.0)),
}


@dataclass(frozen=True)
class Function:
    """A named univariate function, e.g. ``Function("leaky_relu", (0.01,))``. Unknown names raise IRError.

    ``Function("table", (lo, hi, y_0, ..., y_n))`` interpolates linearly between n+1 equidistant points and continues
    by its
    end values.
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
        if count is None and (len(self.parameters) < 4 or not self.parameters[0] < self.parameters[1]):
            raise IRError(f"function {self.name!r} takes lo < hi and at least two values")
        if not all(math.isfinite(p) for p in self.parameters):
            raise IRError(f"function {self.name!r} has a parameter that is not finite")

    def __call__(self, x: F64) -> F64:
        with np.errstate(all="ignore"):  # callers check that results are finite and name the node
            return np.asarray(_TABLE[self.name].compute(np.asarray(x, dtype=np.float64), *self.parameters))

    def __str__(self) -> str:
        if self.name == "table":
            lo, hi, *values = self.parameters
            return f"table({len(values)} values over [{lo:g}, {hi:g}])"
        return self.name + (f"({', '.join(f'{p:g}' for p in self.parameters)})" if self.parameters else "")

    def domain(self, lo: float, hi: float) -> tuple[float, float]:
        """The open interval around [lo, hi] where the function is defined; IRError if it is not defined on [lo, hi]."""
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
