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
from glyphc.commands.train import _keeps
from glyphc.errors import ArtifactError, DataError
from glyphc.exchange import training_infer
from glyphc.exchange.code_parts import encoded, sha256
from glyphc.exchange.training_backbone import accepted
from glyphc.exchange.training_client import JOB_FILE, TrainingClientFiles, decrypted_state
from glyphc.exchange.training_continue import Continuation, go_on
from glyphc.exchange.training_files import CHECKPOINT, ProgramFile, part_name
from glyphc.exchange.training_infer import infer
from glyphc.exchange.training_kept import REQUESTS, check_kept, check_request, kept_weights
from glyphc.exchange.training_predict import make_request
from glyphc.exchange.training_server import run_training
from glyphc.ir.evaluate import evaluate
from glyphc.ir.graph import Graph
from glyphc.ir.instructions import Free, Load, Store
from glyphc.ir.instructions.ckks import LOGITS, Reduce
from glyphc.ir.instructions.text import CKKS
from glyphc.knowledge import TRAINING_KEPT
from glyphc.storage.container import Reader, Writer
from glyphc.storage.headers import TrainingBackboneHeader
from glyphc.train.errors import TrainingError
from glyphc.train.inference import Inference
from glyphc.train.job import Job, Keeper, Options, make_job
from glyphc.train.optimizers import SGD
from glyphc.train.plan import Plan
from glyphc.train.planning import plan_of
from glyphc.train.step import with_weights
from tests.training_runs import changed, invoke

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
    refused = invoke("training", "accept", folder / "head.offer", *data, *folders, code=2)
    assert "the offer's ring of 1024 protects nothing" in refused.output and "--insecure" in refused.output
    assert not (folder / "client").exists() and not (folder / "server").exists()
    invoke("training", "accept", folder / "head.offer", *data, *folders, "--insecure")
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


