"""Frozen layers on the server: a part of every step, with weights that the client does not have."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from test_train_chain import assert_close, one_hot
from test_train_convolutions import images, text
from test_train_plan import F64

from glyphc.backends.base import execute_named
from glyphc.backends.ckks_clear import ClearCKKS, SimulatedCKKS
from glyphc.errors import ArtifactError, DataError
from glyphc.exchange.training_backbone import accepted
from glyphc.exchange.training_client import JOB_FILE, TrainingClientFiles, decrypted_state
from glyphc.exchange.training_continue import Continuation, go_on
from glyphc.exchange.training_files import CHECKPOINT, ProgramFile, part_name
from glyphc.exchange.training_kept import check_kept, kept_weights
from glyphc.exchange.training_server import run_training
from glyphc.ir.evaluate import evaluate
from glyphc.ir.graph import Graph
from glyphc.storage.container import Reader, Writer
from glyphc.storage.headers import TrainingBackboneHeader
from glyphc.train.errors import TrainingError
from glyphc.train.job import Job, Keeper, Options, make_job
from glyphc.train.optimizers import SGD
from glyphc.train.plan import Plan
from glyphc.train.planning import plan_of
from glyphc.train.step import with_weights
from tests.training_runs import invoke

RING = 1024
# A convolution and a dense layer that are the server's, and two that are trained.
STEPS = (
    "conv(2, 3) as c -> avg_pool(2) -> tanh -> flatten -> dense(4) as f -> tanh -> dense(3) as d1 -> tanh -> "
    "dense(2) as d2"
)
FROZEN = ("c", "f")


def network() -> Graph:
    return images(STEPS)


def samples(count: int = 12) -> tuple[F64, F64]:
    return np.random.default_rng(2).normal(size=(count, 1, 6, 6)), one_hot(count, 2)


def job(keep_on: Keeper, optimizer: SGD | None = None, frozen: tuple[str, ...] = FROZEN) -> Job:
    options = Options(
        optimizer or SGD(0.4, 0.5), 3, 6, frozen=frozen, insecure_ring=RING, keep_on=keep_on, convolutions=True
    )
    return make_job(network(), *samples(), options)


def trained(of: Job, plan: Plan, machine: Any) -> dict[str, F64]:
    state = plan.state(of.program.initial())
    values = {name: machine.encrypt(message, limbs) for name, (message, limbs) in state.items()}
    for step in range(of.options.steps):
        x, y = of.batch(of.batches.number(step))
        fresh = plan.data(x.reshape(len(x), -1), y)
        batch = {name: machine.encrypt(message, limbs) for name, (message, limbs) in fresh.items()}
        values |= execute_named(plan.server.code(step), machine, {**values, **batch})
    return plan.weights({name: machine.decrypt(values[name]) for name in plan.server.state_names}, of.options.steps)


def expected(of: Job) -> dict[str, F64]:
    state = of.program.initial()
    for step in range(of.options.steps):
        x, y = of.batch(of.batches.number(step))
        state, _ = of.program.run(state, of.named(x), y)
    return state.weights


def test_both_keepers_train_the_same_weights() -> None:
    """Exactly; the server's steps begin at images, the client's at what it computed of them."""
    client, server = job(Keeper.CLIENT), job(Keeper.SERVER)
    plans = [plan_of(each) for each in (client, server)]
    assert [len(p.stages) for p in plans] == [2, 4]
    found = [trained(j, p, ClearCKKS(p.parameters)) for j, p in zip((client, server), plans, strict=True)]
    wanted = expected(client)
    assert_close(found[0], wanted, 1e-8)
    assert_close({name: found[1][name] for name in wanted}, wanted, 1e-8)
    moved = [name for name, value in wanted.items() if np.abs(value - network().constant(name)).max() > 1e-3]
    assert moved == ["d1.weight", "d1.bias", "d2.weight", "d2.bias"]
    assert plans[0].server.kept_names == ()
    assert {name.split(":")[1] for name in plans[1].server.kept_names} == {"1", "2"}


def test_simulation_follows() -> None:
    server = job(Keeper.SERVER)
    plan = plan_of(server)
    wanted = expected(job(Keeper.CLIENT))
    found = trained(server, plan, SimulatedCKKS(plan.parameters))
    assert_close({name: found[name] for name in wanted}, wanted, 2e-2)


# -- between client and server --


@pytest.fixture(scope="module")
def offered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An offer of the server's, and what a client has made of it; all of it by the commands."""
    folder = tmp_path_factory.mktemp("offered")
    (folder / "net.glyph").write_text(text(STEPS))
    x, y = samples()
    for name, value in (("x", x), ("y", y), ("public", x[::-1] * 0.9), ("public_y", y[::-1])):
        np.save(folder / f"{name}.npy", value)
    options = ("--samples", 12, "--batch", 6, "--steps", 3, "--learning-rate", 0.4, "--insecure-ring", RING)
    trial = ("--trial-data", folder / "public.npy", "--trial-labels", folder / "public_y.npy")
    backbone = ("--backbone", folder / "own.weights", "-o", folder / "head.offer")
    loss = ("--loss", "binary-cross-entropy", "--freeze", "f")
    result = invoke("training", "offer", folder / "net.glyph", *options, *trial, *loss, *backbone)
    assert "NOT SECURE" in result.output
    data = ("--data", folder / "x.npy", "--labels", folder / "y.npy")
    folders = ("--client", folder / "client", "--server", folder / "server")
    invoke("training", "accept", folder / "head.offer", *data, *folders)
    return folder


