"""Training of small convolutional networks with JAX and optax, on one processor core or more."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax

Parameters = Any  # a pytree: nested dicts of arrays
Forward = Callable[[Parameters, jax.Array], jax.Array]
Loss = Callable[[jax.Array, jax.Array], jax.Array]
FloatArray = npt.NDArray[np.float32]

TRAINER = f"JAX {jax.__version__}, optax {optax.__version__}, AdamW"


def convolution(key: jax.Array, outputs: int, inputs: int, *kernel: int) -> dict[str, jax.Array]:
    """He-initialised weights (outputs, inputs, *kernel) and zero biases (outputs,)."""
    fan_in = inputs * int(np.prod(kernel))
    weights = jax.random.normal(key, (outputs, inputs, *kernel)) * np.sqrt(2 / fan_in)
    return {"weights": weights, "bias": jnp.zeros(outputs)}


def dense(key: jax.Array, inputs: int, outputs: int) -> dict[str, jax.Array]:
    """He-initialised weights (inputs, outputs) and zero biases (outputs,)."""
    return {"weights": jax.random.normal(key, (inputs, outputs)) * np.sqrt(2 / inputs), "bias": jnp.zeros(outputs)}


def convolve(x: jax.Array, layer: dict[str, jax.Array], **options: Any) -> jax.Array:
    """ONNX's Conv: x (samples, channels, *spatial); options of jax.lax.conv_general_dilated."""
    spatial = x.ndim - 2
    settings = {"window_strides": (1,) * spatial, "padding": "VALID"} | options
    y = jax.lax.conv_general_dilated(x, layer["weights"], **settings)
    return y + layer["bias"].reshape(1, -1, *[1] * spatial)


def mean_pool(x: jax.Array, size: int) -> jax.Array:
    """Means of windows of size x size (1-D: of size) without overlap; x (samples, channels, *spatial)."""
    shape = [part for n in x.shape[2:] for part in (n // size, size)]
    return x.reshape(*x.shape[:2], *shape).mean(axis=tuple(range(3, 2 + len(shape), 2)))


def cross_entropy(scores: jax.Array, classes: jax.Array) -> jax.Array:
    """Mean over samples; scores (samples, classes), classes (samples,) of integers."""
    return optax.softmax_cross_entropy_with_integer_labels(scores, classes).mean()


def squared_error(forecast: jax.Array, truth: jax.Array) -> jax.Array:
    """Mean over samples and outputs."""
    return jnp.mean((forecast - truth) ** 2)


def fit(
    forward: Forward,
    parameters: Parameters,
    x: npt.NDArray[Any],
    y: npt.NDArray[Any],
    loss: Loss,
    *,
    epochs: int,
    batch: int,
    rate: float,
    decay: float,
    seed: int,
) -> Parameters:
    """Minimise ``loss`` by AdamW with a cosine schedule; returns the parameters as numpy arrays in float32."""
    steps = epochs * (len(x) // batch)
    optimizer = optax.adamw(optax.cosine_decay_schedule(rate, steps), weight_decay=decay)
    state = optimizer.init(parameters)

    @jax.jit
    def step(parameters: Parameters, state: Any, xs: jax.Array, ys: jax.Array) -> tuple[Parameters, Any, jax.Array]:
        value, gradient = jax.value_and_grad(lambda p: loss(forward(p, xs), ys))(parameters)
        updates, state = optimizer.update(gradient, state, parameters)
        return optax.apply_updates(parameters, updates), state, value

    rng = np.random.default_rng(seed)
    for epoch in range(epochs):
        order, total = rng.permutation(len(x)), 0.0
        for start in range(0, len(x) - batch + 1, batch):
            chosen = order[start : start + batch]
            parameters, state, value = step(parameters, state, x[chosen], y[chosen])
            total += float(value)
        print(f"  epoch {epoch + 1} of {epochs}: loss {total / (len(x) // batch):.5f}", flush=True)
    return jax.tree.map(lambda p: np.asarray(p, dtype=np.float32), parameters)
