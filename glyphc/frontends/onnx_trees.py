"""Decision trees and their ensembles (``ai.onnx.ml``), as comparisons, sums of those that agree, and sums of leaves.

A leaf is reached where all comparisons on the way to it agree: where as many do as there are, that is. So an ensemble
is one function of all comparisons (:class:`glyphc.ir.ops.Steps`), one function of sums of these, and two linear maps,
however many trees there are. The function of the leaves rises from 0 to 1 on the last unit, smoothly: comparisons that
are somewhat fractional hardly change it, and others make a leaf count in part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto
from scipy import sparse

from glyphc.ir import memory
from glyphc.ir.graph import Node

from .onnx_call import Call, Rule
from .onnx_constants import UnsupportedError
from .onnx_labels import CLASS_ATTRIBUTES, class_labels, classified, labelled, transformed

F64 = npt.NDArray[np.float64]
# Comparisons on the way to a leaf: sums of so many are told from one less.
_DEEPEST = 64
# An entry of a sparse map in the making.
_ENTRY_BYTES = 64


@dataclass(frozen=True)
class _Branch:
    """mode: as ONNX calls it, e.g. "BRANCH_LEQ"; true, false: keys of nodes or leaves."""

    feature: int
    mode: str
    value: float
    true: Any
    false: Any


@dataclass(eq=False)
class _Ensemble:
    """Trees by the keys of their roots. leaves: by key, (target, weight) pairs. nodes: how many all trees have."""

    roots: list[Any]
    branches: dict[Any, _Branch]
    leaves: dict[Any, list[tuple[int, float]]]
    nodes: int


@dataclass
class _Path:
    """What holds on the way to a node: of each feature, above which comparison it is, and not above which.

    Comparisons that others imply are left out: the fewer, the clearer is the sum.
    equal: of equalities, the feature, the value, and whether it holds.
    """

    above: dict[int, float] = field(default_factory=dict)
    below: dict[int, float] = field(default_factory=dict)
    equal: tuple[tuple[int, float, bool], ...] = ()

    def with_above(self, feature: int, threshold: float) -> _Path:
        most = max(threshold, self.above.get(feature, -np.inf))
        return _Path({**self.above, feature: most}, self.below, self.equal)

    def with_below(self, feature: int, threshold: float) -> _Path:
        least = min(threshold, self.below.get(feature, np.inf))
        return _Path(self.above, {**self.below, feature: least}, self.equal)

    def with_equal(self, feature: int, value: float, holds: bool) -> _Path:
        return _Path(self.above, self.below, (*self.equal, (feature, value, holds)))

    @property
    def impossible(self) -> bool:
        """Whether no number can do it: a leaf that nothing reaches."""
        return any(self.above.get(f, -np.inf) >= t for f, t in self.below.items())

    def __len__(self) -> int:
        return len(self.above) + len(self.below) + len(self.equal)


# The precision of what is compared.
_Kind = type[np.float32] | type[np.float64]


def _before(value: float, kind: _Kind) -> float:
    """The number of this precision before one."""
    return float(np.nextafter(kind(value), kind(-np.inf)))


def _taken(path: _Path, branch: _Branch, holds: bool, kind: _Kind) -> _Path:
    """The path on from a branch."""
    f, t = branch.feature, branch.value
    match branch.mode:
        case "BRANCH_LEQ":
            return path.with_below(f, t) if holds else path.with_above(f, t)
        case "BRANCH_LT":
            return path.with_below(f, _before(t, kind)) if holds else path.with_above(f, _before(t, kind))
        case "BRANCH_GT":
            return path.with_above(f, t) if holds else path.with_below(f, t)
        case "BRANCH_GTE":
            return path.with_above(f, _before(t, kind)) if holds else path.with_below(f, _before(t, kind))
        case "BRANCH_EQ":
            return path.with_equal(f, t, holds)
        case "BRANCH_NEQ":
            return path.with_equal(f, t, not holds)
    raise UnsupportedError(f"compares by {branch.mode}, which is not supported")


@dataclass(eq=False)
class _Leaves:
    """All leaves of an ensemble as sums of comparisons: y = matrix @ comparisons + constants, 0 where all agree."""

    kind: _Kind
    thresholds: dict[tuple[int, float], int] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)
    constants: list[float] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    weights: list[list[tuple[int, float]]] = field(default_factory=list)

    def add(self, path: _Path, weights: list[tuple[int, float]]) -> None:
        if len(path) > _DEEPEST:
            raise UnsupportedError(f"a leaf lies behind {len(path)} comparisons; {_DEEPEST} are possible")
        row, constant = len(self.weights), -float(len(path))
        for (feature, threshold), sign in (
            *(((f, t), 1.0) for f, t in path.above.items()),
            *(((f, t), -1.0) for f, t in path.below.items()),
        ):
            self._entry(row, feature, threshold, sign)
            constant += sign < 0
        for feature, value, holds in path.equal:
            sign = 1.0 if holds else -1.0
            self._entry(row, feature, _before(value, self.kind), sign)
            self._entry(row, feature, value, -sign)
            constant += not holds
        self.constants.append(constant)
        self.depths.append(len(path))
        self.weights.append(weights)
        memory.require(len(self.rows) * _ENTRY_BYTES, "its comparisons by leaf")

    def _entry(self, row: int, feature: int, threshold: float, factor: float) -> None:
        self.rows.append(row)
        self.columns.append(self.thresholds.setdefault((feature, threshold), len(self.thresholds)))
        self.factors.append(factor)


def _leaves(ensemble: _Ensemble, kind: _Kind) -> _Leaves:
    """Walks all trees; UnsupportedError for what is no tree."""
    found = _Leaves(kind)
    seen: set[Any] = set()
    for root in ensemble.roots:
        waiting: list[tuple[Any, _Path]] = [(root, _Path())]
        while waiting:
            key, path = waiting.pop()
            if key in seen:
                raise UnsupportedError("is no tree: there are two ways to one of its nodes")
            seen.add(key)
            branch = ensemble.branches.get(key)
            if branch is None:
                if not path.impossible:
                    found.add(path, ensemble.leaves.get(key, []))
                continue
            for child, holds in ((branch.false, False), (branch.true, True)):
                waiting.append((child, _taken(path, branch, holds, kind)))
    if len(seen) != ensemble.nodes:
        raise UnsupportedError(f"is no tree: {ensemble.nodes - len(seen)} of its nodes are not reached from a root")
    return found


def _summed(call: Call, ensemble: _Ensemble, targets: int, divisor: float, base: F64) -> Node:
    """The sums of the weights of all leaves that are reached, over divisor, plus base; shape (targets,)."""
    x = call.features()
    leaves = _leaves(ensemble, np.float64 if call.kind(0) == TensorProto.DOUBLE else np.float32)
    out = np.zeros((targets, len(leaves.weights)))
    for row, weights in enumerate(leaves.weights):
        for target, weight in weights:
            if not 0 <= target < targets:
                raise UnsupportedError(f"a leaf has a weight for target {target} of {targets}")
            out[target, row] += weight / divisor
    if not leaves.thresholds:  # trees of nothing but leaves: constants, but for something to compute them from
        return call.affine(x, np.zeros((targets, x.type.size)), out.sum(axis=1) + base, (targets,))
    features = np.array([f for f, _ in leaves.thresholds])
    if features.min() < 0 or features.max() >= x.type.size:
        raise UnsupportedError(f"compares feature {features.max()} of {x.type.size}")
    steps = call.steps(x, features, np.array([t for _, t in leaves.thresholds]))
    shape = (len(leaves.weights), len(leaves.thresholds))
    matrix = sparse.csr_array((leaves.factors, (leaves.rows, leaves.columns)), shape=shape)
    constants, depths = np.array(leaves.constants), np.array(leaves.depths)
    # a single comparison needs no second function: 1 + sum is whether the leaf is reached
    shallow = depths <= 1
    total = None
    for chosen, function in ((np.flatnonzero(~shallow), True), (np.flatnonzero(shallow), False)):
        if not len(chosen):
            continue
        agree = call.affine(steps, matrix[chosen], constants[chosen] + (not function), (len(chosen),))
        if function:
            agree = call.apply(agree, "smooth_step", -1.0, 0.0)
        part = call.affine(agree, out[:, chosen], 0.0, (targets,))
        total = part if total is None else call.sum(total, part)
    assert total is not None
    return call.scale(total, 1.0, call.named("base_values", base))


# -- both forms of ensembles --


def _with_ids(call: Call, kind: str) -> _Ensemble:
    """TreeEnsembleClassifier and -Regressor. kind: what their leaves' attributes begin with, "class" or "target"."""
    trees, ids = call.sizes("nodes_treeids"), call.sizes("nodes_nodeids")
    features, modes = call.sizes("nodes_featureids"), call.texts("nodes_modes")
    true, false = call.sizes("nodes_truenodeids"), call.sizes("nodes_falsenodeids")
    values = _numbers(call, "nodes_values")
    if len({len(v) for v in (trees, ids, features, modes, true, false, values)}) != 1:
        raise UnsupportedError("has attributes of different lengths for its nodes")
    branches: dict[Any, _Branch] = {}
    everything: dict[int, set[int]] = {}
    for number, (tree, id) in enumerate(zip(trees, ids, strict=True)):
        everything.setdefault(tree, set()).add(id)
        if modes[number] != "LEAF":
            branches[tree, id] = _Branch(
                features[number], modes[number], values[number], (tree, true[number]), (tree, false[number])
            )
    children = {child for b in branches.values() for child in (b.true, b.false)}
    missing = [c for c in children if c[1] not in everything[c[0]]]
    if missing:
        raise UnsupportedError(f"a node of tree {missing[0][0]} leads to node {missing[0][1]}, which there is not")
    roots = [(tree, id) for tree, known in everything.items() for id in sorted(known) if (tree, id) not in children]
    if len(roots) != len(everything):
        raise UnsupportedError("has trees without a root, or with more than one")
    leaves: dict[Any, list[tuple[int, float]]] = {}
    weights = _numbers(call, f"{kind}_weights")
    keys = zip(call.sizes(f"{kind}_treeids"), call.sizes(f"{kind}_nodeids"), strict=True)
    for key, target, weight in zip(keys, call.sizes(f"{kind}_ids"), weights, strict=True):
        leaves.setdefault(key, []).append((target, weight))
    return _Ensemble(roots, branches, leaves, len(trees))


