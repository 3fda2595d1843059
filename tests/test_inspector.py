"""Reports of programs: data, Graphviz, columns."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_models import MODELS
from pass_networks import SAMPLES, mlp
from strategies import examples

import glyphc
from glyphc.inspector.build import build
from glyphc.inspector.placing import HEIGHT, WIDTH, place
from glyphc.ir.evaluate import evaluate as network_outputs
from glyphc.ir.instructions import Load
from glyphc.ir.ops import Bootstrap, Switch
from glyphc.program import Program
from glyphc.run_record import RunRecord
from tests.inspected import RING, Inspected, run

# -- data ---------------------------------------------------------------------------------------------------------


def test_json_has_every_node_and_what_is_known_of_it(inspected: Inspected) -> None:
    graph, record = inspected.program.graph, inspected.folder / "run.json"
    data = json.loads(run("inspect", inspected.artifact, "--format", "json", "--run", record).output)
    assert [n["id"] for n in data["nodes"]] == list(range(len(graph)))
    assert {(e["source"], e["target"]) for e in data["edges"]} == {(o, n.id) for n in graph for o in n.operands}
    for node, op in inspected.program.graph.of(Bootstrap):
        shown = data["nodes"][node.id]
        fit = data["fits"][shown["fit"]]
        exact, series = np.array(fit["exact"]), np.array(fit["series"])
        # the plot's own points must show the error that the fit claims
        assert np.abs(exact - series).max() / np.ptp(exact) <= 1.3 * op.series.max_error
        assert np.abs(exact - series).max() > 0
        assert shown["histogram"]["counts"] == list(node.type.calibration.histogram)
        assert shown["noise"]["total"] > 0
        assert shown["measured"] > 0
        assert shown["predicted"] > 0
    assert all(data["nodes"][n.id]["kind"] == "switch" for n, _ in inspected.program.graph.of(Switch))
    assert sum(s["seconds"] for s in data["measured"]) == pytest.approx(
        2 * sum(n["measured"] or 0 for n in data["nodes"]), rel=0.01
    )


@pytest.mark.parametrize("strategy", ["glyph", "slots", "cryptonets", "hesamifard"])
def test_programs_of_every_family(strategy: str, tmp_path: Path) -> None:
    """In every form: each instruction has a line of its own, and each node of the float network its errors."""
    network = mlp("tanh")
    program = glyphc.compile(network, SAMPLES, 4, strategy=strategy, insecure_ring=1024)
    path = tmp_path / "p.glyphc"
    program.save(path)
    np.save(tmp_path / "x.npy", SAMPLES[:8])
    np.save(tmp_path / "y.npy", network_outputs(network, {"x": SAMPLES[:8]})["y"])
    shown = {
        form: run("inspect", path, *options.split(), *(["-o", tmp_path / form] if form in ("html", "json") else []))
        for form, options in {
            "text": "",
            "schedule": "--stage schedule",
            "html": "--format html",
            "json": "--format json",
            "dot": "--format dot",
            "accuracy": f"--accuracy {tmp_path / 'x.npy'} {tmp_path / 'y.npy'}",
        }.items()
    }
    for result in shown.values():
        assert result.exit_code == 0, (result.output, result.exception)
    stored = [i.mnemonic for i in program.schedule.instructions if i.mnemonic != "free"]
    lines = [line for line in shown["schedule"].output.splitlines()[1:] if not line.startswith("free")]
    assert len(lines) == len(stored)
    targets = [re.search(r"  (r\d+)", line) for line in lines if not line.startswith("store")]
    written = [i.writes[0] for i in program.schedule.instructions if i.writes]
    assert [match and match[1] for match in targets] == [f"r{register}" for register in written]
    data = json.loads((tmp_path / "json").read_text())
    assert data["predicted"]
    assert {n["kind"] for n in data["nodes"]} >= {"input", "linear", "output"}
    text = shown["accuracy"].output
    assert all(f"@{name}" in text for name in ("x", "fc1", "fc2"))
    assert ("replaced" in text) == (strategy in ("cryptonets", "hesamifard"))


def test_times_are_those_of_the_cost_model(inspected: Inspected) -> None:
    from glyphc.diagnostics import predicted

    report = build(inspected.program, "x")
    assert sum(s.seconds for s in report.predicted) == pytest.approx(predicted(inspected.program).seconds, rel=1e-3)
    assert not report.measured


def test_a_record_survives(inspected: Inspected) -> None:
    record = RunRecord.load(inspected.folder / "run.json", inspected.program)
    record.save(inspected.folder / "again.json")
    assert RunRecord.load(inspected.folder / "again.json", inspected.program) == record
    assert (record.mode, record.samples, record.passes) == ("simulate", 16, 2)
    computing = [i for i in Program.load(inspected.artifact).schedule.instructions if not isinstance(i, Load)]
    assert len(record.steps) == 2 * len(computing)
    starts = [s.start for s in record.steps]
    assert starts == sorted(starts)


def test_an_encrypted_record_is_beside_predictions_of_its_engine(inspected: Inspected) -> None:
    from glyphc.diagnostics import predicted

    simulated = RunRecord.load(inspected.folder / "run.json", inspected.program)
    assert (simulated.engine, simulated.predicted_engine) == ("simulate", None)
    found = {}
    for engine in ("openfhe", "kernels"):
        report = build(inspected.program, "x", run=replace(simulated, mode="encrypted", engine=engine))
        assert [f.value for f in report.run if f.name == "engine"] == [engine]
        found[engine] = sum(s.seconds for s in report.predicted)
        assert found[engine] == pytest.approx(predicted(inspected.program, engine=engine).seconds, rel=1e-3)
    assert found["openfhe"] != pytest.approx(found["kernels"], rel=1e-3)


def test_records_of_other_programs(inspected: Inspected) -> None:
    x = np.load(MODELS / "data" / "digits-train.npy")
    other = glyphc.compile(MODELS / "digits-mlp.onnx", x, batch=4, insecure_ring=RING)
    other.save(inspected.folder / "other.glyphc")
    assert Program.load(inspected.artifact).fingerprint == inspected.program.fingerprint != other.fingerprint
    for form in ("text", "html", "json"):
        options = ["--format", form, "--run", inspected.folder / "run.json", "-o", inspected.folder / "other.out"]
        result = run("inspect", inspected.folder / "other.glyphc", *options)
        assert result.exit_code == 2
        assert "record of a run of another program" in result.output
        assert not (inspected.folder / "other.out").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "no record"), ("[]", "of this version"), ('{"format": "glyphc-run", "version": 5}', "damaged")],
)
def test_files_that_are_no_record(content: str, words: str, tmp_path: Path, inspected: Inspected) -> None:
    path = tmp_path / "run.json"
    path.write_text(content)
    result = run("inspect", inspected.artifact, "--format", "json", "--run", path)
    assert result.exit_code == 2
    assert words in result.output
    assert "cannot read" in run("inspect", inspected.artifact, "--format", "json", "--run", tmp_path / "missing").output


def test_graphviz(inspected: Inspected) -> None:
    text = run("inspect", inspected.artifact, "--format", "dot").output
    assert text.startswith('digraph "digits.glyphc" {')
    assert len(re.findall(r"^  n\d+ \[", text, re.MULTILINE)) == len(inspected.program.graph)
    assert text.count("shape=ellipse") == len(list(inspected.program.graph.of(Switch)))
    assert "  n0 -> n1;" in text


def test_columns_by_choice(inspected: Inspected) -> None:
    lines = run("inspect", inspected.artifact, "--columns", "node,error,shape").output.splitlines()
    assert lines[0].split() == ["node", "error", "shape"]
    assert run("inspect", inspected.artifact, "--stage", "fold", "--columns", "shape").output.splitlines()[0] == "shape"
    wrong = run("inspect", inspected.artifact, "--columns", "nodes")
    assert wrong.exit_code == 2
    assert "no column 'nodes'; columns: node, shape" in wrong.output


def test_why_takes_locations(inspected: Inspected) -> None:
    (id,) = [n.id for n, _ in inspected.program.graph.of(Bootstrap) if n.location == "relu1"]
    text = run("inspect", inspected.artifact, "--why", f"%{id}").output
    assert text.strip() in run("inspect", inspected.artifact, "--why", "relu1").output
    assert "@scale+fc1" in run("inspect", inspected.artifact, "--why", "fc1").output
    wrong = run("inspect", inspected.artifact, "--why", "relu9")
    assert wrong.exit_code == 2
    assert "no node 'relu9'; nodes are %0 to " in wrong.output


def test_measured_times_in_columns(inspected: Inspected) -> None:
    record = inspected.folder / "run.json"
    result = run("inspect", inspected.artifact, "--run", record, "--columns", "node,predicted,measured")
    # times of a simulation are no times of encryption
    assert result.output.splitlines()[0].split() == ["node", "predicted", "measured", "(simulate", "mode)"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--accuracy x.npy y.npy --format html", "--accuracy gives text; leave out --format html"),
        ("--accuracy x.npy y.npy --format json", "--accuracy gives text"),
        ("--why %3 --format dot", "--why gives text"),
        ("--columns node --format json", "--columns gives text"),
        ("--encrypted y.npy", "--encrypted goes with --accuracy"),
        ("--stage quantize --run run.json", "--stage does not go with --run"),
        ("--stage schedule --columns node", "--stage schedule does not go with --columns"),
        ("--text --columns node", "--text does not go with --columns"),
        ("--accuracy x.npy y.npy --why %3", "--accuracy does not go with --why"),
    ],
)
def test_options_that_would_be_ignored(options: str, words: str, inspected: Inspected) -> None:
    before = inspected.page.read_bytes()
    result = run("inspect", inspected.artifact, *options.split())
    assert result.exit_code == 2
    assert words in result.output
    assert inspected.page.read_bytes() == before


@pytest.mark.parametrize("stage", ["source", "quantize", "insert-switches"])
def test_any_stage(stage: str, inspected: Inspected) -> None:
    data = json.loads(run("inspect", inspected.artifact, "--format", "json", "--stage", stage).output)
    assert len(data["nodes"]) == len(inspected.program.stages[stage])
    assert data["predicted"] == []
    assert run("inspect", inspected.artifact, "--format", "json", "--stage", "all").exit_code == 2


# -- where nodes stand ----------------------------------------------------------------------------------------------


@st.composite
def dags(draw: Any) -> dict[int, list[int]]:
    count = draw(st.integers(1, 60))
    operands = {}
    for id in range(count):
        near = st.integers(max(0, id - 6), id - 1) if id else st.nothing()
        operands[id] = draw(st.lists(near, max_size=3)) if id else []
    return operands


@examples(60)
@given(dags())
def test_nodes_do_not_overlap_and_lie_in_the_picture(operands: dict[int, list[int]]) -> None:
    placing = place(operands)
    spots = list(placing.nodes.values())
    for x, y in spots:
        assert WIDTH / 2 <= x <= placing.width - WIDTH / 2 + 1
        assert HEIGHT / 2 <= y <= placing.height - HEIGHT / 2
    for i, (ax, ay) in enumerate(spots):
        assert all(abs(ax - bx) >= WIDTH - 0.2 or abs(ay - by) >= HEIGHT for bx, by in spots[:i])
    assert set(placing.bends) == {(o, n) for n, ids in operands.items() for o in ids}
    rows = {n: (x // placing.pitch, y) for n, (x, y) in placing.nodes.items()}
    assert all(rows[o] < rows[n] for n, ids in operands.items() for o in ids)
