"""Training at 128-bit security (slow): real steps on real data against their simulation, and a kill on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from test_train_chain import assert_close, chain, one_hot, trained
from test_train_plan import referred

from glyphc.backends.ckks_clear import SimulatedCKKS
from glyphc.frontends.from_onnx import read_onnx
from glyphc.frontends.to_onnx import to_onnx
from glyphc.train.linear_models import linear_model
from glyphc.train.losses import LOSSES
from glyphc.train.optimizers import SGD
from glyphc.train.plan import make_plan

COMMAND = [sys.executable, "-m", "glyphc", "train", "model.onnx", "--data", "x.npy", "--labels", "y.npy"]
OPTIONS = ["--learning-rate", "0.5", "--logit-range", "32", "-o", "out.onnx"]


@pytest.mark.slow
def test_a_killed_run_at_128_bit_follows_its_simulation(tmp_path: Path) -> None:
    """Two steps of logistic regression on 398 samples; killed (SIGKILL) after the first, resumed for the second."""
    x, y = load_breast_cancer(return_X_y=True)
    x, y = x[:398], y[:398]
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    (tmp_path / "model.onnx").write_bytes(to_onnx(linear_model(x, 1, "sigmoid")).SerializeToString())
    everything = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    steps = [*COMMAND, *OPTIONS, "--steps", "2"]

    def weights() -> np.ndarray:
        network = read_onnx(tmp_path / "out.onnx")
        return np.concatenate([v.ravel() for n, v in network.constants.items() if n in ("weight", "bias")])

    subprocess.run([*steps, "--mode", "simulate"], cwd=tmp_path, env=everything, check=True)
    simulated = weights()
    run = subprocess.Popen(steps, cwd=tmp_path, env=everything, stderr=subprocess.PIPE, text=True)
    assert run.stderr is not None
    for line in run.stderr:
        if "step 1 of 2" in line:
            break
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert (tmp_path / "out.onnx.run" / "checkpoint.zip").is_file()
    start = time.perf_counter()
    done = subprocess.run(
        [*steps, "--resume"], cwd=tmp_path, env=everything, check=True, capture_output=True, text=True
    )
    print(f"resumed: {time.perf_counter() - start:.0f} s\n{done.stdout}")
    assert "HEStd_128_classic" in done.stdout
    assert not (tmp_path / "out.onnx.run").exists()
    assert np.abs(weights()).max() > 0.1
    assert np.abs(weights() - simulated).max() < 5e-5


@pytest.mark.slow
def test_a_step_of_glyphs_network_follows_its_simulation() -> None:
    """784-128-32-10, 64 samples: samples apart, a grouped layer, a coarse one; five bootstraps."""
    from glyphc.backends.openfhe.ckks_client import generate_training_keys
    from glyphc.backends.openfhe.ckks_evaluator import OpenFHECKKS
    from glyphc.backends.openfhe.keys import release_all_keys

    widths, batch = (784, 128, 32, 10), 64
    graph, optimizer = chain(widths), SGD(0.5)
    x = np.random.default_rng(0).uniform(0, 1, (batch, widths[0])) / 4
    y = one_hot(batch, widths[-1])
    plan = make_plan(graph, LOSSES["binary-cross-entropy"], optimizer, batch, 6.0)
    assert plan.parameters.secure
    client, keys = generate_training_keys(plan.parameters, plan.server.periods)

    class Machine(OpenFHECKKS):
        encrypt, decrypt = client.encrypt, client.decrypt

    real = trained(plan, Machine(keys), x, y, 1)
    release_all_keys()
    simulated = trained(plan, SimulatedCKKS(plan.parameters), x, y, 1)
    expected = referred(graph, "binary-cross-entropy", optimizer, x, y, 1).weights
    moved = max(float(np.abs(expected[name] - graph.constant(name)).max()) for name in real)
    assert moved > 0.1
    assert_close(real, simulated, 2e-4)
    assert_close(real, expected, 1e-3)
