"""Small networks of the kinds that people bring, each trained on real data when it is asked for: for brought.py.

forest: scikit-learn's random forest with its defaults, 100 trees, on breast cancer. lstm: 8 units over 8 years of
sunspots, next year's is forecast. transformer: an encoder layer of PyTorch's form (attention of 2 heads, then a
feed-forward part, each followed by a sum and a layer normalisation) on the 8 rows of a digit, width 16. two-inputs: a
tower for a tumour's mean and one for its worst measurements.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

F32 = npt.NDArray[np.float32]
Samples = F32 | dict[str, F32]
Weights = dict[str, Any]
# Jobs for trained networks: a forward pass in JAX, and steps of Adam.
_STEPS, _RATE = 400, 1e-2
_TOKENS, _WIDTH, _HEADS, _HIDDEN = 8, 16, 2, 32
_PAST, _UNITS = 8, 8


@dataclass(frozen=True, eq=False)
class Brought:
    """A network with samples. y: classes or numbers of the test samples; batch: what is encrypted at once."""

    model: Any
    calibration: Samples
    test: Samples
    y: npt.NDArray[Any]
    batch: int


def trained(
    forward: Callable[[Any, Any], Any], weights: Weights, x: Any, y: npt.NDArray[Any], classes: bool, steps: int
) -> dict[str, F32]:
    """Weights after steps of Adam on all samples: cross entropy for classes, mean square error for numbers."""
    import jax
    import jax.numpy as jnp
    import optax

    def loss(w: Any) -> Any:
        found = forward(w, x)
        if classes:
            return optax.softmax_cross_entropy_with_integer_labels(found, jnp.asarray(y)).mean()
        return jnp.mean((found - y) ** 2)

    optimizer = optax.adam(_RATE)

    @jax.jit
    def step(w: Any, state: Any) -> Any:
        updates, state = optimizer.update(jax.grad(loss)(w), state)
        return optax.apply_updates(w, updates), state

    state = optimizer.init(weights)
    for _ in range(steps):
        weights, state = step(weights, state)
    return {name: np.asarray(value, dtype=np.float32) for name, value in weights.items()}


def model(
    nodes: list[NodeProto], weights: Mapping[str, npt.NDArray[Any]], inputs: Mapping[str, tuple[int, ...]]
) -> ModelProto:
    """An ONNX model with an open batch and the output y."""
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", *s]) for n, s in inputs.items()]
    constants = [numpy_helper.from_array(np.asarray(v), n) for n, v in weights.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "brought", values, [output], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _normal(rng: np.random.Generator, *shape: int) -> F32:
    return (rng.normal(size=shape) / np.sqrt(shape[-2] if len(shape) > 1 else 1)).astype(np.float32)


def _cancer() -> tuple[F32, F32, npt.NDArray[Any], npt.NDArray[Any]]:
    from sklearn.datasets import load_breast_cancer
    from sklearn.model_selection import train_test_split

    x, y = load_breast_cancer(return_X_y=True)
    train, test, wanted, held_out = train_test_split(x.astype(np.float32), y, test_size=0.3, random_state=0)
    return train, test, wanted, held_out


def forest(trees: int = 100, steps: int = 0) -> Brought:
    """A random forest."""
    from sklearn.ensemble import RandomForestClassifier

    train, test, wanted, held_out = _cancer()
    return Brought(RandomForestClassifier(trees, random_state=0).fit(train, wanted), train, test, held_out, 32)


def lstm(steps: int = _STEPS) -> Brought:
    """An LSTM over a series, and a dense layer on its last state. Gates are in ONNX's order: i, o, f, c."""
    import jax
    import jax.numpy as jnp
    from statsmodels.datasets import sunspots

    series = np.asarray(sunspots.load_pandas().data["SUNACTIVITY"], dtype=np.float32) / 100
    windows = np.lib.stride_tricks.sliding_window_view(series, _PAST + 1)
    x, y = windows[:, :_PAST, None], windows[:, _PAST:]
    split = len(x) * 3 // 4
    rng = np.random.default_rng(0)
    weights = {
        "w": _normal(rng, 1, 4 * _UNITS) / 2,
        "r": _normal(rng, _UNITS, 4 * _UNITS) / 2,
        "b": np.zeros(4 * _UNITS, dtype=np.float32),
        "v": _normal(rng, _UNITS, 1),
        "a": np.zeros(1, dtype=np.float32),
    }

    def forward(w: Any, x: Any) -> Any:
        h = c = jnp.zeros((x.shape[0], _UNITS))
        for t in range(_PAST):
            i, o, f, g = jnp.split(x[:, t] @ w["w"] + h @ w["r"] + w["b"], 4, axis=1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return h @ w["v"] + w["a"]

    w = trained(forward, weights, x[:split], y[:split], False, steps)
    constants = {
        "W": w["w"].T[None],
        "R": w["r"].T[None],
        "B": np.concatenate([w["b"], np.zeros_like(w["b"])])[None],
        "v": w["v"],
        "a": w["a"],
        "direction": np.array([0], dtype=np.int64),
    }
    nodes = [
        helper.make_node("Transpose", ["x"], ["time_first"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["time_first", "W", "R", "B"], ["", "last"], hidden_size=_UNITS),
        helper.make_node("Squeeze", ["last", "direction"], ["state"]),
        helper.make_node("Gemm", ["state", "v", "a"], ["y"]),
    ]
    return Brought(model(nodes, constants, {"x": (_PAST, 1)}), x[:split], x[split:], y[split:], 64)


def transformer(steps: int = _STEPS) -> Brought:
    """An encoder layer on the rows of a digit, between an embedding of rows and a classifier of the mean token."""
    import jax
    import jax.numpy as jnp
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, y = load_digits(return_X_y=True)
    rows = (images / 16).reshape(-1, 8, _TOKENS).astype(np.float32)
    train, test, wanted, held_out = train_test_split(rows, y, test_size=512, random_state=0)
    rng = np.random.default_rng(0)
    weights: Weights = {n: _normal(rng, _WIDTH, _WIDTH) for n in ("q", "k", "v", "o")}
    weights |= {
        "in": _normal(rng, 8, _WIDTH),
        "up": _normal(rng, _WIDTH, _HIDDEN),
        "down": _normal(rng, _HIDDEN, _WIDTH),
    }
    weights |= {"out": _normal(rng, _WIDTH, 10), "places": _normal(rng, _TOKENS, _WIDTH)}
    weights |= {n: np.zeros(s, dtype=np.float32) for n, s in (("b_up", _HIDDEN), ("b_down", _WIDTH), ("b_out", 10))}
    weights |= {f"g{n}": np.ones(_WIDTH, dtype=np.float32) for n in (1, 2)}
    weights |= {f"s{n}": np.zeros(_WIDTH, dtype=np.float32) for n in (1, 2)}

    def normalised(x: Any, g: Any, s: Any) -> Any:
        centred = x - x.mean(axis=-1, keepdims=True)
        return centred / jnp.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5) * g + s

    def forward(w: Any, x: Any) -> Any:
        x = x @ w["in"] + w["places"]
        q, k, v = ((x @ w[n]).reshape(-1, _TOKENS, _HEADS, _WIDTH // _HEADS).swapaxes(1, 2) for n in "qkv")
        p = jax.nn.softmax(q @ k.swapaxes(2, 3) / np.sqrt(_WIDTH // _HEADS), axis=-1)
        x = normalised(x + (p @ v).swapaxes(1, 2).reshape(-1, _TOKENS, _WIDTH) @ w["o"], w["g1"], w["s1"])
        inner = jax.nn.relu(x @ w["up"] + w["b_up"]) @ w["down"] + w["b_down"]
        return normalised(x + inner, w["g2"], w["s2"]).mean(axis=1) @ w["out"] + w["b_out"]

    w = trained(forward, weights, train, wanted, True, steps)
    constants = {
        **w,
        "apart": np.array([0, _TOKENS, _HEADS, _WIDTH // _HEADS], dtype=np.int64),
        "together": np.array([0, _TOKENS, _WIDTH], dtype=np.int64),
        "root": np.float32((_WIDTH // _HEADS) ** -0.5),
    }
    return Brought(model(_encoder(), constants, {"x": (8, _TOKENS)}), train[:512], test, held_out, 4)


def _encoder() -> list[NodeProto]:
    node = helper.make_node
    nodes = [node("MatMul", ["x", "in"], ["rows"]), node("Add", ["rows", "places"], ["x0"])]
    for name, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes += [
            node("MatMul", ["x0", name], [f"{name}1"]),
            node("Reshape", [f"{name}1", "apart"], [f"{name}2"]),
            node("Transpose", [f"{name}2"], [f"{name}3"], perm=order),
        ]
    return [
        *nodes,
        node("MatMul", ["q3", "k3"], ["products"]),
        node("Mul", ["products", "root"], ["scores"]),
        node("Softmax", ["scores"], ["p"], axis=-1),
        node("MatMul", ["p", "v3"], ["attended"]),
        node("Transpose", ["attended"], ["heads"], perm=[0, 2, 1, 3]),
        node("Reshape", ["heads", "together"], ["joined"]),
        node("MatMul", ["joined", "o"], ["mixed"]),
        node("Add", ["x0", "mixed"], ["sum1"]),
        node("LayerNormalization", ["sum1", "g1", "s1"], ["x1"]),
        node("MatMul", ["x1", "up"], ["inner"]),
        node("Add", ["inner", "b_up"], ["inner_biased"]),
        node("Relu", ["inner_biased"], ["hidden"]),
        node("MatMul", ["hidden", "down"], ["outer"]),
        node("Add", ["outer", "b_down"], ["outer_biased"]),
        node("Add", ["x1", "outer_biased"], ["sum2"]),
        node("LayerNormalization", ["sum2", "g2", "s2"], ["x2"]),
        node("ReduceMean", ["x2"], ["mean"], axes=[1], keepdims=0),
        node("Gemm", ["mean", "out", "b_out"], ["y"]),
    ]


def two_inputs(steps: int = _STEPS) -> Brought:
    """Towers for means (10 numbers, and their errors: 10) and for the worst values, joined in front of the classes."""
    import jax.numpy as jnp

    train, test, wanted, held_out = _cancer()
    middle, width = train.mean(axis=0), train.std(axis=0)
    parts = [
        {"means": rows[:, :20].astype(np.float32), "worst": rows[:, 20:].astype(np.float32)}
        for rows in ((x - middle) / width for x in (train, test))
    ]
    rng = np.random.default_rng(0)
    weights = {"m": _normal(rng, 20, 16), "w": _normal(rng, 10, 16), "o": _normal(rng, 32, 2)}
    weights |= {n: np.zeros(s, dtype=np.float32) for n, s in (("bm", 16), ("bw", 16), ("bo", 2))}

    def forward(w: Any, x: Any) -> Any:
        towers = [jnp.tanh(x[n] @ w[n[0]] + w[f"b{n[0]}"]) for n in ("means", "worst")]
        return jnp.concatenate(towers, axis=1) @ w["o"] + w["bo"]

    w = trained(forward, weights, parts[0], wanted, True, min(steps, 100))
    node = helper.make_node
    nodes = [
        node("Gemm", ["means", "m", "bm"], ["m1"]),
        node("Tanh", ["m1"], ["m2"]),
        node("Gemm", ["worst", "w", "bw"], ["w1"]),
        node("Tanh", ["w1"], ["w2"]),
        node("Concat", ["m2", "w2"], ["both"], axis=1),
        node("Gemm", ["both", "o", "bo"], ["y"]),
    ]
    return Brought(model(nodes, w, {"means": (20,), "worst": (10,)}), *parts, held_out, 128)


NETWORKS: dict[str, Callable[..., Brought]] = {
    "forest": forest,
    "lstm": lstm,
    "transformer": transformer,
    "two-inputs": two_inputs,
}
