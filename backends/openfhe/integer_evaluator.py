"""The server's side of programs on integers in slots. No secret."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from glyphc.ir.client_requests import Request
from glyphc.ir.instructions import IntegerBlocks, IntegerDot

from ..errors import BackendError
from .integer_contexts import IntegerContexts

Ciphertexts = tuple[Any, ...]
Answer = Callable[[Sequence[Ciphertexts], Request], Sequence[Ciphertexts]]


class IntegerOpenFHE:
    """Executes a program on integers. Registers are OpenFHE's ciphertexts, one for each plaintext prime."""

    def __init__(self, contexts: IntegerContexts, answer: Answer | None = None) -> None:
        """answer: asks the client, where a program has it do something with ciphertexts."""
        self.answer = answer
        self._contexts = contexts
        self._constants: dict[tuple[int, int], Any] = {}

    def integer_dot(self, sources: Sequence[Ciphertexts], instruction: IntegerDot) -> Ciphertexts:
        return tuple(
            self._dot(at, [source[at] for source in sources], instruction) for at in range(len(self._contexts.contexts))
        )

    def integer_product(self, a: Ciphertexts, b: Ciphertexts) -> Ciphertexts:
        return tuple(c.EvalMult(x, y) for c, x, y in zip(self._contexts.contexts, a, b, strict=True))

    def integer_blocks(self, sources: Sequence[Ciphertexts], instruction: IntegerBlocks) -> Ciphertexts:
        return tuple(
            self._blocks(at, [source[at] for source in sources], instruction)
            for at in range(len(self._contexts.contexts))
        )

    def integer_total(self, source: Ciphertexts, inner: bool) -> Ciphertexts:
        parameters = self._contexts.parameters
        exponents = parameters.inner_automorphisms if inner else parameters.automorphisms
        return tuple(self._summed(at, each, exponents) for at, each in enumerate(source))

    def client_request(self, sources: Sequence[Ciphertexts], request: Request) -> Sequence[Ciphertexts]:
        if self.answer is None:
            raise BackendError("this program asks the client on the way, and there is none to ask")
        return self.answer(sources, request)

    def _blocks(self, at: int, sources: Sequence[Any], instruction: IntegerBlocks) -> Any:
        """A product with the weights slot by slot, then blocks are added up two by two."""
        context, parameters = self._contexts.contexts[at], self._contexts.parameters
        t = parameters.moduli[at]
        total = None
        for source, weights in zip(sources, instruction.weights, strict=True):
            centred = (np.array(weights, dtype=np.int64) + t // 2) % t - t // 2
            plain = context.MakePackedPlaintext(np.repeat(centred, instruction.block).tolist())
            part = context.EvalMult(source, plain)
            total = part if total is None else context.EvalAdd(total, part)
        assert total is not None
        return self._shifted(at, self._summed(at, total, parameters.automorphisms), instruction.bias)

    def _summed(self, at: int, total: Any, exponents: Sequence[int]) -> Any:
        """With its images, one after another."""
        context = self._contexts.contexts[at]
        keys = context.GetEvalAutomorphismKeyMap(total.GetKeyTag())
        for exponent in exponents:
            total = context.EvalAdd(total, context.EvalAutomorphism(total, exponent, keys))
        return total

    def _dot(self, at: int, sources: Sequence[Any], instruction: IntegerDot) -> Any:
        """Sums of what has the same weight but for its sign, each multiplied once.

        OpenFHE lifts constants from [0, t), so a negative one would multiply the noise by t: signs are subtractions.
        """
        context, t = self._contexts.contexts[at], self._contexts.parameters.moduli[at]
        by_size: dict[int, list[tuple[bool, Any]]] = {}
        for source, weight in zip(sources, instruction.weights, strict=True):
            centred = (weight + t // 2) % t - t // 2
            if centred:
                by_size.setdefault(abs(centred), []).append((centred > 0, source))
        total = None
        for size, terms in by_size.items():
            part = self._sum(context, terms)
            if size > 1:
                part = context.EvalMult(part, self._constant(at, size))
            total = part if total is None else context.EvalAdd(total, part)
        if total is None:
            # all weights are multiples of t
            total = context.EvalSub(sources[0], sources[0])
        return self._shifted(at, total, instruction.bias)

    def _shifted(self, at: int, total: Any, bias: int) -> Any:
        t = self._contexts.parameters.moduli[at]
        centred = (bias + t // 2) % t - t // 2
        if not centred:
            return total
        return self._contexts.contexts[at].EvalAdd(total, self._constant(at, centred, kept=False))

    def _sum(self, context: Any, terms: Sequence[tuple[bool, Any]]) -> Any:
        """Of ciphertexts with signs; the first one is taken as it is, or negated."""
        ordered = sorted(terms, key=lambda term: not term[0])
        (positive, total), *rest = ordered
        total = total if positive else context.EvalNegate(total)
        for added, term in rest:
            total = context.EvalAdd(total, term) if added else context.EvalSub(total, term)
        return total

    def _constant(self, at: int, value: int, kept: bool = True) -> Any:
        """The same integer in all slots. kept: for the next time; biases are needed once."""
        if (at, value) in self._constants:
            return self._constants[at, value]
        made = self._contexts.contexts[at].MakePackedPlaintext([value] * self._contexts.parameters.slots)
        if kept:
            self._constants[at, value] = made
        return made
