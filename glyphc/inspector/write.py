"""A report as JSON, as a Graphviz graph, or as one HTML page that needs nothing else."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from html import escape
from importlib.resources import files
from itertools import pairwise

from .placing import GAP_COLUMN, HEIGHT, WIDTH
from .report import EdgeReport, NodeReport, Report

# Colours of the graph by kind of node, as in report.css.
_COLOURS = {
    "linear": "#2f6fb5",
    "bootstrap": "#b4532a",
    "function": "#b4532a",
    "switch": "#c79a1c",
    "unpack": "#4b8f7b",
    "client": "#7a5ba6",
}


def to_json(report: Report) -> str:
    """All of the report; fields are those of the classes in ``glyphc.inspector.report``."""
    return json.dumps(asdict(report), separators=(",", ":"))


def to_dot(report: Report) -> str:
    """For Graphviz: schemes in colour, switches as small ellipses."""
    lines = [f"digraph {json.dumps(report.title)} {{", '  node [shape=box, style=rounded, fontname="Helvetica"];']
    for node in report.nodes:
        shape = ", shape=ellipse" if node.kind == "switch" else ""
        label = "\\n".join(_dot(line) for line in (node.expression, _subtitle(node, report.encrypted)) if line)
        lines.append(f'  n{node.id} [label="{label}", color="{_COLOURS.get(node.kind, "#64748b")}"{shape}];')
    lines += [f"  n{edge.source} -> n{edge.target};" for edge in report.edges]
    return "\n".join([*lines, "}"]) + "\n"


def _dot(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")


def to_html(report: Report) -> str:
    """One page with everything in it: styles, script, data, the drawing of the graph."""
    folder = files(__package__)
    parts = {
        "TITLE": escape(f"{report.title} - glyphc"),
        "CSS": folder.joinpath("report.css").read_text(encoding="utf-8"),
        "JS": folder.joinpath("report.js").read_text(encoding="utf-8"),
        # in a script, only "</script" and "<!--" end the data
        "DATA": to_json(report).replace("<", "\\u003c"),
        "GRAPH": _drawing(report),
    }
    pieces = folder.joinpath("report.html").read_text(encoding="utf-8").split("@@")
    return "".join(parts[piece] if number % 2 else piece for number, piece in enumerate(pieces))


def _drawing(report: Report) -> str:
    edges = "".join(_edge(report, edge) for edge in report.edges)
    nodes = "".join(_node(node, report.encrypted) for node in report.nodes)
    return f"<g>{edges}{nodes}</g>"


def _edge(report: Report, edge: EdgeReport) -> str:
    """A smooth line, straight down at both ends."""
    (x0, y0), (x1, y1) = report.nodes[edge.source].place, report.nodes[edge.target].place
    points = [(x0, y0 + HEIGHT / 2), *edge.bends, (x1, y1 - HEIGHT / 2)]
    path = f"M{points[0][0]:g} {points[0][1]:g}"
    for (ax, ay), (bx, by) in pairwise(points):
        if by > ay:
            pull = (by - ay) / 2
            path += f"C{ax:g} {ay + pull:g} {bx:g} {by - pull:g} {bx:g} {by:g}"
        else:
            path += _to_next_column(ax, ay, bx, by, bx // report.pitch * report.pitch - GAP_COLUMN / 2)
    return f'<path class="edge" data-source="{edge.source}" data-target="{edge.target}" d="{path}"/>'


def _to_next_column(ax: float, ay: float, bx: float, by: float, lane: float) -> str:
    """Out at the bottom, up through the lane between the columns, in at the top; with round corners."""
    low, high, r = ay + 12, by - 12, 6
    right = r if bx > lane else -r
    turn = f"Q{lane:g} {high:g} {lane + right:g} {high:g}H{bx - right:g}Q{bx:g} {high:g} {bx:g} {high + r:g}"
    return (
        f"V{low - r:g}Q{ax:g} {low:g} {ax + r:g} {low:g}H{lane - r:g}Q{lane:g} {low:g} {lane:g} {low - r:g}"
        f"V{high + r:g}{turn}V{by:g}"
    )


def _node(node: NodeReport, encrypted: bool) -> str:
    x, y = node.place[0] - WIDTH / 2, node.place[1] - HEIGHT / 2
    radius = HEIGHT / 2 if node.kind == "switch" else 6
    inset = 22 if node.kind == "switch" else 15
    bar = "" if node.kind == "switch" else f'<rect class="bar" width="5" height="{HEIGHT - 12:g}" x="5" y="6" rx="2"/>'
    return (
        f'<g class="node {node.kind}" data-id="{node.id}" transform="translate({x:g} {y:g})">'
        f"<title>{escape(node.expression)}</title>"
        f'<rect class="box" width="{WIDTH:g}" height="{HEIGHT:g}" rx="{radius:g}"/>{bar}'
        f'<text x="{inset}" y="19">{escape(_clipped(_title(node), 25))}</text>'
        f'<text class="sub" x="{inset}" y="35">{escape(_clipped(_subtitle(node, encrypted), 31))}</text></g>'
    )


def _title(node: NodeReport) -> str:
    if node.kind in ("input", "output"):
        return f"%{node.id} {node.op} {node.location}"
    what = node.expression.split(" = ", 1)[-1]
    if node.kind == "switch":
        return f"%{node.id} {what.split()[-1].upper().replace('->', ' → ')}"
    if node.kind == "unpack":
        return f"%{node.id} unpack into {what.split()[-1]}"
    # without operands and parameters, and without the scalings around functions
    plain = re.sub(r"\([^()]*\)", "", what)
    return f"%{node.id} {plain.replace('affine then ', '').replace(' then affine', '')}"


def _subtitle(node: NodeReport, encrypted: bool) -> str:
    time = node.measured if encrypted else node.predicted
    facts = ["×".join(map(str, node.shape)) or "scalar"]
    if node.location and node.kind not in ("input", "output", "switch"):
        facts.insert(0, node.location)
    if time and time >= 5e-5:
        facts.append(f"{time:.2f} s" if time >= 1 else f"{time * 1e3:.1f} ms")
    return " · ".join(facts)


def _clipped(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
