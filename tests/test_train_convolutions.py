"""Convolutions that are trained: gradients against differences, plans against the step program, real ciphertexts."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from onnx_models import run_onnxruntime
from scipy.signal import correlate
from test_train_chain import assert_close, one_hot
from test_train_plan import F64, OPTIMIZERS

from glyphc.analysis.cost import CostModel
from glyphc.backends.base import execute_named
from glyphc.backends.ckks_clear import ClearCKKS, SimulatedCKKS
from glyphc.cli import main
from glyphc.frontends.from_dsl import parse_glyph
from glyphc.ir.graph import Graph
from glyphc.train.arrange import Arrangement, arrangements
from glyphc.train.convolutions import constant_value, trained_value
from glyphc.train.errors import TrainingError
from glyphc.train.job import Options, make_job
from glyphc.train.losses import LOSSES
from glyphc.train.optimizers import SGD
from glyphc.train.plan import Plan, plan_step, wanted
from glyphc.train.planning import plan_of
from glyphc.train.stages import find_stages
from glyphc.train.step import State, StepProgram, make_step

BCE = LOSSES["binary-cross-entropy"]
RING = 2048


def text(steps: str, shape: tuple[int, int, int] = (1, 6, 6), seed: int = 1) -> str:
    """A network over images, of these steps, as a .glyph file."""
    return f"weights he_normal(seed={seed})\ninput x: {list(shape)}\nz = x -> {steps}\np = sigmoid(z)\noutput p\n"


def images(steps: str, shape: tuple[int, int, int] = (1, 6, 6)) -> Graph:
    return parse_glyph(text(steps, shape)).graph


SMALL = "conv(2, 3, stride=2, padding=1) as c -> tanh -> flatten -> dense(3) as d"
POOLED = "conv(2, 3) as c -> avg_pool(2) -> tanh -> flatten -> dense(3) as d"
DEEP = "conv(3, 3, stride=2) as c -> tanh -> flatten -> dense(4) as d1 -> tanh -> dense(2) as d"
CHANNELS = "conv(2, 2, stride=2) as c -> sigmoid -> flatten -> dense(2) as d"
NETWORKS = {
    "small": (SMALL, (1, 6, 6), 3),
    "pooled": (POOLED, (1, 6, 6), 3),
    "deep": (DEEP, (1, 7, 7), 2),
    "channels": (CHANNELS, (2, 4, 6), 2),
}


def data(shape: tuple[int, ...], outputs: int, batch: int) -> tuple[F64, F64]:
    return np.random.default_rng(5).normal(size=(batch, *shape)), one_hot(batch, outputs)


def program_of(name: str, optimizer: SGD, batch: int) -> StepProgram:
    steps, shape, _ = NETWORKS[name]
    return make_step(images(steps, shape), BCE, optimizer, batch, (), True)


def after(program: StepProgram, x: F64, y: F64, steps: int) -> State:
    state = program.initial()
    for _ in range(steps):
        state, _ = program.run(state, {"x": x}, y)
    return state


def convolved(x: F64, kernels: F64, bias: F64, stride: int, padding: int) -> F64:
    """(samples, channels, height, width) with kernels (outputs, channels, rows, columns), by SciPy."""
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    out = [[sum(correlate(c, k, "valid") for c, k in zip(image, kernel, strict=True)) for kernel in kernels]
           for image in padded]  # fmt: skip
    return np.asarray(np.array(out)[:, :, ::stride, ::stride] + bias[:, None, None])


@pytest.mark.parametrize(("name", "stride", "padding"), [("small", 2, 1), ("pooled", 1, 0)])
def test_gradients_are_those_of_differences(name: str, stride: int, padding: int) -> None:
    """Of the loss of a network that SciPy computes, in every weight of the convolution and its bias."""
    program = program_of(name, SGD(1.0), 4)
    x, y = data((1, 6, 6), 3, 4)
    start = program.initial().weights
    kernel, bias, w, b = start.values()

    def loss(weights: F64, shift: F64) -> float:
        z = convolved(x, weights.reshape(2, 1, 3, 3), shift, stride, padding)
        if name == "pooled":
            z = z.reshape(4, 2, 2, 2, 2, 2).mean(axis=(3, 5))
        logits = np.tanh(z).reshape(4, -1) @ w.T + b
        return float(np.mean((np.logaddexp(0, logits) - y * logits).sum(axis=1)))

    changed = after(program, x, y, 1).weights
    for name_, value in list(start.items())[:2]:
        found = (value - changed[name_]).ravel()
        for at in range(value.size):
            moved = [np.array(value), np.array(value)]
            moved[0].flat[at] += 1e-5
            moved[1].flat[at] -= 1e-5
            up, down = (loss(m, bias) if value.ndim == 2 else loss(kernel, m) for m in moved)
            assert found[at] == pytest.approx((up - down) / 2e-5, abs=1e-8)


def all_arrangements(program: StepProgram, ring: int = RING) -> list[Arrangement]:
    return list(arrangements(wanted(program, find_stages(program), ring), CostModel()))


def planned(plan: Plan, machine: Any, x: F64, y: F64, steps: int) -> dict[str, F64]:
    fresh = plan.data(x.reshape(len(x), -1), y) | plan.state(plan.program.initial())
    values = {name: machine.encrypt(message, limbs) for name, (message, limbs) in fresh.items()}
    for step in range(steps):
        values |= execute_named(plan.server.code(step), machine, values)
    return plan.decoded({name: machine.decrypt(values[name]) for name in plan.server.state_names}, steps)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_arrangement_computes_the_step_program(name: str) -> None:
    """Exactly: layouts, masks, units, frames. Places of pixels that there are not stay empty."""
    optimizer, (_, shape, outputs) = OPTIMIZERS["nesterov, decay, schedule"], NETWORKS[name]
    program = program_of(name, optimizer, 5)
    x, y = data(shape, outputs, 5)
    expected = after(program, x, y, 3).weights
    found = {a.names: a for a in all_arrangements(program)}
    seconds = {"grouped"} if name == "deep" else {"coarse", "grouped"}
    assert {names[:2] for names in found} == {("features apart", second) for second in seconds}
    for arrangement in found.values():
        plan = plan_step(program, 8.0, RING, arrangement=arrangement)
        assert_close(planned(plan, ClearCKKS(plan.parameters), x, y, 3), expected, 1e-8)


def test_micro_batches_add_up() -> None:
    program = program_of("small", SGD(0.5), 256)
    x, y = data((1, 6, 6), 3, 256)
    plan = plan_step(program, 8.0, RING)
    assert plan.server.micros > 1
    expected = after(program, x, y, 2).weights
    assert_close(planned(plan, ClearCKKS(plan.parameters), x, y, 2), expected, 1e-8)


@pytest.mark.parametrize("way", ["coarse", pytest.param("grouped", marks=pytest.mark.slow)])
def test_encrypted_convolutions_follow_their_simulation(way: str) -> None:
    """Real ciphertexts on a small ring, two steps with momentum."""
    from glyphc.backends.openfhe.ckks_client import generate_training_keys
    from glyphc.backends.openfhe.ckks_evaluator import OpenFHECKKS

    program = program_of("pooled", SGD(0.3, 0.8), 5)
    x, y = data((1, 6, 6), 3, 5)
    arrangement = next(a for a in all_arrangements(program) if a.names[1] == way)
    plan = plan_step(program, 8.0, RING, arrangement=arrangement)
    client, keys = generate_training_keys(plan.parameters, plan.server.periods)

    class Machine(OpenFHECKKS):
        encrypt, decrypt = client.encrypt, client.decrypt

    exact = planned(plan, ClearCKKS(plan.parameters), x, y, 2)
    simulated = planned(plan, SimulatedCKKS(plan.parameters), x, y, 2)
    real = planned(plan, Machine(keys), x, y, 2)
    assert_close(real, simulated, 1e-4)
    assert_close(real, exact, 2e-3)
    assert max(np.abs(exact[n] - v).max() for n, v in program.initial().weights.items()) > 0.01


def test_constants_and_what_is_trained_of_them() -> None:
    kernel = np.arange(24.0).reshape(4, 3, 2)
    matrix = trained_value(kernel, (3, 8))
    for tap, output, channel in product(range(4), range(3), range(2)):
        assert matrix[output, 2 * tap + channel] == kernel[tap, output, channel]
    np.testing.assert_array_equal(constant_value(matrix, kernel.shape), kernel)
    np.testing.assert_array_equal(constant_value(trained_value(np.repeat([1.0, 2], 3), (2,)), (6,)), [1, 1, 1, 2, 2, 2])


@pytest.mark.parametrize(
    ("steps", "shape", "message"),
    [
        ("conv(2, 3) as c -> relu -> conv(2, 3) as e -> relu -> flatten -> dense(2)", (1, 6, 6), "one convolution"),
        ("conv(2, 3) as c -> relu -> max_pool(2) -> flatten -> dense(2)", (1, 6, 6), "lies before"),
        ("conv(2, 3) as c -> relu -> avg_pool(2) -> flatten -> dense(2)", (1, 6, 6), "lies before"),
        ("conv(1, 6) as c -> flatten", (1, 6, 6), "ends in a dense layer"),
    ],
)
def test_what_cannot_be_trained(steps: str, shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        find_stages(make_step(images(steps, shape), BCE, SGD(), 4, (), True))


def test_frozen_convolutions_are_the_clients() -> None:
    """The second convolution is trained on what the first one makes, which the client computes."""
    graph = images("conv(2, 3) as c -> relu -> conv(2, 2, stride=2) as e -> tanh -> flatten -> dense(2)")
    x, y = data((1, 6, 6), 2, 6)
    job = make_job(graph, x, y, Options(SGD(0.1), 1, frozen=("c",), convolutions=True, insecure_ring=RING))
    plan = plan_of(job)
    assert [stage.pixels for stage in plan.stages] == [4, 1]
    features, targets = job.batch(0)
    state, _ = job.program.run(job.program.initial(), job.named(features), targets)
    found = planned(plan, ClearCKKS(plan.parameters), features, targets, 1)
    assert_close(found, state.weights, 1e-8)


def test_kernels_in_groups_and_poolings_stay() -> None:
    graph = images("conv(2, 3, groups=2) as c -> avg_pool(2) as means -> relu -> flatten -> dense(2) as d", (2, 6, 6))
    assert {slot.name.split(".")[0] for slot in make_step(graph, BCE, SGD(), 4, (), True).slots} == {"d"}


def onnx_file(path: Path, bias: bool) -> None:
    """Conv, Tanh, Flatten, Gemm, Sigmoid."""
    random = np.random.default_rng(3)
    tensors = {
        "k": random.normal(size=(2, 1, 3, 3)) / 3,
        "s": random.normal(size=2) / 4,
        "w": random.normal(size=(1, 8)) / 3,
        "b": np.zeros(1),
    }
    nodes = [
        helper.make_node("Conv", ["x", "k", "s"] if bias else ["x", "k"], ["c"], "first", strides=[2, 2]),
        helper.make_node("Tanh", ["c"], ["t"]),
        helper.make_node("Flatten", ["t"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["z"], transB=1),
        helper.make_node("Sigmoid", ["z"], ["p"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 6, 6])],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(v.astype(np.float32), n) for n, v in tensors.items() if bias or n != "s"],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.mark.parametrize("bias", [True, False])
def test_an_onnx_file_stays_what_it_was_with_other_numbers(bias: bool, tmp_path: Path) -> None:
    """Trained by the command, in simulation; the convolution is written as one, and no bias is added."""
    onnx_file(tmp_path / "net.onnx", bias)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 40)
    x = 0.3 * rng.normal(size=(40, 1, 6, 6))
    x[y == 0, :, :, :3] += 1.0
    x[y == 1, :, :, 3:] += 1.0
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    files = ("--data", str(tmp_path / "x.npy"), "--labels", str(tmp_path / "y.npy"), "-o", str(tmp_path / "out.onnx"))
    options = ("--mode", "simulate", "--train-convolutions", "--steps", "8", "--learning-rate", "1")
    ring = ("--insecure-ring", str(RING))
    result = CliRunner().invoke(main, ["train", str(tmp_path / "net.onnx"), *files, *options, *ring])
    assert result.exit_code == 0, result.output
    assert "keep their weights" not in result.output
    before, found = onnx.load(tmp_path / "net.onnx"), onnx.load(tmp_path / "out.onnx")
    assert [(n.op_type, list(n.input)) for n in found.graph.node] == [
        (n.op_type, list(n.input)) for n in before.graph.node
    ]
    old, new = ({t.name: numpy_helper.to_array(t) for t in m.graph.initializer} for m in (before, found))
    assert all(np.abs(new[n] - old[n]).max() > 1e-3 for n in old)
    p = run_onnxruntime(found, x.astype(np.float32))["p"]
    assert np.mean((p[:, 0] > 0.5) == y) > 0.9
