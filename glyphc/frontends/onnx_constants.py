"""What an ONNX model holds before any node is converted: the checked file, its input, its constants."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper
from onnx.external_data_helper import uses_external_data
from onnx.reference import ReferenceEvaluator

from glyphc.errors import ModelError

Array = npt.NDArray[np.generic]
F64 = npt.NDArray[np.float64]
Source = str | os.PathLike[str] | bytes | ModelProto

OLDEST_OPSET = 13  # earlier Softmax and Squeeze mean something else
DEFAULT_DOMAINS = ("", "ai.onnx")
FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16})

# What exporters leave between an initializer and the node that uses it: changes of dtype and layout, scalars.
FOLDABLE = frozenset({"Add", "Cast", "Constant", "Div", "Identity", "Mul", "Neg"}) | frozenset(
    {"Reshape", "Squeeze", "Sub", "Transpose", "Unsqueeze"}
)


# -- loading --


def load(source: Source) -> tuple[ModelProto, str]:
    """The checked model with external data and all shapes that onnx can infer, and its name for messages.

    A ModelProto passed in stays as it is. Raises ModelError.
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
    _check_opset(model, label)
    return _checked(model, label), label


def _parsed(read: Callable[[], ModelProto], label: str) -> ModelProto:
    try:
        return read()
    except OSError as e:
        raise ModelError(f"{label} cannot be read ({_one_line(e)}); check its permissions") from e
    except MemoryError:
        raise
    except Exception as e:  # one exception class for each format that onnx knows, and no common base
        raise ModelError(
            f"{label} is not an ONNX file, or is truncated ({_one_line(e)}); copy or export it again"
        ) from e


def _load_external_data(model: ModelProto, path: str, label: str) -> None:
    try:
        onnx.load_external_data_for_model(model, os.path.dirname(path))
    except (OSError, ValueError, onnx.checker.ValidationError) as e:
        raise ModelError(
            f"{label} keeps weights in other files, which cannot be read ({_one_line(e)}); put them where "
            "the export wrote them, next to the .onnx file"
        ) from e


def _check_opset(model: ModelProto, label: str) -> None:
    opset = next((o.version for o in model.opset_import if o.domain in DEFAULT_DOMAINS), None)
    newest = onnx.defs.onnx_opset_version()
    if opset is not None and opset < OLDEST_OPSET:
        raise ModelError(
            f"{label} uses ONNX opset {opset}, glyphc reads {OLDEST_OPSET} to {newest}; convert it with "
            "onnx.version_converter.convert_version(model, 17), or export it again with a newer opset"
        )
    if opset is not None and opset > newest:
        # onnx's own checker lets this pass and takes the nodes for those of its newest opset
        raise ModelError(
            f"{label} uses ONNX opset {opset}, the installed onnx {onnx.__version__} knows {newest} at most; "
            "update the onnx package, or export the model with an older opset"
        )


def _checked(model: ModelProto, label: str) -> ModelProto:
    try:
        onnx.checker.check_model(model)
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except Exception as e:  # C++ behind both, with no common base for what it throws
        raise ModelError(
            f"{label} is not a valid ONNX model: {_one_line(e)}. Export it again; if a newer onnx than the "
            f"installed {onnx.__version__} wrote it, update the onnx package"
        ) from e


def _one_line(error: BaseException) -> str:
    """The message of somebody else's exception, to be quoted within a sentence."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


# -- the graph as a whole --


class ModelInput(NamedTuple):
    """The input to be encrypted. shape: of one sample; batch: the number of samples if the file fixes it."""

    name: str
    shape: tuple[int, ...]
    batch: int | None


def model_input(graph: GraphProto, label: str) -> ModelInput:
    """The one input that is no initializer; ModelError if it is not a float tensor of known sample shape."""
    # up to IR version 3, files list their initializers among the inputs
    stored = {t.name for t in graph.initializer} | {s.values.name for s in graph.sparse_initializer}
    inputs = [i for i in graph.input if i.name not in stored]
    if len(inputs) != 1:
        names = ", ".join(repr(i.name) for i in inputs) or "none"
        raise ModelError(
            f"{label} has {len(inputs)} inputs ({names}), glyphc needs exactly one; before the export, join "
            "them into one tensor or make the others constants"
        )
    name, tensor = inputs[0].name, inputs[0].type.tensor_type
    where = f"input {name!r} of {label}"
    if tensor.elem_type not in FLOATS:
        kind = TensorProto.DataType.Name(tensor.elem_type) if tensor.elem_type else "not a tensor"
        raise ModelError(
            f"{where} is {kind}; only FLOAT, DOUBLE and FLOAT16 tensors are supported: declare it as one of "
            "these and leave out the Cast that follows it"
        )
    if not tensor.shape.dim:
        raise ModelError(f"{where} has no batch axis; declare its shape in the export, e.g. (N, 64)")
    for axis, dim in enumerate(tensor.shape.dim):
        if axis and dim.dim_value < 1:
            raise ModelError(
                f"axis {axis} of {where} has no fixed size (it is {dim.dim_param or 'unknown'!r}); only the "
                "batch, axis 0, may be open. Export with fixed sizes, or set them with "
                "onnx.tools.update_model_dims"
            )
    batch, *shape = (d.dim_value for d in tensor.shape.dim)
    # some exporters write an open batch as 0 or -1
    return ModelInput(name, tuple(shape), batch if batch > 0 else None)


def liveness(graph: GraphProto) -> frozenset[str]:
    """Names of the values that outputs need."""
    needed = {o.name for o in graph.output}
    for node in reversed(graph.node):  # ONNX demands topological order
        if not needed.isdisjoint(node.output):
            needed.update(_reads(node))
    return frozenset(needed)


def _reads(node: NodeProto) -> Iterator[str]:
    """Names of a node's operands, those of nodes inside its bodies (If, Loop) included."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            yield from (o.name for o in body.output)
            for inner in body.node:
                yield from _reads(inner)


