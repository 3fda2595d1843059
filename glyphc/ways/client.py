"""What the client does: it decrypts outputs, and computes what stands behind the last encrypted value."""

from __future__ import annotations

from collections.abc import Sequence

from glyphc.ir.graph import Node
from glyphc.ir.ops import ArgMax, Output, Reshape, Softmax

from .base import BGV, CLIENT, Conversion, Offer, Question, Refusal, Way


class ClientTail(Way):
    """Softmax and decisions at the end, and shapes behind them."""

    name = "client"

    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        if isinstance(node.op, Output | Softmax | ArgMax | Reshape):
            return Offer(CLIENT, CLIENT, 0.0, "after decryption")
        return None


class Decryption(Conversion):
    """Results leave the server in BGV."""

    name = "decryption"
    source = BGV
    target = CLIENT

    def offer(self, value: Node, question: Question) -> Offer | Refusal:
        return Offer(self.source, self.target, 0.0, "decrypted by the client")
