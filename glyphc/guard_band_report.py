"""What people read about limits of values that cannot be seen under encryption."""

from __future__ import annotations

from collections import Counter

from glyphc.analysis.series import HALF_RANGE
from glyphc.ir.graph import Graph
from glyphc.ir.ops import Linear
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.ir.types import Calibration, FixedPoint
from glyphc.text_tables import align

# Share of a range that rounding to integers may move its ends by.
_ROUNDING = 1e-3
_COLUMNS_OF_BAND = (
    "            Largest: the most extreme calibration value; near: samples that come within 20 % of that; held",
    "            out: calibration samples that would leave limits made from the others",
)
_BAND = (
    "guard band  values beyond these limits go wrong unnoticed under encryption ('run --mode simulate' tells of them);",
    f"            {0.5 / HALF_RANGE:.2f} times as far from their middle, at half the torus, they wrap.",
    *_COLUMNS_OF_BAND[:-1],
    _COLUMNS_OF_BAND[-1] + "; reserve: where a function",
    "            is nearly constant, how many times its calibrated range a value may reach harmlessly, and the",
    "            price in error.",
)
_SLOT_BAND = (
    "guard band  beyond these limits polynomials explode: the sample goes wrong, and, far beyond, all samples of its",
    "            pass. 'run --mode simulate' tells of both; a client sees results that cannot be.",
    *_COLUMNS_OF_BAND[:-1],
    _COLUMNS_OF_BAND[-1] + ".",
)


def guard_band(graph: Graph, final: Graph | None = None) -> str:
    """How close calibration came to the limits that cannot be seen under encryption.

    Layers of one name are told apart by their nodes in the ``final`` graph, which the text above shows.
    """
    in_slots = final is not None and isinstance(final.parameters, SlotParameters)
    lines = list(_SLOT_BAND if in_slots else _BAND)
    rows = [("            layer", "limits", "calibration", "largest", "near", "held out", "reserve")]
    names = _layer_names(graph, final or graph)
    for node, _ in graph.of(Linear):
        fixed, calibration = node.type.fixed, node.type.calibration
        if fixed is None or calibration is None or not calibration.reach:
            continue
        centre, half = (calibration.hi + calibration.lo) / 2, (calibration.hi - calibration.lo) / 2
        allowed = min(fixed.real_hi - centre, centre - fixed.real_lo)
        near = sum(calibration.reach[8:]) / max(1, sum(calibration.reach))
        rows.append(
            (
                f"            {names[node.id]}",
                f"[{fixed.real_lo:.4g}, {fixed.real_hi:.4g}]",
                f"[{calibration.lo:.4g}, {calibration.hi:.4g}]",
                f"{half / allowed:.0%} of the way",
                f"{near:.1%} of samples",
                _held_out(calibration),
                "" if in_slots else _reserve(calibration, fixed),
            )
        )
    return "\n".join([*lines, align([row[:-1] for row in rows] if in_slots else rows)])


def _held_out(calibration: Calibration) -> str:
    guard = calibration.guard
    return f"{guard.left} of {guard.held_out}" if guard is not None and guard.held_out else ""


def _reserve(calibration: Calibration, fixed: FixedPoint) -> str:
    """Where a format reaches beyond what is planned for, how far that is, and what it costs."""
    guard = calibration.guard
    if guard is None or not fixed.uniform:
        return ""
    centre, half = (calibration.hi + calibration.lo) / 2, (calibration.hi - calibration.lo) / 2
    room = _ROUNDING * (guard.hi - guard.lo)
    below = f"{(centre - fixed.real_lo) / half:.2g} below" if fixed.real_lo < guard.lo - room and half else ""
    above = f"{(fixed.real_hi - centre) / half:.2g} above" if fixed.real_hi > guard.hi + room and half else ""
    ends = ", ".join(filter(None, (below, above)))
    return f"{ends}; error x {guard.price:.2f}" if ends else ""


def _layer_names(graph: Graph, final: Graph) -> dict[int, str]:
    """Of linear maps: where they come from; with the node that they are, or are a part of, if others share that."""
    places = Counter(node.location for node, _ in graph.of(Linear))
    became: dict[str, list[int]] = {}
    for node, _ in final.of(Linear):
        for place in node.location.split("|"):
            became.setdefault(place, []).append(node.id)
    names = {}
    for node, op in graph.of(Linear):
        name, nodes = node.location or op.mnemonic, became.get(node.location, [])
        names[node.id] = f"{name} %{nodes.pop(0)}" if places[node.location] > 1 and nodes else name
    return names
