"""Reads ONNX models into the source level of the IR.

ONNX tensors carry the batch as axis 0, the IR's shapes are those of one sample: so every conversion has to make sure
that a node leaves axis 0 alone. Nodes that the IR cannot express are reported together.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto

from glyphc.errors import ModelError
from glyphc.ir.errors import FILE_FAULTS, IRError, TooLargeError
from glyphc.ir.graph import MOST_NODES, Graph
from glyphc.ir.ops import Apply, Input, Output
from glyphc.ir.types import Level
from glyphc.ir.verify import verify
from glyphc.registry import registered

from . import onnx_elementwise, onnx_linear, onnx_other_domains, onnx_quantization, onnx_reductions, onnx_shapes
from .onnx_call import Call, Conversion, Rule, UnknownOperandError
from .onnx_constants import DEFAULT_DOMAINS, ConstantPool, Source, UnsupportedError, liveness, load, model_input, opset

_RULES: dict[str, Rule] = {
    **onnx_elementwise.RULES,
    **onnx_linear.RULES,
    **onnx_quantization.RULES,
    **onnx_reductions.RULES,
    **onnx_shapes.RULES,
}
# Sizes of the network's tensors, which are constants whatever the tensors hold.
_SIZES = ("Shape", "Size")

# What ONNX's own domain has: no activation of the user's should be called that.
OPERATORS = frozenset(_RULES) | frozenset(_SIZES)


def read_onnx(source: Source, batch_axis: bool = True) -> Graph:
    """Read a model from a path, from the bytes of a file or from an ``onnx.ModelProto`` (left unchanged).

    Returns a verified graph at the source level with batch 1. Its shapes leave out the batch axis: an ONNX
    input (N, 64) becomes an ``Input`` of shape (64,). Locations are the names of the ONNX nodes (``#index``
    for those without), constants keep the names of their initializers. Nodes no output needs are left out.

    batch_axis: whether axis 0 of the model's tensors counts the samples. False is for models that take one sample as it
    is: all axes belong to it then, and may be moved and combined.

    Raises ModelError for what cannot be read, for models without exactly one input of known sample
    shape, and, in one message, for all nodes that are not supported.
    """
    model, label = load(source)
    try:
        reader = _Reader(model, label, batch_axis)
        reader.convert_nodes()
        reader.add_outputs()
        verify(reader.graph)
    except TooLargeError as e:
        raise ModelError(f"{label} is too large: {e}") from None
    return reader.graph


class _Reader:
    """Converts the nodes of one checked model, in order."""

    def __init__(self, model: ModelProto, label: str, batch_axis: bool) -> None:
        self.label = label
        self.onnx_graph = graph = model.graph
        name, shape, batch = model_input(graph, label, batch_axis)
        version = opset(model)
        self.batches = (batch,) if batch else (2, 3)
        types = {
            v.name: v.type.tensor_type
            for v in (*graph.value_info, *graph.input, *graph.output)
            if v.type.HasField("tensor_type")
        }
        self.graph = Graph(Level.SOURCE, batch=1)
        self.constants = ConstantPool(graph, version, self.batches)
        self.conversion = Conversion(self.graph, self.constants, types, version, batch_axis)
        self.values = self.conversion.values
        self.values[name] = self.graph.add(Input(name, shape))
        self._needed = liveness(graph)

    def convert_nodes(self) -> None:
        """Convert everything that an output needs; one ModelError for all nodes that are not supported."""
        if len(self.onnx_graph.node) > MOST_NODES:
            raise ModelError(
                f"{self.label} has {len(self.onnx_graph.node):,} nodes, more than the {MOST_NODES:,} that glyphc "
                "reads; simplify the network, or join what is repeated in it"
            )
        problems: list[str] = []
        fault: Exception | None = None
        for index, node in enumerate(self.onnx_graph.node):
            if self._needed.isdisjoint(node.output):
                continue
            call = Call(self.conversion, node, node.name or f"#{index}")
            try:
                with np.errstate(over="ignore", invalid="ignore"):  # store() reports it
                    self._convert(call)
            except TooLargeError as e:
                raise ModelError(f"{call.location!r} ({node.op_type}) of {self.label} is too large: {e}") from None
            except (UnsupportedError, IRError) as e:  # IRError: shapes that onnx could not infer don't fit
                problems.append(f"  {call.location!r} ({node.op_type}): {e}")
                self._stand_in(node)
            except FILE_FAULTS as e:
                reason = f"its attributes, shapes and constants do not fit one another ({type(e).__name__}: {e})"
                problems.append(f"  {call.location!r} ({node.op_type}): {reason}")
                fault = fault or e
                self._stand_in(node)
            except UnknownOperandError:
                self._stand_in(node)
        if problems:
            raise ModelError(
                f"{self.label} has {len(problems)} node(s) that glyphc cannot run on encrypted data:\n"
                + "\n".join(problems)
                + f"\nReplace them in the network and export it again. Supported: {', '.join(sorted(OPERATORS))}."
            ) from fault

    def add_outputs(self) -> None:
        """Add the outputs under their ONNX names; ModelError if there is none, or one is a constant."""
        names = [o.name for o in self.onnx_graph.output]
        if not names:
            raise ModelError(f"{self.label} has no output; declare one in the export")
        for name in names:
            if name not in self.values:
                raise ModelError(f"output {name!r} of {self.label} does not depend on the input; remove it")
            if names.count(name) > 1:
                raise ModelError(f"{self.label} lists output {name!r} more than once; remove the others")
            self.graph.add(Output(name), (self.values[name],))

    def _convert(self, call: Call) -> None:
        node = call.node
        own = node.domain in DEFAULT_DOMAINS
        constant = all(name in self.constants for name in node.input if name)
        if own and constant and not any(a.g.node or a.graphs for a in node.attribute):
            self.constants.fold(node)
            return
        if own and node.op_type in _SIZES:
            self._sizes(call)
            return
        rule = _RULES.get(node.op_type) if own else _other_domain(call)
        if rule is None:
            raise UnsupportedError("this operation is not supported")
        strange = {a.name for a in node.attribute}.difference(rule.attributes)
        if strange:  # of an opset newer than this code: better refused than computed wrongly
            raise UnsupportedError(f"attribute(s) {', '.join(sorted(strange))} are not supported")
        results = rule.convert(call)
        results = results if isinstance(results, tuple) else (results,)
        missing = [o for o in node.output[len(results) :] if o not in self.constants]
        if not self._needed.isdisjoint(missing):
            raise UnsupportedError(f"its output {list(node.output).index(missing[0])} is not supported, but used")
        self.values.update({name: result for name, result in zip(node.output, results, strict=False) if name})

    def _sizes(self, call: Call) -> None:
        """Shape and Size: constants, but for the number of samples."""
        shape = call.tensor(0).type.shape
        found = {}
        for batch in self.batches:
            full = np.array([*[batch] * call.lead, *shape], dtype=np.int64)
            end = call.integer("end", len(full))
            part = full[call.integer("start", 0) : end]
            found[batch] = part if call.node.op_type == "Shape" else np.array(full.prod(), dtype=np.int64)
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


def _other_domain(call: Call) -> Rule:
    """An operator of a domain that is not ONNX's own; an activation that the user has registered goes first."""
    node = call.node
    function = registered(node.op_type)
    if function is None:
        known = onnx_other_domains.RULES.get((node.domain, node.op_type))
        if known is not None:
            return known
        raise UnsupportedError(
            f"ops of domain {node.domain!r} are not supported; if it is a function of one number, "
            f"make it known with glyphc.register_activation({node.op_type!r}, ...)"
        )
    if len(node.input) != 1 or len(node.output) != 1 or node.attribute:
        raise UnsupportedError("is a registered activation: these have one operand, one result and no attributes")
    return Rule(lambda call: call.add(Apply((function,)), call.tensor(0)))
