"""Classes of ``ai.onnx.ml``: scores become probabilities, indices become labels, which the client alone looks up."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.encodings import Labels
from glyphc.ir.errors import IRError
from glyphc.ir.graph import Node
from glyphc.ir.ops import ArgMax, Softmax

from .onnx_call import Call, Rule, blocks
from .onnx_constants import UnsupportedError

CLASS_ATTRIBUTES = ("classlabels_int64s", "classlabels_ints", "classlabels_strings", "post_transform")


def labels_of(values: npt.NDArray[Any]) -> Labels | None:
    """Labels of an array of texts or integers; None for other numbers. UnsupportedError for none."""
    flat = values.reshape(-1)
    try:
        if flat.dtype.kind in "OSU":
            return Labels(tuple(v.decode() if isinstance(v, bytes) else str(v) for v in flat))
        return Labels(integers=tuple(map(int, flat))) if flat.dtype.kind in "iu" else None
    except IRError:
        raise UnsupportedError("has no labels") from None


def class_labels(call: Call) -> Labels:
    """The labels that a classifier's attributes name. UnsupportedError if there are none."""
    texts = call.texts("classlabels_strings")
    if texts:
        return Labels(texts)
    numbers = call.sizes("classlabels_int64s") or call.sizes("classlabels_ints")
    if not numbers:
        raise UnsupportedError("does not name its classes")
    return Labels(integers=numbers)


def transformed(call: Call, scores: Node, name: str = "") -> Node:
    """Scores after a transformation; by default that of the attribute ``post_transform``."""
    name = name or call.text("post_transform", "NONE")
    if name == "SOFTMAX":
        return call.add(Softmax(), scores)
    if name == "LOGISTIC":
        return call.apply(scores, "sigmoid")
    if name != "NONE":
        raise UnsupportedError(f"post_transform={name} is not supported")
    return scores


def labelled(call: Call, scores: Node, labels: Labels) -> Node:
    """The index of the largest score; it is marked as standing for a label."""
    if scores.type.shape != (len(labels),):
        raise UnsupportedError(f"has {scores.type.size} score(s) for {len(labels)} classes")
    name = call.node.output[0]
    if name:
        call.conversion.labels[name] = labels
    return call.add(ArgMax(False), scores)


def classified(call: Call, scores: Node, labels: Labels, opposite: bool = False) -> tuple[Node, Node]:
    """Label and scores of a classifier. opposite: the second of two scores is the first one's negative."""
    label = labelled(call, scores, labels)
    if opposite and call.text("post_transform", "NONE") == "LOGISTIC":
        # sigmoid(-s), sigmoid(s) as the softmax of -s/2, s/2: that the client computes
        return label, call.add(Softmax(), call.scale(scores, 0.5, 0.0))
    return label, transformed(call, scores)


def _zip_map(call: Call) -> Node:
    """A dictionary by class in ONNX: here it stays an array with a column for each class."""
    return call.tensor(0)


def _label_encoder(call: Call) -> Node:
    """Other labels for labels."""
    name = call.node.input[0]
    known = call.conversion.labels.get(name)
    keys, values = _pairs(call)
    if known is None:
        return _of_numbers(call, keys, values)
    table = dict(zip(keys, values, strict=True))
    default = _default(call)
    new = [table.get(label, default) for label in (known.texts or known.integers)]
    found = labels_of(np.array(new, dtype=object if isinstance(default, str) else None))
    if found is None:
        raise UnsupportedError("turns labels into numbers with a fraction")
    call.conversion.labels[call.node.output[0]] = found
    return call.tensor(0)


def _of_numbers(call: Call, keys: list[Any], values: list[Any]) -> Node:
    """Of encrypted categories: default + sum of (value - default) where the number equals the key."""
    if not keys or any(isinstance(v, str) for v in (*keys, *values, _default(call))):
        raise UnsupportedError("takes or gives texts, which cannot be encrypted; give numbers to the network")
    default = float(_default(call))
    factors = np.array([float(v) - default for v in values])
    equal = equal_to(call, call.tensor(0), np.array(keys, dtype=np.float64))
    return call.affine(equal, blocks(call.tensor(0).type.size, factors), default, call.tensor(0).type.shape)


def equal_to(call: Call, x: Node, categories: npt.NDArray[np.float64]) -> Node:
    """Whether each element is one of so many numbers: 0 or 1, shape (*shape of x, categories).

    [x > category - half] - [x > category + half], with half of 1/2, or half of what two categories are apart.
    """
    apart = np.diff(np.unique(categories))
    half = min(0.5, float(apart.min()) / 2) if len(apart) else 0.5
    size, count = x.type.size, len(categories)
    features = np.repeat(np.arange(size), 2 * count)
    bits = call.steps(x, features, np.tile(np.concatenate([categories - half, categories + half]), size))
    difference = np.hstack([np.eye(count), -np.eye(count)])
    return call.affine(bits, blocks(size, difference), 0.0, (*x.type.shape, count))


def _pairs(call: Call) -> tuple[list[Any], list[Any]]:
    """Keys and values of a LabelEncoder, in either form that it has."""
    classes = call.texts("classes_strings")
    if classes:  # version 1: from texts to their numbers
        return list(classes), list(range(len(classes)))
    found = []
    for role in ("keys", "values"):
        given = call.texts(f"{role}_strings") or call.sizes(f"{role}_int64s") or call.reals(f"{role}_floats")
        tensor = call.array(f"{role}_tensor")
        values: list[Any] = list(given) or ([] if tensor is None else tensor.reshape(-1).tolist())
        found.append([v.decode() if isinstance(v, bytes) else v for v in values])
    if len(found[0]) != len(found[1]):
        raise UnsupportedError(f"has {len(found[0])} keys for {len(found[1])} values")
    return found[0], found[1]


def _default(call: Call) -> Any:
    if call.texts("values_strings"):
        return call.text("default_string", "_Unused")
    if call.reals("values_floats"):
        return call.real("default_float", 0.0)
    tensor = call.array("default_tensor")
    if tensor is not None and tensor.size:
        value = tensor.reshape(-1)[0]
        return value.decode() if isinstance(value, bytes) else value
    return call.integer("default_int64", -1)


_ENCODER = tuple(f"{role}_{kind}" for role in ("keys", "values") for kind in ("strings", "int64s", "floats", "tensor"))

RULES: dict[tuple[str, str], Rule] = {
    ("ai.onnx.ml", "LabelEncoder"): Rule(
        _label_encoder,
        (*_ENCODER, "classes_strings", "default_string", "default_int64", "default_float", "default_tensor"),
    ),
    ("ai.onnx.ml", "ZipMap"): Rule(_zip_map, ("classlabels_int64s", "classlabels_strings")),
}
