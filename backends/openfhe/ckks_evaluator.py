"""Training on OpenFHE alone: its linear algebra, and its functional bootstraps. No secret, no way to decrypt.

Everything but bootstraps happens in the linear context (see ``ckks_contexts``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from glyphc.ir.instructions.ckks import Bootstrap, Refresh

from .bootstrap import Bootstrapper
from .bridge import CiphertextMould, residues
from .ckks_contexts import TrainingContexts
from .ckks_linear import LinearCKKS, LinearKeys
from .masks import bit_reversed
from .rescaling import Rescaling
from .ring import rescale


@dataclass(frozen=True, eq=False)
class TrainingKeys(LinearKeys):
    """What the server holds: contexts, an encryption of zero, and the bootstrapping context's public key.

    The keys for bootstraps live in OpenFHE's own tables, filed under that one's tag.
    """

    contexts: TrainingContexts
    public_key: Any


class OpenFHECKKS(LinearCKKS):
    """OpenFHE behind training's instructions (``glyphc.ir.instructions.ckks``)."""

    def __init__(self, keys: TrainingKeys) -> None:
        super().__init__(keys)
        contexts = keys.contexts
        self._torus = contexts.torus
        self._bootstrapper = Bootstrapper(contexts.torus, contexts.torus_rings[0], contexts.parameters)
        decoded = contexts.torus_rings[: self._parameters.levels_kept + 1]
        self._decoded_rings = decoded
        self._rescaling = Rescaling.between(decoded, self._rings[: self._parameters.decoded_limbs])
        lowest = self._torus.MakeCKKSPackedPlaintext([0.0], 1, self._parameters.depth, None, self._parameters.slots)
        empty = self._torus.Encrypt(keys.public_key, lowest)
        self._bottom = CiphertextMould.of(empty, contexts.torus_rings[0])

    def refresh(self, source: Any, instruction: Refresh) -> Any:
        powers = self._bootstrapper.powers(self._to_torus(source), instruction.series.degree)
        return self._from_torus(self._bootstrapper.evaluate(powers, instruction.series))

    def bootstrap(self, source: Any, instruction: Bootstrap) -> list[Any]:
        powers = self._bootstrapper.powers(self._to_torus(source), self._parameters.degree)
        return [self._bootstrapper.slot_form(powers, series) for series in instruction.series]

    def masked(self, source: Any, conditions: Sequence[tuple[int, int, int]]) -> Any:
        """The values of a sparse bootstrap stand in 2 * slots slots: two halves, each in bit-reversed order."""
        slots = self._parameters.slots
        order = bit_reversed(slots)
        exponents = np.concatenate([order, order + slots]) * (self._parameters.ring // (2 * slots))
        keep = np.ones(2 * slots, dtype=bool)
        for period, start, stop in conditions:
            keep &= (exponents % period >= start) & (exponents % period < stop)
        mask = self._torus.MakeCKKSPackedPlaintext([float(k) for k in keep], 1, source.GetLevel(), None, 2 * slots)
        return self._torus.Rescale(self._torus.EvalMult(source, mask))

    def slot_product(self, a: Any, b: Any) -> Any:
        level = max(a.GetLevel(), b.GetLevel())
        a, b = (self._torus.LevelReduce(c, None, level - c.GetLevel()) if c.GetLevel() < level else c for c in (a, b))
        return self._torus.Rescale(self._torus.EvalMult(a, b))

    def decode(self, source: Any) -> Any:
        return self._from_torus(self._decoded(source))

    def _decoded(self, source: Any) -> Any:
        """A slot form's coefficients, in the bootstrapping context."""
        p = self._parameters
        # levels of the second transform and those that are kept lie below a slot form, and one for each product to come
        unused = p.depth - source.GetLevel() - p.levels_kept - p.level_budget[1]
        return self._bootstrapper.decoded(source, unused)

    # -- between the contexts: both have the same secret, so switching the modulus is all there is to do --

    def _to_torus(self, source: Any) -> Any:
        lowest, bottom = self._rings[0], self._bottom.ring
        elements = residues(source, lowest.n, (lowest.q,), 2)
        return self._bottom.cast(*(rescale(lowest.to_coefficients(c), lowest, bottom) for c in elements))

    def _from_torus(self, source: Any) -> Any:
        rings, arrays = self._decoded_rings, []
        towers = residues(source, self._parameters.ring, tuple(r.q for r in rings), 2 * len(rings))
        for element in (towers[: len(rings)], towers[len(rings) :]):
            found = self._rescaling([r.to_coefficients(c) for r, c in zip(rings, element, strict=True)])
            arrays += [r.to_evaluation(c) for r, c in zip(self._rings, found, strict=False)]
        return self._cast(arrays)
