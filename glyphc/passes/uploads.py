"""How inputs travel: as linear maps read them, or dense, in a handful of ciphertexts that the server unpacks.

A fresh input is read with as many features in a ciphertext as stand between two outputs: often one, so there are as
many ciphertexts as features, nearly empty ones. Dense ones hold P features of each sample side by side. The server
divides them by P modulo their modulus and takes them apart into P parts, which multiplies by P again: exactly, with
the noise of the key switches as all that is lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from glyphc.analysis.cost import CostModel
from glyphc.ir.graph import Candidate, Decision, Node
from glyphc.ir.ops import Apply, Input, Linear, Reshape
from glyphc.text_tables import counted

from .layout_search import LayoutPlan, Room

# Of the server's seconds: what unpacking may add where nobody asked for small uploads.
_SHARE = 0.05
# Who decides, in graphs: beside what the pass decides of layouts.
MADE_BY = "uploads"
_AS_READ, _DENSE = "as read", "dense"


class Uploads(Enum):
    """What is to be small. str() is the option's text."""

    SERVER = "server"  # the server's seconds; bytes are saved as long as that takes hardly longer
    SECONDS = "seconds"  # of both sides and the network in between
    BYTES = "bytes"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class _Way:
    """One plan, and what an input of it takes: ciphertexts of the client, seconds that the server unpacks.

    seconds: all that the server takes.
    """

    plan: LayoutPlan
    ciphertexts: int
    unpacking: float
    seconds: float

    def client(self, cost: CostModel) -> float:
        return self.ciphertexts * cost.encryption(self.plan.ring)

    def size(self, cost: CostModel) -> float:
        return self.ciphertexts * cost.fresh_bytes(self.plan.ring)

    def rank(self, cost: CostModel, aim: Uploads, as_read: _Way) -> tuple[float, ...]:
        """The lowest is taken."""
        here = self.seconds + self.client(cost)
        if aim is Uploads.BYTES:
            return (self.ciphertexts, here)
        if aim is Uploads.SECONDS:
            return (here + cost.upload_seconds(self.size(cost)),)
        more = here - as_read.seconds - as_read.client(cost)
        return (0, self.ciphertexts, here) if more <= _SHARE * as_read.seconds else (1, more)

    def candidate(self, cost: CostModel, name: str) -> Candidate:
        size, client = self.size(cost), self.client(cost)
        unpacking = f"{self.unpacking:.1f} s to unpack on the server" if self.unpacking else "nothing to unpack"
        reason = (
            f"{size / 1e6:.1f} MB, {cost.upload_seconds(size):.1f} s to send at 100 Mbit/s, {client:.1f} s to encrypt"
        )
        return Candidate(name, client + self.unpacking, f"{reason}; {unpacking}")


def chosen(
    plan: LayoutPlan, room: Room, cost: CostModel, models: Sequence[CostModel], aim: Uploads
) -> tuple[LayoutPlan, dict[int, Decision]]:
    """The plan with dense inputs where they serve the aim, and why, by input; none where there is no choice."""
    decisions: dict[int, Decision] = {}
    for node, _ in plan.graph.of(Input):
        as_read = _way(plan, node, cost)
        ways = [_way(plan.with_dense(node, parts).by_price(cost), node, cost) for parts in _possible(plan, node)]
        ways = [w for w in ways if max(map(w.plan.memory_bytes, models or (cost,))) <= room.memory]
        if not ways:
            continue
        best = min((as_read, *ways), key=lambda way: way.rank(cost, aim, as_read))
        smallest = min(ways, key=lambda way: way.rank(cost, Uploads.BYTES, as_read))
        shown = {_AS_READ: as_read, _DENSE: best if best is not as_read else smallest}
        name = _AS_READ if best is as_read else _DENSE
        asked = f"small: {_ASKED[aim]}"
        candidates = [way.candidate(cost, _name(label, way)) for label, way in shown.items()]
        candidates = [Candidate(c.name, c.seconds, f"{c.reason} ({asked})") for c in candidates]
        decisions[node.id] = Decision(MADE_BY, _name(name, best), tuple(candidates))
        plan = best.plan
    return plan, decisions


def could_be_dense(decision: Decision) -> bool:
    """Whether it is one of these, against dense ciphertexts."""
    return decision.made_by == MADE_BY and decision.chosen.startswith(_AS_READ)


_ASKED = {
    Uploads.SERVER: f"the server's seconds, within {_SHARE:.0%}; --prefer latency or traffic weighs the upload",
    Uploads.SECONDS: "seconds of both sides and the upload",
    Uploads.BYTES: "bytes",
}


def _name(label: str, way: _Way) -> str:
    return f"{label}, {counted(way.ciphertexts, 'ciphertext')}"


def _way(plan: LayoutPlan, node: Node, cost: CostModel) -> _Way:
    return _Way(plan, plan.sent(node), plan.unpacking_seconds(node, cost), plan.seconds(cost))


def _possible(plan: LayoutPlan, node: Node) -> Iterator[int]:
    """Numbers of features side by side, powers of two: more than maps read from one ciphertext, no more than fit."""
    if not any(True for _ in plan.graph.of(Apply)) or not _only_maps_read(plan, node):
        return  # without bootstraps there is no key
    sent, parts = plan.sent(node), 2
    while parts <= plan.block(plan.chunks[node.id]) and parts < 2 * node.type.size:
        if parts > plan.gap(node) and plan.with_dense(node, parts).sent(node) < sent:
            yield parts
        parts *= 2


def _only_maps_read(plan: LayoutPlan, node: Node) -> bool:
    users = plan.graph.users(node)
    return all(isinstance(u.op, Linear) or (isinstance(u.op, Reshape) and _only_maps_read(plan, u)) for u in users)
