"""The page of a program as Chromium shows it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from browser import evaluate, screenshot
from PIL import Image

import glyphc
from glyphc.frontends.from_dsl import parse_glyph
from glyphc.inspector.build import build
from glyphc.inspector.report import Report
from glyphc.inspector.write import to_html
from glyphc.ir.ops import Bootstrap, Switch
from tests.inspected import FAST, Inspected


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


# -- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_else(inspected: Inspected) -> None:
    text = inspected.page.read_text()
    assert re.findall(r"""(?:src|href)=["'][^#]""", text) == []
    assert "@import" not in text
    assert set(re.findall(r"https?://[^\s\"'<)]+", text)) <= {"http://www.w3.org/2000/svg"}


def test_overview(inspected: Inspected) -> None:
    shown = evaluate(
        inspected.page,
        """return {
          title: document.title, heading: document.querySelector("#title").textContent,
          warning: document.querySelector("#warning").textContent, facts: document.querySelector("#facts").innerText,
          nodes: document.querySelectorAll(".node").length, switches: document.querySelectorAll(".node.switch").length,
          edges: document.querySelectorAll(".edge").length, panel: document.querySelector("#panel").innerText,
          legend: document.querySelector("#legend").innerText, bars: document.querySelectorAll("#timeline rect").length,
          ready: +document.body.dataset.ready,
          requests: performance.getEntriesByType("resource").length };""",
        inspected.folder,
    )
    assert shown["heading"] == "digits.glyphc"
    assert "NOT SECURE" in shown["warning"]
    assert shown["nodes"] == len(inspected.program.graph)
    assert shown["switches"] == len(list(inspected.program.graph.of(Switch)))
    assert shown["edges"] == sum(len(set(n.operands)) for n in inspected.program.graph)
    assert "bootstraps" in shown["facts"]
    assert "relu1" in shown["panel"]
    assert "RECORDED RUN" in shown["panel"].upper()
    assert "simulate mode" in shown["panel"]
    assert "scheme switch" in shown["legend"]
    assert shown["bars"] > 10
    assert shown["requests"] == 0
    assert shown["ready"] < 2000


def test_a_node_by_click(inspected: Inspected) -> None:
    node, op = next(iter(inspected.program.graph.of(Bootstrap)))
    shown = evaluate(
        inspected.page,
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
        inspected.folder,
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


def test_layout_pictures_show_the_positions_that_are_used(inspected: Inspected) -> None:
    """Every coloured pixel is a position of the layout, for every layout of the program."""
    pixels = evaluate(
        inspected.page,
        """return data.layouts.map((l) => { const c = layoutPlot(l, 0);
          const image = c.getContext("2d").getImageData(0, 0, c.width, c.height).data; const used = [];
          for (let i = 0; i < image.length / 4; i++) if (image[4 * i + 3]) used.push(i); return used; });""",
        inspected.folder,
    )
    layouts = list(dict.fromkeys(n.type.layout for n in inspected.program.graph if n.type.layout is not None))
    assert len(pixels) == len(layouts)
    for used, layout in zip(pixels, layouts, strict=True):
        assert used == sorted(layout.positions(0).ravel().tolist())


def test_search_table_zoom_and_keys(inspected: Inspected) -> None:
    shown = evaluate(
        inspected.page,
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
        inspected.folder,
    )
    named = [n for n in inspected.program.graph if "relu1" in n.location]
    assert shown["found"] == f"{len(named)} found"
    assert shown["dim"] == len(inspected.program.graph) - len(named)
    assert (shown["one"], shown["selected"], shown["clear"]) == ("1 found", 7, 0)
    assert shown["next"] == inspected.program.graph.users(inspected.program.graph.node(7))[0].id
    assert shown["larger"] == pytest.approx(1.35)
    assert shown["smaller"]
    assert shown["moved"] == pytest.approx(40)
    assert shown["fits"]
    assert shown["graphHidden"]
    assert shown["rows"] == len(inspected.program.graph)
    assert shown["slowest"] == shown["picked"]
    assert isinstance(inspected.program.graph.node(shown["slowest"]).op, Bootstrap)


def test_pictures(inspected: Inspected) -> None:
    """Screenshots are not blank: the graph, the panel and the timeline have their colours where they belong."""
    node, _ = next(iter(inspected.program.graph.of(Bootstrap)))
    screenshot(inspected.page, inspected.folder / "overview.png")
    screenshot(inspected.page, inspected.folder / "node.png", f"#{node.id}")
    overview, chosen = picture(inspected.folder / "overview.png"), picture(inspected.folder / "node.png")
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


def test_names_cannot_break_the_page(inspected: Inspected) -> None:
    text = (
        'weights ones()\ninput x: [2]\n`</script><b id="evil">` = x -> dense(2) as `a<!--&"b` -> relu as `@@DATA@@`\n'
        "output `@@DATA@@` as `<img src=1>`\n"
    )
    program = glyphc.compile(parse_glyph(text).graph, np.eye(2), batch=2, insecure_ring=1024, passes=FAST)
    page = inspected.folder / "evil.html"
    page.write_text(to_html(build(program, "</title><i id='evil'>")))
    shown = evaluate(
        page,
        """const names = data.nodes.map((n) => n.location).join(" ");
        return [document.querySelectorAll("#evil, img").length, data.title, names];""",
        inspected.folder,
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


@pytest.mark.slow
def test_a_thousand_nodes_stay_usable(thousand: Report, inspected: Inspected) -> None:
    page = inspected.folder / "thousand.html"
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
        inspected.folder,
    )
    assert shown["scale"] >= 0.6  # it opens where labels can be read
    assert shown["rows"] == len(thousand.nodes)
    assert shown["text"].startswith("%700 = ")
    # what is done often touches a few elements, a search every node once or twice
    assert 0 < shown["zoom"] < 20
    assert 0 < shown["select"] < 50
    assert 0 < shown["search"] <= 2 * len(thousand.nodes)
    assert 0 < shown["table"] < 50


@pytest.mark.parametrize(
    "stage",
    [
        "source",
        *(pytest.param(s, marks=pytest.mark.slow) for s in ("calibrate", "insert-switches")),
        "select-parameters",
    ],
)
def test_every_node_of_every_kind_of_stage_can_be_shown(stage: str, inspected: Inspected) -> None:
    page = inspected.folder / f"{stage}.html"
    page.write_text(to_html(build(inspected.program, "digits", stage)))
    shown = evaluate(
        page,
        """return data.nodes.map((n) => { select(n.id); return document.querySelector("#panel h1").textContent; });""",
        inspected.folder,
    )
    assert [s.split(" = ")[0] for s in shown] == [f"%{i}" for i in range(len(inspected.program.stages[stage]))]


def test_a_network_without_bootstraps(inspected: Inspected) -> None:
    text = "weights ones()\ninput x: [2]\ny = dense(x, 3)\noutput y"
    program = glyphc.compile(parse_glyph(text).graph, np.eye(2), batch=2, insecure_ring=1024)
    page = inspected.folder / "linear.html"
    page.write_text(to_html(build(program, "linear")))
    script = """select(1); const text = (s) => document.querySelector(s).innerText;
    return [text("#facts"), text("#panel")];"""
    facts, panel = evaluate(page, script, inspected.folder)
    assert "slots" not in facts
    assert "linear(%0) 3x2" in panel
