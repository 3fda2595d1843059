"""What a layer of the DSL is: a rule from the arguments of a call to nodes of the IR, and what the rule may ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from glyphc.ir.graph import Node
from glyphc.ir.ops import Const, Op

from .dsl_values import F64, Arguments, Parameter

Shape = tuple[int, ...]


class Builder(Protocol):
    """What rules ask of the network that is being built. Errors of the IR become mistakes at the call."""

    def add(self, arguments: Arguments, op: Op, *operands: Node) -> Node:
        """One more node, at the call's label."""

    def constant(self, arguments: Arguments, name: str, value: npt.NDArray[np.generic]) -> Const:
        """Keep a constant; the same tensor used twice is kept once."""

    def tensor(self, arguments: Arguments, role: str, shape: Shape | None, matrix: bool = False) -> tuple[str, F64]:
        """The tensor that a parameter gives, or the one of the layer's name in the weights file, or a fresh one.

        shape: what it must have, also that of fresh ones; None takes any. matrix: (out, in), whatever the file's order.
        """


Rule = Callable[[Builder, Arguments], Node]


@dataclass(frozen=True)
class Layer:
    """tensors: how many operands, (least, most)."""

    rule: Rule
    parameters: tuple[Parameter, ...] = ()
    tensors: tuple[int, int] = (1, 1)


def operand(arguments: Arguments) -> Node:
    """The one tensor that most layers read."""
    return arguments.tensors[0].node
