"""Operators of ``.glyph`` expressions: between values of the network and constants, as ONNX's reader lowers them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from glyphc.ir.functions import Function
from glyphc.ir.graph import Node
from glyphc.ir.ops import Add, Apply, Div, Mul, Op, Sub

from .dsl_ast import Span
from .dsl_errors import MistakeError
from .dsl_values import F64, Argument, Constant, Fresh, Many, Value


class Emitter(Protocol):
    """Makes nodes at a label that it knows."""

    def node(self, op: Op, *operands: Node) -> Node:
        """One more node."""

    def affine(self, x: Node, factor: Constant | float, shift: Constant | float) -> Node:
        """factor * x + shift, elementwise."""


_FOLD: Mapping[str, Callable[[F64, F64], F64]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "**": np.power,
}
_PAIR: Mapping[str, Op] = {"+": Add(), "-": Sub(), "*": Mul(), "/": Div()}


def binary(emit: Emitter, operator: str, left: Argument, right: Argument, span: Span) -> Argument:
    """The result of an operator; MistakeError where it means nothing."""
    for side in (left, right):
        if isinstance(side, Many | Fresh):
            raise MistakeError(side.span, "this cannot be computed with", "use values, tensors and numbers")
    if isinstance(left, Constant) and isinstance(right, Constant):
        return _folded(operator, left, right, span)
    if isinstance(left, Value) and isinstance(right, Value):
        return Value(_pair(emit, operator, left, right, span), span)
    if isinstance(left, Value) and isinstance(right, Constant):
        return Value(_value_constant(emit, operator, left.node, right, span), span)
    assert isinstance(left, Constant) and isinstance(right, Value)
    return Value(_constant_value(emit, operator, left, right.node, span), span)


def _folded(operator: str, left: Constant, right: Constant, span: Span) -> Constant:
    if operator not in _FOLD:
        raise MistakeError(span, "a comparison needs a value of the network", "write e.g. 'x > 0'")
    try:
        with np.errstate(all="ignore"):
            value = np.asarray(_FOLD[operator](left.value, right.value), dtype=np.float64)
    except ValueError:
        shapes = f"{list(left.value.shape)} and {list(right.value.shape)}"
        raise MistakeError(span, f"tensors of shapes {shapes} do not broadcast", "check the tensors") from None
    if not np.isfinite(value).all():
        raise MistakeError(span, "this is no finite number", "check the divisor")
    return Constant(value, left.name or right.name, span)


def _pair(emit: Emitter, operator: str, left: Value, right: Value, span: Span) -> Node:
    if operator not in _PAIR:
        hint = "compare the difference: write 'd = a - b', 'y = d > 0'" if operator in "<>" else "use exp(b * log(a))"
        raise MistakeError(span, f"{operator!r} of two values of the network is not supported", hint)
    return emit.node(_PAIR[operator], left.node, right.node)


def _value_constant(emit: Emitter, operator: str, x: Node, c: Constant, span: Span) -> Node:
    if operator == "+":
        return emit.affine(x, 1.0, c)
    if operator == "-":
        return emit.affine(x, 1.0, Constant(-c.value, c.name, c.span))
    if operator == "*":
        return emit.affine(x, c, 0.0)
    if operator == "/":
        if not c.value.all():
            raise MistakeError(span, "this divides by zero", "check the divisor")
        return emit.affine(x, Constant(1.0 / c.value, c.name, c.span), 0.0)
    if c.value.ndim:
        raise MistakeError(c.span, f"beside {operator!r} stands a single number", "write e.g. 'x ** 2' or 'x > 0'")
    name = {"**": "pow", ">": "greater", "<": "less"}[operator]
    return emit.node(Apply((Function(name, (float(c.value),)),)), x)


def _constant_value(emit: Emitter, operator: str, c: Constant, x: Node, span: Span) -> Node:
    if operator == "-":
        return emit.affine(x, -1.0, c)
    if operator == "/":
        return emit.affine(emit.node(Apply((Function("reciprocal"),)), x), c, 0.0)
    if operator == "**":
        raise MistakeError(span, "the exponent is a number, not a value of the network", "use exp(x * log(base))")
    return _value_constant(emit, {"<": ">", ">": "<"}.get(operator, operator), x, c, span)
