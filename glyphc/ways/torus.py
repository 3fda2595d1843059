"""Packed functional bootstraps (TFHE-like) for nonlinearities, and the switches between BGV and the torus."""

from __future__ import annotations

from collections.abc import Sequence

from glyphc.ir.graph import Node
from glyphc.ir.layout import next_power_of_two
from glyphc.ir.ops import Apply

from .base import BGV, TORUS, Conversion, Offer, Question, Refusal, Way

# Typical; the series is chosen later.
DEGREE = 27


class PackedBootstrap(Way):
    """All values of a ciphertext in one pass."""

    name = "packed functional bootstrap"

    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        if not isinstance(node.op, Apply):
            return None
        values = node.type.size * question.batch
        slots = min(question.ring // 2, max(2, next_power_of_two(values) // 2))
        each = question.cost.bootstrap_seconds(slots, DEGREE, question.ring)
        reason = f"one pass refreshes {values:,} values and applies the function"
        return Offer(TORUS, TORUS, each * -(-values // question.ring), reason)


class ToTorus(Conversion):
    """A modulus switch; no key."""

    name = "switch to the torus"
    source = BGV
    target = TORUS

    def offer(self, value: Node, question: Question) -> Offer | Refusal:
        return Offer(self.source, self.target, _switches(value, question), "a modulus switch, no key")


class FromTorus(Conversion):
    """The way back, likewise."""

    name = "switch from the torus"
    source = TORUS
    target = BGV

    def offer(self, value: Node, question: Question) -> Offer | Refusal:
        return Offer(self.source, self.target, _switches(value, question), "a modulus switch, no key")


def _switches(value: Node, question: Question) -> float:
    """Seconds, one switch for each full ciphertext."""
    return question.cost.switch * max(1, -(-value.type.size * question.batch // question.ring))
