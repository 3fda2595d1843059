"""Training on the kernels: its linear algebra, and its functional bootstraps. No secret, and nothing is decrypted.

Both have one secret, so a ciphertext goes from one to the other by a change of its modulus: from one limb of the linear
context to q0, and from the primes that are kept after a bootstrap to the linear context's lowest limbs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glyphc.ir.instructions.ckks import Bootstrap, Refresh

from ..openfhe.ckks_contexts import LinearContexts
from ..openfhe.rescaling import Rescaling
from ..openfhe.ring import U64, Ring
from .basis import F64, Basis, root_of_unity
from .bootstrap import Bootstrapper
from .ckks_linear import LinearArithmetic, LinearKernels
from .evaluator import Ciphertext, Evaluator
from .keys import ServerKeys
from .keyswitch import SwitchingKey
from .linear_shape import LinearShape
from .slot_forms import SlotForm
from .threads import each


@dataclass(frozen=True, eq=False)
class LinearKeys:
    """Keys of products and automorphisms in the linear context, by name (``LinearShape.specs``)."""

    contexts: LinearContexts
    shape: LinearShape
    basis: Basis
    switching: dict[str, SwitchingKey]


@dataclass(frozen=True, eq=False)
class KernelsTrainingKeys:
    """What the server holds. torus: of bootstraps, under the same secret."""

    linear: LinearKeys
    torus: ServerKeys


class KernelsCKKS(LinearKernels):
    """The kernels behind training's instructions (``glyphc.ir.instructions.ckks``)."""

    def __init__(self, keys: KernelsTrainingKeys) -> None:
        linear, torus = keys.linear, keys.torus
        arithmetic = LinearArithmetic(linear.shape, linear.basis, linear.switching)
        super().__init__(arithmetic, linear.contexts.scales)
        shape, self._torus = torus.shape, torus.basis
        self._bootstrapper = Bootstrapper(Evaluator(shape, torus.basis, torus.switching), linear.contexts.output)
        kept = [_ring(torus.basis.n, q) for q in torus.basis.primes[: shape.result_limbs]]
        rings = [_ring(linear.basis.n, q) for q in linear.shape.moduli[: self._parameters.decoded_limbs]]
        self._inward = Rescaling.between(rings[:1], kept[:1])
        self._outward = Rescaling.between(kept, rings)

    def refresh(self, source: Ciphertext, instruction: Refresh) -> Ciphertext:
        powers = self._bootstrapper.powers(self._to_torus(source), instruction.series.degree)
        return self._from_torus(self._bootstrapper.evaluate(powers, instruction.series))

    def bootstrap(self, source: Ciphertext, instruction: Bootstrap) -> list[SlotForm]:
        powers = self._bootstrapper.powers(self._to_torus(source), self._parameters.degree)
        return [self._bootstrapper.slot_form(powers, series) for series in instruction.series]

    def masked(self, source: SlotForm, conditions: Sequence[tuple[int, int, int]]) -> SlotForm:
        values = 2 * self._parameters.slots
        exponents = np.arange(values) * (self._parameters.ring // values)
        kept = np.ones(values, dtype=np.bool_)
        for period, start, stop in conditions:
            kept &= (exponents % period >= start) & (exponents % period < stop)
        return self._bootstrapper.forms.masked(source, kept)

    def slot_product(self, a: SlotForm, b: SlotForm) -> SlotForm:
        return self._bootstrapper.forms.product(a, b)

    def decode(self, source: SlotForm) -> Ciphertext:
        return self._from_torus(self._decoded(source))

    def _decoded(self, source: SlotForm) -> Ciphertext:
        """A slot form's coefficients, on the bootstraps' chain."""
        return self._bootstrapper.decoded(source)

    def _to_torus(self, source: Ciphertext) -> Ciphertext:
        """A ciphertext on one limb, modulo q0."""
        return Ciphertext(self._switched(source, self._linear, self._inward, self._torus), 1.0)

    def _from_torus(self, source: Ciphertext) -> Ciphertext:
        """What a bootstrap leaves, in the linear context."""
        elements = self._switched(source, self._torus, self._outward, self._linear)
        return Ciphertext(elements, self._scales[elements.shape[1] - 1])

    def _switched(self, source: Ciphertext, basis: Basis, rescaling: Rescaling, target: Basis) -> F64:
        """The elements modulo the lowest primes of another basis."""
        coefficients = [_coefficients(basis, element) for element in source.elements]
        out = np.array(list(each(rescaling, coefficients)), dtype=np.float64)
        target.forward(out.reshape(-1, target.n), np.tile(np.arange(out.shape[1]), 2))
        return out


def _ring(n: int, q: int) -> Ring:
    return Ring(n, q, root_of_unity(q, n))


def _coefficients(basis: Basis, element: F64) -> list[U64]:
    """Of an element on the lowest primes."""
    which = np.arange(len(element))
    y = np.empty_like(element)
    basis.backward(element, which, basis.scaling(list(which)), y)
    q = basis.moduli[which][:, None]
    return list(np.where(y < 0, y + q, y).astype(np.uint64))
