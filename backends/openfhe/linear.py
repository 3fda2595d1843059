"""Linear algebra in BGV: products with plaintext polynomials, and the unpacking tree of automorphisms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from glyphc.ir.instructions import Polynomials

from .contexts import Contexts
from .keys import EvaluationKeys, unpack_automorphism
from .library import fhe


class LinearEngine:
    """Encodes weight polynomials once and multiplies ciphertexts with them."""

    def __init__(self, keys: EvaluationKeys, polynomials: dict[str, Polynomials]) -> None:
        self._contexts: Contexts = keys.contexts
        self._context = keys.contexts.bgv
        self._automorphisms = keys.bgv_automorphisms
        self._polynomials = polynomials
        self._encoded: dict[str, list[Any]] = {}
        self._shifts: dict[int, Any] = {}

    def prepare(self, weights: str) -> None:
        """Encode the polynomials of one linear map (a few milliseconds each)."""
        if weights not in self._encoded:
            polynomials = self._polynomials[weights]
            n = self._contexts.parameters.ring
            self._encoded[weights] = [self._plaintext(polynomials.dense(r, n)) for r in range(len(polynomials))]

    def dot(self, sources: Sequence[Any], weights: str) -> Any:
        """sum_j sources[j] * weights[j] + bias."""
        self.prepare(weights)
        *factors, bias = self._encoded[weights]
        total = self._product(sources[0], factors[0])
        for source, factor in zip(sources[1:], factors[1:], strict=True):
            self._context.EvalAddInPlace(total, self._product(source, factor))
        self._context.EvalAddInPlace(total, bias)
        return total

    def split(self, source: Any, parts: int, stride: int, count: int) -> list[Any]:
        """The first ``count`` residue classes of exponents modulo parts*stride, see ``glyphc.ir.instructions.Split``.

        Each level halves the classes with one automorphism g: c + g(c) keeps the even multiples of the stride, c -
        g(c) the odd
        ones, which are then moved down by the stride; branches that nobody needs are not computed.
        """
        pieces = {0: source}
        step = 1
        while step < parts:
            index = unpack_automorphism(self._contexts.parameters.ring, stride * step)
            halves: dict[int, Any] = {}
            for residue, piece in pieces.items():
                image = self._context.EvalAutomorphism(piece, index, self._automorphisms)
                halves[residue] = self._context.EvalAdd(piece, image)
                if residue + step < count:
                    odd = self._context.EvalSub(piece, image)
                    halves[residue + step] = self._product(odd, self._shift_down(stride * step))
            pieces = halves
            step *= 2
        return [pieces[r] for r in range(count)]

    def _product(self, ciphertext: Any, plaintext: Any) -> Any:
        result = self._context.EvalMult(ciphertext, plaintext)
        # OpenFHE counts a plaintext product as a level and would rescale before the next; on one limb there is
        # nothing to drop
        result.SetNoiseScaleDeg(1)
        return result

    def _plaintext(self, coefficients: np.ndarray) -> Any:  # type: ignore[type-arg]
        plain = self._context.MakeCoefPackedPlaintext(coefficients)
        plain.SetFormat(fhe.EVALUATION)
        return plain

    def _shift_down(self, by: int) -> Any:
        """X^-by = -X^(N-by)."""
        if by not in self._shifts:
            monomial = np.zeros(self._contexts.parameters.ring, dtype=np.int64)
            monomial[-by] = -1
            self._shifts[by] = self._plaintext(monomial)
        return self._shifts[by]