def test_a_client_gets_what_comes_behind_the_servers_layers(offered: Path, tmp_path: Path) -> None:
    """Trained as in simulation with the whole model; without the server's weights nothing runs."""
    shutil.copytree(offered / "server", tmp_path / "server")
    missing = invoke("training", "run", "--server", tmp_path / "server", code=2)
    assert "backbone.weights' is missing" in missing.output
    shutil.copy(offered / "own.weights", tmp_path / "server" / "backbone.weights")
    request = tmp_path / "new.request"
    invoke("training", "run", "--server", tmp_path / "server")
    ends = ("--client", offered / "client", "--server", tmp_path / "server")
    invoke("training", "finish", *ends, "-o", tmp_path / "h.onnx")
    head = onnx.load(tmp_path / "h.onnx")
    found = {t.name: numpy_helper.to_array(t) for t in head.graph.initializer}
    x, y = samples()
    options = Options(SGD(0.4), 3, 6, frozen=("f",), insecure_ring=RING, keep_on=Keeper.CLIENT)
    whole = network()
    reference = make_job(whole, x, y, options)
    wanted = expected(reference)
    for name in ("d1.weight", "d1.bias", "d2.weight", "d2.bias"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=0, atol=2e-2, err_msg=name)
        assert np.abs(found[name] - whole.constant(name)).max() > 1e-2
    # the trained network serves images, and the server's layers are a part of that
    invoke("training", "request", "--client", offered / "client", "--data", offered / "x.npy", "-o", request)
    files = ("--server", tmp_path / "server", "--request", request, "-o", tmp_path / "a")
    invoke("training", "infer", *files)
    answer = ("--client", offered / "client", "--request", request, "--answer", tmp_path / "a", "--samples", 12)
    invoke("training", "predict", *answer, "-o", tmp_path / "p.npy")
    p = evaluate(with_weights(whole, {n: found[n].astype(float) for n in wanted}), {"x": x})["p"]
    np.testing.assert_allclose(np.load(tmp_path / "p.npy"), p, rtol=0, atol=2e-2)


