"""What was promised of every output and what a run lost stand side by side: printed, in the record, in the report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from pass_networks import Network

import glyphc
from glyphc.cli import main
from glyphc.errors import ArtifactError, OverrunWarning
from glyphc.inspector.build import build
from glyphc.ir.accuracy import MeasureKind
from glyphc.ir.evaluate import evaluate
from glyphc.ir.graph import Graph
from glyphc.ir.ops import ArgMax, Const, Dense
from glyphc.ir.types import Level
from glyphc.measures import Judge, Limits
from glyphc.program import Program
from glyphc.run_record import RunRecord
from glyphc.runtime import run

F64 = npt.NDArray[np.float64]
SAMPLES = np.random.default_rng(8).normal(size=(200, 6))


def two_outputs() -> Graph:
    """A class, and two targets of different size."""
    n = Network(6)
    hidden = n.apply(n.dense(n.x, 8, "fc1"), "tanh")
    n.output(n.graph.add(ArgMax(False), (n.dense(hidden, 4, "logits"),), location="argmax"), "label")
    w = Const(n.graph.add_constant("w", np.random.default_rng(3).normal(size=(2, 8)) * [[100.0], [0.1]]))
    b = Const(n.graph.add_constant("b", np.array([7.0, 0.0])))
    n.output(n.graph.add(Dense((w,), b), (hidden,), location="targets"), "targets")
    return n.graph


@pytest.fixture(scope="module")
def source() -> Graph:
    return two_outputs()


@pytest.fixture(scope="module")
def program(source: Graph) -> Program:
    return glyphc.compile(source, SAMPLES, 64, insecure_ring=1024)


def test_losses_stand_in_the_record(source: Graph, program: Program, tmp_path: Path) -> None:
    x = np.random.default_rng(9).normal(size=(100, 6)) * 0.6
    program.save(tmp_path / "p.glyphc")
    np.save(tmp_path / "x.npy", x)
    names = {name: str(tmp_path / name) for name in ("p.glyphc", "x.npy", "y.npz", "run.json")}
    arguments = ["--input", names["x.npy"], "--output", names["y.npz"], "--mode", "simulate"]
    result = CliRunner().invoke(main, ["run", names["p.glyphc"], *arguments, "--record", names["run.json"]])
    assert result.exit_code == 0, result.output
    record = RunRecord.load(tmp_path / "run.json", program)
    label, targets = record.losses
    assert (label.output, label.kind, label.samples) == ("label", MeasureKind.CLASSES, 100)
    assert (targets.output, targets.kind, targets.samples) == ("targets", MeasureKind.RELATIVE, 100)
    # the same from the files alone
    wanted, got = evaluate(source, {"x": x}), np.load(tmp_path / "y.npz")
    off = np.sqrt(np.mean((got["targets"] - wanted["targets"]) ** 2, axis=0))
    off /= np.std(evaluate(source, {"x": SAMPLES})["targets"], axis=0)  # not of these samples, which may be few
    assert targets.value == pytest.approx(100 * off.max(), rel=1e-6)
    assert targets.column == np.argmax(off)
    changed = int(np.sum(got["label"].ravel() != wanted["label"].ravel()))
    assert label.value == pytest.approx(changed - label.near_ties)
    # and what compilation said of both
    budget = next(d for n in program.graph for d in n.decisions if d.made_by == "assign-budget")
    assert record.promised == budget.losses
    assert [loss.limit for loss in record.losses] == [loss.limit for loss in record.promised]
    assert "output targets: promised: rms error" in result.output
    assert "output targets: this run: rms error" in result.output
    facts = {fact.name: fact.value for fact in build(program, "x", run=record).run}
    assert facts["lost, targets"] == f"{targets.value:.2g} %"


def test_a_replaced_network_is_judged_beside_the_given_one() -> None:
    """What squares do to a ReLU is a loss, in a run and by stage, as it is in the promise."""
    n = Network(6)
    n.output(n.dense(n.apply(n.dense(n.x, 8, "fc1"), "relu"), 1, "fc2"))
    replaced = glyphc.compile(n.graph, SAMPLES, 64, strategy="cryptonets", insecure_ring=1024)
    wanted = evaluate(n.graph, {"x": SAMPLES})["y"]
    report = run(replaced, SAMPLES, "clear")
    (loss,), (promise,) = report.losses, report.promised
    off = float(np.sqrt(np.mean((report.outputs["y"] - wanted) ** 2)) / np.std(wanted))
    assert loss.value == pytest.approx(100 * off, rel=1e-6)
    assert loss.value > 5
    assert promise.value == pytest.approx(loss.value, rel=0.5)


def test_a_run_that_breaks_the_promise_says_so(program: Program) -> None:
    """Samples whose features are allowed, each by itself, and whose sums were never seen."""
    with pytest.warns(OverrunWarning):
        report = run(program, 6.0 * np.sign(SAMPLES[:20]), "simulate")
    targets = next(loss for loss in report.losses if loss.output == "targets")
    assert not targets.kept
    assert next(loss for loss in report.promised if loss.output == "targets").kept


def test_a_program_without_a_float_network_has_no_losses(program: Program, tmp_path: Path) -> None:
    stages = {name: graph for name, graph in program.stages.items() if graph.level is not Level.SOURCE}
    report = run(Program(stages, 64), SAMPLES[:4], "clear")
    assert report.losses == ()
    RunRecord.of(program, report).save(tmp_path / "run.json")
    assert RunRecord.load(tmp_path / "run.json", program).losses == ()


def test_losses_that_are_no_numbers_survive(program: Program, tmp_path: Path) -> None:
    report = run(program, SAMPLES[:4], "clear")
    report.losses = tuple(replace(loss, value=float("nan"), error=float("inf")) for loss in report.losses)
    RunRecord.of(program, report).save(tmp_path / "run.json")
    record = RunRecord.load(tmp_path / "run.json", program)
    assert [str(loss.value) for loss in record.losses] == ["nan", "nan"]
    assert not any(loss.kept for loss in record.losses)


@pytest.mark.parametrize("field", ["promised", "losses"])
def test_damaged_losses_are_refused(field: str, program: Program, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    RunRecord.of(program, run(program, SAMPLES[:4], "clear")).save(path)
    data = json.loads(path.read_text())
    data[field][0]["kind"] = "taste"
    path.write_text(json.dumps(data))
    with pytest.raises(ArtifactError, match="damaged record"):
        RunRecord.load(path, program)


def test_truth_is_worked_out_in_pieces(source: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Judge.of(source, {"x": SAMPLES}, Limits(0.5)).truth
    monkeypatch.setattr("glyphc.measures._PIECE", 7)
    pieces = Judge.of(source, {"x": SAMPLES}, Limits(0.5)).truth
    for name, truth in whole.items():
        np.testing.assert_allclose(pieces[name].values, truth.values, rtol=1e-12)
        assert (pieces[name].scores is None) == (truth.scores is None)
