"""Which scheme computes what, decided by feasibility and predicted cost; and the switches in between."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from glyphc.approx.noise import public_norm
from glyphc.errors import GlyphcError, ParameterError
from glyphc.ir.graph import Candidate, Decision, Graph, Node, Rewriter
from glyphc.ir.layout import next_power_of_two
from glyphc.ir.ops import Apply, ArgMax, Input, Linear, Output, Reshape, Softmax, Switch
from glyphc.ir.types import Encoding, Level, Scheme

from .base import Context, Pass, check_ring

# Stands for every linear map.
ALL = "all"
_DEGREE = 27  # typical; the series is chosen later
_ENCODING = {Scheme.BGV: Encoding.LSB, Scheme.TFHE: Encoding.MSB, Scheme.CKKS: Encoding.LSB, Scheme.CLIENT: None}


@dataclass(frozen=True)
class AssignScheme(Pass):
    """Give each value the cheapest feasible scheme, and keep the losers with their reasons.

    encrypt_weights: linear maps whose weights the server must not see, by location (``fc1;scale+fc2``), or ``all``.
    """

    name: ClassVar[str] = "assign-scheme"
    requires: ClassVar[Level] = Level.QUANTIZED
    ensures: ClassVar[Level] = Level.QUANTIZED
    ring: int = 65536
    encrypt_weights: str = ""

    def __post_init__(self) -> None:
        check_ring(self.name, self.ring)

    def run(self, graph: Graph, context: Context) -> Graph:
        self._check_names(graph)
        rewriter = Rewriter(graph)
        for node in graph:
            if isinstance(node.op, Linear) and self._hides(node):
                weights = [graph.constant(w.name) for w in node.op.weights]
                node = replace(node, op=replace(node.op, norms=tuple(map(public_norm, weights))))
            scheme, decisions = self._choose(node, rewriter, graph.batch, context)
            type = replace(node.type, scheme=scheme, encoding=_ENCODING[scheme])
            rewriter.keep(node, type, decisions)
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

    def _choose(
        self, node: Node, rewriter: Rewriter, batch: int, context: Context
    ) -> tuple[Scheme, tuple[Decision, ...]]:
        operands = rewriter.operands(node)
        if isinstance(node.op, Softmax | ArgMax | Output) or (operands and operands[0].type.scheme is Scheme.CLIENT):
            return Scheme.CLIENT, ()
        if isinstance(node.op, Input):
            return Scheme.BGV, ()
        if isinstance(node.op, Reshape):
            # moves nothing; after a nonlinearity it stands behind the switch back, which serves all readers
            return Scheme.BGV, ()
        if isinstance(node.op, Linear) and node.op.encrypted:
            candidates = self._encrypted(node, operands, batch, context)
        elif isinstance(node.op, Linear):
            candidates = self._linear(node, operands, batch, context)
        elif isinstance(node.op, Apply):
            candidates = self._apply(node, batch, context)
        else:
            raise ParameterError(f"{node}: no scheme can compute a {node.op.mnemonic}")
        feasible = {s: c for s, c in candidates.items() if c.seconds is not None}
        if not feasible:
            reasons = "; ".join(f"{c.name}: {c.reason}" for c in candidates.values())
            raise ParameterError(f"no scheme can compute {node}: {reasons}")
        scheme = min(feasible, key=lambda s: feasible[s].seconds or 0.0)
        return scheme, (Decision(self.name, feasible[scheme].name, tuple(candidates.values())),)

    def _linear(self, node: Node, operands: tuple[Node, ...], batch: int, context: Context) -> dict[Scheme, Candidate]:
        cost = context.cost
        macs = node.type.size * sum(o.type.size for o in operands) * batch
        products = max(1, -(-macs // self.ring))
        rebuilt = cost.bootstrap_seconds(self.ring // 2, _DEGREE, self.ring)
        return {
            Scheme.BGV: Candidate(
                "bgv", products * cost.product, f"{products} exact plaintext products, no level, no rescaling"
            ),
            Scheme.CKKS: Candidate(
                "ckks",
                None,
                "no lowering yet; would keep a level after every bootstrap, which makes each "
                f"{cost.level * rebuilt:.1f} s dearer",
            ),
            Scheme.TFHE: Candidate(
                "tfhe", None, f"{macs:,} multiplications by weights one LWE ciphertext at a time: no packing"
            ),
        }

    def _encrypted(
        self, node: Node, operands: tuple[Node, ...], batch: int, context: Context
    ) -> dict[Scheme, Candidate]:
        """Ciphertext times ciphertext: of what ways there are, only one stands the noise of bootstrapped operands."""
        cost = context.cost
        macs = node.type.size * sum(o.type.size for o in operands) * batch
        products = max(1, -(-macs // self.ring))
        return {
            Scheme.BGV: Candidate(
                "bgv, encrypted weights",
                products * cost.encrypted_product,
                f"{products} external products with weights encrypted as key-switching keys: no level, the noise of a "
                "plaintext product and two key switches",
            ),
            Scheme.CKKS: Candidate(
                "ckks tensor product",
                None,
                "no lowering yet; needs levels kept after every bootstrap, larger keys and a rescaling",
            ),
            Scheme.TFHE: Candidate(
                "bgv or bfv tensor product",
                None,
                "wrong behind a bootstrap: its error is no integer, and multiplies with the other operand's overflow "
                "of the modulus; for fresh inputs, too, it takes a second limb and relinearisation",
            ),
        }

    def _apply(self, node: Node, batch: int, context: Context) -> dict[Scheme, Candidate]:
        cost = context.cost
        values = node.type.size * batch
        slots = min(self.ring // 2, max(2, next_power_of_two(values) // 2))
        packed = cost.bootstrap_seconds(slots, _DEGREE, self.ring)
        assert node.type.fixed is not None
        return {
            Scheme.TFHE: Candidate(
                "packed functional bootstrap",
                packed * -(-values // self.ring),
                f"one pass refreshes {values:,} values and applies the function",
            ),
            Scheme.CKKS: Candidate(
                "ckks polynomial",
                None,
                "no lowering yet; a polynomial of comparable precision needs levels of its own on top of a refresh",
            ),
            Scheme.BGV: Candidate(
                "bgv look-up table",
                None,
                f"a table of 2^12 entries costs a depth that no BGV modulus at N = {self.ring} offers",
            ),
            Scheme.CLIENT: Candidate(
                "client refresh", None, "would show intermediate values to the client and wait for it"
            ),
        }


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
            if source is Scheme.CLIENT:
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
