"""What an ONNX model holds before any node is converted: the checked file, its input, its constants."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper
from onnx.external_data_helper import uses_external_data
from onnx.reference import ReferenceEvaluator

from glyphc.errors import ModelError, one_line
from glyphc.ir import memory

from .onnx_ancient import BROADCASTS
from .onnx_opsets import CURRENT, OLDEST, modernise, set_opset
from .onnx_repairs import checkable, complete_imports, infer, needed_opset, reads, sort_nodes, unknown_operators
from .onnx_slices import check_slices
from .onnx_texts import require_texts

Array = npt.NDArray[np.generic]
F64 = npt.NDArray[np.float64]
Source = str | os.PathLike[str] | bytes | ModelProto

DEFAULT_DOMAINS = ("", "ai.onnx")
FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})
# Truth values count as the integers 0 and 1.
INTEGERS = frozenset(
    getattr(TensorProto, name)
    for name in ("BOOL", *(f"{sign}INT{bits}" for sign in ("", "U") for bits in (2, 4, 8, 16, 32, 64)))
    if hasattr(TensorProto, name)
)


def type_name(kind: int) -> str:
    """An element type as ONNX calls it; a file may have a number that is none."""
    return TensorProto.DataType.Name(kind) if kind in TensorProto.DataType.values() else f"of type {kind}"


# What gives another result every time.
_RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)


# -- loading --


def load(source: Source, prepare: Callable[[GraphProto], None] | None = None) -> tuple[ModelProto, str]:
    """The checked model with external data and all shapes that onnx can infer, and its name for messages.

    A ModelProto passed in stays as it is. prepare: changes a copy of the graph before shapes are inferred. Raises
    ModelError.
    """
    if isinstance(source, ModelProto):
        model, label = source, "the given ONNX model"
    elif isinstance(source, bytes):
        label = "the given data"
        model = _parsed(lambda: onnx.load_model_from_string(source), label)
    else:
        path = os.fspath(source)
        label = repr(path)
        if not os.path.isfile(path):
            what = "is a directory; give" if os.path.isdir(path) else "does not exist; give"
            raise ModelError(f"{label} {what} the path of an ONNX file")
        model = _parsed(lambda: onnx.load_model(path, load_external_data=False), label)
        _load_external_data(model, path, label)
    outside = [t.name for t in model.graph.initializer if uses_external_data(t)]
    if outside:
        raise ModelError(
            f"{label} keeps weights in other files (e.g. {outside[0]!r}), and nothing says where those are; "
            "give the path of the .onnx file instead, or load it with its external data"
        )
    require_texts(model, label)
    _check_opset(model, label)
    return _checked(model, label, prepare), label


def _parsed(read: Callable[[], ModelProto], label: str) -> ModelProto:
    try:
        return read()
    except OSError as e:
        raise ModelError(f"{label} cannot be read ({one_line(e)}); check its permissions") from e
    except MemoryError:
        raise
    except Exception as e:  # one exception class for each format that onnx knows, and no common base
        raise ModelError(
            f"{label} is not an ONNX file, or is truncated ({one_line(e)}); copy or export it again"
        ) from e


def _load_external_data(model: ModelProto, path: str, label: str) -> None:
    try:
        onnx.load_external_data_for_model(model, os.path.dirname(path))
    except (OSError, ValueError, onnx.checker.ValidationError) as e:
        raise ModelError(
            f"{label} keeps weights in other files, which cannot be read ({one_line(e)}); put them where "
            "the export wrote them, next to the .onnx file"
        ) from e


def opset(model: ModelProto) -> int:
    """The version of ONNX's own operators that a model uses; the newest if it uses none."""
    newest = onnx.defs.onnx_opset_version()
    return next((o.version for o in model.opset_import if o.domain in DEFAULT_DOMAINS), newest)


def _check_opset(model: ModelProto, label: str) -> None:
    opset = next((o.version for o in model.opset_import if o.domain in DEFAULT_DOMAINS), None)
    newest = onnx.defs.onnx_opset_version()
    if opset is not None and opset < OLDEST:
        raise ModelError(
            f"{label} uses ONNX opset {opset}, glyphc reads {OLDEST} to {newest}; convert it with "
            "onnx.version_converter.convert_version(model, 17), or export it again with a newer opset"
        )
    if opset is not None and opset > newest:
        # onnx's own checker lets this pass and takes the nodes for those of its newest opset
        raise ModelError(
            f"{label} uses ONNX opset {opset}, the installed onnx {onnx.__version__} knows {newest} at most; "
            "update the onnx package, or export the model with an older opset"
        )


# Operators that a message names.
_NAMED = 5


def _require_known(model: ModelProto, label: str) -> None:
    """ModelError for operators that ONNX has not: tools for some hardware put theirs among ONNX's own."""
    unknown = unknown_operators(model)
    if unknown:
        names = ", ".join(f"{op} (node {name!r})" for op, name in list(unknown.items())[:_NAMED])
        more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
        raise ModelError(
            f"{label} is not a valid ONNX model: it uses operators that ONNX does not have: {names}{more}. Export the "
            "network before a tool puts its own operators into it"
        )


