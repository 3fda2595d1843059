"""Ways that are known and not built, or that cannot work, each with its reason: explanations name them as losers."""

from __future__ import annotations

from collections.abc import Sequence

from glyphc.ir.graph import Node
from glyphc.ir.ops import Apply, Linear

from .base import Offer, Question, Refusal, Way
from .bgv import multiplications
from .torus import DEGREE


class LweProduct(Way):
    """Multiplications in a TFHE-like scheme."""

    name = "tfhe"

    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        if not isinstance(node.op, Linear) or node.op.encrypted:
            return None
        count = multiplications(node, operands, question)
        return Refusal(f"{count:,} multiplications by weights one LWE ciphertext at a time: no packing")


class TensorProduct(Way):
    """Encrypted weights as ordinary ciphertexts in BGV or BFV."""

    name = "bgv or bfv tensor product"

    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        if not isinstance(node.op, Linear) or not node.op.encrypted:
            return None
        return Refusal(
            "wrong behind a bootstrap: its error is no integer, and multiplies with the other operand's overflow "
            "of the modulus; for fresh inputs, too, it takes a second limb and relinearisation"
        )


class CoefficientCKKS(Way):
    """CKKS on coefficients, at levels that bootstraps keep."""

    name = "ckks on coefficients"

    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        if not isinstance(node.op, Linear):
            return None
        rebuilt = question.cost.bootstrap_seconds(question.ring // 2, DEGREE, question.ring)
        return Refusal(
            "no lowering yet; would keep a level after every bootstrap, which makes each "
            f"{question.cost.level * rebuilt:.1f} s dearer"
        )


class LookUpTable(Way):
    """Tables in BGV."""

    name = "bgv look-up table"

    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        if not isinstance(node.op, Apply):
            return None
        return Refusal(
            "needs the bits of a small exact index, which values here are not, and only the client could give"
        )


class ClientRefresh(Way):
    """The client decrypts, computes and encrypts again."""

    name = "client refresh"

    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        if not isinstance(node.op, Apply):
            return None
        return Refusal("would show intermediate values to the client and wait for it")
