"""Reports of programs: data, Graphviz, and the page as Chromium shows it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import evaluate, screenshot
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from onnx_models import MODELS
from pass_networks import SAMPLES, mlp
from PIL import Image
from strategies import examples

import glyphc
from glyphc.cli import main
from glyphc.frontends.from_dsl import parse_glyph
from glyphc.inspector.build import build
from glyphc.inspector.placing import HEIGHT, WIDTH, place
from glyphc.inspector.report import Report
from glyphc.inspector.write import to_html
from glyphc.ir.evaluate import evaluate as network_outputs
from glyphc.ir.instructions import Load
from glyphc.ir.ops import Bootstrap, Switch
from glyphc.program import Program
from glyphc.run_record import RunRecord

RING = 4096
FAST = (
    "fold,calibrate,quantize,assign-scheme{strategy=glyph},insert-switches,assign-layout,"
    "select-parameters{max_error=3.0,rms_error=3.0},validate-security"
)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inspector")


@pytest.fixture(scope="module")
def artifact(folder: Path) -> Path:
    """Digits on a small ring, with the record of a simulated run beside it."""
    x = np.load(MODELS / "data" / "digits-train.npy")
    program = glyphc.compile(MODELS / "digits-mlp.onnx", x, batch=8, insecure_ring=RING)
    path = folder / "digits.glyphc"
    program.save(path)
    np.save(folder / "x.npy", x[:16])
    record = folder / "run.json"
    result = run(
        "run", path, "--input", folder / "x.npy", "--output", folder / "y.npy", "--mode", "simulate", "--record", record
    )
    assert result.exit_code == 0, result.output
    return path


@pytest.fixture(scope="module")
def program(artifact: Path) -> Program:
    return Program.load(artifact)


@pytest.fixture(scope="module")
def page(artifact: Path, folder: Path) -> Path:
    output = folder / "digits.html"
    result = run("inspect", artifact, "--format", "html", "--run", folder / "run.json", "-o", output)
    assert result.exit_code == 0, result.output
    return output


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


# -- data ---------------------------------------------------------------------------------------------------------


def test_json_has_every_node_and_what_is_known_of_it(artifact: Path, program: Program, folder: Path) -> None:
    data = json.loads(run("inspect", artifact, "--format", "json", "--run", folder / "run.json").output)
    assert [n["id"] for n in data["nodes"]] == list(range(len(program.graph)))
    assert {(e["source"], e["target"]) for e in data["edges"]} == {(o, n.id) for n in program.graph for o in n.operands}
    for node, op in program.graph.of(Bootstrap):
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
    assert all(data["nodes"][n.id]["kind"] == "switch" for n, _ in program.graph.of(Switch))
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


def test_times_are_those_of_the_cost_model(program: Program) -> None:
    from glyphc.diagnostics import predicted

    report = build(program, "x")
    assert sum(s.seconds for s in report.predicted) == pytest.approx(predicted(program).seconds, rel=1e-3)
    assert not report.measured


def test_a_record_survives(folder: Path, artifact: Path, program: Program) -> None:
    record = RunRecord.load(folder / "run.json", program)
    record.save(folder / "again.json")
    assert RunRecord.load(folder / "again.json", program) == record
    assert (record.mode, record.samples, record.passes) == ("simulate", 16, 2)
    computing = [i for i in Program.load(artifact).schedule.instructions if not isinstance(i, Load)]
    assert len(record.steps) == 2 * len(computing)
    starts = [s.start for s in record.steps]
    assert starts == sorted(starts)


def test_an_encrypted_record_is_beside_predictions_of_its_engine(folder: Path, program: Program) -> None:
    from glyphc.diagnostics import predicted

    simulated = RunRecord.load(folder / "run.json", program)
    assert (simulated.engine, simulated.predicted_engine) == ("simulate", None)
    found = {}
    for engine in ("openfhe", "kernels"):
        report = build(program, "x", run=replace(simulated, mode="encrypted", engine=engine))
        assert [f.value for f in report.run if f.name == "engine"] == [engine]
        found[engine] = sum(s.seconds for s in report.predicted)
        assert found[engine] == pytest.approx(predicted(program, engine=engine).seconds, rel=1e-3)
    assert found["openfhe"] != pytest.approx(found["kernels"], rel=1e-3)


def test_records_of_other_programs(artifact: Path, folder: Path, program: Program) -> None:
    x = np.load(MODELS / "data" / "digits-train.npy")
    other = glyphc.compile(MODELS / "digits-mlp.onnx", x, batch=4, insecure_ring=RING)
    other.save(folder / "other.glyphc")
    assert Program.load(artifact).fingerprint == program.fingerprint != other.fingerprint
    for form in ("text", "html", "json"):
        options = ["--format", form, "--run", folder / "run.json", "-o", folder / "other.out"]
        result = run("inspect", folder / "other.glyphc", *options)
        assert result.exit_code == 2
        assert "record of a run of another program" in result.output
        assert not (folder / "other.out").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "no record"), ("[]", "of this version"), ('{"format": "glyphc-run", "version": 5}', "damaged")],
)
def test_files_that_are_no_record(content: str, words: str, artifact: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(content)
    result = run("inspect", artifact, "--format", "json", "--run", path)
    assert result.exit_code == 2
    assert words in result.output
    assert "cannot read" in run("inspect", artifact, "--format", "json", "--run", tmp_path / "missing").output


def test_graphviz(artifact: Path, program: Program) -> None:
    text = run("inspect", artifact, "--format", "dot").output
    assert text.startswith('digraph "digits.glyphc" {')
    assert len(re.findall(r"^  n\d+ \[", text, re.MULTILINE)) == len(program.graph)
    assert text.count("shape=ellipse") == len(list(program.graph.of(Switch)))
    assert "  n0 -> n1;" in text


def test_columns_by_choice(artifact: Path) -> None:
    lines = run("inspect", artifact, "--columns", "node,error,shape").output.splitlines()
    assert lines[0].split() == ["node", "error", "shape"]
    assert run("inspect", artifact, "--stage", "fold", "--columns", "shape").output.splitlines()[0] == "shape"
    wrong = run("inspect", artifact, "--columns", "nodes")
    assert wrong.exit_code == 2
    assert "no column 'nodes'; columns: node, shape" in wrong.output


def test_why_takes_locations(artifact: Path, program: Program) -> None:
    (id,) = [n.id for n, _ in program.graph.of(Bootstrap) if n.location == "relu1"]
    text = run("inspect", artifact, "--why", f"%{id}").output
    assert text.strip() in run("inspect", artifact, "--why", "relu1").output
    assert "@scale+fc1" in run("inspect", artifact, "--why", "fc1").output
    wrong = run("inspect", artifact, "--why", "relu9")
    assert wrong.exit_code == 2
    assert "no node 'relu9'; nodes are %0 to " in wrong.output


def test_measured_times_in_columns(artifact: Path, folder: Path) -> None:
    result = run("inspect", artifact, "--run", folder / "run.json", "--columns", "node,predicted,measured")
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
def test_options_that_would_be_ignored(options: str, words: str, artifact: Path, page: Path) -> None:
    before = page.read_bytes()
    result = run("inspect", artifact, *options.split())
    assert result.exit_code == 2
    assert words in result.output
    assert page.read_bytes() == before


@pytest.mark.parametrize("stage", ["source", "quantize", "insert-switches"])
def test_any_stage(stage: str, artifact: Path, program: Program) -> None:
    data = json.loads(run("inspect", artifact, "--format", "json", "--stage", stage).output)
    assert len(data["nodes"]) == len(program.stages[stage])
    assert data["predicted"] == []
    assert run("inspect", artifact, "--format", "json", "--stage", "all").exit_code == 2


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


# -- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_else(page: Path) -> None:
    text = page.read_text()
    assert re.findall(r"""(?:src|href)=["'][^#]""", text) == []
    assert "@import" not in text
    assert set(re.findall(r"https?://[^\s\"'<)]+", text)) <= {"http://www.w3.org/2000/svg"}