def test_the_servers_weights_do_not_leave_it(offered: Path, tmp_path: Path) -> None:
    """Neither the offer nor a trained state has them: decrypted, what the server keeps is zero."""
    shutil.copytree(offered / "server", tmp_path / "server")
    shutil.copy(offered / "own.weights", tmp_path / "server" / "backbone.weights")
    run_training(tmp_path / "server", 1)
    files = TrainingClientFiles.load(offered / "client" / JOB_FILE)
    messages = decrypted_state(offered / "client", files, tmp_path / "server" / CHECKPOINT, 1, None)
    kept, whole = files.program.outline.kept, network()
    assert len(kept) >= 2
    largest = {name: float(np.abs(plan_message(offered, name)).max()) for name in kept}
    assert sum(value > 1e-3 for value in largest.values()) >= 2  # biases are zero
    assert all(np.abs(messages[name]).max() < 1e-7 for name in kept)
    names = {slot.name for slot in files.job.program.slots if not slot.trained}
    assert names and all((files.job.network.constant(name) == 1).all() for name in names)
    trained_names = ("d1.weight", "d2.weight")
    assert all(np.array_equal(files.job.network.constant(n), whole.constant(n)) for n in trained_names)


def plan_message(folder: Path, name: str) -> F64:
    """What the server adds."""
    files = TrainingClientFiles.load(folder / "client" / JOB_FILE)
    at = files.program.outline.kept.index(name)
    with Reader(folder / "own.weights", TrainingBackboneHeader) as reader:
        return np.frombuffer(reader.read(part_name(at)))


class Machine:
    """Takes any message that is not too large."""

    @staticmethod
    def with_public(source: str, message: F64) -> str:
        if np.abs(message).max() > 1e20:
            raise ValueError("a message is too large")
        return source


def read_kept(folder: Path, program: ProgramFile) -> None:
    check_kept(folder, program)
    machine: Any = Machine()
    kept_weights(folder, program, machine, dict.fromkeys(program.outline.kept, ""))


def test_weights_of_another_offer_are_refused(offered: Path, tmp_path: Path) -> None:
    """Before keys are loaded, or when their numbers are read."""
    path = tmp_path / "backbone.weights"
    with (
        ProgramFile(offered / "server" / "program.training") as program,
        Reader(offered / "own.weights", TrainingBackboneHeader) as reader,
    ):
        parts = {name: reader.read(name) for name in reader.parts}
        size = len(next(iter(parts.values()))) // 8
        for changed, message in (
            ({"program": "0" * 64}, "belongs to another training program"),
            ({"parts": dict(list(parts.items())[1:])}, "part 000000 is missing"),
            ({"parts": {n: np.full(size, np.inf).tobytes() for n in parts}}, "numbers that are none"),
            ({"parts": {n: np.full(size, 1e30).tobytes() for n in parts}}, "too large"),
        ):
            path.unlink(missing_ok=True)
            with Writer(path, TrainingBackboneHeader(str(changed.get("program", program.fingerprint)))) as writer:
                for name, data in dict(changed.get("parts", parts)).items():
                    writer.add(name, data)
            with pytest.raises(ArtifactError, match=message):
                read_kept(tmp_path, program)


def test_an_offer_is_for_so_many_samples(offered: Path) -> None:
    x, y = samples()
    with pytest.raises(DataError, match="the offer is for 12 samples; given are 6, and 6 labels"):
        accepted(offered / "head.offer", x[:6], y[:6])


def test_an_offers_run_does_not_go_on(offered: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="does not go on"):
        go_on(offered / "client", tmp_path / "update", Continuation(steps=2))


def test_an_offer_takes_samples_to_find_ranges_on(offered: Path, tmp_path: Path) -> None:
    """And frozen layers to keep."""
    sizes = ("--samples", 12, "--batch", 6, "--steps", 1, "--insecure-ring", RING, "--loss", "binary-cross-entropy")
    files = ("--backbone", tmp_path / "w", "-o", tmp_path / "o")
    trial = ("--trial-data", offered / "public.npy", "--trial-labels", offered / "public_y.npy")
    model = offered / "net.glyph"
    found = invoke("training", "offer", model, *sizes, *files, "--freeze", "f", code=2)
    assert "an offer takes --trial-data" in found.output
    found = invoke("training", "offer", model, *sizes, *files, *trial, "--train-convolutions", code=2)
    assert "no layer is frozen before those that are trained" in found.output
    assert not (tmp_path / "w").exists() and not (tmp_path / "o").exists()
