"""Writes source-level graphs as ``.glyph`` text: the inverse of reading it, up to the names of constants."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.errors import ModelError
from glyphc.ir.functions import Function, parameter_count
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import Apply, ArgMax, Const, Dense, Input, Op, Output, Reshape, Scale, Softmax, Weight
from glyphc.ir.types import Level

from .dsl_layers import GENERIC, LAYERS
from .dsl_network import Network
from .dsl_sections import hint_lines, identifier, number, quoted, training_lines

Tensors = dict[str, npt.NDArray[np.generic]]
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.\w+)+", re.ASCII)


@dataclass(frozen=True, eq=False)
class Exported:
    """text: the file; tensors: what belongs into the .npz beside it, by name (as small as they can be, exactly)."""

    text: str
    tensors: Tensors


def export(graph: Graph, name: str, weights: str, comments: Iterable[str] = ()) -> Exported:
    """A source-level graph as text. name: of the network; weights: of the .npz that the text will read.

    ModelError for graphs of other levels. Calibrated ranges and decisions are left out.
    """
    return export_network(Network(name, graph, graph.batch if graph.batch > 1 else None), weights, comments)


def export_network(network: Network, weights: str, comments: Iterable[str] = ()) -> Exported:
    """All that a network says as text, its batch, hints and training section included: see :func:`export`."""
    if network.graph.level is not Level.SOURCE:
        level = network.graph.level.value
        raise ModelError(f"only networks can be written as .glyph, this is a graph at level {level!r}")
    return _Writer(network).written(weights, tuple(comments))


class _Writer:
    def __init__(self, network: Network) -> None:
        self.network = network
        self.graph = network.graph
        self.tensors: Tensors = {}
        self.tables: dict[Function, str] = {}
        self.names: dict[int, str] = {}
        self.activations: list[str] = []
        self._constants = self._named_constants()

    def written(self, weights: str, comments: tuple[str, ...]) -> Exported:
        inputs, lets, outputs = [], [], []
        self._name_nodes()
        for node in self.graph:
            if isinstance(node.op, Input):
                shape = ", ".join(map(str, node.op.shape))
                inputs.append(f"input {self._reference(node)}: encrypted [{shape}]")
            elif isinstance(node.op, Output):
                (value,) = self.graph.operands(node)
                renamed = "" if self.names[value.id] == node.op.name else f" as {identifier(node.op.name)}"
                outputs.append(f"output {self._reference(value)}{renamed}")
            else:
                lets.append(self._let(node))
        blocks = [
            [f"# {line}" for line in comments],
            [f"network {identifier(self.network.name)}"],
            [f"weights {quoted(weights)}"] if self.tensors else [],
            [f"batch {self.network.batch}"] if self.network.batch is not None else [],
            inputs,
            [line.replace("@FILE", quoted(weights)) for line in self.activations],
            [*lets, *self._other_names()],
            outputs,
            hint_lines(self.network.quantization),
            training_lines(self.network.training),
        ]
        return Exported("\n\n".join("\n".join(b) for b in blocks if b) + "\n", self.tensors)

    # -- names --

    def _name_nodes(self) -> None:
        """A name for every node: of inputs their own; of others the one that the source gives it, or the place it
        comes from where that is free."""
        own: dict[int, str] = {}
        for name, id in self.network.values.items():
            if id not in own or name == self.graph.node(id).location:
                own[id] = name
        taken = {op.name for _, op in self.graph.of(Input)} | set(self.network.values)
        for node in self.graph:
            if isinstance(node.op, Input):
                self.names[node.id] = node.op.name
                continue
            if node.id in own:
                self.names[node.id] = own[node.id]
                continue
            wanted = node.location if node.location not in taken else ""
            name = wanted or f"v{node.id}"
            while name in taken:
                name += "_"
            taken.add(name)
            self.names[node.id] = name

    def _other_names(self) -> list[str]:
        """Second names of values that the sections behind speak of."""
        training = self.network.training
        spoken = [p.node for p in self.network.quantization.nodes] + ([training.loss.value] if training else [])
        values = {name: self.names[self.network.values[name]] for name in spoken if name in self.network.values}
        return [f"{identifier(other)} = {identifier(name)}" for other, name in values.items() if other != name]

    def _named_constants(self) -> Mapping[str, str]:
        """Names of constants as an .npz can have them."""
        found: dict[str, str] = {}
        for at, name in enumerate(self.graph.constants):
            fine = name.isprintable() and name.isascii() and 0 < len(name) < 120 and not name.endswith("/")
            found[name] = name if fine and name not in found.values() else f"constant{at}"
            while list(found.values()).count(found[name]) > 1:
                found[name] += "_"
        return found

    def _reference(self, node: Node) -> str:
        return identifier(self.names[node.id])

    # -- statements --

    def _let(self, node: Node) -> str:
        place = "" if node.location == self.names[node.id] else f" @{quoted(node.location)}"
        return f"{self._reference(node)} = {self._expression(node)}{place}"

    def _expression(self, node: Node) -> str:
        operands = [self._reference(o) for o in self.graph.operands(node)]
        x = operands[0]
        match node.op:
            case Apply(functions=(single,)):
                return self._single(single, x)
            case Apply(functions=functions):
                return f"apply({', '.join([x, *(self._function(f) for f in functions)])})"
            case Dense(weights=weights, bias=bias):
                return self._dense(node, operands, weights, bias)
            case Scale(factor=factor, shift=shift):
                return self._scale(x, factor, shift)
            case Reshape(shape=shape) if len(shape) == 1:
                return f"flatten({x})"
            case Softmax(log=log):
                return f"{'log_softmax' if log else 'softmax'}({x})"
            case ArgMax(keepdims=keepdims):
                return f"argmax({x}, keepdims={'true' if keepdims else 'false'})"
            case op:
                return f"{op.mnemonic}({', '.join([*operands, *self._fields(op)])})"

    def _single(self, function: Function, x: str) -> str:
        if function.name == "pow" and function.parameters[0] >= 0:
            return f"{x} ** {number(function.parameters[0])}"
        if function.name in ("greater", "less"):
            return f"{x} {'>' if function.name == 'greater' else '<'} {number(function.parameters[0])}"
        if function.name == "table":
            return f"{self._function(function)}({x})"
        if function.name in LAYERS or function.name in GENERIC:
            return f"apply({x}, {self._function(function)})"
        return f"{function.name}({', '.join([x, *map(number, function.parameters)])})"

    def _function(self, function: Function) -> str:
        """A function as an argument; a table becomes an activation of its own."""
        if function.name == "table":
            if function not in self.tables:
                name = f"table{len(self.tables)}"
                while name in self.tensors or name in self._constants.values() or name in self.names.values():
                    name += "_"
                lo, hi, *values = function.parameters
                self.tables[function] = name
                self.tensors[name] = np.array(values)
                source = f"table(@FILE, {quoted(name)})"
                self.activations.append(f"activation {name} on [{number(lo)}, {number(hi)}] = {source}")
            return self.tables[function]
        if parameter_count(function.name) == 0:
            return function.name
        return f"{function.name}({', '.join(map(number, function.parameters))})"

    def _dense(self, node: Node, operands: list[str], weights: tuple[Weight, ...], bias: Const) -> str:
        units = str(node.type.size)
        arguments = []
        if len(weights) > 1:
            arguments.append(f"weight=[{', '.join(self._tensor(w) for w in weights)}]")
        elif self._tensor(weights[0]) != f"{self.names[node.id]}.weight":
            arguments.append(f"weight={self._tensor(weights[0])}")
        value = self.graph.constant(bias.name)
        if not value.any() and not np.signbit(value).any():
            arguments.append("bias=none")
        elif self._tensor(bias) != f"{self.names[node.id]}.bias":
            arguments.append(f"bias={self._tensor(bias)}")
        return f"dense({', '.join([*operands, units, *arguments])})"

    def _scale(self, x: str, factor: Const, shift: Const) -> str:
        a, b = self.graph.constant(factor.name), self.graph.constant(shift.name)
        plain_a, plain_b = a.shape == (), b.shape == ()
        if plain_b and _is(b, 0.0):
            return f"{x} * {self._operand(factor)}"
        if plain_a and _is(a, 1.0):
            return f"{x} + {self._operand(shift)}"
        return f"scale({x}, {self._operand(factor)}, {self._operand(shift)})"

    def _operand(self, const: Const) -> str:
        value = self.graph.constant(const.name)
        return number(float(value)) if value.shape == () else self._tensor(const)

    def _tensor(self, const: Weight) -> str:
        name = self._constants[const.name]
        value = self.graph.constant(const.name) if isinstance(const, Const) else self.graph.matrix(const).dense()
        self.tensors[name] = _small(value)
        return name if _DOTTED.fullmatch(name) else quoted(name)

    def _fields(self, op: Op) -> list[str]:
        shown = (f for f in fields(op) if f.default is MISSING or getattr(op, f.name) != f.default)
        return [f"{f.name}={self._plain(getattr(op, f.name))}" for f in shown]

    def _plain(self, value: Any) -> str:
        if isinstance(value, Const):
            return self._tensor(value)
        if isinstance(value, tuple):
            return f"[{', '.join(map(self._plain, value))}]"
        if value is None or isinstance(value, bool):
            return {None: "none", True: "true", False: "false"}[value]
        if isinstance(value, Enum):
            return str(value.value)
        return str(value) if isinstance(value, int | str) else number(float(value))


def _is(value: npt.NDArray[np.generic], number: float) -> bool:
    return float(value) == number and not (number == 0.0 and np.signbit(value))


def _small(value: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """As float32 where that holds the same numbers."""
    if value.dtype != np.float64:
        return value
    with np.errstate(over="ignore"):
        single = value.astype(np.float32)
    return single if np.array_equal(single.astype(np.float64), value) else value