def _numbers(call: Call, name: str) -> tuple[float, ...]:
    """An attribute of floats, or the same as a tensor of doubles."""
    tensor = call.array(f"{name}_as_tensor")
    return call.reals(name) if tensor is None else tuple(map(float, tensor.reshape(-1)))


def _classifier(call: Call) -> tuple[Node, Node]:
    ensemble, labels = _with_ids(call, "class"), class_labels(call)
    count, base = len(labels), np.array(_numbers(call, "base_values"), dtype=np.float64)
    used = sorted({target for pairs in ensemble.leaves.values() for target, _ in pairs})
    if count != 2 or len(used) != 1:
        if base.size not in (0, count):
            raise UnsupportedError(f"has {base.size} base values for {count} classes")
        scores = _summed(call, ensemble, count, 1.0, base if base.size else np.zeros(count))
        return classified(call, scores, labels)
    # one score decides between two classes: whether it is positive, or above 1/2 where it is a share
    one = replace(ensemble, leaves={k: [(0, w) for _, w in pairs] for k, pairs in ensemble.leaves.items()})
    share = all(w >= 0 for pairs in one.leaves.values() for _, w in pairs)
    score = _summed(call, one, 1, 1.0, base[-1:] if base.size else np.zeros(1))
    both = call.affine(score, np.array([[-1.0], [1.0]]), np.array([1.0 if share else 0.0, 0.0]), (2,))
    return (labelled(call, both, labels), both) if share else classified(call, both, labels, opposite=True)