def test_overview(page: Path, folder: Path, program: Program) -> None:
    shown = evaluate(
        page,
        """return {
          title: document.title, heading: document.querySelector("#title").textContent,
          warning: document.querySelector("#warning").textContent, facts: document.querySelector("#facts").innerText,
          nodes: document.querySelectorAll(".node").length, switches: document.querySelectorAll(".node.switch").length,
          edges: document.querySelectorAll(".edge").length, panel: document.querySelector("#panel").innerText,
          legend: document.querySelector("#legend").innerText, bars: document.querySelectorAll("#timeline rect").length,
          ready: +document.body.dataset.ready,
          requests: performance.getEntriesByType("resource").length };""",
        folder,
    )
    assert shown["heading"] == "digits.glyphc"
    assert "NOT SECURE" in shown["warning"]
    assert shown["nodes"] == len(program.graph)
    assert shown["switches"] == len(list(program.graph.of(Switch)))
    assert shown["edges"] == sum(len(set(n.operands)) for n in program.graph)
    assert "bootstraps" in shown["facts"]
    assert "relu1" in shown["panel"]
    assert "RECORDED RUN" in shown["panel"].upper()
    assert "simulate mode" in shown["panel"]
    assert "scheme switch" in shown["legend"]
    assert shown["bars"] > 10
    assert shown["requests"] == 0
    assert shown["ready"] < 2000


