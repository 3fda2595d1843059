"""Support vector machines (``ai.onnx.ml``): kernels between a sample and the support vectors, and sums of them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from glyphc.ir.graph import Node
from glyphc.ir.ops import Concat, ReduceSum

from .onnx_call import Call, Rule
from .onnx_constants import F64, UnsupportedError
from .onnx_labels import class_labels, labelled


@dataclass(frozen=True, eq=False)
class _Kernel:
    """The kernel that the attributes of an operator name."""

    call: Call
    vectors: F64

    def of(self, x: Node) -> Node:
        """K(x, v) for every support vector v."""
        call, name = self.call, self.call.text("kernel_type", "LINEAR")
        gamma, coef, degree = (*call.reals("kernel_params"), 0.0, 0.0, 0.0)[:3]
        if name == "RBF":  # exp(-gamma |x - v|^2), of |x|^2 - 2 x v + |v|^2
            squares = call.add(ReduceSum(), call.apply(x, "pow", 2.0))
            both = call.add(Concat(), x, call.reshape(squares, (1,)))
            matrix = np.column_stack([2 * gamma * self.vectors, np.full(len(self.vectors), -gamma)])
            shift = -gamma * (self.vectors**2).sum(axis=1)
            return call.apply(call.affine(both, matrix, shift, (len(self.vectors),)), "exp_nonpositive")
        products = call.affine(x, self.vectors, 0.0, (len(self.vectors),))
        if name == "LINEAR":
            return products
        scaled = call.scale(products, gamma, coef)
        if name == "POLY":
            return call.apply(scaled, "pow", degree)
        if name == "SIGMOID":
            return call.apply(scaled, "tanh")
        raise UnsupportedError(f"kernel_type={name} is not known")


def _vectors(call: Call, x: Node) -> F64:
    given = np.array(call.reals("support_vectors"), dtype=np.float64)
    if not given.size or given.size % x.type.size:
        raise UnsupportedError(f"has {given.size} numbers of support vectors for {x.type.size} features")
    return given.reshape(-1, x.type.size)


def _rho(call: Call, count: int) -> F64:
    rho = np.array(call.reals("rho") or [0.0] * count, dtype=np.float64)
    if len(rho) < count:
        raise UnsupportedError(f"has {len(rho)} numbers in rho for {count} decisions")
    return rho[:count]


def _regressor(call: Call) -> Node:
    x = call.features()
    coefficients = np.array(call.reals("coefficients"), dtype=np.float64)
    if not call.reals("support_vectors"):
        if coefficients.size != x.type.size:
            raise UnsupportedError(f"has {coefficients.size} coefficients for {x.type.size} features")
        y = call.affine(x, coefficients[None], _rho(call, 1), (1,))
    else:
        vectors = _vectors(call, x)
        if coefficients.size != len(vectors):
            raise UnsupportedError(f"has {coefficients.size} coefficients for {len(vectors)} support vectors")
        y = call.affine(_Kernel(call, vectors).of(x), coefficients[None], _rho(call, 1), (1,))
    if call.integer("one_class", 0):
        return call.apply(y, "sign")
    if call.text("post_transform", "NONE") != "NONE":
        raise UnsupportedError(f"post_transform={call.text('post_transform', '')} is not supported")
    return y


def _classifier(call: Call) -> tuple[Node, Node]:
    """Decisions between pairs of classes; the label is the class that wins most of them."""
    x, labels = call.features(), class_labels(call)
    counts, count = call.sizes("vectors_per_class"), len(labels)
    if not counts or not call.reals("support_vectors"):
        return _linear(call, x, count)
    if len(counts) != count or call.text("post_transform", "NONE") != "NONE":
        raise UnsupportedError("has another number of classes than of groups of vectors, or transforms its scores")
    vectors = _vectors(call, x)
    coefficients = np.array(call.reals("coefficients"), dtype=np.float64)
    if sum(counts) != len(vectors) or coefficients.size != (count - 1) * len(vectors):
        raise UnsupportedError(f"has {coefficients.size} coefficients for {len(vectors)} vectors of {count} classes")
    table, starts = coefficients.reshape(count - 1, -1), np.cumsum([0, *counts])
    pairs = list(combinations(range(count), 2))
    weights = np.zeros((len(pairs), len(vectors)))
    for row, (i, j) in enumerate(pairs):
        weights[row, starts[i] : starts[i + 1]] = table[j - 1, starts[i] : starts[i + 1]]
        weights[row, starts[j] : starts[j + 1]] = table[i, starts[j] : starts[j + 1]]
    decisions = call.affine(_Kernel(call, vectors).of(x), weights, _rho(call, len(pairs)), (len(pairs),))
    won = _votes(pairs, count)
    if call.reals("prob_a"):
        return _with_probabilities(call, decisions, count)
    if count == 2:
        both = call.affine(decisions, np.array([[1.0], [-1.0]]), 0.0, (2,))
        # ONNX Runtime's scores are the other way round: positive in front means the second class
        return labelled(call, both, labels), call.scale(both, -1.0, 0.0)
    wins = call.affine(call.apply(decisions, "greater", 0.0), won, (won < 0).sum(axis=1), (count,))
    return labelled(call, wins, labels), decisions


def _votes(pairs: list[tuple[int, int]], count: int) -> F64:
    """1 where the first class of a pair gains by a decision, -1 for the second."""
    out = np.zeros((count, len(pairs)))
    for row, (i, j) in enumerate(pairs):
        out[i, row], out[j, row] = 1.0, -1.0
    return out


def _with_probabilities(call: Call, decisions: Node, count: int) -> tuple[Node, Node]:
    """Platt's sigmoid of the decision between two classes."""
    if count != 2:
        raise UnsupportedError(
            "couples probabilities of pairs of classes by iteration; train it with probability=False, its labels and "
            "decisions are supported"
        )
    a, b = call.reals("prob_a")[0], (*call.reals("prob_b"), 0.0)[0]
    first = call.apply(call.scale(decisions, -a, -b), "sigmoid")
    both = call.affine(first, np.array([[1.0], [-1.0]]), np.array([0.0, 1.0]), (2,))
    return labelled(call, both, class_labels(call)), both


def _linear(call: Call, x: Node, count: int) -> tuple[Node, Node]:
    """Without vectors: a row of coefficients for each class."""
    weights = np.array(call.reals("coefficients"), dtype=np.float64)
    if weights.size != count * x.type.size:
        raise UnsupportedError(f"has {weights.size} coefficients for {count} classes and {x.type.size} features")
    rho = np.resize(np.array(call.reals("rho") or (0.0,)), count)
    scores = call.affine(x, weights.reshape(count, -1), rho, (count,))
    return labelled(call, scores, class_labels(call)), scores


_COMMON = ("coefficients", "kernel_params", "kernel_type", "post_transform", "rho", "support_vectors")

RULES: dict[tuple[str, str], Rule] = {
    ("ai.onnx.ml", "SVMClassifier"): Rule(
        _classifier,
        (*_COMMON, "classlabels_ints", "classlabels_strings", "prob_a", "prob_b", "vectors_per_class"),
    ),
    ("ai.onnx.ml", "SVMRegressor"): Rule(_regressor, (*_COMMON, "n_supports", "one_class")),
}