def _regressor(call: Call) -> Node:
    ensemble, targets = _with_ids(call, "target"), call.integer("n_targets", 1)
    base = np.array(_numbers(call, "base_values"), dtype=np.float64)
    return transformed(call, _aggregated(call, ensemble, targets, call.text("aggregate_function", "SUM"), base))


def _aggregated(call: Call, ensemble: _Ensemble, targets: int, aggregate: str, base: F64) -> Node:
    if aggregate not in ("SUM", "AVERAGE"):
        raise UnsupportedError(f"takes the {aggregate} of its trees; the sum and the average are supported")
    if base.size not in (0, targets):
        raise UnsupportedError(f"has {base.size} base values for {targets} target(s)")
    divisor = float(len(ensemble.roots)) if aggregate == "AVERAGE" else 1.0
    return _summed(call, ensemble, targets, divisor, base if base.size else np.zeros(targets))


# By the numbers that TreeEnsemble has for them.
_MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER")
_AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")
_TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")


def _tree_ensemble(call: Call) -> Node:
    """TreeEnsemble, which has taken the place of the regressor: interior nodes and leaves are numbered on their own."""

    def tensor(name: str) -> Sequence[float]:
        found = call.array(name)
        if found is None:
            raise UnsupportedError(f"is without its attribute {name}")
        return found.reshape(-1).tolist()

    splits, modes = tensor("nodes_splits"), [int(m) for m in tensor("nodes_modes")]
    features = call.sizes("nodes_featureids")

    def key(child: int, leaf: int) -> tuple[str, int]:
        return ("leaf" if leaf else "node", child)

    children = [
        [key(c, leaf) for c, leaf in zip(call.sizes(f"nodes_{w}nodeids"), call.sizes(f"nodes_{w}leafs"), strict=True)]
        for w in ("true", "false")
    ]
    branches: dict[Any, _Branch] = {
        ("node", n): _Branch(f, _name(_MODES, m), float(v), t, e)
        for n, (f, m, v, t, e) in enumerate(zip(features, modes, splits, *children, strict=True))
    }
    weights, targets = tensor("leaf_weights"), call.sizes("leaf_targetids")
    leaves: dict[Any, list[tuple[int, float]]] = {
        ("leaf", n): [(t, float(w))] for n, (t, w) in enumerate(zip(targets, weights, strict=True))
    }
    known = branches.keys() | leaves.keys()
    if any(c not in known for side in children for c in side):
        raise UnsupportedError("a node leads to another one, which there is not")
    roots = [("node", r) for r in call.sizes("tree_roots")]
    aggregate = _name(_AGGREGATES, call.integer("aggregate_function", 1))
    transform = _name(_TRANSFORMS, call.integer("post_transform", 0))
    ensemble = _Ensemble(roots, branches, leaves, len(branches) + len(leaves))
    scores = _aggregated(call, ensemble, call.integer("n_targets", 1), aggregate, np.zeros(0))
    return transformed(call, scores, transform)