def test_a_node_by_click(page: Path, folder: Path, program: Program) -> None:
    node, op = next(iter(program.graph.of(Bootstrap)))
    shown = evaluate(
        page,
        f"""const box = document.querySelector('.node[data-id="{node.id}"] rect');
        box.dispatchEvent(new MouseEvent("click", {{bubbles: true}}));
        const bars = [...document.querySelectorAll("#panel .hist")];
        return {{ text: document.querySelector("#panel").innerText, on: document.querySelectorAll(".node.on").length,
          lit: document.querySelectorAll(".edge.on").length, counts: bars.map((b) => +b.dataset.count),
          exact: document.querySelector("#panel .exact").getAttribute("d").split("L").length,
          series: document.querySelectorAll("#panel .series").length,
          meter: document.querySelectorAll("#panel .meter div").length,
          used: +document.querySelector("#panel canvas").dataset.used,
          spans: document.querySelectorAll("#timeline rect.on").length }};""",
        folder,
    )
    assert (shown["on"], shown["lit"], shown["series"], shown["meter"]) == (1, 2, 1, 3)
    assert node.type.calibration is not None
    assert node.type.layout is not None
    assert shown["counts"] == [c for c in node.type.calibration.histogram if c]
    assert shown["exact"] == 201
    assert shown["used"] == node.type.layout.positions(0).size
    assert shown["spans"] >= 2
    for words in (
        "bootstrap relu",
        f"{node.type.fixed.bits} bits",
        f"degree {op.series.degree}",
        "predicted",
        "measured",
    ):
        assert words in shown["text"]


def test_layout_pictures_show_the_positions_that_are_used(page: Path, folder: Path, program: Program) -> None:
    """Every coloured pixel is a position of the layout, for every layout of the program."""
    pixels = evaluate(
        page,
        """return data.layouts.map((l) => { const c = layoutPlot(l, 0);
          const image = c.getContext("2d").getImageData(0, 0, c.width, c.height).data; const used = [];
          for (let i = 0; i < image.length / 4; i++) if (image[4 * i + 3]) used.push(i); return used; });""",
        folder,
    )
    layouts = list(dict.fromkeys(n.type.layout for n in program.graph if n.type.layout is not None))
    assert len(pixels) == len(layouts)
    for used, layout in zip(pixels, layouts, strict=True):
        assert used == sorted(layout.positions(0).ravel().tolist())


