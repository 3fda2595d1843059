"""Linear algebra in BGV: products with plaintext polynomials, and the unpacking tree of automorphisms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from glyphc.ir.instructions import ConjugateDot, Conjugates, Polynomials

from .keys import EvaluationKeys, unpack_automorphism


class LinearEngine:
    """Encodes weight polynomials once and multiplies ciphertexts with them.

    Weights are kept as trivial ciphertexts (w, 0): OpenFHE's own plaintext objects take 5.6 MB each at N = 65536,
    more than five
    times as much, and are slower to make. A product with one has a third element, which is zero and is dropped in the
    end.
    """

    def __init__(self, keys: EvaluationKeys, polynomials: dict[str, Polynomials]) -> None:
        self._ring = keys.contexts.parameters.ring
        self._context = keys.contexts.bgv
        self._automorphisms = keys.bgv_automorphisms
        self._mould = keys.bgv_mould
        self._polynomials = polynomials
        self._weights = keys.weights
        self._encoded: dict[str, list[Any]] = {}
        self._shifts: dict[int, Any] = {}

    def prepare(self, weights: str) -> None:
        """Encode the polynomials of one linear map (a few milliseconds each)."""
        if weights not in self._encoded:
            rows = self._polynomials[weights]
            self._encoded[weights] = [self._mould.trivial(rows.dense(r, self._ring)) for r in range(len(rows))]

    def prepare_conjugates(self, instruction: ConjugateDot) -> None:
        """The same for one sum over conjugates: those of each giant step together, then perhaps the bias."""
        if instruction.weights in self._encoded:
            return
        rows, count, steps = self._polynomials[instruction.weights], instruction.count, instruction.steps(self._ring)
        encoded: list[Any] = [None] * (steps.parts * count)
        for source in range(count):
            for giant, baby, weight in steps.weights(*rows.terms(source * steps.parts, steps.parts)):
                encoded[giant * len(instruction.sources) + source * steps.babies + baby] = self._mould.trivial(weight)
        bias = range(len(encoded), len(rows))
        self._encoded[instruction.weights] = encoded + [self._mould.trivial(rows.dense(r, self._ring)) for r in bias]

    def dot(self, sources: Sequence[Any], weights: str, total: Any | None = None) -> Any:
        """total + sum_j sources[j] * weights[j] + bias."""
        self.prepare(weights)
        encoded = self._encoded[weights]
        result = self._products(sources, encoded[: len(sources)])
        return self._sum(result, encoded[len(sources) :], total)

    def transient_dot(self, sources: Sequence[Any], weights: str, total: Any | None = None) -> Any:
        """The same with weights that are encoded for this once."""
        try:
            return self.dot(sources, weights, total)
        finally:
            self._encoded.pop(weights, None)

    def conjugate_dot(self, sources: Sequence[Any], instruction: ConjugateDot, total: Any | None = None) -> Any:
        """total + a sum over conjugates + bias: products with baby steps, then an automorphism for each giant step."""
        self.prepare_conjugates(instruction)
        encoded, each = self._encoded[instruction.weights], len(sources)
        steps = instruction.steps(self._ring)
        result = self._products(sources, encoded[:each])
        for number, index in enumerate(steps.giant_elements, start=1):
            inner = self._products(sources, encoded[number * each : (number + 1) * each])
            self._context.EvalAddInPlace(result, self._context.EvalAutomorphism(inner, index, self._automorphisms))
        return self._sum(result, encoded[steps.giants * each :], total)

    def conjugates(self, source: Any, instruction: Conjugates) -> list[Any]:
        """Its images, see ``glyphc.ir.instructions.Conjugates``."""
        elements = instruction.steps(self._ring).baby_elements
        return [self._context.EvalAutomorphism(source, index, self._automorphisms) for index in elements]

    def _products(self, sources: Sequence[Any], factors: Sequence[Any]) -> Any:
        result = None
        for source, factor in zip(sources, factors, strict=True):
            product = _keep_level(self._context.EvalMultNoRelin(source, factor))
            if result is None:
                result = product
            else:
                self._context.EvalAddInPlace(result, product)
        assert result is not None
        result.SetElements(list(result.GetElements())[:2])
        return result

    def _sum(self, result: Any, bias: Sequence[Any], total: Any | None) -> Any:
        for addend in bias if total is None else [*bias, total]:
            self._context.EvalAddInPlace(result, addend)
        return result

    def encrypted_dot(self, sources: Sequence[Any], weights: str, total: Any | None = None) -> Any:
        """total + sum_j sources[j] * weights[j] + bias, with weights and bias encrypted.

        (c0 + c1*s) * w = c0*w + c1*(w*s): c0 switched from the "secret" w to s, and c1 from w*s. As a third element,
        what is to be switched is added to the first two by the same call.
        """
        held = self._weights[weights]
        if len(held.products) != len(sources):
            raise ValueError(f"{len(sources)} ciphertexts for the {len(held.products)} polynomials of {weights}")
        addends = [c for c in (held.bias, total) if c is not None]
        if not addends:
            addends = [self._mould.trivial(np.zeros(self._ring, dtype=np.int64))]
        result = addends[0].Clone()
        for addend in addends[1:]:
            self._context.EvalAddInPlace(result, addend)
        for source, keys in zip(sources, held.products, strict=True):
            for element, key in zip(source.GetElements(), keys, strict=True):
                result.SetElements([*result.GetElements(), element])
                result = self._context.KeySwitch(result, key)
        return result

    def split(self, source: Any, parts: int, stride: int, count: int) -> list[Any]:
        """The first ``count`` residue classes of exponents modulo parts*stride, see ``glyphc.ir.instructions.Split``.

        Each level halves the classes with one automorphism g: c + g(c) keeps the even multiples of the stride, c -
        g(c) the odd
        ones, which are then moved down by the stride; branches that nobody needs are not computed.
        """
        pieces = {0: source}
        step = 1
        while step < parts:
            index = unpack_automorphism(self._ring, stride * step)
            halves: dict[int, Any] = {}
            for residue, piece in pieces.items():
                image = self._context.EvalAutomorphism(piece, index, self._automorphisms)
                halves[residue] = self._context.EvalAdd(piece, image)
                if residue + step < count:
                    odd = self._context.EvalSub(piece, image)
                    halves[residue + step] = _keep_level(self._context.EvalMult(odd, self._shift_down(stride * step)))
            pieces = halves
            step *= 2
        return [pieces[r] for r in range(count)]

    def divided(self, source: Any, factor: int) -> Any:
        """Divided modulo the modulus: exact, as it is odd."""
        ring = self._mould.ring
        inverse = pow(factor, -1, ring.q)
        return self._mould.cast(*(ring.scale(c, inverse) for c in self._mould.coefficients(source)))

    def _shift_down(self, by: int) -> Any:
        """X^-by = -X^(N-by)."""
        if by not in self._shifts:
            monomial = np.zeros(self._ring, dtype=np.int64)
            monomial[-by] = -1
            self._shifts[by] = self._context.MakeCoefPackedPlaintext(monomial)
        return self._shifts[by]


def _keep_level(product: Any) -> Any:
    """OpenFHE counts a product as a level and would rescale before the next one; on one limb there is nothing to
    drop."""
    product.SetNoiseScaleDeg(1)
    return product
