"""The layers of ``.glyph`` files: a rule for each, from what a call gives to nodes of the IR.

What has no rule here can be written all the same: every op of the IR's source level, by its name, with the fields of
its class as parameters (``gather(x, indices=...)``). So a new op of the IR needs nothing here.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.functions import Function
from glyphc.ir.graph import Node
from glyphc.ir.ops import (
    OPS,
    Apply,
    ArgMax,
    Concat,
    Const,
    Dense,
    Hardmax,
    Input,
    Max,
    Min,
    Op,
    Output,
    Reshape,
    Scale,
    Softmax,
)
from glyphc.ir.text import coerce
from glyphc.ir.types import Level

from .dsl_errors import MistakeError
from .dsl_rules import Builder, Layer, Rule, operand
from .dsl_values import Argument, Arguments, Constant, Fresh, Kind, Many, Parameter, Value, Word, span_of
from .dsl_windows import WINDOWS

F64 = npt.NDArray[np.float64]
Shape = tuple[int, ...]


_WEIGHTS = (Parameter("weight", Kind.TENSOR), Parameter("bias", Kind.TENSOR))
_MANY = 1_000_000


def _dense(b: Builder, a: Arguments) -> Node:
    units = a.integer("units") if "units" in a.given else None
    if units is not None and units < 1:
        raise MistakeError(span_of(a.given["units"]), "a layer has at least one unit", "write e.g. dense(32)")
    listed = a.given.get("weight")
    single = len(a.tensors) == 1
    if isinstance(listed, Many) and len(listed.items) == len(a.tensors):
        given: list[Argument | None] = list(listed.items)
    else:
        given = [listed] * len(a.tensors) if single or listed is None else []
    if len(given) != len(a.tensors):
        assert listed is not None
        raise MistakeError(
            span_of(listed), f"{len(a.tensors)} operands need as many weights", "write weight=[NAME, NAME, ...]"
        )
    names: list[Const] = []
    for number, (x, weight) in enumerate(zip(a.tensors, given, strict=True)):
        role = "weight" if single else f"weight.{number}"
        name, value = _dense_weight(b, a, role, x, weight, units)
        units = value.shape[0]
        names.append(b.constant(a, name, value))
    assert units is not None
    name, bias = b.tensor(a, "bias", (units,))
    return b.add(a, Dense(tuple(names), b.constant(a, name, bias)), *(x.node for x in a.tensors))


def _dense_weight(
    b: Builder, a: Arguments, role: str, x: Value, weight: Argument | None, units: int | None
) -> tuple[str, F64]:
    shape = x.node.type.shape
    if len(shape) != 1:
        hint = "put flatten in front: x -> flatten -> dense(32)"
        raise MistakeError(a.span, f"dense reads flat values, this one has shape {list(shape)}", hint)
    parameters = dict(a.given)
    if weight is not None:
        parameters[role] = weight
    own = Arguments(a.label, a.layer, a.span, a.tensors, parameters)
    return b.tensor(own, role, (units or 0, *shape), matrix=True)


def _flatten(b: Builder, a: Arguments) -> Node:
    return b.add(a, Reshape((operand(a).type.size,)), operand(a))


def _reshape(b: Builder, a: Arguments) -> Node:
    return b.add(a, Reshape(a.sizes("shape")), operand(a))


def _scale(b: Builder, a: Arguments) -> Node:
    factor = _elementwise(b, a, "factor", 1.0)
    return b.add(a, Scale(factor, _elementwise(b, a, "shift", 0.0)), operand(a))


def _elementwise(b: Builder, a: Arguments, role: str, default: float) -> Const:
    if role not in a.given:
        return b.constant(a, f"{a.label}.{role}", np.array(default))
    name, value = b.tensor(a, role, None)
    return b.constant(a, name, value)


def _batch_norm(b: Builder, a: Arguments) -> Node:
    """y = weight (x - mean) / sqrt(var + epsilon) + bias per channel; tensors are called as in PyTorch."""
    x = operand(a)
    channels = (x.type.shape[0],)
    named = {role: b.tensor(a, role, channels) for role in ("weight", "bias", "running_mean", "running_var")}
    weight, shift, mean, variance = (value for _, value in named.values())
    spread = variance + a.real("epsilon", 1e-5)
    if not (spread > 0).all():
        raise MistakeError(a.span, "a variance is not positive", "check the tensor running_var")
    factor = weight / np.sqrt(spread)
    per_channel = (-1, *[1] * (len(x.type.shape) - 1))
    constants = (
        b.constant(a, named["weight"][0], factor.reshape(per_channel)),
        b.constant(a, named["bias"][0], (shift - mean * factor).reshape(per_channel)),
    )
    return b.add(a, Scale(*constants), x)


def _concat(b: Builder, a: Arguments) -> Node:
    for value in a.tensors:
        if len(value.node.type.shape) != 1:
            raise MistakeError(value.span, "concat joins flat values", "write concat(flatten(x), flatten(z))")
    return b.add(a, Concat(), *(v.node for v in a.tensors))


def _extremum(op: Max | Min) -> Rule:
    """Of tensors and at most one number."""

    def rule(b: Builder, a: Arguments) -> Node:
        x = reduce(lambda left, right: b.add(a, op, left, right), (v.node for v in a.tensors))
        if "limit" not in a.given:
            return x
        name = "maximum" if isinstance(op, Max) else "minimum"
        return b.add(a, Apply((Function(name, (a.real("limit", 0.0),)),)), x)

    return rule


LAYERS: Mapping[str, Layer] = {
    **WINDOWS,
    "argmax": Layer(
        lambda b, a: b.add(a, ArgMax(a.flag("keepdims", False)), operand(a)), (Parameter("keepdims", Kind.FLAG),)
    ),
    "batch_norm": Layer(
        _batch_norm,
        (
            Parameter("epsilon", Kind.REAL),
            *(Parameter(n, Kind.TENSOR) for n in ("weight", "bias", "running_mean", "running_var")),
        ),
    ),
    "concat": Layer(_concat, tensors=(1, _MANY)),
    "dense": Layer(_dense, (Parameter("units", Kind.INTEGER), *_WEIGHTS), (1, _MANY)),
    "dropout": Layer(lambda b, a: operand(a), (Parameter("rate", Kind.REAL),)),
    "flatten": Layer(_flatten),
    "hardmax": Layer(lambda b, a: b.add(a, Hardmax(), operand(a))),
    "identity": Layer(lambda b, a: operand(a)),
    "log_softmax": Layer(lambda b, a: b.add(a, Softmax(log=True), operand(a))),
    "max": Layer(_extremum(Max()), (Parameter("limit", Kind.REAL),), (1, _MANY)),
    "min": Layer(_extremum(Min()), (Parameter("limit", Kind.REAL),), (1, _MANY)),
    "reshape": Layer(_reshape, (Parameter("shape", Kind.SIZES, required=True),)),
    "scale": Layer(_scale, (Parameter("factor", Kind.TENSOR), Parameter("shift", Kind.TENSOR))),
    "softmax": Layer(lambda b, a: b.add(a, Softmax(), operand(a))),
}

# Ops of the IR that can be written by name.
GENERIC: Mapping[str, type[Op]] = {
    name: op
    for name, op in OPS.items()
    if Level.SOURCE in op.levels and not issubclass(op, Input | Output | Apply) and name not in LAYERS
}

# Constants of ops that are integers.
_PLACES = frozenset({"indices", "indptr"})

# What other languages call these layers.
SYNONYMS: Mapping[str, str] = {
    "affine_layer": "dense",
    "batchnorm": "batch_norm",
    "batchnormalization": "batch_norm",
    "bn": "batch_norm",
    "fc": "dense",
    "fully_connected": "dense",
    "gemm": "dense",
    "linear": "dense",
    "matmul": "dense",
    "maxpool": "max_pool",
    "maxpool2d": "max_pool",
    "maxpooling": "max_pool",
    "avgpool": "avg_pool",
    "avgpool2d": "avg_pool",
    "average_pool": "avg_pool",
    "conv1d": "conv",
    "conv2d": "conv",
    "convolution": "conv",
    "view": "reshape",
}


def generic(b: Builder, arguments: Arguments, op: type[Op]) -> Node:
    """An op of the IR by its own name; parameters are the fields of its class, tensors by default those of its name."""
    hints = typing.get_type_hints(op)
    values: dict[str, Any] = {}
    for field in fields(op):
        if field.name in arguments.given:
            plain = _plain(b, arguments, field.name, arguments.given[field.name], hints[field.name])
            values[field.name] = coerce(plain, hints[field.name], field.name)
        elif hints[field.name] is Const:  # not optional ones
            name, value = b.tensor(arguments, field.name, None)
            stored = value.astype(np.int64) if field.name in _PLACES else value
            values[field.name] = b.constant(arguments, name, stored)
    return b.add(arguments, op(**values), *(v.node for v in arguments.tensors))


def generic_parameters(op: type[Op]) -> tuple[Parameter, ...]:
    hints = typing.get_type_hints(op)
    needed = {f.name: f.default is MISSING and hints[f.name] is not Const for f in fields(op)}
    return tuple(Parameter(name, Kind.ANY, required) for name, required in needed.items())


def _plain(b: Builder, arguments: Arguments, role: str, argument: Argument, hint: Any) -> Any:
    """An argument as the IR's text form has it: numbers, words, sequences, references to constants."""
    if isinstance(argument, Many):
        inner = typing.get_args(hint)[0] if typing.get_args(hint) else hint
        return tuple(_plain(b, arguments, f"{role}.{i}", a, inner) for i, a in enumerate(argument.items))
    if isinstance(argument, Constant) and hint in (Const, Const | None):
        # places are integers, in the text as in a file
        whole = argument.integer or (not argument.name and role in _PLACES)
        value = argument.value.astype(np.int64) if whole else argument.value
        return b.constant(arguments, argument.name or f"{arguments.label}.{role}", value)
    if isinstance(argument, Constant):
        return _numbers(argument.value)
    if isinstance(argument, Word):
        return {"true": True, "false": False, "none": None}.get(argument.name.text, argument.name.text)
    assert isinstance(argument, Fresh | Value)
    raise MistakeError(argument.span, f"{role} cannot be this", "give a number, a word, a list or a tensor")


def _numbers(value: F64) -> Any:
    if value.ndim:
        return tuple(_numbers(v) for v in value)
    return int(value) if float(value).is_integer() else float(value)
