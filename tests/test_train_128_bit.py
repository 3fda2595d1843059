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
from test_train_ckks import party
from test_train_plan import referred

from glyphc.analysis.cost import CostModel
from glyphc.backends.ckks_clear import SimulatedCKKS
from glyphc.backends.openfhe.keys import release_all_keys
from glyphc.frontends.from_onnx import read_onnx
from glyphc.frontends.to_onnx import to_onnx
from glyphc.ir.instructions.ckks import Bootstrap
from glyphc.train.arrange import arrangements
from glyphc.train.linear_models import linear_model
from glyphc.train.losses import LOSSES
from glyphc.train.optimizers import SGD
from glyphc.train.plan import make_plan, wanted
from glyphc.train.stages import find_stages
from glyphc.train.step import make_step

COMMAND = [sys.executable, "-m", "glyphc", "train", "model.onnx", "--data", "x.npy", "--labels", "y.npy"]
OPTIONS = ["--learning-rate", "0.5", "--logit-range", "32", "-o", "out.onnx"]


@pytest.mark.slow
@pytest.mark.xdist_group("128-bit")
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
@pytest.mark.xdist_group("128-bit")
@pytest.mark.parametrize(
    ("engine", "widths", "batch"), [("kernels", (784, 128, 32, 10), 64), ("openfhe", (12, 4, 3, 2), 8)]
)
def test_a_step_of_three_layers_follows_its_simulation(engine: str, widths: tuple[int, ...], batch: int) -> None:
    """Glyph's network, and with OpenFHE, which takes 16 GB for that, a small one that is arranged alike: samples
    apart, a grouped layer, a coarse one; five bootstraps."""
    graph, optimizer, loss = chain(widths), SGD(0.5), LOSSES["binary-cross-entropy"]
    program = make_step(graph, loss, optimizer, batch)
    names = ("samples apart", "grouped", "coarse")
    found = arrangements(wanted(program, find_stages(program), 65536), CostModel())
    arrangement = min((a for a in found if a.names == names), key=lambda a: a.seconds)
    x = np.random.default_rng(0).uniform(0, 7, (batch, widths[0])) / np.sqrt(widths[0])
    y = one_hot(batch, widths[-1])
    plan = make_plan(graph, loss, optimizer, batch, 6.0, arrangement=arrangement)
    assert plan.parameters.secure
    assert sum(isinstance(i, Bootstrap) for i in plan.server.code(0)) == 5
    sides = party(plan.parameters, plan.server.periods, engine)
    machine = sides.machine
    machine.encrypt, machine.decrypt = sides.client.encrypt, sides.client.decrypt
    if engine == "kernels":  # whose ciphertexts come from files, and go there
        machine.encrypt = sides.encrypt
        machine.decrypt = lambda ciphertext: sides.decrypt(ciphertext, ciphertext.limbs)
    real = trained(plan, machine, x, y, 1)
    release_all_keys()
    simulated = trained(plan, SimulatedCKKS(plan.parameters), x, y, 1)
    expected = referred(graph, "binary-cross-entropy", optimizer, x, y, 1).weights
    moved = max(float(np.abs(expected[name] - graph.constant(name)).max()) for name in real)
    assert moved > 0.05
    assert_close(real, simulated, 2e-4)
    assert_close(real, expected, 1e-3)