def test_search_table_zoom_and_keys(page: Path, folder: Path, program: Program) -> None:
    shown = evaluate(
        page,
        """const q = (s) => document.querySelector(s), out = {};
        const type = (text) => { q("#search").value = text; q("#search").dispatchEvent(new Event("input")); };
        type("relu1"); out.found = q("#found").textContent; out.dim = document.querySelectorAll(".node.dim").length;
        type("%7"); out.one = q("#found").textContent;
        q("#search").dispatchEvent(new KeyboardEvent("keydown", {key: "Enter"})); out.selected = selected;
        type(""); out.clear = document.querySelectorAll(".node.dim").length;
        q("#graph").dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowDown"})); out.next = selected;
        const k = view.k; q("#zoom-in").click(); out.larger = view.k / k;
        q("#graph").dispatchEvent(new WheelEvent("wheel", {deltaY: 300, clientX: 300, clientY: 300}));
        out.smaller = view.k < k * 1.35;
        const x = view.x; const at = (n, x, y) => new PointerEvent(n, {bubbles: true, clientX: x, clientY: y});
        q("#graph").dispatchEvent(at("pointerdown", 100, 100)); window.dispatchEvent(at("pointermove", 140, 130));
        window.dispatchEvent(at("pointerup", 140, 130)); out.moved = view.x - x;
        q("#zoom-fit").click(); const box = q("#graph").getBoundingClientRect();
        out.fits = data.width * view.k <= box.width && data.height * view.k <= box.height;
        q("#tab-table").click(); out.rows = document.querySelectorAll("#table tbody tr").length;
        const heads = [...document.querySelectorAll("#table th")];
        heads.find((h) => h.textContent === "predicted").click();
        out.slowest = +q("#table tbody tr").dataset.id; q("#table tbody tr").click(); out.picked = selected;
        out.graphHidden = getComputedStyle(q("#graph")).display === "none";
        return out;""",
        folder,
    )
    named = [n for n in program.graph if "relu1" in n.location]
    assert shown["found"] == f"{len(named)} found"
    assert shown["dim"] == len(program.graph) - len(named)
    assert (shown["one"], shown["selected"], shown["clear"]) == ("1 found", 7, 0)
    assert shown["next"] == program.graph.users(program.graph.node(7))[0].id
    assert shown["larger"] == pytest.approx(1.35)
    assert shown["smaller"]
    assert shown["moved"] == pytest.approx(40)
    assert shown["fits"]
    assert shown["graphHidden"]
    assert shown["rows"] == len(program.graph)
    assert shown["slowest"] == shown["picked"]
    assert isinstance(program.graph.node(shown["slowest"]).op, Bootstrap)


def test_pictures(page: Path, folder: Path, program: Program) -> None:
    """Screenshots are not blank: the graph, the panel and the timeline have their colours where they belong."""
    node, _ = next(iter(program.graph.of(Bootstrap)))
    screenshot(page, folder / "overview.png")
    screenshot(page, folder / "node.png", f"#{node.id}")
    overview, chosen = picture(folder / "overview.png"), picture(folder / "node.png")
    assert overview.shape == chosen.shape == (900, 1440, 3)
    bootstrap, switch = np.array([180, 83, 42]), np.array([247, 241, 224])

    def share(image: np.ndarray, colour: np.ndarray) -> float:
        return float((np.abs(image.astype(int) - colour).max(axis=2) < 12).mean())

    graph, panel, timeline = np.s_[160:640, :1000], np.s_[100:780, 1060:], np.s_[790:, :]
    assert share(overview[graph], switch) > 0.01
    assert share(overview[graph], bootstrap) > 0.0001
    assert share(overview[timeline], bootstrap) > 0.02
    assert share(overview[panel], bootstrap) == 0
    assert share(chosen[panel], bootstrap) > 0.002
    assert len(np.unique(overview.reshape(-1, 3), axis=0)) > 100


