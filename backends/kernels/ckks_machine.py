"""Training on the kernels: its functional bootstraps here, its linear algebra on OpenFHE. No secret, nothing decrypts.

Both sides have one secret, so a ciphertext goes from one to the other by a change of its modulus: from one limb of the
linear context to q0, and from the primes that are kept after a bootstrap to the linear context's lowest limbs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from glyphc.ir.instructions.ckks import Bootstrap, Refresh

from ..openfhe.ckks_linear import LinearCKKS, LinearKeys
from ..openfhe.rescaling import Rescaling
from ..openfhe.ring import U64, Ring
from .basis import F64, root_of_unity
from .bootstrap import Bootstrapper
from .evaluator import Ciphertext, Evaluator
from .keys import ServerKeys
from .slot_forms import SlotForm
from .threads import each


@dataclass(frozen=True, eq=False)
class KernelsTrainingKeys:
    """What the server holds. linear: for OpenFHE; torus: of bootstraps, under the same secret."""

    linear: LinearKeys
    torus: ServerKeys


class KernelsCKKS(LinearCKKS):
    """The kernels and OpenFHE behind training's instructions (``glyphc.ir.instructions.ckks``)."""

    def __init__(self, keys: KernelsTrainingKeys) -> None:
        super().__init__(keys.linear)
        contexts, shape, basis = keys.linear.contexts, keys.torus.shape, keys.torus.basis
        self._basis = basis
        self._kept = np.arange(shape.result_limbs)
        self._bootstrapper = Bootstrapper(Evaluator(shape, basis, keys.torus.switching), contexts.output)
        rings = [Ring(basis.n, q, root_of_unity(q, basis.n)) for q in basis.primes[: shape.result_limbs]]
        self._inward = Rescaling.between(self._rings[:1], rings[:1])
        self._outward = Rescaling.between(rings, self._rings[: self._parameters.decoded_limbs])

    def refresh(self, source: Any, instruction: Refresh) -> Any:
        powers = self._bootstrapper.powers(self._to_torus(source), instruction.series.degree)
        return self._from_torus(self._bootstrapper.evaluate(powers, instruction.series))

    def bootstrap(self, source: Any, instruction: Bootstrap) -> list[SlotForm]:
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

    def decode(self, source: SlotForm) -> Any:
        return self._from_torus(self._bootstrapper.decoded(source))

    def _to_torus(self, source: Any) -> Ciphertext:
        """A ciphertext on one limb, modulo q0."""
        elements = each(lambda c: self._inward([c]), self._phases(source))
        out = np.array(list(elements), dtype=np.float64)
        self._basis.forward(out.reshape(2, -1), np.zeros(2, dtype=np.int64))
        return Ciphertext(out, 1.0)

    def _from_torus(self, source: Ciphertext) -> Any:
        """What a bootstrap leaves, in the linear context."""
        elements = [self._coefficients(element) for element in source.elements]
        return self._bootstrapped(list(each(self._outward, elements)))

    def _coefficients(self, element: F64) -> list[U64]:
        y = np.empty_like(element)
        self._basis.backward(element, self._kept, self._basis.scaling(list(self._kept)), y)
        q = self._basis.moduli[self._kept][:, None]
        return list(np.where(y < 0, y + q, y).astype(np.uint64))
