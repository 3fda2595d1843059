"""Small residual networks after He et al., *Deep Residual Learning for Image Recognition* (2016), with JAX and as ONNX.

A stem, a block of two convolutions for each number of channels, a mean of all positions and a dense layer. Where
channels grow, the block halves rows and columns, and its shortcut is a convolution of one position with stride 2.
"""

from collections.abc import Sequence

import jax

from export import Dense, GraphWriter
from gradient_training import Parameters, convolution, convolve, dense

_PADDING = [(1, 1), (1, 1)]


def initial(keys: Sequence[jax.Array], colours: int, channels: Sequence[int], classes: int) -> Parameters:
    """Random parameters. keys: one for each layer, and more."""
    rest, before = iter(keys), channels[0]
    parameters = {"stem": convolution(next(rest), before, colours, 3, 3)}
    for number, count in enumerate(channels, 1):
        parameters[f"block{number}.conv1"] = convolution(next(rest), count, before, 3, 3)
        parameters[f"block{number}.conv2"] = convolution(next(rest), count, count, 3, 3)
        if count != before:
            parameters[f"block{number}.shortcut"] = convolution(next(rest), count, before, 1, 1)
        before = count
    parameters["classes"] = dense(next(rest), before, classes)
    return parameters


def blocks(parameters: Parameters) -> list[str]:
    """Names, in order."""
    return [name.removesuffix(".conv1") for name in parameters if name.endswith(".conv1")]


def forward(parameters: Parameters, x: jax.Array) -> jax.Array:
    """Logits (samples, classes) of images (samples, colours, rows, columns)."""

    def conv(x: jax.Array, name: str, stride: int = 1) -> jax.Array:
        padding = "VALID" if name.endswith("shortcut") else _PADDING
        return convolve(x, parameters[name], window_strides=(stride, stride), padding=padding)

    x = jax.nn.relu(conv(x, "stem"))
    for name in blocks(parameters):
        stride = 2 if f"{name}.shortcut" in parameters else 1
        deep = conv(jax.nn.relu(conv(x, f"{name}.conv1", stride)), f"{name}.conv2")
        x = jax.nn.relu(deep + (conv(x, f"{name}.shortcut", stride) if stride > 1 else x))
    return x.mean(axis=(2, 3)) @ parameters["classes"]["weights"] + parameters["classes"]["bias"]


def write(graph: GraphWriter, parameters: Parameters) -> None:
    """Append the network to a graph whose last value is a batch of images."""
    padded = {"pads": [1, 1, 1, 1]}
    graph.conv("stem", parameters["stem"], **padded)
    graph.node("Relu", "stem.relu")
    for name in blocks(parameters):
        entry = shortcut = graph.last
        strides = [2, 2] if f"{name}.shortcut" in parameters else [1, 1]
        if f"{name}.shortcut" in parameters:
            graph.conv(f"{name}.shortcut", parameters[f"{name}.shortcut"], strides=strides)
            shortcut, graph.last = graph.last, entry
        graph.conv(f"{name}.conv1", parameters[f"{name}.conv1"], strides=strides, **padded)
        graph.node("Relu", f"{name}.relu1")
        graph.conv(f"{name}.conv2", parameters[f"{name}.conv2"], **padded)
        graph.node("Add", f"{name}.add", shortcut)
        graph.node("Relu", f"{name}.relu2")
    graph.node("GlobalAveragePool", "mean")
    graph.node("Flatten", "flatten", axis=1)
    graph.gemm("classes", Dense(**parameters["classes"]))
