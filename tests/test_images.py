"""Networks on images, compiled by their kernels: what they compute is ONNX Runtime's, and no matrix is written down."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from onnx_models import build, node, randoms, run_onnxruntime

import glyphc
from glyphc.diagnostics import summary
from glyphc.ir.graph import Graph
from glyphc.ir.matrices import Full
from glyphc.ir.ops import Dense, Linear

SHAPE = (3, 16, 16)


def network() -> onnx.ModelProto:
    """Padding, strides, batch normalisation, a residual sum, poolings, a dense head."""
    constants = {
        "k1": randoms(8, 3, 3, 3, seed=1) / 5,
        "scale": randoms(8, seed=2) / 4 + 1,
        "shift": randoms(8, seed=3) / 4,
        "mean": randoms(8, seed=4) / 4,
        "variance": np.abs(randoms(8, seed=5)) + 0.5,
        "k2": randoms(8, 8, 3, 3, seed=6) / 8,
        "k3": randoms(4, 8, 1, 1, seed=7) / 4,
        "w": randoms(5, 4, seed=8),
        "b": randoms(5, seed=9),
    }
    nodes = [
        node("Conv", ["x", "k1"], ["a"], name="conv1", pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["a", "scale", "shift", "mean", "variance"], ["n"], name="bn"),
        node("Relu", ["n"], ["r"], name="relu1"),
        node("Conv", ["r", "k2"], ["c"], name="conv2", pads=[1, 1, 1, 1]),
        node("Add", ["c", "r"], ["s"], name="residual"),
        node("Relu", ["s"], ["t"], name="relu2"),
        node("AveragePool", ["t"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p", "k3"], ["d"], name="conv3", strides=[2, 2]),
        node("Relu", ["d"], ["u"], name="relu3"),
        node("GlobalAveragePool", ["u"], ["g"], name="mean"),
        node("Flatten", ["g"], ["f"], name="flat"),
        node("Gemm", ["f", "w", "b"], ["y"], name="head", transB=1),
    ]
    return build(nodes, constants, SHAPE)


@pytest.fixture(scope="module")
def program() -> glyphc.Program:
    samples = np.random.default_rng(0).uniform(-1, 1, (24, *SHAPE))
    return glyphc.compile(network(), samples, batch=1, insecure_ring=4096, strategy="glyph")


def held(graph: Graph, kind: type[Dense] | type[Linear]) -> dict[str, list[int]]:
    """Bytes of the constants of each matrix of each map, by location."""
    return {
        n.location: [sum(a.nbytes for a in graph.matrix(w).arrays().values()) for w in op.weights]
        for n, op in graph.of(kind)
    }


def test_simulated_results_are_those_of_onnxruntime(program: glyphc.Program) -> None:
    x = np.random.default_rng(1).uniform(-1, 1, (3, *SHAPE)).astype(np.float32)
    wanted = run_onnxruntime(network(), x)["y"]
    for mode in ("clear", "simulate"):
        found = program.run(x, mode)
        assert isinstance(found, np.ndarray)
        assert np.abs(found - wanted).max() < 0.05 * np.ptp(wanted), mode


@pytest.mark.parametrize(("stage", "kind"), [("fold", Dense), ("quantize", Linear), ("select-parameters", Linear)])
def test_no_stage_writes_a_matrix_down(program: glyphc.Program, stage: str, kind: type[Dense] | type[Linear]) -> None:
    """The largest one would be 2048 x 2048, 34 MB; its kernel with the places of its taps takes some kilobytes."""
    graph = program.stages[stage]
    found = held(graph, kind)
    assert len(found) == 4
    assert max(sum(sizes) for sizes in found.values()) < 100_000
    assert sum(a.nbytes for a in graph.constants.values()) < 400_000
    large = [w for _, op in graph.of(kind) for w in op.weights if np.prod(graph.matrix(w).shape) > 1 << 16]
    assert len(large) == 3  # conv1, conv2 with the residual sum as a part of its middle tap, conv3
    assert not any(isinstance(graph.matrix(w), Full) for w in large)


def test_the_artifact_is_as_small_as_the_network(program: glyphc.Program) -> None:
    again = glyphc.Program.from_bytes(program.to_bytes())
    assert again.graph == program.graph
    assert len(program.to_bytes()) < 1_000_000


def test_one_sample_is_no_samples(program: glyphc.Program) -> None:
    text = summary(program)
    assert re.search(r"(?m)^batch +1 sample per pass$", text)
    assert re.search(r"(?m)^upload .* 3 ciphertexts\b", text)