def _checked(source: ModelProto, label: str, prepare: Callable[[GraphProto], None] | None) -> ModelProto:
    """The model as glyphc reads it: nodes in order, as the oldest opset that it knows has them, types inferred."""
    model = ModelProto()
    model.CopyFrom(source)
    if prepare is not None:
        prepare(model.graph)
    sort_nodes(model.graph)
    complete_imports(model)
    _require_known(model, label)
    version = opset(model)
    needed = needed_opset(model.graph, version)
    if version < BROADCASTS or needed > version:  # onnx's checker knows the nodes as the opset has them, or not at all
        model = infer(model)
        modernise(model, version, label)
        set_opset(model, max(CURRENT, needed))
    try:
        onnx.checker.check_model(checkable(model))
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        check_slices(model)
        model = infer(model)
    except ModelError:
        raise
    except Exception as e:  # C++ behind both, with no common base for what it throws
        raise ModelError(
            f"{label} is not a valid ONNX model: {one_line(e)}. Export it again; if a newer onnx than the "
            f"installed {onnx.__version__} wrote it, update the onnx package"
        ) from e
    modernise(model, opset(model), label)
    return model


# -- the graph as a whole --


def liveness(graph: GraphProto) -> frozenset[str]:
    """Names of the values that outputs need."""
    needed = {o.name for o in graph.output}
    for node in reversed(graph.node):  # ONNX demands topological order
        if not needed.isdisjoint(node.output):
            needed.update(reads(node))
    return frozenset(needed)


# -- constants --


class UnsupportedError(Exception):
    """A node cannot be converted; the message is the reason, to be shown behind the node's name."""


class BatchAxisError(UnsupportedError):
    """A node does something to the axis that counts the samples; where it only moves that axis, there is a way."""


class CombinedSamplesError(BatchAxisError):
    """A node combines samples with one another, or treats them differently: with one sample alone, it is another."""

    @staticmethod
    def along(axis: int) -> CombinedSamplesError:
        return CombinedSamplesError(f"axis={axis} is the batch; samples cannot be combined with one another")


@dataclass(frozen=True)
class Named:
    """A constant tensor and the name it has in the ONNX file."""

    name: str
    value: F64

    def __str__(self) -> str:
        return f"constant {self.name!r} of shape {list(self.value.shape)}"

    def per_sample(self, shape: tuple[int, ...]) -> Named:
        """Without batch axis; whether it broadcasts to samples of ``shape`` is not looked at.

        ONNX aligns shapes at the right and its tensors carry the batch in front, so only a constant with as
        many axes as the tensor (batch included) touches the batch axis. Raises UnsupportedError.
        """
        value = self.value
        if value.ndim > len(shape) + 1:
            raise BatchAxisError(f"{self} has more axes than the tensor, whose samples are {list(shape)}")
        if value.ndim == len(shape) + 1:
            if value.shape[0] != 1:
                raise CombinedSamplesError(f"{self} differs along the batch axis; all samples must be alike")
            value = np.asarray(value[0])
        return Named(self.name, value)


