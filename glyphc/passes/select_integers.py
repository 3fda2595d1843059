"""Plaintext primes, ring and modulus of a network that is computed on exact integers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from glyphc.analysis.security import MAX_LOG_QP_SLOTS
from glyphc.errors import ParameterError
from glyphc.ir.graph import Candidate, Decision, Graph, Rewriter
from glyphc.ir.integer_parameters import PRIME_BITS, IntegerParameters
from glyphc.ir.layout import Layout
from glyphc.ir.ops import Input
from glyphc.ir.parameters import INSECURE, SECURE
from glyphc.ir.types import Encoding, Level
from glyphc.slots.integer_lowering import block_summed, integer_code
from glyphc.slots.integer_noise import limbs_for, multiplies
from glyphc.slots.integers import needed_bits, plaintext_primes

from .base import Context, Pass, check_ring


@dataclass(frozen=True)
class SelectIntegers(Pass):
    """Layouts, plaintext primes that hold the results, and the smallest ring with a modulus for the noise.

    ring: 0 for a choice among the secure ones; security as in ``select-parameters``.
    """

    name: ClassVar[str] = "select-integers"
    requires: ClassVar[Level] = Level.ASSIGNED
    ensures: ClassVar[Level] = Level.LAIDOUT
    only: ClassVar[Encoding | None] = Encoding.INTEGERS
    ring: int = 0

    def __post_init__(self) -> None:
        if self.ring:
            check_ring(self.name, self.ring)

    def run(self, graph: Graph, context: Context) -> Graph:
        candidates: list[Candidate] = []
        for ring in (self.ring,) if self.ring else tuple(MAX_LOG_QP_SLOTS):
            code = integer_code(graph, ring)
            moduli = plaintext_primes(ring, needed_bits(graph))
            most = 16 if self.ring else MAX_LOG_QP_SLOTS[ring] // PRIME_BITS
            limbs = limbs_for(code, ring, max(moduli), most)
            if limbs > most:
                candidates.append(Candidate(f"N = {ring}", None, f"more than {most} primes are not 128-bit secure"))
                continue
            security = INSECURE if self.ring else SECURE
            parameters = IntegerParameters(ring, moduli, limbs, multiplies(code), security, block_summed(code))
            bits = " x ".join(f"{t.bit_length()} bits" for t in moduli)
            candidates.append(Candidate(f"N = {ring}", None, f"t of {bits}, a modulus of {parameters.modulus_bits}"))
            return _laid_out(graph, parameters, Decision(self.name, f"N = {ring}", tuple(candidates)))
        raise ParameterError(f"no ring holds the noise of this network: {candidates[-1].reason}")


def _laid_out(graph: Graph, parameters: IntegerParameters, decision: Decision) -> Graph:
    """One ciphertext per feature, a sample in each slot; a batch of at most as many samples as there are slots."""
    batch = min(graph.batch, parameters.slots)
    rewriter = Rewriter(graph, Level.LAIDOUT, batch)
    for node in graph:
        layout = None
        if node.type.encoding is Encoding.INTEGERS:
            size = node.type.size
            layout = Layout(parameters.slots, batch, size, size, 1, 1, 1, True)
        decisions = (decision,) if isinstance(node.op, Input) else ()
        rewriter.keep(node, replace(node.type, layout=layout), decisions)
    rewriter.new.parameters = parameters
    return rewriter.new
