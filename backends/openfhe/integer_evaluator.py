"""The server's side of programs on integers in slots. No secret."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from glyphc.ir.client_requests import Request
from glyphc.ir.instructions import IntegerBlocks, IntegerDot

from ..errors import BackendError
from .integer_contexts import IntegerContexts
from .library import fhe

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
            if size > 1:
                positive, part = terms[0]
                if len(terms) > 1:
                    part = self._added(context, None, [(sign == positive, term) for sign, term in terms])
                terms = [(positive, self._multiplied(at, part, size))]
            total = self._added(context, total, terms)
        if total is None:
            # all weights are multiples of t
            total = context.EvalSub(sources[0], sources[0])
        return self._shifted(at, total, instruction.bias)

    def _shifted(self, at: int, total: Any, bias: int) -> Any:
        """total: is changed in place."""
        context, t = self._contexts.contexts[at], self._contexts.parameters.moduli[at]
        centred = (bias + t // 2) % t - t // 2
        if centred:
            with _as_polynomial(total):
                context.EvalAddInPlace(total, context.MakeCoefPackedPlaintext([centred]))
        return total

    def _added(self, context: Any, total: Any, terms: Sequence[tuple[bool, Any]]) -> Any:
        """Ciphertexts with signs added to ``total``, which is changed; without one, to a new one."""
        for positive, term in terms:
            if total is None:
                total = term.Clone() if positive else context.EvalNegate(term)
            elif positive:
                context.EvalAddInPlace(total, term)
            else:
                context.EvalSubInPlace(total, term)
        return total

    def _multiplied(self, at: int, part: Any, value: int) -> Any:
        if (at, value) not in self._constants:
            self._constants[at, value] = self._contexts.contexts[at].MakeCoefPackedPlaintext([value])
        with _as_polynomial(part):
            product = self._contexts.contexts[at].EvalMult(part, self._constants[at, value])
        product.SetEncodingType(fhe.PACKED_ENCODING)
        return product


@contextmanager
def _as_polynomial(ciphertext: Any) -> Iterator[None]:
    """Meanwhile a ciphertext says that coefficients are encoded in it, as OpenFHE wants of two operands.

    The same integer in all slots is a polynomial's constant term, which takes no transform to encode."""
    ciphertext.SetEncodingType(fhe.COEF_PACKED_ENCODING)
    try:
        yield
    finally:
        ciphertext.SetEncodingType(fhe.PACKED_ENCODING)