# -- constants --


class UnsupportedError(Exception):
    """A node cannot be converted; the message is the reason, to be shown behind the node's name."""


@dataclass(frozen=True)
class Named:
    """A constant tensor and the name it has in the ONNX file."""

    name: str
    value: F64

    def __str__(self) -> str:
        return f"constant {self.name!r} of shape {list(self.value.shape)}"

    def per_sample(self, shape: tuple[int, ...]) -> Named:
        """Without batch axis, and checked to broadcast to samples of ``shape`` without enlarging them.

        ONNX aligns shapes at the right and its tensors carry the batch in front, so only a constant with as
        many axes as the tensor (batch included) touches the batch axis. Raises UnsupportedError.
        """
        value = self.value
        if value.ndim > len(shape) + 1:
            raise UnsupportedError(f"{self} has more axes than the tensor, whose samples are {list(shape)}")
        if value.ndim == len(shape) + 1:
            if value.shape[0] != 1:
                raise UnsupportedError(f"{self} differs along the batch axis; all samples must be alike")
            value = np.asarray(value[0])
        if not _broadcasts(value.shape, shape):
            raise UnsupportedError(f"{self} would enlarge the tensor, whose samples are {list(shape)}")
        return Named(self.name, value)


class ConstantPool:
    """Everything in a model that does not depend on its input, by value name; decoded when asked for."""

    def __init__(self, graph: GraphProto) -> None:
        self._tensors = {t.name: t for t in graph.initializer}
        self._sparse = frozenset(s.values.name for s in graph.sparse_initializer)
        self._values: dict[str, Array] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._values or name in self._tensors or name in self._sparse

    def raw(self, name: str) -> Array:
        """The constant as stored, of any dtype; UnsupportedError when it is sparse or broken."""
        if name in self._sparse:
            raise UnsupportedError(f"constant {name!r} is sparse; only dense constants are supported")
        if name not in self._values:
            try:
                self._values[name] = np.asarray(numpy_helper.to_array(self._tensors[name]))
            except Exception as e:  # the checker lets such files pass; onnx fails in many ways on them
                raise UnsupportedError(f"constant {name!r} has data that don't fit its type or shape") from e
        return self._values[name]

    def number(self, name: str) -> Named:
        """The constant as float64; UnsupportedError if it is empty, not numeric, or holds NaN or infinity."""
        raw = self.raw(name)
        # kind V: numpy's for bfloat16 and other extension types, which convert to float
        if raw.dtype.kind not in "fiuV":
            raise UnsupportedError(f"constant {name!r} holds {raw.dtype}, not real numbers")
        if raw.size == 0:
            raise UnsupportedError(f"constant {name!r} is empty")
        value = raw.astype(np.float64)
        if not np.isfinite(value).all():
            raise UnsupportedError(f"constant {name!r} holds NaN or infinity; check the network's training")
        return Named(name, value)

    def fold(self, node: NodeProto) -> None:
        """Keep the result of a node whose operands are all constants; UnsupportedError when there is none."""
        if node.op_type not in FOLDABLE:
            raise UnsupportedError(
                f"works on constants only; among such nodes, just {', '.join(sorted(FOLDABLE))} are evaluated"
            )
        operands = {name: self.raw(name) for name in node.input if name}
        try:
            with np.errstate(all="ignore"):  # NaN and infinity are reported where the constant is used
                results = ReferenceEvaluator(node).run(None, operands)
        except Exception as e:  # numpy code of onnx, which raises whatever numpy raises
            raise UnsupportedError(f"could not be evaluated on its constants: {_one_line(e)}") from e
        result = results[0] if isinstance(results, list) else None
        if not isinstance(result, np.ndarray | np.generic):
            raise UnsupportedError("does not give a dense tensor")
        self._values[node.output[0]] = np.asarray(result)


def _broadcasts(constant: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(constant, shape) == shape
    except ValueError:
        return False
