"""Univariate functions: the nonlinearities of a network, by name.

A function is data (name and parameters), so graphs stay comparable and printable; what it computes is looked up in
a table. All functions are elementwise on float64 arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import IRError

F64 = npt.NDArray[np.floating[Any]]


def _sigmoid(x: F64) -> F64:
    # tanh form: no overflow for large |x|
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def _leaky_relu(x: F64, alpha: float) -> F64:
    return np.asarray(np.where(x >= 0, x, alpha * x))


@dataclass(frozen=True)
class _Definition:
    parameters: int
    compute: Callable[..., F64]


_TABLE: dict[str, _Definition] = {
    "relu": _Definition(0, lambda x: np.asarray(np.maximum(x, 0.0))),
    "leaky_relu": _Definition(1, _leaky_relu),
    "sigmoid": _Definition(0, _sigmoid),
    "tanh": _Definition(0, lambda x: np.asarray(np.tanh(x))),
    "affine": _Definition(2, lambda x, a, b: np.asarray(a * x + b)),
}


@dataclass(frozen=True)
class Function:
    """A named univariate function, e.g. ``Function("leaky_relu", (0.01,))``. Unknown names raise IRError."""

    name: str
    parameters: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        definition = _TABLE.get(self.name)
        if definition is None:
            raise IRError(f"unknown function {self.name!r}; known: {', '.join(sorted(_TABLE))}")
        if len(self.parameters) != definition.parameters:
            raise IRError(
                f"function {self.name!r} takes {definition.parameters} parameter(s), not {len(self.parameters)}"
            )

    def __call__(self, x: F64) -> F64:
        return _TABLE[self.name].compute(x, *self.parameters)

    def __str__(self) -> str:
        return self.name + (f"({', '.join(f'{p:g}' for p in self.parameters)})" if self.parameters else "")


def compose(functions: tuple[Function, ...], x: F64) -> F64:
    """Apply ``functions`` in order: the first one first."""
    for function in functions:
        x = function(x)
    return x
