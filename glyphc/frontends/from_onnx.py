"""Reads ONNX models into the source level of the IR.

ONNX tensors carry the batch as axis 0, the IR's shapes are those of one sample: so every conversion has to make sure
that a node leaves axis 0 alone. Nodes that the IR cannot express are reported together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto, NodeProto

from glyphc.errors import ModelError
from glyphc.ir.errors import FILE_FAULTS, IRError, TooLargeError
from glyphc.ir.graph import MOST_NODES, Graph, Node, prune
from glyphc.ir.ops import Apply, Input, Output, Reshape
from glyphc.ir.types import Level
from glyphc.ir.verify import verify

from . import onnx_other_domains
from .custom_activations import registered
from .onnx_batch import results_where
from .onnx_call import FIRST, KEEP_LABELS, Call, Conversion, Placed, Rule, UnknownOperandError, Where
from .onnx_compositions import Composition
from .onnx_constants import (
    DEFAULT_DOMAINS,
    Array,
    BatchAxisError,
    CombinedSamplesError,
    ConstantPool,
    Source,
    UnsupportedError,
    liveness,
    load,
    opset,
    run_node,
)
from .onnx_inputs import ModelInputs, fix_sizes, leave_out_texts, model_inputs
from .onnx_problems import Problem, grouped
from .onnx_rules import COMPOSITIONS, RULES, SIZES
from .onnx_sequences import sequence_nodes
from .onnx_shapes import shape_of

# Domains whose operators have a meaning, so nobody can give them another one.
_STANDARD = ("ai.onnx.ml", "com.microsoft")


@dataclass(frozen=True)
class OnnxNetwork:
    """What a file holds: a verified graph at the source level, and what a user should know of how it was read.

    dropouts: places where values would be dropped at random in training.
    """

    graph: Graph
    notes: tuple[str, ...]
    dropouts: tuple[str, ...] = ()


def read_onnx(source: Source, batch_axis: bool = True, one_sample: bool = False) -> Graph:
    """Read a model from a path, from the bytes of a file or from an ``onnx.ModelProto`` (left unchanged).

    Returns a verified graph at the source level with batch 1. Its shapes leave out the axis that counts the samples: an
    ONNX input (N, 64) becomes an ``Input`` of shape (64,). Samples come first in all that goes in and out, wherever the
    file has them. Locations are the names of the ONNX nodes (``#index`` for those without), constants keep the names of
    their initializers. Nodes and inputs that no output needs are left out.

    batch_axis: whether an axis of the model's tensors counts the samples: the one whose size is open, or axis 0. False
    is for models that take one sample as it is: all axes belong to it then, and may be moved and combined; a file that
    fixes the sizes of all its inputs is read that way, too, where it combines along axis 0. one_sample: that a file
    with an open batch is meant for one sample, so that it may leave out that axis.

    Raises ModelError for what cannot be read, for inputs of unknown sample shapes, and, in one message, for all nodes
    that are not supported.
    """
    return read_network(source, batch_axis, one_sample).graph


def read_network(
    source: Source,
    batch_axis: bool = True,
    one_sample: bool = False,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> OnnxNetwork:
    """:func:`read_onnx`, with notes. shapes: of samples, by input, where they are known: sizes that the file leaves
    open, see :func:`glyphc.frontends.onnx_inputs.fix_sizes`."""
    model, label = load(source, (lambda graph: fix_sizes(graph, shapes)) if shapes else None)
    if not model.graph.output:
        raise ModelError(f"{label} has no output; declare one in the export")
    without = leave_out_texts(model.graph, label)
    inputs = model_inputs(model.graph, label, batch_axis, one_sample)
    several = inputs.batch != 1
    if several and one_sample:
        inputs = model_inputs(model.graph, label, False, one_sample)
    notes = without + [f"input {name!r} of {label} is left out: no output depends on it" for name in inputs.unused]
    if inputs.mixed:
        notes.append(
            f"some inputs of {label} have an open axis for the samples and others are fixed: taken for the network of "
            f"one sample, of shape {', '.join(f'{i.name} {list(i.shape)}' for i in inputs.inputs)}"
        )
    try:
        network = _read(model, label, inputs)
    except UnsupportedNodesError as e:
        if not several or one_sample:
            raise
        network = _read_one_sample(model, label, inputs, e)
    return replace(network, notes=(*notes, *network.notes))


def _read_one_sample(model: ModelProto, label: str, inputs: ModelInputs, error: UnsupportedNodesError) -> OnnxNetwork:
    """A model that does not keep samples apart, as one of a single sample; ``error`` where it cannot be meant so."""
    fixed = inputs.batch is not None
    try:
        network = _read(model, label, model_inputs(model.graph, label, not fixed, True))
    except UnsupportedNodesError as e:
        chosen = e if fixed and len(e.problems) < len(error.problems) else error
        raise chosen from chosen.__cause__
    if not fixed and any(p.combines for p in error.problems):
        raise UnsupportedNodesError(
            label, error.problems, "If the file is for one sample at a time, say so (--sample, one_sample=True). "
        ) from None
    shapes = ", ".join(f"{op.name} {list(op.shape)}" for _, op in network.graph.of(Input))
    note = f"{label} does not keep samples apart, so it is taken for the network of one sample, of shape {shapes}"
    return replace(network, notes=(note, *network.notes))


def _read(model: ModelProto, label: str, inputs: ModelInputs) -> OnnxNetwork:
    try:
        reader = _Reader(model, label, inputs)
        reader.convert_nodes()
        reader.add_outputs()
        graph = prune(reader.graph)
        verify(graph)
    except TooLargeError as e:
        raise ModelError(f"{label} is too large: {e}") from None
    except (IRError, *FILE_FAULTS) as e:
        raise ModelError(f"the shapes in {label} do not fit one another ({type(e).__name__}: {e})") from e
    return OnnxNetwork(graph, tuple(reader.notes), tuple(reader.dropouts))


class UnsupportedNodesError(ModelError):
    """Nodes of a model cannot be run on encrypted data."""

    def __init__(self, label: str, problems: Sequence[Problem], hint: str = "") -> None:
        self.problems = tuple(problems)
        super().__init__(
            f"{label} has {len(problems)} node(s) that glyphc cannot run on encrypted data:\n"
            + "\n".join(grouped(problems))
            + f"\n{hint}Replace them in the network and export it again. What is supported: docs/onnx-conformance.md."
        )


class _Reader:
    """Converts the nodes of one checked model, in order."""

    def __init__(self, model: ModelProto, label: str, inputs: ModelInputs) -> None:
        self.label = label
        self.onnx_graph = graph = model.graph
        version = opset(model)
        self.batches = (inputs.batch,) if inputs.batch else (2, 3)
        types = {
            v.name: v.type.tensor_type
            for v in (*graph.value_info, *graph.input, *graph.output)
            if v.type.HasField("tensor_type")
        }
        self.graph = Graph(Level.SOURCE, batch=1)
        self.constants = ConstantPool(graph, version, self.batches)
        batch_axis = any(i.where is not None for i in inputs.inputs)
        outputs = frozenset(o.name for o in graph.output)
        self.conversion = Conversion(self.graph, self.constants, types, version, batch_axis, outputs=outputs)
        self.values = self.conversion.values
        for given in inputs.inputs:
            node = self.graph.add(Input(given.name, given.shape))
            if given.where not in (None, FIRST):
                axis = given.where.axis
                node = self.graph.add(Reshape((*given.shape[:axis], 1, *given.shape[axis:])), (node,))
                self.conversion.where[given.name] = given.where
            self.values[given.name] = node
        self.notes: list[str] = []
        self.dropouts: list[str] = []
        self._needed = liveness(graph)

    def convert_nodes(self) -> None:
        """Convert everything that an output needs; one ModelError for all nodes that are not supported."""
        if len(self.onnx_graph.node) > MOST_NODES:
            raise ModelError(
                f"{self.label} has {len(self.onnx_graph.node):,} nodes, more than the {MOST_NODES:,} that glyphc "
                "reads; simplify the network, or join what is repeated in it"
            )
        problems: list[Problem] = []
        fault: Exception | None = None
        for index, node in enumerate(self.onnx_graph.node):
            if self._needed.isdisjoint(node.output):
                continue
            moved = any(name in self.conversion.where for name in node.input)
            call = Call(self.conversion, node, node.name or f"#{index}", whole=moved)
            try:
                with np.errstate(over="ignore", invalid="ignore"):  # store() reports it
                    self._convert(call)
            except TooLargeError as e:
                raise ModelError(f"{call.location!r} ({node.op_type}) of {self.label} is too large: {e}") from None
            except (UnsupportedError, IRError) as e:  # IRError: shapes that onnx could not infer don't fit
                combines = isinstance(e, CombinedSamplesError)
                problems.append(Problem(call.location, node.op_type, str(e), combines))
                self._stand_in(node)
            except FILE_FAULTS as e:
                reason = f"its attributes, shapes and constants do not fit one another ({type(e).__name__}: {e})"
                problems.append(Problem(call.location, node.op_type, reason))
                fault = fault or e
                self._stand_in(node)
            except UnknownOperandError:
                self._stand_in(node)
        if problems:
            raise UnsupportedNodesError(self.label, problems) from fault

    def add_outputs(self) -> None:
        """Add the outputs under their ONNX names, but for constants; ModelError if there are no others."""
        names = [o.name for o in self.onnx_graph.output]
        for name in names:
            if names.count(name) > 1:
                raise ModelError(f"{self.label} lists output {name!r} more than once; remove the others")
            if name in self.conversion.masks:
                raise ModelError(f"output {name!r} of {self.label} is minus infinity in places; leave out the mask")
            if name in self.conversion.sequences:
                raise ModelError(f"output {name!r} of {self.label} is a sequence of tensors; join them to one tensor")
            if name in self.values:
                self.graph.add(Output(name, self.conversion.labels.get(name)), (self._samples_first(name),))
            elif any(other in self.values for other in names):
                self.notes.append(f"output {name!r} of {self.label} is left out: it does not depend on the input")
            else:
                raise ModelError(f"output {name!r} of {self.label} does not depend on the input; remove it")

    def _samples_first(self, name: str) -> Node:
        """A value as one sample has it: without the axis that counts the samples."""
        x, where = self.values[name], self.conversion.where.get(name)
        if where is None or where.outer * where.inner > 1:
            return x
        shape = x.type.shape
        return self.graph.add(Reshape((*shape[: where.axis], *shape[where.axis + 1 :])), (x,))

    def _convert(self, call: Call) -> None:
        """One node, or those that it is written as."""
        nodes = sequence_nodes(call)
        if nodes is None:
            composition = composition_of(call)
            if composition is None:
                self._convert_one(call)
                return
            nodes = composition.of(call)
        for node in nodes:
            moved = any(name in self.conversion.where for name in node.input)
            self._convert(Call(self.conversion, node, call.location, whole=moved))

    def _convert_one(self, call: Call) -> None:
        node = call.node
        own = node.domain in DEFAULT_DOMAINS
        constant = all(name in self.constants for name in node.input if name)
        if own and constant and not any(a.g.node or a.graphs for a in node.attribute):
            self.constants.fold(node)
            return
        if own and node.op_type in SIZES:
            self._sizes(call)
            return
        if own and node.op_type == "Dropout":
            self.dropouts.append(call.location)
        rule = RULES.get(node.op_type) if own else _other_domain(call)
        if rule is None:
            raise UnsupportedError("this operation is not supported")
        strange = {a.name for a in node.attribute}.difference(rule.attributes)
        if strange:  # of an opset newer than this code: better refused than computed wrongly
            raise UnsupportedError(f"attribute(s) {', '.join(sorted(strange))} are not supported")
        try:
            results = _converted(rule, call)
        except BatchAxisError as e:
            if call.whole or not self.conversion.batch_axis:
                raise
            try:  # samples may leave axis 0 here
                results = _converted(rule, replace(call, whole=True))
            except (UnsupportedError, UnknownOperandError, IRError, *FILE_FAULTS):
                raise e from None
        missing = [o for o in node.output[len(results) :] if o not in self.constants]
        if not self._needed.isdisjoint(missing):
            raise UnsupportedError(f"its output {list(node.output).index(missing[0])} is not supported, but used")
        labels = self.conversion.labels
        if node.op_type in KEEP_LABELS and node.input[0] in labels:
            labels.setdefault(node.output[0], labels[node.input[0]])
        if node.op_type in ("Cast", "Identity") and node.input[0] in self.conversion.masks:
            self.conversion.masks[node.output[0]] = self.conversion.masks[node.input[0]]
        for name, result in zip(node.output, results, strict=False):
            if name:
                self.values[name] = result.node
                if result.where != FIRST and self.conversion.batch_axis:
                    self.conversion.where[name] = result.where

    def _sizes(self, call: Call) -> None:
        """Shape, Size and what follows from them: constants, but for the number of samples."""
        name = call.node.input[0]
        x = self.values.get(name)
        if x is None:
            raise UnknownOperandError
        where = self.conversion.where.get(name, FIRST) if self.conversion.batch_axis else None
        found: dict[int, Array] = {}
        for batch in self.batches:
            full = np.array(shape_of(x, where, batch), dtype=np.int64)
            if call.node.op_type == "Shape":
                found[batch] = full[call.integer("start", 0) : call.integer("end", len(full))]
            elif call.node.op_type == "Size":
                found[batch] = np.array(full.prod(), dtype=np.int64)
            else:
                zeros = np.zeros(tuple(full), dtype=np.float32)
                (found[batch],) = run_node(call.node, {name: zeros}, self.conversion.opset)
        self.constants.put(call.node.output[0], found)

    def _stand_in(self, node: NodeProto) -> None:
        """Let the nodes behind an unsupported one be checked too, if onnx knows the shapes of its results.

        The stand-ins never leave this class: the graph is dropped for an error.
        """
        lead, batch = self.conversion.batch_axis, self.batches[0] if len(self.batches) == 1 else 0
        if any(name in self.values for name in node.input):
            for name in filter(None, node.output):
                known = self.conversion.types.get(name)
                shape = tuple(d.dim_value for d in known.shape.dim) if known is not None else ()
                if all(shape[lead:]) and (not lead or shape[:1] == (batch,)):
                    self.values[name] = self.graph.add(Input(name, shape[lead:]))


def composition_of(call: Call) -> Composition | None:
    """How a call's operator is written as others, if it is and something of it is encrypted."""
    domain = "" if call.node.domain in DEFAULT_DOMAINS else call.node.domain
    found = COMPOSITIONS.get((domain, call.node.op_type))
    whole = any(a.g.node for a in call.node.attribute)  # subgraphs read what is not among the operands
    if found is None or (not whole and all(name in call.conversion.constants for name in call.node.input if name)):
        return None
    for index in range(len(call.node.input)):
        if call.has(index):
            call.is_constant(index)  # what an unsupported node made stops here
    return found


def _converted(rule: Rule, call: Call) -> list[Placed]:
    """What a node gives, and where its samples are then."""
    given = rule.convert(call)
    results = given if isinstance(given, tuple) else (given,)
    plain = [r for r in results if not isinstance(r, Placed)]
    if not call.conversion.batch_axis:
        placed = iter([Placed(x, None) for x in plain])
    elif not call.whole:
        placed = iter([Placed(x, FIRST) for x in plain])
    elif call.conversion.single:
        placed = iter([_first(call, x) for x in plain])
    elif plain:
        placed = iter([_leading(call, x, w) for x, w in zip(plain, results_where(call, plain), strict=True)])
    return [r if isinstance(r, Placed) else next(placed) for r in results]


def _first(call: Call, x: Node) -> Placed:
    """Of a single sample: an axis of size one in front may as well count the samples."""
    return Placed(x, None) if x.type.shape[:1] != (1,) else _leading(call, x, FIRST)


def _leading(call: Call, x: Node, where: Where) -> Placed:
    return Placed(call.reshape(x, x.type.shape[1:]) if where == FIRST else x, where)


def _other_domain(call: Call) -> Rule:
    """An operator of a domain that is not ONNX's own; an activation that the user has registered goes first."""
    node = call.node
    function = registered(node.op_type)
    if function is None:
        known = onnx_other_domains.RULES.get((node.domain, node.op_type))
        if known is not None:
            return known
        if len(node.input) != 1 or len(node.output) != 1 or node.attribute or node.domain in _STANDARD:
            raise UnsupportedError(f"is not supported (domain {node.domain!r})")
        raise UnsupportedError(
            f"ops of domain {node.domain!r} are not supported; if it is a function of one number, "
            f"make it known with glyphc.register_activation({node.op_type!r}, ...)"
        )
    if len(node.input) != 1 or len(node.output) != 1 or node.attribute:
        raise UnsupportedError("is a registered activation: these have one operand, one result and no attributes")
    return Rule(lambda call: call.add(Apply((function,)), call.tensor(0)))
