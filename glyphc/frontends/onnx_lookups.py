"""Look-ups by encrypted integers: embeddings, one-hot codes, categories, and what prepares columns of a table."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from glyphc.ir import memory
from glyphc.ir.graph import Node

from .onnx_call import Call, Placed, Rule, blocks, places
from .onnx_constants import F64, CombinedSamplesError, UnsupportedError
from .onnx_labels import equal_to
from .onnx_selections import gather
from .onnx_shapes import moved

# Rows of a table that can be looked up: there is a comparison for each, for every integer.
_MOST_ROWS = 65536


def _gather(call: Call) -> Node | tuple[Placed, ...]:
    """Entries of an axis; of a constant by encrypted integers: rows of a table."""
    if call.is_constant(1):
        return moved(call)
    if not call.is_constant(0):
        return gather(call)
    table, axis = call.constant(0, "its table").value, call.integer("axis", 0)
    ids = call.tensor(1)
    axis %= table.ndim
    if axis and call.lead:
        raise UnsupportedError("looks up along another axis than the first one")
    rows = np.moveaxis(table, axis, 0).reshape(table.shape[axis], -1)
    y = _looked_up(call, ids, rows)
    shape = (*table.shape[:axis], *ids.type.shape, *table.shape[axis + 1 :])
    if not axis:
        return call.reshape(y, shape)
    order = places(y).reshape((*ids.type.shape, *table.shape[:axis], *table.shape[axis + 1 :]))
    count = len(ids.type.shape)
    return call.gather(y, np.moveaxis(order, range(count), range(axis, axis + count)))


def _looked_up(call: Call, ids: Node, rows: F64) -> Node:
    """rows[id] for every id, shape (ids, row): a staircase, rows[0] + sum of (rows[v] - rows[v - 1]) [id > v - 1/2]."""
    count = ids.type.size
    if len(rows) > _MOST_ROWS:
        raise UnsupportedError(f"looks up one of {len(rows)} rows; {_MOST_ROWS} are possible")
    if len(rows) == 1:
        return call.affine(
            ids, sparse.csr_array((rows.size * count, count)), np.tile(rows[0], count), (count, rows.shape[1])
        )
    memory.require(24 * count * rows.size, f"a look-up of {count} rows of {rows.shape[1]} numbers among {len(rows)}")
    features, thresholds = np.repeat(np.arange(count), len(rows) - 1), np.tile(np.arange(len(rows) - 1) + 0.5, count)
    steps = call.steps(ids, features, thresholds, lookup=True)
    return call.affine(steps, blocks(count, np.diff(rows, axis=0).T), np.tile(rows[0], count), (count, rows.shape[1]))


def _one_hot(call: Call) -> Node:
    """values[1] at the place that an integer names along a new axis, values[0] elsewhere; negative ones count back."""
    ids, depth = call.tensor(0), call.integers(1, "its depth")[0]
    off, on = call.constant(2, "its values").value
    if not 1 <= depth <= _MOST_ROWS:
        raise UnsupportedError(f"has depth {depth}; 1 to {_MOST_ROWS} are possible")
    rank = call.rank(ids) + 1
    axis = call.integer("axis", -1) % rank - call.lead
    if axis < 0:
        raise CombinedSamplesError.along(axis)
    both = equal_to(call, ids, np.arange(-depth, depth, dtype=np.float64))
    at = places(both).reshape(*ids.type.shape, 2, depth)
    codes = call.sum(call.gather(both, at[..., 0, :]), call.gather(both, at[..., 1, :]))
    y = call.scale(codes, float(on - off), float(off))
    return call.gather(y, np.moveaxis(places(y), -1, axis))


# -- ai.onnx.ml --


def _one_hot_encoder(call: Call) -> Node:
    """Whether a number equals each of the categories, along a new last axis."""
    if call.texts("cats_strings"):
        raise UnsupportedError("encodes texts, which cannot be encrypted; give their numbers to the network")
    categories = call.sizes("cats_int64s")
    if not categories:
        raise UnsupportedError("has no categories")
    return equal_to(call, call.tensor(0), np.array(categories, dtype=np.float64))


def _imputer(call: Call) -> Node:
    """A number in place of another one. In place of NaN or infinity: nothing, as neither is encrypted."""
    x = call.tensor(0)
    values = np.array(call.reals("imputed_value_floats") or call.sizes("imputed_value_int64s"), dtype=np.float64)
    replaced = _replaced(call)
    if not np.isfinite(replaced):
        return x
    features = x.type.shape[-1] if x.type.shape else 1
    if values.size not in (1, features):
        raise UnsupportedError(f"has {values.size} values for {features} features")
    # x + (value - replaced) [x = replaced]
    equal = call.reshape(equal_to(call, x, np.array([replaced])), x.type.shape)
    return call.sum(x, call.scale(equal, call.named("values", values - replaced), 0.0))


def _replaced(call: Call) -> float:
    """What an Imputer replaces; NaN if it is not said."""
    for attribute in call.node.attribute:
        if attribute.name == "replaced_value_float":
            return float(attribute.f)
        if attribute.name == "replaced_value_int64":
            return float(attribute.i)
    return 0.0 if call.sizes("imputed_value_int64s") else float("nan")


def _feature_vectorizer(call: Call) -> Node:
    """Operands side by side."""
    parts = [call.tensor(i) for i in range(len(call.node.input)) if not call.is_constant(i)]
    if len(parts) != len(call.node.input):
        raise UnsupportedError("puts constants beside encrypted values")
    return call.stack([call.reshape(p, (p.type.size,)) for p in parts])


RULES: dict[str, Rule] = {"Gather": Rule(_gather, ("axis",)), "OneHot": Rule(_one_hot, ("axis",))}
ML_RULES: dict[tuple[str, str], Rule] = {
    ("ai.onnx.ml", "FeatureVectorizer"): Rule(_feature_vectorizer, ("inputdimensions",)),
    ("ai.onnx.ml", "Imputer"): Rule(
        _imputer, ("imputed_value_floats", "imputed_value_int64s", "replaced_value_float", "replaced_value_int64")
    ),
    ("ai.onnx.ml", "OneHotEncoder"): Rule(_one_hot_encoder, ("cats_int64s", "cats_strings", "zeros")),
}
