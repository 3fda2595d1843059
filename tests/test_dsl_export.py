"""What is written as ``.glyph`` reads as the same network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from onnx_models import MODELS
from strategies import examples, graphs

from glyphc.errors import ModelError
from glyphc.frontends.dsl_export import export
from glyphc.frontends.from_dsl import read_glyph
from glyphc.frontends.from_onnx import read_onnx
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph
from glyphc.ir.ops import Apply, ArgMax, Input, Output
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
