"""BGV on coefficients: exact products with plaintext weights, and with weights that are encrypted."""

from __future__ import annotations

from collections.abc import Sequence

from glyphc.ir.graph import Node
from glyphc.ir.ops import Input, Linear, Reshape

from .base import BGV, Offer, Question, Refusal, Way


class FreshInput(Way):
    """The client encrypts in BGV."""

    name = "bgv, fresh"

    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        return Offer(BGV, BGV, 0.0, "encrypted by the client") if isinstance(node.op, Input) else None


class InPlace(Way):
    """A reshape moves nothing. Behind a nonlinearity it stands behind the switch back, which serves all readers."""

    name = "in place"

    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        return Offer(BGV, BGV, 0.0, "moves nothing") if isinstance(node.op, Reshape) else None


class PlaintextProduct(Way):
    """Ciphertexts times plaintext weights."""

    name = "bgv"

    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        if not isinstance(node.op, Linear):
            return None
        if node.op.encrypted:
            return Refusal("the server would see the weights")
        products = products_of(node, operands, question)
        reason = f"{products} exact plaintext products, no level, no rescaling"
        return Offer(BGV, BGV, products * question.cost.product, reason)


class EncryptedProduct(Way):
    """External products with weights encrypted as key-switching keys (see docs/design.md, Encrypted weights)."""

    name = "bgv, encrypted weights"

    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        if not isinstance(node.op, Linear) or not node.op.encrypted:
            return None
        products = products_of(node, operands, question)
        reason = (
            f"{products} external products with weights encrypted as key-switching keys: no level, the noise of a "
            "plaintext product and two key switches"
        )
        return Offer(BGV, BGV, products * question.cost.encrypted_product, reason)


def products_of(node: Node, operands: Sequence[Node], question: Question) -> int:
    """Polynomial products that a linear map takes in full ciphertexts, at least one."""
    return max(1, -(-multiplications(node, operands, question) // question.ring))


def multiplications(node: Node, operands: Sequence[Node], question: Question) -> int:
    """Of a linear map on a batch, as a dense matrix."""
    return node.type.size * sum(o.type.size for o in operands) * question.batch
