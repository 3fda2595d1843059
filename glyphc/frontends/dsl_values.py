"""What expressions stand for while a network is built, and the arguments of a layer by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from glyphc.ir.graph import Node

from .dsl_ast import Name, Span
from .dsl_errors import MistakeError, similar
from .dsl_weights import Initialiser

F64 = npt.NDArray[np.float64]

# Of whole numbers: sizes and places are 64-bit integers, and sums and products of a few of them must be, too.
_LARGEST = 1 << 31


@dataclass(frozen=True, eq=False)
class Constant:
    """Numbers known at compile time. name: of the tensor of the weights file, empty for numbers in the text.

    integer: a tensor that the file keeps as integers.
    """

    value: F64
    name: str
    span: Span
    integer: bool = False


@dataclass(frozen=True, eq=False)
class Word:
    """A name that stands for itself, such as ``none``, or for a function."""

    name: Name


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the network."""

    node: Node
    span: Span


@dataclass(frozen=True, eq=False)
class Fresh:
    """An initialiser where a tensor is wanted."""

    initialiser: Initialiser
    span: Span


@dataclass(frozen=True, eq=False)
class Many:
    """A list in the text that is no array of numbers."""

    items: tuple[Argument, ...]
    span: Span


Argument = Constant | Word | Value | Fresh | Many


def span_of(argument: Argument) -> Span:
    return argument.name.span if isinstance(argument, Word) else argument.span


class Kind(Enum):
    """What a parameter of a layer may be, in words for messages."""

    INTEGER = "a whole number"
    SIZES = "a whole number or a list of them"
    REAL = "a number"
    FLAG = "true or false"
    TENSOR = "a tensor of the weights file, a list of numbers, an initialiser or none"
    ANY = "a value"


@dataclass(frozen=True)
class Parameter:
    """of a layer: its kind, and whether it must be given."""

    name: str
    kind: Kind
    required: bool = False


@dataclass(frozen=True, eq=False)
class Arguments:
    """What a call gives to a layer: tensors of the network first, then its parameters by name."""

    label: str
    layer: Name
    span: Span
    tensors: tuple[Value, ...]
    given: Mapping[str, Argument]

    def integer(self, name: str, default: int = 0) -> int:
        if name not in self.given:
            return default
        return _whole(self.given[name], name)

    def sizes(self, name: str) -> tuple[int, ...]:
        """Whole numbers; one alone stands for a list of one, nothing for an empty one."""
        argument = self.given.get(name)
        if argument is None or (isinstance(argument, Many) and not argument.items):
            return ()
        if isinstance(argument, Constant) and argument.value.ndim == 1 and not argument.name:
            return tuple(_whole(Constant(v, "", argument.span), name) for v in argument.value)
        return (_whole(argument, name),)

    def real(self, name: str, default: float) -> float:
        argument = self.given.get(name)
        if argument is None:
            return default
        if not isinstance(argument, Constant) or argument.value.ndim:
            raise MistakeError(span_of(argument), f"{name} is {Kind.REAL.value}", f"write e.g. {name}=0.1")
        return float(argument.value)

    def flag(self, name: str, default: bool) -> bool:
        argument = self.given.get(name)
        if argument is None:
            return default
        if not isinstance(argument, Word) or argument.name.text not in ("true", "false"):
            raise MistakeError(span_of(argument), f"{name} is {Kind.FLAG.value}", f"write {name}=true or {name}=false")
        return argument.name.text == "true"

    def is_none(self, name: str) -> bool:
        argument = self.given.get(name)
        return isinstance(argument, Word) and argument.name.text == "none"


def _whole(argument: Argument, name: str) -> int:
    value = float(argument.value) if isinstance(argument, Constant) and argument.value.ndim == 0 else math.nan
    if not value.is_integer():
        raise MistakeError(span_of(argument), f"{name} is {Kind.INTEGER.value}", f"write e.g. {name}=3")
    if abs(value) > _LARGEST:
        raise MistakeError(span_of(argument), f"{name} is too large", f"write a number of at most {_LARGEST}")
    return int(value)


def bind(
    layer: Name,
    label: str,
    span: Span,
    parameters: tuple[Parameter, ...],
    positional: tuple[Argument, ...],
    keywords: tuple[tuple[Name, Argument], ...],
) -> Arguments:
    """Tensors of the network come first, then parameters in order, then parameters by name. MistakeError."""
    tensors = []
    rest = list(positional)
    while rest and isinstance(rest[0], Value):
        tensors.append(rest.pop(0))
    names = [p.name for p in parameters]
    usage = f"{layer.text} takes {', '.join(names) or 'no parameters'}"
    if len(rest) > len(names):
        raise MistakeError(span_of(rest[len(names)]), f"{layer.text!r} has no place for this argument", usage)
    given: dict[str, Argument] = dict(zip(names, rest, strict=False))
    for name, value in keywords:
        if name.text not in names:
            raise MistakeError(
                name.span, f"{layer.text!r} has no parameter {name.text!r}", f"{similar(name.text, names)}{usage}"
            )
        if name.text in given:
            raise MistakeError(name.span, f"{name.text} is given twice", "keep one of them")
        given[name.text] = value
    for parameter in parameters:
        if parameter.required and parameter.name not in given:
            raise MistakeError(span, f"{layer.text!r} needs its {parameter.name}, {parameter.kind.value}", usage)
    return Arguments(label, layer, span, tuple(t for t in tensors if isinstance(t, Value)), given)