def _name(names: Sequence[str], number: int) -> str:
    if not 0 <= number < len(names):
        raise UnsupportedError(f"has a constant {number} that ONNX does not know")
    return names[number]


_NODES = tuple(
    f"nodes_{name}"
    for name in (
        *("falsenodeids", "featureids", "hitrates", "hitrates_as_tensor", "missing_value_tracks_true", "modes"),
        *("nodeids", "treeids", "truenodeids", "values", "values_as_tensor"),
    )
)
_BASE = ("base_values", "base_values_as_tensor")


def _leaf_attributes(kind: str) -> tuple[str, ...]:
    return tuple(f"{kind}_{name}" for name in ("ids", "nodeids", "treeids", "weights", "weights_as_tensor"))


RULES: dict[tuple[str, str], Rule] = {
    ("ai.onnx.ml", "TreeEnsemble"): Rule(
        _tree_ensemble,
        (
            *("aggregate_function", "leaf_targetids", "leaf_weights", "membership_values", "n_targets"),
            *("nodes_falseleafs", "nodes_falsenodeids", "nodes_featureids", "nodes_hitrates", "nodes_modes"),
            *("nodes_missing_value_tracks_true", "nodes_splits", "nodes_trueleafs", "nodes_truenodeids"),
            *("post_transform", "tree_roots"),
        ),
    ),
    ("ai.onnx.ml", "TreeEnsembleClassifier"): Rule(
        _classifier, (*_NODES, *_BASE, *_leaf_attributes("class"), *CLASS_ATTRIBUTES)
    ),
    ("ai.onnx.ml", "TreeEnsembleRegressor"): Rule(
        _regressor,
        (*_NODES, *_BASE, *_leaf_attributes("target"), "aggregate_function", "n_targets", "post_transform"),
    ),
}
