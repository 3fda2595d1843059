"""Which scheme computes what, decided by feasibility and predicted cost; and the switches in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import ClassVar

from glyphc.analysis.noise import public_norm
from glyphc.errors import GlyphcError, ParameterError
from glyphc.ir.client_requests import MOST_TABLE_BITS
from glyphc.ir.graph import Graph, Node, Rewriter
from glyphc.ir.matrices import Full
from glyphc.ir.ops import Apply, Linear, Sparse, Switch
from glyphc.ir.types import Encoding, Level, Scheme
from glyphc.slots.integers import polynomial_of
from glyphc.ways.base import IntegerPlan, Offer, Question, Way
from glyphc.ways.choice import Answer, Paths, answers, choose
from glyphc.ways.client import ClientTail
from glyphc.ways.integers import WAYS as INTEGER_WAYS
from glyphc.ways.registry import conversions, ways
from glyphc.ways.slots import WAYS as SLOT_WAYS
from glyphc.ways.strategies import Refresh, strategy
from glyphc.ways.torus import PackedBootstrap, TableBootstrap
from glyphc.ways.words import WAYS as WORD_WAYS

from .base import Context, Pass, check_option, check_ring
from .fit_integers import FitIntegers
from .fit_polynomials import SAMPLES, FitPolynomials
from .fit_words import FitWords
from .plan_integers import plan_integers
from .plan_slots import plan_slots
from .plan_words import plan_words
from .scheme_choice import SchemeChoice
from .tolerance import TolerancePass

# The only ring of coefficient layouts that is not for tests.
SECURE_RING = 65536
# The strategy where none is asked for.
DEFAULT_STRATEGY = "auto"
# Stands for every linear map.
ALL = "all"
_ENCODING = {
    Scheme.BGV: Encoding.LSB,
    Scheme.TORUS: Encoding.MSB,
    Scheme.CKKS: Encoding.LSB,
    Scheme.BFV: Encoding.INTEGERS,
    Scheme.FHEW: Encoding.BITS,
    Scheme.CLIENT: None,
}


@dataclass(frozen=True)
class AssignScheme(TolerancePass):
    """Give each value the cheapest feasible scheme, and keep the losers with their reasons.

    encrypt_weights: linear maps whose weights the server must not see, by location (``fc1;scale+fc2``), or ``all``.
    strategy: which ways may be taken, see ``glyphc.ways.strategies``. degree: as in ``fit-polynomials``; table_bits: as
    in ``fit-integers``, word_bits: as in ``fit-words``. The tolerance is what polynomials may lose.
    """

    name: ClassVar[str] = "assign-scheme"
    requires: ClassVar[Level] = Level.QUANTIZED
    ensures: ClassVar[Level] = Level.QUANTIZED
    ring: int = 65536
    encrypt_weights: str = ""
    strategy: str = DEFAULT_STRATEGY
    degree: int = 0
    table_bits: int = 0
    word_bits: int = 0
    samples: int = SAMPLES

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option(self.name, "samples", self.samples, 1, 1_000_000)
        check_option(self.name, "table_bits", self.table_bits, 0, MOST_TABLE_BITS)
        check_ring(self.name, self.ring)
        strategy(self.strategy)

    def run(self, graph: Graph, context: Context) -> Graph:
        self._check_names(graph)
        graph = self._with_encrypted(graph)
        said, question = self._asked(graph, context)
        for node in graph:
            if not any(isinstance(a.answer, Offer) for a in said[node.id]):
                reasons = "; ".join(f"{a.way}: {a.answer.reason}" for a in said[node.id])
                raise ParameterError(f"no scheme can compute {node}: {reasons or 'no way is about such an op'}")
        choice = SchemeChoice.cheapest(graph, said, Paths(conversions(), question))
        if choice is None:
            raise ParameterError(
                f"no schemes go together for this network under the strategy {self.strategy!r}: results of one node "
                "cannot be brought to the scheme of the next"
            )
        rewriter = Rewriter(graph)
        for node in graph:
            chosen = choice.best.chosen[node.id]
            assert isinstance(chosen.answer, Offer)
            result = chosen.answer.result
            type = replace(node.type, scheme=result.scheme, encoding=result.encoding)
            if isinstance(node.op, Apply) and chosen.way == TableBootstrap.name:
                node = replace(node, op=replace(node.op, table_bits=question.table_bits))
            rewriter.keep(node, type, choice.decisions(self.name, node))
        return rewriter.new

    def _asked(self, graph: Graph, context: Context) -> tuple[dict[int, tuple[Answer, ...]], Question]:
        """What all ways say. Slots are weighed against what the others would cost, as their plan takes a simulation."""
        chosen = strategy(self.strategy)
        allowed = tuple(way for way in ways() if chosen.allows(way))
        if all(way in WORD_WAYS or way.name == ClientTail.name for way in allowed):
            bits = self.word_bits or chosen.word_bits
            fit_words = FitWords(self.points, self.spread, self.logits, self.measures, bits)
            words = plan_words(graph, context, fit_words)
            question = Question(self.ring, graph.batch, context.prices, graph, words=words)
            return answers(graph, allowed, question), question
        # gates take hours where others take seconds: nobody has to be told that of every node
        allowed = tuple(way for way in allowed if way not in WORD_WAYS)
        # what bootstraps cost where they will run
        tables = self.table_bits or chosen.table_bits
        question = Question(self.ring, graph.batch, context.prices, graph, table_bits=tables)
        others = tuple(way for way in allowed if way not in (*SLOT_WAYS, *INTEGER_WAYS))
        if self._on_integers(allowed):
            # they were asked for: what they lose is shown, not refused
            refresh = chosen.refresh is Refresh.CLIENT and not tables
            exact = FitIntegers(
                self.points, self.spread, self.logits, self.measures, refresh=refresh, table_bits=tables
            )
            question = replace(question, integers=plan_integers(graph, context, exact))
            return answers(graph, allowed, question), question
        if not any(way in SLOT_WAYS for way in allowed):
            return answers(graph, others, question), question
        fitting = FitPolynomials(self.points, self.spread, self.logits, self.measures, self.samples, self.degree)
        only = not any(way.name == PackedBootstrap.name for way in others)
        if only:
            # they were asked for: what they lose is shown, not refused
            lenient = replace(fitting, points=100.0, spread=100.0, logits=1e15 if self.logits else 0.0)
            plan = plan_slots(graph, context, lenient, inf)
        elif self.ring != SECURE_RING:
            plan = "small rings are for tests: ask for slots by name (--strategy slots)"
        else:
            best = choose(graph, answers(graph, others, question), Paths(conversions(), question))
            plan = plan_slots(graph, context, fitting, inf if best is None else best.seconds)
        question = replace(question, slots=plan)
        if self.ring == SECURE_RING and any(way in INTEGER_WAYS for way in allowed):
            question = replace(question, integers=self._exactly(graph, context))
        return answers(graph, allowed, question), question

    def _exactly(self, graph: Graph, context: Context) -> IntegerPlan | str:
        """The plan on exact integers, where all functions are polynomials: nothing is replaced unasked."""
        for node, op in graph.of(Apply):
            fixed = graph.operands(node)[0].type.fixed
            if fixed is None or polynomial_of(op.functions, fixed.reach) is None:
                return f"{' then '.join(map(str, op.functions))} is no polynomial"
        exact = FitIntegers(self.points, self.spread, self.logits, self.measures)
        return plan_integers(graph, context, exact, strict=True)

    @staticmethod
    def _on_integers(allowed: Sequence[Way]) -> bool:
        """Whether a strategy knows nothing else: they take polynomials, which networks seldom have by themselves."""
        return all(way in INTEGER_WAYS or way.name == ClientTail.name for way in allowed)

    def _with_encrypted(self, graph: Graph) -> Graph:
        """The graph with public norms at the maps whose weights are to be encrypted."""
        rewriter = Rewriter(graph)
        for node in graph:
            if isinstance(node.op, Linear) and self._hides(node):
                node = replace(node, op=_encrypted(node.op, graph, rewriter.new))
            rewriter.keep(node)
        return rewriter.new

    # -- encrypted weights --

    @property
    def _hidden(self) -> frozenset[str]:
        return frozenset(filter(None, (name.strip() for name in self.encrypt_weights.split(";"))))

    def _hides(self, node: Node) -> bool:
        return self.encrypt_weights == ALL or node.location in self._hidden

    def _check_names(self, graph: Graph) -> None:
        maps = sorted({node.location for node, _ in graph.of(Linear)} - {""})
        unknown = sorted(self._hidden - set(maps) - {ALL})
        if unknown:
            raise GlyphcError(
                f"pass {self.name!r}: there is no linear map {unknown[0]!r} to encrypt the weights of; there are: "
                f"{', '.join(maps)}, or {ALL!r}"
            )


def _encrypted(op: Linear, old: Graph, new: Graph) -> Linear:
    """The map with public norms, and with all entries of its matrices: where their zeros are is not public."""
    matrices = [old.matrix(w) for w in op.weights]
    weights = tuple(
        new.add_matrix(f"{w.name}.all", Full(m.dense())) if isinstance(w, Sparse) else w
        for w, m in zip(op.weights, matrices, strict=True)
    )
    return replace(op, weights=weights, norms=tuple(map(public_norm, matrices)))


@dataclass(frozen=True)
class InsertSwitches(Pass):
    """Put a switch wherever an op and its operand are in different schemes; one serves all users."""

    name: ClassVar[str] = "insert-switches"
    requires: ClassVar[Level] = Level.QUANTIZED
    ensures: ClassVar[Level] = Level.ASSIGNED

    def run(self, graph: Graph, context: Context) -> Graph:
        rewriter = Rewriter(graph, Level.ASSIGNED)
        switched: dict[tuple[int, Scheme], Node] = {}
        for node in graph:
            operands = tuple(self._in_scheme(o, node, rewriter, switched) for o in rewriter.operands(node))
            rewriter.copy_constants(node)
            new = rewriter.new.add(node.op, operands, node.type, node.location, node.decisions)
            rewriter.replace(node, new)
        return rewriter.new

    def _in_scheme(
        self, operand: Node, user: Node, rewriter: Rewriter, switched: dict[tuple[int, Scheme], Node]
    ) -> Node:
        source, target = operand.type.scheme, user.type.scheme
        if source is None or target is None:
            raise ParameterError(f"{user} has no scheme; run 'assign-scheme' before 'insert-switches'")
        if target is Scheme.CLIENT:
            if source is Scheme.CLIENT or operand.type.encoding in (Encoding.SLOTS, Encoding.INTEGERS, Encoding.BITS):
                return operand
            target = Scheme.BGV  # what the client decrypts
        if source is target:
            return operand
        key = (operand.id, target)
        if key not in switched:
            encoding = _ENCODING[target]
            assert encoding is not None
            type = replace(operand.type, scheme=target, encoding=encoding)
            op = Switch(source, target, encoding)
            switched[key] = rewriter.new.add(op, (operand,), type, operand.location)
        return switched[key]