class ConstantPool:
    """Everything in a model that does not depend on its input, by value name; decoded when asked for.

    Sizes of tensors are constants too, but for the batch: what is computed from that is kept for each of ``batches``,
    the number of samples that the file fixes or else two different ones.
    """

    def __init__(self, graph: GraphProto, opset: int, batches: tuple[int, ...] = (2, 3)) -> None:
        self.batches = batches
        self._opset = opset
        self._tensors = {t.name: t for t in graph.initializer}
        self._sparse = frozenset(s.values.name for s in graph.sparse_initializer)
        self._values: dict[str, Array] = {}
        self._varying: dict[str, dict[int, Array]] = {}

    def __contains__(self, name: object) -> bool:
        return any(name in known for known in (self._values, self._varying, self._tensors, self._sparse))

    def at(self, name: str, batch: int) -> Array:
        """The constant as it is for so many samples, of any dtype."""
        return self._varying[name][batch] if name in self._varying else self.raw(name)

    def raw(self, name: str) -> Array:
        """The constant as stored, of any dtype; UnsupportedError when it is sparse or broken, or varies."""
        if name in self._sparse:
            raise UnsupportedError(f"constant {name!r} is sparse; only dense constants are supported")
        if name in self._varying:
            return self._alike(name)
        if name not in self._values:
            try:
                self._values[name] = np.asarray(numpy_helper.to_array(self._tensors[name]))
            except Exception as e:  # the checker lets such files pass; onnx fails in many ways on them
                raise UnsupportedError(f"constant {name!r} has data that don't fit its type or shape") from e
        return self._values[name]

    def _alike(self, name: str) -> Array:
        """A constant with a batch axis along which it does not change, with one entry there."""
        values = list(self._varying[name].values())
        if len({v.ndim for v in values}) == 1:
            axes = [a for a in range(values[0].ndim) if len({v.shape[a] for v in values}) > 1]
            if len(axes) == 1 and all(v.size for v in values):
                row = values[0].take([0], axis=axes[0])
                if all(np.array_equal(np.broadcast_to(row, v.shape), v) for v in values):
                    return row
        raise CombinedSamplesError(f"constant {name!r} depends on the number of samples")

    def number(self, name: str) -> Named:
        """The constant as float64; UnsupportedError if it is empty, not numeric, or holds NaN or infinity."""
        raw = self.raw(name)
        # kind V: numpy's for bfloat16 and other extension types, which convert to float
        if raw.dtype.kind not in "fiubV":
            raise UnsupportedError(f"constant {name!r} holds {raw.dtype}, not real numbers")
        if raw.size == 0:
            raise UnsupportedError(f"constant {name!r} is empty")
        value = raw.astype(np.float64)
        if not np.isfinite(value).all():
            raise UnsupportedError(f"constant {name!r} holds NaN or infinity; check the network's training")
        return Named(name, value)

    def put(self, name: str, values: Mapping[int, Array]) -> None:
        """Keep a constant that was computed for each of ``batches``."""
        first = values[self.batches[0]]
        if all(_same(v, first) for v in values.values()):
            self._values[name] = first
        else:
            self._varying[name] = dict(values)

    def kind(self, name: str) -> int:
        """The element type of a constant."""
        return onnx.helper.np_dtype_to_tensor_dtype(self.at(name, self.batches[0]).dtype)

    def fold(self, node: NodeProto) -> None:
        """Keep the results of a node whose operands are all constants; UnsupportedError when it has none."""
        if node.op_type in _RANDOM:
            raise UnsupportedError("is random: it has no constant result")
        operands = [name for name in node.input if name]
        varies = any(name in self._varying for name in operands)
        results = {
            batch: run_node(node, {name: self.at(name, batch) for name in operands}, self._opset)
            for batch in (self.batches if varies else self.batches[:1])
        }
        for i, name in enumerate(node.output):
            if name:
                computed = {batch: values[i] for batch, values in results.items()}
                self.put(name, computed if varies else dict.fromkeys(self.batches, computed[self.batches[0]]))


def _same(a: Array, b: Array) -> bool:
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))


# The reference implementation makes a result more than once, in double precision or as integers of 64 bits.
_RESULT_BYTES = 4 * 8


def run_node(
    node: NodeProto, operands: Mapping[str, Array], opset: int, element_bytes: int = _RESULT_BYTES
) -> list[Array]:
    """Results of one node by ONNX's reference implementation; UnsupportedError when it fails.

    TooLargeError, before it is run, where onnx knows that its results would be, at so many bytes for an element.
    """
    _require_results(node, operands, opset, element_bytes)
    values = [onnx.ValueInfoProto(name=name) for name in operands]
    graph = onnx.helper.make_graph([node], "node", values, [onnx.ValueInfoProto(name=o) for o in node.output if o])
    if node.op_type == "DequantizeLinear":
        opset = max(opset, 19)  # the oldest that the implementation knows; nothing but more types has come since 13
    try:
        with np.errstate(all="ignore"):  # NaN and infinity are reported where the constant is used
            results = ReferenceEvaluator(graph, opsets={"": opset, "ai.onnx": opset}).run(None, dict(operands))
    except Exception as e:  # numpy code of onnx, which raises whatever numpy raises
        raise UnsupportedError(f"ONNX's reference implementation cannot compute it: {one_line(e)}") from e
    if not all(isinstance(r, np.ndarray | np.generic) for r in results):
        raise UnsupportedError("does not give a dense tensor")
    named = iter([np.asarray(r) for r in results])
    return [next(named) if o else np.zeros(0) for o in node.output]


# Of operands of so few elements, onnx reads the values (repeats, pads, shapes); of others, only the shape.
_MOST_DATA = 1 << 10


def _require_results(node: NodeProto, operands: Mapping[str, Array], opset: int, element_bytes: int) -> None:
    """TooLargeError when a node's results, whose shapes onnx infers from those of its operands, are too large."""
    if node.op_type == "Slice":  # they are no larger than its operand, and onnx does not survive all of them
        return
    if node.op_type == "Expand" and len(operands) == 2:
        # onnx makes ones of the shape before it looks whether they fit: numpy's ValueError says so without them
        given, shape = (operands[name] for name in node.input)
        np.broadcast_shapes(given.shape, tuple(map(int, shape.reshape(-1))))
    try:
        inputs = [
            onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for n, v in operands.items()
        ]
        data = [numpy_helper.from_array(v, n) for n, v in operands.items() if v.size <= _MOST_DATA]
        outputs = [onnx.ValueInfoProto(name=o) for o in node.output if o]
        graph = onnx.helper.make_graph([node], "node", inputs, outputs, data)
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
        known = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output
    except Exception:  # whatever is wrong with the node, running it says so better
        return
    for value in known:
        sizes = [d.dim_value for d in value.type.tensor_type.shape.dim]
        memory.require(element_bytes * math.prod(sizes), f"a result of shape {sizes}")
