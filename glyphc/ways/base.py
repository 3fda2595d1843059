"""What a way is: one method of computing an op on encrypted values, with its price, or a reason why it cannot.

A *space* says how a value is held: under which scheme, and where the message stands. A *way* computes a node from
operands in one space to a result in one space. A *conversion* takes a value from one space to another. Both are asked
for an offer; ``assign-scheme`` takes the cheapest path of offers through a network and keeps the losers with their
reasons. Other packages add ways as entry points of the group ``glyphc.ways``, conversions as ``glyphc.conversions``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from glyphc.analysis.cost import CostModel
from glyphc.ir.graph import Graph, Node
from glyphc.ir.integer_parameters import IntegerParameters
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.ir.types import Encoding, Scheme
from glyphc.ir.word_parameters import WordParameters


@dataclass(frozen=True)
class Space:
    """How a value is held. encoding: None where it is not encrypted any more."""

    scheme: Scheme
    encoding: Encoding | None

    def __str__(self) -> str:
        return self.scheme.value if self.encoding is None else f"{self.scheme.value} ({self.encoding.value})"


BGV = Space(Scheme.BGV, Encoding.LSB)
TORUS = Space(Scheme.TORUS, Encoding.MSB)
CLIENT = Space(Scheme.CLIENT, None)
SLOTS = Space(Scheme.CKKS, Encoding.SLOTS)
INTEGERS = Space(Scheme.BFV, Encoding.INTEGERS)
WORDS = Space(Scheme.FHEW, Encoding.BITS)


@dataclass(frozen=True)
class SlotPlan:
    """What a network would be in slots: seconds of the server by node, of a batch with all its passes; what the client
    encrypts and sends.

    degrees: in words. memory_bytes: at the peak.
    """

    parameters: SlotParameters
    node_seconds: Mapping[int, float]
    client_seconds: float
    upload_bytes: float
    memory_bytes: float
    degrees: str

    @property
    def seconds(self) -> float:
        """Of server and client."""
        return sum(self.node_seconds.values()) + self.client_seconds


@dataclass(frozen=True)
class IntegerPlan:
    """The same on exact integers in slots."""

    parameters: IntegerParameters
    node_seconds: Mapping[int, float]
    client_seconds: float
    upload_bytes: float


@dataclass(frozen=True)
class WordPlan:
    """The same on words of encrypted bits."""

    parameters: WordParameters
    node_seconds: Mapping[int, float]
    client_seconds: float
    upload_bytes: float


@dataclass(frozen=True)
class Question:
    """What offers are asked for beside a node. ring: N of coefficient layouts; batch: samples evaluated at once.

    graph: which the node is of. slots, integers, words: what the network would be there, or why it cannot be.
    table_bits: of the index of tables, where functions are to be looked up.
    """

    ring: int
    batch: int
    cost: CostModel
    graph: Graph | None = None
    slots: SlotPlan | str = "not weighed"
    integers: IntegerPlan | str = "not weighed"
    words: WordPlan | str = "not weighed"
    table_bits: int = 0


@dataclass(frozen=True)
class Context:
    """What ways share and a program pays for once: a cryptographic context with its keys. Equal ones are one.

    seconds: what it adds to every evaluation, whatever is computed with it.
    """

    name: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Offer:
    """A way to compute a node: operands in this space, the result in that one, for so many seconds of one evaluation.

    reason: what the price is for, in words. contexts: what it needs and others may share.
    """

    operands: Space
    result: Space
    seconds: float
    reason: str
    contexts: frozenset[Context] = frozenset()


@dataclass(frozen=True)
class Refusal:
    """Why a way cannot compute a node."""

    reason: str


class Way(ABC):
    """One method of computing some ops. name: as explanations and strategies call it."""

    name: ClassVar[str]

    @abstractmethod
    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        """Its price for a node with these operands, or why it cannot; None for ops that it is not about."""


class Conversion(ABC):
    """A change of space. source, target: from which to which."""

    name: ClassVar[str]
    source: ClassVar[Space]
    target: ClassVar[Space]

    @abstractmethod
    def offer(self, value: Node, question: Question) -> Offer | Refusal:
        """Its price for a value, or why it cannot."""
