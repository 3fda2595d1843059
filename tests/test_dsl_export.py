"""What is written as ``.glyph`` reads as the same network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from onnx_models import MODELS
from strategies import examples, graphs

from glyphc.errors import ModelError
from glyphc.frontends.dsl_export import export, export_network
from glyphc.frontends.dsl_network import Network
from glyphc.frontends.from_dsl import parse_glyph, read_glyph
from glyphc.frontends.from_onnx import read_onnx
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph
from glyphc.ir.ops import Affine, Apply, ArgMax, Const, Input, Output
from glyphc.ir.types import Level, TensorType


def round_trip(graph: Graph, folder: Path) -> Graph:
    exported = export(graph, "net", "net.npz")
    np.savez(folder / "net.npz", **exported.tensors)
    (folder / "net.glyph").write_text(exported.text, encoding="utf-8")
    return read_glyph(folder / "net.glyph").graph


def same_network(a: Graph, b: Graph) -> None:
    """The same nodes in the same order, with the same constants whatever these are called. Outputs come last in b."""

    def key(graph: Graph, ids: list[int]) -> list[object]:
        place = {id: at for at, id in enumerate(ids)}
        found = []
        for id in ids:
            node = graph.node(id)
            names = {n: graph.constant(n) for n in node.op.constant_names()}
            values = [(v.shape, v.astype(np.float64).tobytes()) for v in names.values()]
            text = repr(node.op)
            for number, name in enumerate(names):
                text = text.replace(f"Const(name={name!r})", f"constant {number}")
            found.append((text, [place[o] for o in node.operands], node.type.shape, node.location, values))
        return found

    def order(graph: Graph) -> list[int]:
        """Inputs, then what computes, then outputs: so they stand in the text."""
        rank = {Input: 0, Output: 2}
        return sorted(range(len(graph)), key=lambda id: (rank.get(type(graph.node(id).op), 1), id))

    first, second = key(a, order(a)), key(b, order(b))
    for left, right in zip(first, second, strict=True):
        assert left[:3] == right[:3]  # type: ignore[index]
        if "Input(" not in left[0] and "Output(" not in left[0]:  # type: ignore[index]
            assert left[3:] == right[3:]  # type: ignore[index]


def test_random_networks(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("export")

    @examples(150)
    @given(graphs(Level.SOURCE))
    def check(graph: Graph) -> None:
        same_network(graph, round_trip(graph, folder))

    check()


@pytest.mark.parametrize("name", ["digits-mlp", "breast-cancer-mlp", "mnist-mlp"])
def test_networks_of_models(name: str, tmp_path: Path) -> None:
    graph = read_onnx(MODELS / f"{name}.onnx")
    same_network(graph, round_trip(graph, tmp_path))


def test_tables_become_activations(tmp_path: Path) -> None:
    graph = Graph(Level.SOURCE, 1)
    x = graph.add(Input("x", (3,)))
    table = Function("table", (-1.0, 1.0, *map(float, np.linspace(0, 1, 9) ** 2)))
    jumps = Function("table_with_jumps", (-1.0, 1.0, 1.0, 0.0, 2.0, 0.5, 0.25, 0.5))
    y = graph.add(Apply((table, Function("relu"))), (x,), location="y")
    z = graph.add(Apply((table,)), (y,), location="z")
    w = graph.add(Apply((jumps,)), (z,), location="w")
    graph.add(Output("out"), (w,))
    exported = export(graph, "net", "net.npz")
    assert 'activation table0 on [-1, 1] = table("net.npz", "table0")' in exported.text
    assert "y = apply(x, table0, relu)" in exported.text
    assert exported.tensors["table0"].shape == (9,)
    same_network(graph, round_trip(graph, tmp_path))


def test_the_text_reads_like_a_network() -> None:
    exported = export(read_onnx(MODELS / "digits-mlp.onnx"), "digits", "digits.npz", ("From a test.",))
    assert exported.text == (
        '# From a test.\n\nnetwork digits\n\nweights "digits.npz"\n\ninput pixels: encrypted [64]\n\n'
        "scale = pixels * 0.0625\nfc1 = dense(scale, 32)\nrelu1 = relu(fc1)\nfc2 = dense(relu1, 16)\n"
        "relu2 = relu(fc2)\nfc3 = dense(relu2, 10)\n\noutput fc3 as logits\n"
    )
    assert {v.dtype.name for v in exported.tensors.values()} == {"float32"}


def test_other_levels_are_refused() -> None:
    graph = Graph(Level.QUANTIZED, 1)
    graph.add(Input("x", (1,)), (), TensorType((1,)))
    with pytest.raises(ModelError, match="level 'quantized'"):
        export(graph, "net", "net.npz")


def test_words_of_the_language_as_names(tmp_path: Path) -> None:
    graph = Graph(Level.SOURCE, 1)
    x = graph.add(Input("true", (3,)))
    y = graph.add(Apply((Function("relu"),)), (x,), location="none")
    z = graph.add(ArgMax(keepdims=True), (y,), location="input")
    graph.add(Output("output"), (z,))
    assert "`input` = argmax(`none`, keepdims=true)" in export(graph, "net", "net.npz").text
    same_network(graph, round_trip(graph, tmp_path))


BODY = """
weights he_normal(seed=3)
activation gate(x) on [-8, 8] = x * sigmoid(1.702 * x)
input pixels: encrypted [64]
hidden = pixels / 16 -> dense(32) as fc1 -> relu as relu1 -> dense(16) -> gate
logits = hidden -> dense(10) as fc3
alike = logits
output logits as result
"""
SECTIONS = {
    "nothing more": "",
    "batch": "batch 512",
    "a batch of one": "batch 1",
    "hints": "quantize { activation_bits = 11  margin = 1.5  relu1: 14 bits  hidden: 9 bits  pixels: 12 bits }",
    "hints in pieces": "quantize { input_margin = 3 } quantize { weight_precision = 10 }",
    "the least of training": "training { loss mse(logits) optimizer sgd(learning_rate=1e-7) }",
    "all of training": """training {
        loss cross_entropy(alike)
        optimizer sgd(learning_rate=0.05, momentum=0.9, nesterov=true, weight_decay=0.001)
        schedule step(every=5, factor=0.5) epochs 20 freeze fc1 freeze fc3, hidden
    }""",
    "another schedule": """training {
        loss binary_cross_entropy(fc3) optimizer sgd(0.1) schedule cosine(epochs=7, final=0.1)
    }""",
    "a constant schedule": "training { loss mse(pixels) optimizer sgd(0.1) schedule constant() }",
    "all": """batch 8 quantize { hidden: 10 bits } training { loss mse(logits) optimizer sgd(0.5)
        schedule exponential(factor=0.9) epochs 3 freeze fc1 }""",
}


@pytest.mark.parametrize("name", ["tumour", "`a network of 2`", "weights2"])
@pytest.mark.parametrize("section", SECTIONS)
def test_all_that_a_file_says_is_kept(name: str, section: str, tmp_path: Path) -> None:
    """parse(export(parse(text))) is the same program; so is the second round trip, word for word."""
    first = parse_glyph(f"network {name}\n{BODY}\n{SECTIONS[section]}")
    second = exported_and_read(first, tmp_path)
    assert said(second) == said(first)
    same_network(first.graph, second.graph)
    for value, id in second.values.items():
        if value in first.values:
            assert second.graph.node(id).location == first.graph.node(first.values[value]).location
    texts = [export_network(network, "net.npz").text for network in (second, exported_and_read(second, tmp_path))]
    assert texts[0] == texts[1]


def exported_and_read(network: Network, folder: Path) -> Network:
    exported = export_network(network, "net.npz")
    np.savez(folder / "net.npz", **exported.tensors)
    (folder / "net.glyph").write_text(exported.text, encoding="utf-8")
    return read_glyph(folder / "net.glyph")


def said(network: Network) -> tuple[object, ...]:
    return (network.name, network.batch, network.quantization, network.training)


def test_names_in_sections_are_those_of_the_same_values() -> None:
    text = export_network(parse_glyph(f"network n {BODY} {SECTIONS['all of training']}"), "net.npz").text
    assert "fc3 = dense(hidden, 10)\nlogits = fc3" not in text, "only what is spoken of gets second names"
    assert "\nalike = " in text
    assert "  loss cross_entropy(alike)\n" in text
    assert "  freeze fc1, fc3, hidden\n" in text


def test_a_map_without_weights(tmp_path: Path) -> None:
    """Its lists of numbers are empty."""
    graph = Graph(Level.SOURCE, 1)
    x = graph.add(Input("x", (2,)))
    none = [np.zeros(0), np.zeros(0, dtype=np.int64), np.zeros(4, dtype=np.int64), np.ones(3)]
    constants = [Const(graph.add_constant(f"c{i}", value)) for i, value in enumerate(none)]
    y = graph.add(Affine((3,), *constants), (x,), location="y")
    graph.add(Output("out"), (y,))
    same_network(graph, round_trip(graph, tmp_path))
