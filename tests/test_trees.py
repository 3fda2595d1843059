"""Decision trees and forests: read as ONNX Runtime computes them, compiled to two functions, exact by ranks."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    AdaBoostClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from strategies import examples

import glyphc
from glyphc.errors import ModelError
from glyphc.frontends.from_onnx import read_onnx
from glyphc.ir.encodings import Ranks
from glyphc.ir.errors import IRError
from glyphc.ir.evaluate import evaluate
from glyphc.ir.functions import Function
from glyphc.ir.ops import Bootstrap, Input, Steps
from glyphc.knowledge import of_program
from glyphc.passes.base import Context
from glyphc.passes.expand import Expand
from glyphc.passes.pipeline import DEFAULT
from glyphc.passes.steps import RankInputs

Floats = np.ndarray[Any, np.dtype[Any]]
IRIS, CANCER, DIGITS, DIABETES = load_iris, load_breast_cancer, load_digits, load_diabetes
ESTIMATORS: list[tuple[Any, Any]] = [
    (DecisionTreeClassifier(random_state=0), IRIS),
    (DecisionTreeClassifier(max_depth=1), CANCER),
    (DecisionTreeRegressor(max_depth=5, random_state=0), DIABETES),
    (RandomForestClassifier(7, random_state=0), CANCER),
    (RandomForestClassifier(5, max_depth=4, random_state=0), DIGITS),
    (RandomForestRegressor(4, max_depth=6, random_state=0), DIABETES),
    (ExtraTreesRegressor(3, max_depth=4, random_state=0), DIABETES),
    (GradientBoostingClassifier(n_estimators=9, random_state=0), CANCER),
    (GradientBoostingClassifier(n_estimators=4, random_state=0), IRIS),
    (GradientBoostingRegressor(n_estimators=9, random_state=0), DIABETES),
    (AdaBoostClassifier(n_estimators=4, random_state=0), CANCER),
    (make_pipeline(StandardScaler(), RandomForestClassifier(3, random_state=0)), CANCER),
]


def fitted(estimator: Any, load: Any) -> tuple[onnx.ModelProto, Floats, Floats]:
    """The model, samples to calibrate on, others to test with."""
    from skl2onnx import to_onnx

    x, y = load(return_X_y=True)
    train, test, wanted, _ = train_test_split(x.astype(np.float32), y, random_state=0)
    estimator.fit(train, wanted)
    options = {"zipmap": False} if hasattr(estimator, "predict_proba") else None
    return to_onnx(estimator, train[:1], options=options), train, test


def reference(model: onnx.ModelProto, x: Floats) -> dict[str, Floats]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, map(np.asarray, session.run(None, {session.get_inputs()[0].name: x})), strict=True))


@pytest.mark.parametrize(("estimator", "load"), ESTIMATORS, ids=lambda e: type(e).__name__)
def test_scikit_learn(estimator: Any, load: Any) -> None:
    model, _, x = fitted(estimator, load)
    wanted = reference(model, x)
    found = evaluate(read_onnx(model), {"X": x.astype(np.float64)})
    scores = wanted.get("probabilities")
    for name, value in wanted.items():
        if name == "label":  # where two classes have as many votes, rounding decides
            top = np.sort(scores, axis=1) if scores is not None else np.array([[0.0, 1.0]])
            clear = np.broadcast_to(top[:, -1] - top[:, -2] > 1e-6, len(value))
            assert np.array_equal(found[name][clear], value[clear])
        else:
            size = float(np.abs(value).max())
            assert np.allclose(found[name].reshape(value.shape), value, atol=1e-5 * size)


# -- every kind of branch, by hand --

MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")
VALUES = (-1.5, -0.25, 0.0, 0.75, 2.0)


def ensemble(trees: list[list[tuple[int, str, float]]], weights: Floats, op: str, **attributes: Any) -> onnx.ModelProto:
    """Complete binary trees: nodes in order of the levels, their leaves behind them; weights (leaves, targets)."""
    kind = "class" if op == "TreeEnsembleClassifier" else "target"
    nodes: dict[str, Any] = {}
    leaves: dict[str, Any] = {}
    leaf = 0
    for tree, branches in enumerate(trees):
        for number in range(2 * len(branches) + 1):
            inner = number < len(branches)
            feature, mode, value = branches[number] if inner else (0, "LEAF", 0.0)
            row = {
                "treeids": tree, "nodeids": number, "featureids": feature, "modes": mode, "values": value,
                "truenodeids": 2 * number + 1 if inner else 0, "falsenodeids": 2 * number + 2 if inner else 0,
            }  # fmt: skip
            for key, v in row.items():
                nodes.setdefault(f"nodes_{key}", []).append(v)
            if not inner:
                for target, weight in enumerate(weights[leaf]):
                    for key, v in {"treeids": tree, "nodeids": number, "ids": target, "weights": float(weight)}.items():
                        leaves.setdefault(f"{kind}_{key}", []).append(v)
                leaf += 1
    outputs = ["label", "y"] if kind == "class" else ["y"]
    made = helper.make_node(op, ["x"], outputs, domain="ai.onnx.ml", **nodes, **leaves, **attributes)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])
    graph = helper.make_graph([made], "g", [x], [onnx.ValueInfoProto(name=o) for o in outputs])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opsets, ir_version=8))


def grid() -> Floats:
    """All combinations of numbers at, and next to, the thresholds."""
    axis = np.array([*VALUES, -3, 1, 5], dtype=np.float32)
    axis = np.unique(np.concatenate([axis, np.nextafter(axis, np.float32(9)), np.nextafter(axis, np.float32(-9))]))
    rng = np.random.default_rng(0)
    return rng.choice(axis, size=(600, 3))


@examples(15)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 2), st.sampled_from(MODES), st.sampled_from(VALUES)), min_size=3, max_size=3),
        min_size=1,
        max_size=3,
    ),
    st.integers(0, 2**32 - 1),
)
def test_every_branch(trees: list[list[tuple[int, str, float]]], seed: int) -> None:
    weights = np.random.default_rng(seed).normal(size=(4 * len(trees), 2))
    model = ensemble(trees, weights, "TreeEnsembleRegressor", n_targets=2, base_values=[0.5, -1.0])
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    x = grid()
    graph = read_onnx(model)
    assert np.allclose(evaluate(graph, {"x": x.astype(np.float64)})["y"], reference(model, x)["y"], atol=1e-5)
    ranked = Expand().run(RankInputs(2, 0).run(graph, Context()), Context({"x": x.astype(np.float64)}))
    assert np.allclose(evaluate(ranked, {"x": x.astype(np.float64)})["y"], reference(model, x)["y"], atol=1e-5)


BRANCHES = [(0, "BRANCH_LEQ", 0.0), (1, "BRANCH_LT", 0.75), (2, "BRANCH_GT", -0.25)]


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX"])
@pytest.mark.parametrize("targets", [1, 2, 3])
@pytest.mark.parametrize("positive", [True, False])
def test_classifiers(transform: str, targets: int, positive: bool) -> None:
    if targets == 1 and transform == "SOFTMAX":
        pytest.skip("ONNX does not say what the softmax of one score is")
    if targets == 1 and positive and transform == "LOGISTIC":
        pytest.skip("of a share, ONNX Runtime takes no sigmoid")
    weights = np.random.default_rng(3).uniform(0.1 if positive else -1, 0.6, size=(4, targets))
    labels = {"classlabels_int64s": list(range(10, 10 + max(2, targets)))}
    model = ensemble([BRANCHES], weights, "TreeEnsembleClassifier", post_transform=transform, **labels)
    x = grid()
    wanted = reference(model, x)
    network = read_onnx(model)
    found = evaluate(network, {"x": x.astype(np.float64)})
    assert np.allclose(found["y"], wanted["y"], atol=1e-6)
    (output,) = (op for _, op in network.of(glyphc.ir.ops.Output) if op.name == "label")
    assert output.labels is not None
    labels_wanted = wanted["label"]
    if targets == 2:  # ONNX Runtime asks whether the second score is positive; the standard, for the larger one
        labels_wanted = 10 + np.argmax(wanted["y"], axis=1)
    assert np.array_equal(output.labels.of(found["label"]), labels_wanted)


def test_tree_ensemble_of_numbered_leaves() -> None:
    """The form of version 5: [x0 <= 0] ? ([x1 < 0.75] ? 1 : 2) : 4, and a tree of [x2 > -0.25] ? 10 : 20."""
    doubles = {
        "nodes_splits": np.array([0.0, 0.75, -0.25]),
        "leaf_weights": np.array([1.0, 2.0, 4.0, 10.0, 20.0]),
    }
    attributes: dict[str, Any] = {
        "n_targets": 1, "aggregate_function": 1, "post_transform": 0, "tree_roots": [0, 2],
        "nodes_featureids": [0, 1, 2], "nodes_truenodeids": [1, 0, 3], "nodes_trueleafs": [0, 1, 1],
        "nodes_falsenodeids": [2, 1, 4], "nodes_falseleafs": [1, 1, 1], "leaf_targetids": [0] * 5,
    }  # fmt: skip
    tensors = {k: numpy_helper.from_array(v) for k, v in doubles.items()}
    tensors["nodes_modes"] = numpy_helper.from_array(np.array([0, 1, 3], dtype=np.uint8))
    made = helper.make_node("TreeEnsemble", ["x"], ["y"], domain="ai.onnx.ml", **attributes, **tensors)
    x_info = helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["N", 3])
    y_info = helper.make_tensor_value_info("y", TensorProto.DOUBLE, ["N", 1])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 5)]
    model = helper.make_model(helper.make_graph([made], "g", [x_info], [y_info]), opset_imports=opsets, ir_version=10)
    x = grid().astype(np.float64)
    ties = np.array([[0.0, 0.75, -0.25]])
    x = np.concatenate([x, ties, np.nextafter(ties, -np.inf), np.nextafter(ties, np.inf)])
    wanted = np.where(x[:, 0] <= 0, np.where(x[:, 1] < 0.75, 1, 2), 4) + np.where(x[:, 2] > -0.25, 10, 20)
    graph = read_onnx(model)
    for made in (graph, RankInputs().run(graph, Context())):  # in double precision, as the file has them
        assert np.array_equal(evaluate(made, {"x": x})["y"][:, 0], wanted)


def damaged(**changes: Any) -> onnx.ModelProto:
    """A valid ensemble with other attributes."""
    model = ensemble([BRANCHES], np.ones((4, 1)), "TreeEnsembleRegressor", n_targets=1)
    made = model.graph.node[0]
    for name, value in changes.items():
        kept = [a for a in made.attribute if a.name != name]
        del made.attribute[:]
        made.attribute.extend([*kept, helper.make_attribute(name, value)])
    return model


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"nodes_truenodeids": [1, 0, 5, 0, 0, 0, 0]}, "not reached"),
        ({"nodes_truenodeids": [1, 5, 5, 0, 0, 0, 0], "nodes_falsenodeids": [2, 0, 6, 0, 0, 0, 0]}, "root"),
        ({"nodes_falsenodeids": [2, 4, 5, 0, 0, 0, 0]}, "root"),
        ({"nodes_truenodeids": [1, 3, 99, 0, 0, 0, 0]}, "node 99"),
        ({"nodes_featureids": [0, 1, 8, 0, 0, 0, 0]}, "feature 8 of 3"),
        ({"nodes_modes": ["BRANCH_LEQ", "BRANCH_MEMBER", "BRANCH_LT", *["LEAF"] * 4]}, "BRANCH_MEMBER"),
        ({"nodes_values": [0.0, 1.0]}, "different lengths"),
        ({"aggregate_function": "MIN"}, "MIN"),
        ({"n_targets": 0}, "target"),
        ({"nodes_values": [float("inf"), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]}, "finite"),
    ],
)
def test_damaged_ensembles(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ModelError, match=text):
        read_onnx(damaged(**changes))


# -- ranks --

numbers = st.floats(-1e3, 1e3, width=32)


@given(st.lists(numbers, min_size=1, max_size=30, unique=True), st.lists(numbers, min_size=1, max_size=20))
def test_ranks_count_the_knots_below(knots: list[float], x: list[float]) -> None:
    ranks = Ranks((1, 0), (len(knots), 0), tuple(sorted(knots)))
    given = np.array([[-7.0, v] for v in x])
    assert np.array_equal(ranks.of(given), [[sum(k < v for k in knots), -7.0] for v in x])


@pytest.mark.parametrize(
    "wrong",
    [((), (), ()), ((0,), (1, 2), (0.0,)), ((0,), (2,), (0.0,)), ((-1,), (0,), ()), ((0,), (2,), (1.0, 1.0))],
)
def test_ranks_that_are_none(wrong: tuple[Any, Any, Any]) -> None:
    with pytest.raises(IRError):
        Ranks(*wrong)


def test_scaled_inputs_are_ranked_too_and_others_stay() -> None:
    """Scalers keep the order (or turn it); what else reads an input still gets it."""
    model = ensemble([BRANCHES, BRANCHES[::-1]], np.arange(8.0)[:, None], "TreeEnsembleRegressor", n_targets=1)
    model.graph.node[0].input[0] = "turned"
    model.graph.node[0].output[0] = "sums"
    model.graph.node.insert(0, helper.make_node("Neg", ["x"], ["turned"]))
    model.graph.node.append(helper.make_node("Add", ["sums", "x"], ["y"]))
    graph = read_onnx(model)
    ranked = RankInputs(2, 0).run(graph, Context())
    assert not list(ranked.of(Steps))
    ((_, op),) = ranked.of(Input)
    assert op.ranks is not None and max(op.ranks.counts) <= 2
    x = grid()
    expanded = Expand().run(ranked, Context({"x": x.astype(np.float64)}))
    assert np.allclose(evaluate(expanded, {"x": x.astype(np.float64)})["y"], reference(model, x)["y"], atol=1e-5)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(("offset", "scale", "threshold", "tie"), [(1.0, 0.1, 2.0, 21.0), (0.0, 1 / 3, 1.0, 3.0)])
@pytest.mark.parametrize("mode", ["BRANCH_LEQ", "BRANCH_LT"])
def test_ties_behind_a_scaler(
    offset: float, scale: float, threshold: float, tie: float, sign: float, mode: str
) -> None:
    """Scalers round to single precision, so that inputs around one that is a tie in theory are ties too."""
    model = ensemble([[(0, mode, threshold * sign)]], np.array([[1.0], [2.0]]), "TreeEnsembleRegressor", n_targets=1)
    model.graph.node[0].input[0] = "scaled"
    scaler = {"offset": [offset] * 3, "scale": [scale * sign] * 3}
    model.graph.node.insert(0, helper.make_node("Scaler", ["x"], ["scaled"], domain="ai.onnx.ml", **scaler))
    bits = np.float32(tie).view(np.int32) + np.arange(-6, 7, dtype=np.int32)
    x = np.repeat(bits.view(np.float32)[:, None], 3, axis=1)
    ranked = RankInputs().run(read_onnx(model), Context())
    assert not list(ranked.of(Steps))
    assert np.array_equal(evaluate(ranked, {"x": x.astype(np.float64)})["y"], reference(model, x)["y"])


# -- compiled --


def compiled(model: onnx.ModelProto, x: Floats, **options: Any) -> glyphc.Program:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return glyphc.compile(model, x, 4, insecure_ring=options.pop("ring", 2048), **options)


@pytest.mark.parametrize(
    ("estimator", "load"),
    [
        (RandomForestClassifier(8, random_state=0), CANCER),
        (GradientBoostingRegressor(n_estimators=8, random_state=0), DIABETES),
    ],
    ids=["forest", "boosting"],
)
def test_two_functions_for_a_whole_ensemble(estimator: Any, load: Any) -> None:
    model, train, test = fitted(estimator, load)
    program = compiled(model, train, passes=DEFAULT.replace("rank-inputs", "rank-inputs{comparisons=0}"))
    assert len(list(program.graph.of(Bootstrap))) == 2
    wanted = reference(model, test[:48])
    found = program.run(test[:48], mode="simulate")
    values = found if isinstance(found, dict) else {"variable": found}
    for name, value in wanted.items():
        if name == "label":
            clear = np.abs(wanted["probabilities"][:, 0] - 0.5) > 0.07
            assert values[name].dtype == np.int64
            assert np.array_equal(values[name][clear], value[clear])
        else:
            error = values[name].reshape(value.shape) - value
            assert np.sqrt(np.mean(error**2)) < 0.02 * np.ptp(value)


def test_of_few_comparisons_the_client_encrypts_comparisons() -> None:
    model, train, test = fitted(DecisionTreeClassifier(random_state=0), IRIS)
    program = compiled(model, train)
    assert len(list(program.graph.of(Bootstrap))) == 1
    found = program.run(test, mode="simulate")
    assert isinstance(found, dict) and np.array_equal(found["label"], reference(model, test)["label"])
    ranked = [op.ranks for _, op in program.graph.of(Input)]
    assert all(ranks is not None and ranks.knots for ranks in ranked)
    assert "thresholds that inputs are compared with" in of_program(program).both
    plain = compiled(model, train, passes=DEFAULT.replace("rank-inputs", "rank-inputs{ramp=0}"))
    assert "thresholds that inputs are compared with" not in of_program(plain).both


def test_trees_of_hidden_values() -> None:
    """Behind a PCA, comparisons near a threshold are fractional: the report has their share."""
    model, train, test = fitted(make_pipeline(PCA(3), DecisionTreeClassifier(max_depth=3, random_state=0)), IRIS)
    program = compiled(model, train)
    text = [c.reason for n in program.stages["expand"] for d in n.decisions for c in d.candidates]
    assert any("nearer to their thresholds" in t for t in text)
    found = program.run(test, mode="simulate")
    assert isinstance(found, dict)
    assert np.mean(found["label"] == reference(model, test)["label"]) > 0.9


def test_fractional_comparisons_degrade_smoothly() -> None:
    """A leaf counts the less the farther its comparisons are from agreeing, and small errors do not show."""
    leaf = Function("smooth_step", (-1.0, 0.0))
    lacking = np.linspace(0, 1.5, 301)
    values = leaf(-lacking)
    assert np.all(np.diff(values) <= 0) and np.abs(np.diff(values)).max() < 0.01
    assert values[0] == 1 and values[lacking >= 1].max() == 0
    assert 1 - leaf(np.array(-0.05)) < 0.01


def test_encrypted_from_ranks_to_labels() -> None:
    model, train, test = fitted(DecisionTreeClassifier(max_depth=3, random_state=0), IRIS)
    program = compiled(model, train, ring=1024)
    again = glyphc.Program.from_bytes(program.to_bytes())
    assert again.client == program.client
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = again.run(test[:4])
    assert isinstance(found, dict) and np.array_equal(found["label"], reference(model, test[:4])["label"])
