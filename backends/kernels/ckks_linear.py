"""The linear algebra of training on the kernels: CKKS products and selections. No secret, no way to decrypt.

Messages stand in the coefficients, as in OpenFHE's linear context (:mod:`..openfhe.ckks_contexts`), whose primes and
scales these ciphertexts have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from numba import njit

from ..openfhe.keys import unpack_automorphism
from ..packing import Packing
from .basis import F64, Basis, centred
from .evaluator import Arithmetic, Ciphertext
from .keyswitch import KeyShape, SwitchingKey
from .linear_shape import LinearShape, automorphism_name, key_shape, multiplication_name
from .masks import times_rows
from .threads import each, run

I64 = npt.NDArray[np.int64]
T = TypeVar("T")
U = TypeVar("U")


@njit(nogil=True, error_model="numpy", cache=True)
def _add_rows(first, last, a, b, sign, out, moduli):  # type: ignore[no-untyped-def]
    """out = a + sign*b, canonical; (2, any rows, n); out may be a. sign: 1 or -1."""
    for i in range(first, last):
        q = moduli[i]
        for h in range(2):
            x, y, o = a[h, i], b[h, i], out[h, i]
            if sign > 0:
                for j in range(x.shape[0]):
                    s = x[j] + y[j]
                    o[j] = s - q if s >= q else s
            else:
                for j in range(x.shape[0]):
                    s = x[j] - y[j]
                    o[j] = s + q if s < 0.0 else s


class LinearArithmetic(Arithmetic):
    """With the keys of the linear context."""

    def __init__(self, shape: LinearShape, basis: Basis, keys: dict[str, SwitchingKey]) -> None:
        super().__init__(basis, keys)
        self.shape = shape

    def automorphism_name(self, index: int, shape: KeyShape) -> str:
        return automorphism_name(index, len(shape.chain))

    def product_name(self, limbs: int) -> str:
        return multiplication_name(limbs)


class LinearKernels(Packing[Ciphertext]):
    """The kernels behind those of training's instructions (``glyphc.ir.instructions.ckks``) that bootstrap nothing."""

    def __init__(self, arithmetic: LinearArithmetic, scales: Sequence[float]) -> None:
        """scales: of messages on 1, 2, ... limbs."""
        self._arithmetic, self._linear = arithmetic, arithmetic.basis
        self._parameters = arithmetic.shape.parameters
        self._scales = tuple(scales)
        self._key_shapes = [key_shape(self._parameters, n + 1) for n in range(self._parameters.linear_limbs)]
        self._monomials: dict[int, F64] = {}

    # -- instructions --

    def scaled(self, source: Ciphertext, factor: float) -> Ciphertext:
        return self._rescaled(source, source.limbs, factor)

    def product(self, pairs: Sequence[tuple[Ciphertext, Ciphertext]]) -> Ciphertext:
        limbs = min(c.limbs for pair in pairs for c in pair)
        lowered = [(self.reduced(a, limbs), self.reduced(b, limbs)) for a, b in pairs]
        return self._arithmetic.combine(lowered, [], 0, limbs, self._scales[limbs - 2])

    def sum(self, terms: Sequence[tuple[Ciphertext, int]]) -> Ciphertext:
        limbs = min(c.limbs for c, _ in terms)
        total = np.zeros((2, limbs, self._linear.n))
        for ciphertext, sign in terms:
            self._into(total, self.reduced(ciphertext, limbs).elements, sign, total)
        return Ciphertext(total, self._scales[limbs - 1])

    def reverse(self, source: Ciphertext) -> Ciphertext:
        return self._image(source, 2 * self._parameters.ring - 1)

    def convolved(self, source: Ciphertext, exponents: Sequence[int], weight: int) -> Ciphertext:
        ring = self._parameters.ring
        wrapped = np.asarray(exponents) % (2 * ring)
        factor = np.zeros(ring, dtype=np.int64)
        np.add.at(factor, wrapped % ring, np.where(wrapped < ring, weight, -weight))
        return self._times(source, self._public(factor, source.limbs))

    def raised(self, source: Ciphertext, value: float) -> Ciphertext:
        constant = round(value * source.scale)
        everywhere = np.empty((source.limbs, self._linear.n))
        everywhere[:] = np.array([centred(constant, q) for q in self._linear.primes[: source.limbs]])[:, None]
        self._linear.forward(everywhere, np.arange(source.limbs))
        return self._plus(source, everywhere)

    def with_public(self, source: Ciphertext, message: F64) -> Ciphertext:
        """A ciphertext plus N numbers in the clear; ValueError for what its limbs, or 53 bits, do not hold. No
        instruction does this."""
        integers = np.rint(message * source.scale)
        if np.abs(integers).max() >= min(2.0**53, prod(self._linear.primes[: source.limbs]) / 2):
            raise ValueError(
                f"a message of magnitude {np.abs(message).max():.3g} is too large for {source.limbs} limbs"
            )
        return self._plus(source, self._public(integers.astype(np.int64), source.limbs))

    def reduced(self, source: Ciphertext, limbs: int) -> Ciphertext:
        """The same message on fewer limbs, with the scale that belongs to them."""
        return source if source.limbs == limbs else self._rescaled(source, limbs + 1, 1.0)

    # -- parts of instructions --

    def _each(self, function: Callable[[T], U], items: Iterable[T]) -> list[U]:
        return list(each(function, items))

    def _rescaled(self, source: Ciphertext, limbs: int, factor: float) -> Ciphertext:
        """factor * source, which has at least ``limbs`` limbs, on one limb less than that."""
        return self._arithmetic.combine([], [(source, factor)], 0, limbs, self._scales[limbs - 2])

    def _add(self, a: Ciphertext, b: Ciphertext) -> Ciphertext:
        return Ciphertext(self._into(a.elements, b.elements, 1, np.empty_like(a.elements)), a.scale)

    def _subtract(self, a: Ciphertext, b: Ciphertext) -> Ciphertext:
        return Ciphertext(self._into(a.elements, b.elements, -1, np.empty_like(a.elements)), a.scale)

    def _into(self, a: F64, b: F64, sign: int, out: F64) -> F64:
        run(_add_rows, a.shape[1], a, b, sign, out, self._linear.moduli)
        return out

    def _automorphism(self, ciphertext: Ciphertext, stride: int) -> Ciphertext:
        return self._image(ciphertext, unpack_automorphism(self._parameters.ring, stride))

    def _plus(self, source: Ciphertext, public: F64) -> Ciphertext:
        """public: values, (limbs, n)."""
        added = np.stack([public, np.zeros_like(public)])
        return Ciphertext(self._into(source.elements, added, 1, added), source.scale)

    def _image(self, ciphertext: Ciphertext, index: int) -> Ciphertext:
        return self._arithmetic.automorphism(ciphertext, index, self._key_shapes[ciphertext.limbs - 1])

    def _shifted(self, ciphertext: Ciphertext, by: int) -> Ciphertext:
        if by == 0:
            return ciphertext
        if by not in self._monomials:
            monomial = np.zeros(self._parameters.ring, dtype=np.int64)
            monomial[by] = 1 if by > 0 else -1  # X^-k = -X^(N-k)
            self._monomials[by] = self._public(monomial, self._parameters.linear_limbs)
        return self._times(ciphertext, self._monomials[by])

    def _public(self, integers: I64, limbs: int) -> F64:
        """A polynomial's values, (limbs, n)."""
        which = np.arange(limbs)
        out = self._linear.residues(integers, which)
        self._linear.forward(out, which)
        return out

    def _times(self, ciphertext: Ciphertext, public: F64) -> Ciphertext:
        x = ciphertext.elements
        out = np.empty_like(x)
        run(times_rows, x.shape[1], x, public, out, self._linear.moduli, self._linear.inverses)
        return Ciphertext(out, ciphertext.scale)