def test_a_request_for_the_servers_weights_is_refused(
    offered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a client that writes instructions of its own; before keys are loaded."""
    shutil.copytree(offered / "server", tmp_path / "server")
    shutil.copy(offered / "own.weights", tmp_path / "server" / "backbone.weights")
    files, request = TrainingClientFiles.load(offered / "client" / JOB_FILE), tmp_path / "hostile.request"
    name, _ = files.program.outline.data[0]
    code = (Load(0, name), Load(1, files.program.outline.kept[0]), Reduce(2, 1, 1), Store(2, LOGITS), Free((0, 1, 2)))
    with monkeypatch.context() as m:
        m.setattr(Inference, "code", code)
        make_request(offered / "client", samples()[0], request, steps=0)
    monkeypatch.setattr(training_infer, "load_machine", lambda *_: pytest.fail("keys are loaded"))
    with pytest.raises(ArtifactError, match="other instructions than the offer's forward pass"):
        infer(tmp_path / "server", request, tmp_path / "answer")
    assert not (tmp_path / "answer").exists()


def test_forward_passes_are_known_by_their_step(offered: Path, tmp_path: Path) -> None:
    shutil.copy(offered / "own.weights", tmp_path / "backbone.weights")
    files = TrainingClientFiles.load(offered / "client" / JOB_FILE)
    with ProgramFile(offered / "server" / "program.training") as program:
        for step in range(4):
            code = sha256(encoded(Inference(files.plan, step).code, CKKS))
            check_request(tmp_path, program, step, code, "new.request")
        with pytest.raises(ArtifactError, match=r"new.request asks for .*; make it with 'glyphc training request'"):
            check_request(tmp_path, program, 4, code, "new.request")


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
        weights = [name for name in parts if name != REQUESTS]
        for other, message in (
            ({"program": "0" * 64}, "belongs to another training program"),
            ({"parts": dict(list(parts.items())[1:])}, "part 000000 is missing"),
            ({"parts": parts | {n: np.full(size, np.inf).tobytes() for n in weights}}, "numbers that are none"),
            ({"parts": parts | {REQUESTS: b""}}, "part requests has 0 bytes, not 128"),
            ({"parts": parts | {n: np.full(size, 1e30).tobytes() for n in weights}}, "too large"),
        ):
            path.unlink(missing_ok=True)
            with Writer(path, TrainingBackboneHeader(str(other.get("program", program.fingerprint)))) as writer:
                for name, data in dict(other.get("parts", parts)).items():
                    writer.add(name, data)
            with pytest.raises(ArtifactError, match=message):
                read_kept(tmp_path, program)


def test_an_offer_is_for_so_many_samples(offered: Path) -> None:
    x, y = samples()
    with pytest.raises(DataError, match="the offer is for 12 samples; given are 6, and 6 labels"):
        accepted(offered / "head.offer", x[:6], y[:6], insecure=True)


def test_an_offer_of_samples_that_fill_no_whole_batches(offered: Path, tmp_path: Path) -> None:
    """They are one client's, unlike those of several owners: the last batch is filled up with its first ones."""
    sizes = ("--samples", 11, "--batch", 4, "--steps", 3, "--insecure-ring", RING, "--freeze", "f")
    trial = ("--trial-data", offered / "public.npy", "--trial-labels", offered / "public_y.npy")
    files = ("--backbone", tmp_path / "own.weights", "-o", tmp_path / "head.offer")
    loss = ("--loss", "binary-cross-entropy")
    invoke("training", "offer", offered / "net.glyph", *sizes, *trial, *loss, *files)
    x, y = samples()
    of, _ = accepted(tmp_path / "head.offer", x[:11], y[:11], insecure=True)
    assert set(np.concatenate([of.batches.rows(n) for n in range(3)]).tolist()) == set(range(11))


def test_an_offer_that_plans_another_program_is_refused(offered: Path, tmp_path: Path) -> None:
    """Before keys are made."""
    shutil.copy(offered / "head.offer", tmp_path / "head.offer")
    changed(tmp_path / "head.offer", program="0" * 64)
    data = ("--data", offered / "x.npy", "--labels", offered / "y.npy", "--insecure")
    folders = ("--client", tmp_path / "client", "--server", tmp_path / "server")
    refused = invoke("training", "accept", tmp_path / "head.offer", *data, *folders, code=2)
    assert "plans another program than the offer's; use the same version of glyphc" in refused.output
    assert not (tmp_path / "client").exists() and not (tmp_path / "server").exists()


def test_an_offer_is_for_labels_like_the_trials(tmp_path: Path) -> None:
    net = "weights he_normal(seed=1)\ninput x: [4]\nz = x -> dense(3) as f -> tanh -> dense(2) as d\noutput z\n"
    (tmp_path / "net.glyph").write_text(net)
    x, y = np.random.default_rng(3).normal(size=(6, 4)), np.full((6, 2), -0.5)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    sizes = ("--samples", 6, "--batch", 6, "--steps", 1, "--insecure-ring", RING, "--loss", "mean-squared-error")
    trial = ("--trial-data", tmp_path / "x.npy", "--trial-labels", tmp_path / "y.npy", "--freeze", "f")
    files = ("--backbone", tmp_path / "w", "-o", tmp_path / "o")
    invoke("training", "offer", tmp_path / "net.glyph", *sizes, *trial, *files)
    accepted(tmp_path / "o", x, -y, insecure=True)
    with pytest.raises(DataError, match=r"a magnitude of 0.75, and the offer is for labels of up to 0.5; scale"):
        accepted(tmp_path / "o", x, 1.5 * y, insecure=True)


def test_who_learns_what_names_the_frozen_weights() -> None:
    assert _keeps(job(Keeper.SERVER)) and not _keeps(job(Keeper.CLIENT))
    assert "server: frozen weights" in str(TRAINING_KEPT)


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
    same = ("--backbone", tmp_path / "o", "-o", tmp_path / "o")
    found = invoke("training", "offer", model, *sizes, *same, *trial, "--freeze", "f", code=2)
    assert "the offer (-o) and the weights (--backbone) are two files" in found.output
    assert not (tmp_path / "w").exists() and not (tmp_path / "o").exists()
