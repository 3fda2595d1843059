"""Networks whose branches meet, with maxima or softmax inside: ONNX in, ciphertexts out, against ONNX Runtime."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from onnx import ModelProto, NodeProto
from onnx_models import Constants, build, i64, node, run_onnxruntime
from schedule_cases import assert_exact

import glyphc
from glyphc.diagnostics import predicted
from glyphc.ir.instructions import Powers
from glyphc.ir.ops import ArgMax, Reshape
from glyphc.passes.pipeline import DEFAULT
from glyphc.program import Program
from glyphc.runtime import run

F64 = npt.NDArray[np.float64]
RING = 2048
SCRIPT = Path(__file__)


@dataclass(frozen=True)
class Network:
    """A model, and how far its outputs may be from the float network's, as shares of their range.

    clear: by the fixed-point definition, which has 12-bit activations. encrypted: by ciphertexts, and by the
    simulation. The compiler is told to keep the rms error to a fifth of that.
    """

    nodes: tuple[NodeProto, ...]
    constants: Constants
    shape: tuple[int, ...]
    batch: int
    clear: float
    encrypted: float

    def model(self) -> ModelProto:
        return build(list(self.nodes), self.constants, self.shape)

    def samples(self) -> npt.NDArray[np.float32]:
        return np.random.default_rng(5).normal(size=(400, *self.shape)).astype(np.float32)

    def compiled(self, ring: int | None = RING) -> Program:
        x = self.samples()
        (y,) = run_onnxruntime(self.model(), x).values()
        tolerance = self.encrypted / 5 * float(np.ptp(y))
        return glyphc.compile(self.model(), x, self.batch, logit_tolerance=tolerance, insecure_ring=ring)


def weights(*shape: int, seed: int) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return np.asarray(rng.normal(size=shape) / np.sqrt(shape[0]), dtype=np.float32)


def dense(source: str, target: str, inputs: int, outputs: int, seed: int) -> tuple[NodeProto, Constants]:
    w, b = f"{target}.w", f"{target}.b"
    constants: Constants = {w: weights(inputs, outputs, seed=seed), b: weights(outputs, seed=seed)}
    return node("Gemm", [source, w, b], [target], target), constants


def gated() -> Network:
    """tanh(A x) * sigmoid(B x), then a layer; more samples than one ciphertext holds."""
    (a, ca), (b, cb), (y, cy) = (dense("x", "a", 8, 6, 1), dense("x", "b", 8, 6, 2), dense("m", "y", 6, 3, 3))
    nodes = (a, b, node("Tanh", ["a"], ["s"]), node("Sigmoid", ["b"], ["t"]), node("Mul", ["s", "t"], ["m"]), y)
    return Network(nodes, ca | cb | cy, (8,), 300, clear=1e-3, encrypted=3e-3)


def attention() -> Network:
    """A softmax over five values that others are weighted by."""
    (a, ca), (b, cb), (y, cy) = (dense("x", "a", 8, 5, 4), dense("x", "b", 8, 5, 5), dense("m", "y", 5, 3, 6))
    nodes = (a, b, node("Softmax", ["a"], ["s"]), node("Mul", ["s", "b"], ["m"]), y)
    return Network(nodes, ca | cb | cy, (8,), 16, clear=3e-3, encrypted=3e-3)


def pooled() -> Network:
    """Two channels of 4 x 4 made by a layer, the largest of every 2 x 2, then a layer."""
    (a, ca), (y, cy) = dense("x", "a", 8, 32, 7), dense("f", "y", 8, 3, 8)
    pool = node("MaxPool", ["i"], ["p"], kernel_shape=[2, 2], strides=[2, 2])
    nodes = (a, node("Reshape", ["a", "s"], ["i"]), pool, node("Flatten", ["p"], ["f"]), y)
    return Network(nodes, ca | cy | {"s": i64(0, 2, 4, 4)}, (8,), 16, clear=2e-3, encrypted=1e-2)


def decided() -> Network:
    """A one-hot decision by the server: the client learns nothing else."""
    (a, ca), (b, cb) = dense("x", "a", 8, 6, 9), dense("t", "b", 6, 4, 10)
    nodes = (a, node("Tanh", ["a"], ["t"]), b, node("Hardmax", ["b"], ["y"], axis=1))
    return Network(nodes, ca | cb, (8,), 16, clear=1e-6, encrypted=0.02)


def branches() -> Network:
    """One branch of two layers, one of one: the first bootstrap serves both."""
    (a, ca), (b, cb), (c, cc) = dense("x", "a", 8, 6, 11), dense("x", "b", 8, 6, 12), dense("s", "c", 6, 6, 13)
    (y, cy) = dense("m", "y", 6, 3, 14)
    nodes = (a, b, node("Tanh", ["a"], ["s"]), node("Relu", ["b"], ["t"]), c, node("Sigmoid", ["c"], ["u"]))
    return Network((*nodes, node("Add", ["u", "t"], ["m"]), y), ca | cb | cc | cy, (8,), 16, clear=1e-3, encrypted=1e-2)


NETWORKS = {
    "branches": branches(),
    "gated": gated(),
    "attention": attention(),
    "pooled": pooled(),
    "decided": decided(),
}


def error(got: object, wanted: F64) -> float:
    return float(np.abs(np.asarray(got) - wanted).max() / np.ptp(wanted))


@pytest.mark.parametrize("name", NETWORKS)
def test_encrypted_agrees_with_onnxruntime(name: str) -> None:
    network = NETWORKS[name]
    program, x = network.compiled(), network.samples()[: network.batch]
    (wanted,) = (np.asarray(v, dtype=np.float64) for v in run_onnxruntime(network.model(), x).values())
    assert len(x) == program.client.batch
    errors = {mode: error(program.run(x, mode=mode), wanted) for mode in ("clear", "simulate", "encrypted")}
    assert errors["clear"] < network.clear
    assert max(errors["simulate"], errors["encrypted"]) < network.encrypted
    # the simulation says beforehand what encryption will do
    assert errors["encrypted"] < 1.5 * errors["simulate"] + 1e-3
    assert_exact(program, {program.client.inputs[0].name: np.asarray(x, dtype=np.float64)})


@pytest.mark.slow
@pytest.mark.xdist_group("128-bit")
@pytest.mark.parametrize("name", NETWORKS)
def test_at_128_bit(name: str) -> None:
    """The same at the ring of real programs, in a process of its own that uses all cores."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    command = [sys.executable, str(SCRIPT), name]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    report = json.loads(done.stdout.splitlines()[-1])
    print(report)
    assert report["security"] == "HEStd_128_classic"
    assert report["error"] < NETWORKS[name].encrypted


