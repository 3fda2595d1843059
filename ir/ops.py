"""The ops: one frozen dataclass each, with the rule for the shape of its result beside it.

An op holds attributes only; operands are edges of the graph, types are on the nodes. Constants (weights) are kept
by the graph and named here by :class:`Const`. ``levels`` says at which levels an op may occur.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import prod
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from .errors import IRError
from .functions import Function
from .series import Series
from .types import Encoding, Level, Scheme

Shape = tuple[int, ...]
Constants = Mapping[str, npt.NDArray[np.generic]]

_FLOAT = frozenset({Level.SOURCE})
_FIXED = frozenset({Level.QUANTIZED, Level.ASSIGNED, Level.LAIDOUT})
_ALL = _FLOAT | _FIXED


@dataclass(frozen=True)
class Const:
    """A reference to a constant of the graph, by name."""

    name: str


@dataclass(frozen=True)
class Op:
    """Base of all ops."""

    mnemonic: ClassVar[str] = "?"
    arity: ClassVar[int] = 1
    levels: ClassVar[frozenset[Level]] = frozenset()

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        """Shape of the result for operand shapes ``shapes``; IRError when they don't fit."""
        return shapes[0]

    def constant_names(self) -> tuple[str, ...]:
        values = (getattr(self, f.name) for f in fields(self))
        return tuple(v.name for v in values if isinstance(v, Const))


@dataclass(frozen=True)
class Input(Op):
    """A tensor that the client provides (encrypted, except in the evaluator)."""

    mnemonic = "input"
    arity = 0
    levels = _ALL
    name: str
    shape: Shape

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        return self.shape


@dataclass(frozen=True)
class Output(Op):
    """A result of the network, under the name the model gave it."""

    mnemonic = "output"
    levels = _ALL
    name: str


@dataclass(frozen=True)
class Reshape(Op):
    """Same elements in row-major order, another shape."""

    mnemonic = "reshape"
    levels = _ALL
    shape: Shape

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        if prod(shapes[0]) != prod(self.shape):
            raise IRError(f"cannot reshape {list(shapes[0])} into {list(self.shape)}")
        return self.shape


@dataclass(frozen=True)
class Dense(Op):
    """y = x W^T + b with float constants: W of shape (out, in), b of shape (out,)."""

    mnemonic = "dense"
    levels = _FLOAT
    weight: Const
    bias: Const

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        return _linear_shape(shapes[0], constants[self.weight.name], constants[self.bias.name])


@dataclass(frozen=True)
class Scale(Op):
    """y = factor * x + shift, elementwise with float constants of x's shape or broadcastable to it."""

    mnemonic = "scale"
    levels = _FLOAT
    factor: Const
    shift: Const

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        for c in (self.factor, self.shift):
            shape = constants[c.name].shape
            # numpy aligns the last axes; the tensor itself must not grow
            fits = len(shape) <= len(shapes[0]) and all(
                c_dim in (1, x_dim) for c_dim, x_dim in zip(reversed(shape), reversed(shapes[0]), strict=False)
            )
            if not fits:
                raise IRError(f"constant {c.name!r} of shape {list(shape)} does not broadcast to {list(shapes[0])}")
        return shapes[0]


@dataclass(frozen=True)
class Linear(Op):
    """Integer dense map on fixed-point integers: y = x W^T + b with int64 W (out, in), b (out,)."""

    mnemonic = "linear"
    levels = _FIXED
    weight: Const
    bias: Const

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        return _linear_shape(shapes[0], constants[self.weight.name], constants[self.bias.name])


@dataclass(frozen=True)
class Apply(Op):
    """A composition of univariate functions, first one first, applied elementwise to the real value."""

    mnemonic = "apply"
    levels = _ALL
    functions: tuple[Function, ...]


@dataclass(frozen=True)
class Softmax(Op):
    """Softmax over the last axis, computed by the client on decrypted values."""

    mnemonic = "softmax"
    levels = _ALL
    log: bool = False

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        if not shapes[0]:
            raise IRError("softmax needs at least one axis")
        return shapes[0]


@dataclass(frozen=True)
class ArgMax(Op):
    """Index of the largest element of the last axis, computed by the client; keepdims keeps that axis as 1."""

    mnemonic = "argmax"
    levels = _ALL
    keepdims: bool

    def result_shape(self, shapes: tuple[Shape, ...], constants: Constants) -> Shape:
        if not shapes[0]:
            raise IRError("argmax needs at least one axis")
        return (*shapes[0][:-1], 1) if self.keepdims else shapes[0][:-1]


@dataclass(frozen=True)
class Switch(Op):
    """Scheme switch: the same fixed-point value, another scheme and message encoding. No key, no secret."""

    mnemonic = "switch"
    levels = frozenset({Level.ASSIGNED, Level.LAIDOUT})
    source: Scheme
    target: Scheme
    encoding: Encoding


@dataclass(frozen=True)
class Unpack(Op):
    """Split one ciphertext into ``parts`` along its fast index by automorphisms; multiplies the message by parts."""

    mnemonic = "unpack"
    levels = frozenset({Level.LAIDOUT})
    parts: int


@dataclass(frozen=True)
class Bootstrap(Op):
    """Packed functional bootstrap: refreshes a ciphertext and applies the composed functions to every coefficient.

    The message comes out divided by ``divisor``, the factor that the following unpacking multiplies it by. ``series``
    approximates the whole map from input phase to output (in units of 2^-OUTPUT_BITS, see ``series``).
    """

    mnemonic = "bootstrap"
    levels = frozenset({Level.LAIDOUT})
    functions: tuple[Function, ...]
    divisor: int
    slots: int
    series: Series


def _linear_shape(shape: Shape, weight: npt.NDArray[np.generic], bias: npt.NDArray[np.generic]) -> Shape:
    if weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise IRError(f"weight {list(weight.shape)} and bias {list(bias.shape)} are not (out, in) and (out,)")
    if not shape or shape[-1] != weight.shape[1]:
        raise IRError(f"a weight of shape {list(weight.shape)} cannot be applied to a tensor of shape {list(shape)}")
    if len(shape) != 1:
        raise IRError(f"a dense layer needs a flat tensor of one sample, not shape {list(shape)}")
    return (*shape[:-1], int(weight.shape[0]))


OPS: dict[str, type[Op]] = {
    op.mnemonic: op
    for op in (
        Input,
        Output,
        Reshape,
        Dense,
        Scale,
        Linear,
        Apply,
        Softmax,
        ArgMax,
        Switch,
        Unpack,
        Bootstrap,
    )
}
