"""ONNX operators that are one univariate function of one encrypted tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from glyphc.ir.functions import Function

from .onnx_constants import Named, UnsupportedError


class Arguments(Protocol):
    """What a function's parameters come from: a node's attributes and constant operands."""

    def real(self, name: str, default: float) -> float:
        """A float attribute."""

    def text(self, name: str, default: str) -> str:
        """A string attribute."""

    def has(self, index: int) -> bool:
        """Whether an optional operand is given."""

    def constant(self, index: int, role: str) -> Named:
        """A constant operand."""


Build = Callable[[Arguments], Function]


def _plain(name: str) -> Build:
    return lambda node: Function(name)


def _with(name: str, **defaults: float) -> Build:
    """A function whose parameters are float attributes, in this order."""
    return lambda node: Function(name, tuple(node.real(key, value) for key, value in defaults.items()))


def scalar(node: Arguments, index: int, role: str) -> float:
    """A constant operand that is the same number for all elements."""
    value = node.constant(index, role).value
    if value.size == 0 or not np.all(value == value.flat[0]):
        raise UnsupportedError(f"{role} differs between elements; only one number for all of them is supported")
    return float(value.flat[0])


def _clip(node: Arguments) -> Function:
    limits = [scalar(node, i, role) if node.has(i) else None for i, role in ((1, "min"), (2, "max"))]
    match limits:
        case [float(lo), float(hi)]:
            return Function("clip", (lo, hi))
        case [float(lo), None]:
            return Function("maximum", (lo,))
        case [None, float(hi)]:
            return Function("minimum", (hi,))
    return Function("affine", (1.0, 0.0))


def _gelu(node: Arguments) -> Function:
    approximation = node.text("approximate", "none")
    if approximation not in ("none", "tanh"):
        raise UnsupportedError(f"approximate={approximation!r} is not known; use 'none' or 'tanh'")
    return Function("gelu" if approximation == "none" else "gelu_tanh")


def _swish(node: Arguments) -> Function:
    alpha = node.real("alpha", 1.0)
    return Function("silu") if alpha == 1 else Function("swish", (alpha,))


# Builders, and the attributes that they take into account. Defaults are those of the ONNX standard.
FUNCTIONS: dict[str, tuple[Build, tuple[str, ...]]] = {
    "Abs": (_plain("abs"), ()),
    "Acos": (_plain("acos"), ()),
    "Acosh": (_plain("acosh"), ()),
    "Asin": (_plain("asin"), ()),
    "Asinh": (_plain("asinh"), ()),
    "Atan": (_plain("atan"), ()),
    "Atanh": (_plain("atanh"), ()),
    "Ceil": (lambda node: Function("ceil", (1.0,)), ()),
    "Celu": (_with("celu", alpha=1.0), ("alpha",)),
    "Clip": (_clip, ()),
    "Cos": (_plain("cos"), ()),
    "Cosh": (_plain("cosh"), ()),
    "Elu": (_with("elu", alpha=1.0), ("alpha",)),
    "Erf": (_plain("erf"), ()),
    "Exp": (_plain("exp"), ()),
    "Floor": (lambda node: Function("floor", (1.0,)), ()),
    "Gelu": (_gelu, ("approximate",)),
    "HardSigmoid": (_with("hard_sigmoid", alpha=0.2, beta=0.5), ("alpha", "beta")),
    "HardSwish": (_plain("hard_swish"), ()),
    "LeakyRelu": (_with("leaky_relu", alpha=0.01), ("alpha",)),
    "Log": (_plain("log"), ()),
    "Mish": (_plain("mish"), ()),
    "Reciprocal": (_plain("reciprocal"), ()),
    "Relu": (_plain("relu"), ()),
    "Round": (lambda node: Function("round", (1.0,)), ()),
    "Selu": (_with("selu", alpha=1.67326319217681884765625, gamma=1.05070102214813232421875), ("alpha", "gamma")),
    "Sigmoid": (_plain("sigmoid"), ()),
    "Shrink": (_with("shrink", bias=0.0, lambd=0.5), ("bias", "lambd")),
    "Sign": (_plain("sign"), ()),
    "Sin": (_plain("sin"), ()),
    "Sinh": (_plain("sinh"), ()),
    "Softplus": (_plain("softplus"), ()),
    "Softsign": (_plain("softsign"), ()),
    "Sqrt": (_plain("sqrt"), ()),
    "Swish": (_swish, ("alpha",)),
    "Tan": (_plain("tan"), ()),
    "Tanh": (_plain("tanh"), ()),
    "ThresholdedRelu": (_with("thresholded_relu", alpha=1.0), ("alpha",)),
}