def test_one_of_them_takes_several_chunks() -> None:
    program = NETWORKS["gated"].compiled()
    assert max(n.type.layout.chunks for n in program.graph if n.type.layout) > 1


def test_the_server_decides_only_where_it_is_told_to() -> None:
    """Argmax at the end: the client's by default; encrypted with an option, and then the client gets nothing but it."""
    network = NETWORKS["decided"]
    nodes = (*network.nodes[:-1], node("ArgMax", ["b"], ["y"], axis=1, keepdims=0))
    model = build(list(nodes), network.constants, network.shape)
    x = np.random.default_rng(5).normal(size=(400, 8)).astype(np.float32)
    (wanted,) = run_onnxruntime(model, x[:16]).values()
    told = DEFAULT.replace("expand", "expand{client_tail=false}")
    for passes, left in ((DEFAULT, ArgMax), (told, Reshape)):  # a reshape computes nothing
        program = glyphc.compile(model, x, 16, passes=passes, insecure_ring=RING)
        assert [type(op) for op in program.client.outputs[0].tail] == [left]
        got = np.asarray(program.run(x[:16], mode="simulate"))
        assert got.shape == wanted.shape
        np.testing.assert_array_equal(np.rint(got), wanted)


def main(name: str) -> None:
    """Run one of the networks at 128-bit and print what came of it, as JSON."""
    network = NETWORKS[name]
    program, x = network.compiled(ring=None), network.samples()[: network.batch]
    (wanted,) = (np.asarray(v, dtype=np.float64) for v in run_onnxruntime(network.model(), x).values())
    report = run(program, x)
    (got,) = report.outputs.values()
    print(
        json.dumps(
            {
                "name": name,
                "samples": len(x),
                "error": error(got, wanted),
                "bootstraps": sum(isinstance(i, Powers) for i in program.schedule.instructions),
                "seconds": report.seconds["evaluate"],
                "predicted": predicted(program).seconds,
                "peak": report.peak_memory,
                "predicted peak": predicted(program).memory_bytes,
                "security": report.security,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1])
