"""Whole networks on ciphertexts: small rings here, 128-bit security in the slow tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

import glyphc
from glyphc.runtime import run

MODELS = Path(__file__).parent.parent / "models"
F64 = npt.NDArray[np.float64]


def data(name: str, part: str) -> npt.NDArray[np.float32]:
    path = MODELS / "data" / f"{name}-{part}.npy"
    if not path.exists():
        subprocess.run([sys.executable, str(MODELS / "datasets.py")], check=True)
    return np.load(path)


def reference(name: str, x: npt.NDArray[np.float32]) -> F64:
    session = onnxruntime.InferenceSession(str(MODELS / f"{name}-mlp.onnx"))
    (y,) = session.run(None, {session.get_inputs()[0].name: x})
    return np.asarray(y, dtype=np.float64)


@pytest.mark.parametrize(
    ("name", "ring", "batch"), [("digits", 4096, 64), ("breast-cancer", 1024, 32), ("digits", 1024, 1)]
)
def test_encrypted_agrees_with_the_definition(name: str, ring: int, batch: int) -> None:
    """Encrypted, simulated and clear runs of a trained network, in one or several passes, against onnxruntime."""
    program = glyphc.compile(MODELS / f"{name}-mlp.onnx", data(name, "train"), batch, insecure_ring=ring)
    samples = program.client.batch + (program.client.batch > 1)  # one more than fits: two passes
    x = data(name, "test")[:samples]
    report = run(program, x)
    (encrypted,) = report.outputs.values()
    clear, simulated = (np.asarray(program.run(x, mode=m)) for m in ("clear", "simulate"))
    wanted = reference(name, x)
    spread = np.ptp(wanted)
    assert np.abs(clear - wanted).max() < 2e-3 * spread
    # the encrypted error is what the simulator says it is
    deviation = np.sqrt(np.mean((simulated - clear) ** 2))
    assert np.sqrt(np.mean((encrypted - clear) ** 2)) < 2 * deviation + 1e-3 * spread
    assert np.mean(encrypted.argmax(axis=1) == wanted.argmax(axis=1)) >= 0.98
    assert report.security == "insecure"
    assert report.passes == (2 if samples > 1 else 1)


RUN_128 = """
import json, sys
import numpy as np
import glyphc
from glyphc.runtime import run
model, train, test, batch, output = sys.argv[1:]
program = glyphc.compile(model, np.load(train), int(batch))
x = np.load(test)[:int(batch)]
report = run(program, x)
(y,) = report.outputs.values()
np.save(output, y)
print(json.dumps({
    "evaluate": report.seconds["evaluate"], "bootstraps": report.bootstrap_seconds, "passes": report.passes,
    "peak": report.peak_memory, "security": report.security, "seconds": report.seconds,
}))
"""


@pytest.mark.slow
@pytest.mark.xdist_group("128-bit")
@pytest.mark.parametrize(("name", "batch"), [("digits", 512), ("breast-cancer", 171), ("mnist", 512)])
def test_at_128_bit(name: str, batch: int, tmp_path: Path) -> None:
    """Held-out data, encrypted at 128-bit security: agreement with the float network, accuracy, memory.

    A single sample is what the service evaluates at 128-bit (test_service.py).
    """
    x, labels, wanted = data(name, "test")[:batch], data(name, "test-labels")[:batch], None
    wanted = reference(name, x)
    arguments = [MODELS / f"{name}-mlp.onnx", *(MODELS / "data" / f"{name}-{p}.npy" for p in ("train", "test"))]
    out = tmp_path / "y.npy"
    # a process of its own: its peak memory is the run's
    command = [sys.executable, "-c", RUN_128, *map(str, arguments), str(batch), str(out)]
    everything = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=everything)
    report = json.loads(done.stdout.splitlines()[-1])
    y = np.load(out)
    agreement = np.mean(y.argmax(axis=1) == wanted.argmax(axis=1))
    accuracy, float_accuracy = (np.mean(v.argmax(axis=1) == labels) for v in (y, wanted))
    print(f"{name}: agreement {agreement:.2%}, accuracy {accuracy:.2%} of {float_accuracy:.2%}, {report}")
    assert report["security"] == "HEStd_128_classic"
    assert agreement >= 0.99
    assert accuracy >= float_accuracy - 0.005
    assert report["peak"] < 12e9