def test_names_cannot_break_the_page(folder: Path) -> None:
    text = (
        'weights ones()\ninput x: [2]\n`</script><b id="evil">` = x -> dense(2) as `a<!--&"b` -> relu as `@@DATA@@`\n'
        "output `@@DATA@@` as `<img src=1>`\n"
    )
    program = glyphc.compile(parse_glyph(text).graph, np.eye(2), batch=2, insecure_ring=1024, passes=FAST)
    page = folder / "evil.html"
    page.write_text(to_html(build(program, "</title><i id='evil'>")))
    shown = evaluate(
        page,
        """const names = data.nodes.map((n) => n.location).join(" ");
        return [document.querySelectorAll("#evil, img").length, data.title, names];""",
        folder,
    )
    assert shown[0] == 0
    assert shown[1] == "</title><i id='evil'>"
    assert 'a<!--&"b' in shown[2]
    assert "@@DATA@@" in shown[2]


@pytest.fixture(scope="module")
def thousand() -> Report:
    """A deep network with skips: a thousand nodes after compilation."""
    lines = ["weights glorot_normal(seed=1)", "input x: [4]", "h0 = x -> dense(4)"]
    for i in range(1, 201):
        read = f"h{i - 1} -> tanh as t{i}"
        lines.append(f"h{i} = concat({read}, t{i - 1}) -> dense(4)" if i % 7 == 0 else f"h{i} = {read} -> dense(4)")
    graph = parse_glyph("\n".join([*lines, "output h200"])).graph
    program = glyphc.compile(
        graph, np.random.default_rng(0).normal(size=(20, 4)), batch=4, passes=FAST, insecure_ring=1024
    )
    assert len(program.graph) > 1000
    return build(program, "thousand")


def test_a_thousand_nodes_stay_usable(thousand: Report, folder: Path) -> None:
    page = folder / "thousand.html"
    page.write_text(to_html(thousand))
    shown = evaluate(
        page,
        """const q = (s) => document.querySelector(s), out = { scale: view.k };
        const watch = new MutationObserver(() => {});
        watch.observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
        const changes = (f) => { watch.takeRecords(); f(); return watch.takeRecords().length; };
        out.zoom = changes(() => q("#zoom-out").click());
        out.search = changes(() => { q("#search").value = "t150"; q("#search").dispatchEvent(new Event("input")); });
        out.select = changes(() => select(700, true)); out.text = q("#panel").innerText.slice(0, 40);
        out.table = changes(() => q("#tab-table").click());
        out.rows = document.querySelectorAll("#table tbody tr").length;
        return out;""",
        folder,
    )
    assert shown["scale"] >= 0.6  # it opens where labels can be read
    assert shown["rows"] == len(thousand.nodes)
    assert shown["text"].startswith("%700 = ")
    # what is done often touches a few elements, a search every node once or twice
    assert 0 < shown["zoom"] < 20
    assert 0 < shown["select"] < 50
    assert 0 < shown["search"] <= 2 * len(thousand.nodes)
    assert 0 < shown["table"] < 50


@pytest.mark.parametrize("stage", ["source", "calibrate", "insert-switches", "select-parameters"])
def test_every_node_of_every_kind_of_stage_can_be_shown(stage: str, program: Program, folder: Path) -> None:
    page = folder / f"{stage}.html"
    page.write_text(to_html(build(program, "digits", stage)))
    shown = evaluate(
        page,
        """return data.nodes.map((n) => { select(n.id); return document.querySelector("#panel h1").textContent; });""",
        folder,
    )
    assert [s.split(" = ")[0] for s in shown] == [f"%{i}" for i in range(len(program.stages[stage]))]


def test_a_network_without_bootstraps(folder: Path) -> None:
    text = "weights ones()\ninput x: [2]\ny = dense(x, 3)\noutput y"
    program = glyphc.compile(parse_glyph(text).graph, np.eye(2), batch=2, insecure_ring=1024)
    page = folder / "linear.html"
    page.write_text(to_html(build(program, "linear")))
    script = """select(1); const text = (s) => document.querySelector(s).innerText;
    return [text("#facts"), text("#panel")];"""
    facts, panel = evaluate(page, script, folder)
    assert "slots" not in facts
    assert "linear(%0) 3x2" in panel
