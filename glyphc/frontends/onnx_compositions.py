"""ONNX operators that are written as others: recurrent layers as their steps, attention as products and a softmax.

A composition gives nodes of ONNX in place of one; their samples are tracked like those of any other node, and messages
name the node of the file that they stand for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, helper

from .onnx_call import Call
from .onnx_constants import UnsupportedError
from .onnx_shapes import shape_of


@dataclass(eq=False)
class Parts:
    """The nodes that stand for one: built in order, with names of their own."""

    call: Call
    nodes: list[NodeProto] = field(default_factory=list)
    _count: int = 0

    @property
    def node(self) -> NodeProto:
        """The node that is replaced."""
        return self.call.node

    def name(self) -> str:
        """A name that no other value has."""
        self._count += 1
        return f"{self.node.output[0] or self.node.output[-1]}/{self.call.location}/{self._count}"

    def constant(self, value: npt.ArrayLike, name: str = "") -> str:
        """A constant of this composition's."""
        pool, name = self.call.conversion.constants, name or self.name()
        pool.put(name, dict.fromkeys(pool.batches, np.asarray(value)))
        return name

    def add(self, op: str, *inputs: str, to: str = "", domain: str = "", **attributes: Any) -> str:
        """One more node with one result; returns its name."""
        to = to or self.name()
        self.nodes.append(helper.make_node(op, list(inputs), [to], domain=domain, **attributes))
        return to

    def several(self, op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> None:
        """One more node with results of these names."""
        self.nodes.append(helper.make_node(op, list(inputs), list(outputs), **attributes))

    def input(self, index: int) -> str:
        """Name of an operand; empty where it is not given."""
        return self.node.input[index] if self.call.has(index) else ""

    def output(self, index: int) -> str:
        """Name of a result; empty where nobody wants it."""
        return self.node.output[index] if index < len(self.node.output) else ""

    # -- shapes --

    def shape(self, index: int) -> tuple[int, ...]:
        """The ONNX shape of an operand, of one sample."""
        name = self.input(index)
        if self.call.is_constant(index):
            return self.call.conversion.constants.at(name, self.call.conversion.constants.batches[0]).shape
        conversion = self.call.conversion
        where = self.call.where(index) if conversion.batch_axis else None
        if name in conversion.where:
            where = conversion.where[name]
        return shape_of(conversion.values[name], where, 1)

    def zeros(self, index: int) -> bool:
        """Whether an operand is not given, or constant and zero."""
        if not self.input(index):
            return True
        pool = self.call.conversion.constants
        return self.call.is_constant(index) and not any(pool.at(self.input(index), b).any() for b in pool.batches)

    # -- what is needed often --

    def take(self, x: str, at: int, axis: int) -> str:
        """One entry of an axis, which is gone then."""
        return self.add("Gather", x, self.constant(np.array(at, dtype=np.int64)), axis=axis)

    def unsqueezed(self, x: str, *axes: int) -> str:
        return self.add("Unsqueeze", x, self.constant(np.array(axes, dtype=np.int64)))

    def reshaped(self, x: str, *shape: int, to: str = "") -> str:
        return self.add("Reshape", x, self.constant(np.array(shape, dtype=np.int64)), to=to)

    def scaled(self, x: str, factor: float) -> str:
        return x if factor == 1 else self.add("Mul", x, self.constant(np.float32(factor)))

    def concatenated(self, parts: Sequence[str], axis: int, to: str = "") -> str:
        if len(parts) == 1:
            return self.add("Identity", parts[0], to=to) if to else parts[0]
        return self.add("Concat", *parts, axis=axis, to=to)


@dataclass(frozen=True)
class Composition:
    """What writes an operator as others, and the attributes that it takes into account."""

    build: Callable[[Parts], None]
    attributes: tuple[str, ...] = ()

    def of(self, call: Call) -> list[NodeProto]:
        """The nodes in place of a call's. Raises UnsupportedError."""
        strange = {a.name for a in call.node.attribute}.difference(self.attributes)
        if strange:
            raise UnsupportedError(f"attribute(s) {', '.join(sorted(strange))} are not supported")
        parts = Parts(call)
        self.build(parts)
        return parts.nodes
