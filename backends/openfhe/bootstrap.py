"""The packed functional bootstrap: refresh a ciphertext and apply a trigonometric series to every coefficient.

OpenFHE's multi-value form of functional bootstrapping is used in its parts: the powers of e^{2 pi i x} are shared by
all functions
of one input.
"""

from __future__ import annotations

from typing import Any

from glyphc.ir.masks import Mask
from glyphc.ir.parameters import Parameters, series_levels
from glyphc.ir.series import Series

from .contexts import DIGIT_BITS, placeholder_series
from .masks import Masks
from .ring import Ring


class Bootstrapper:
    """Runs bootstraps in a context that has been set up (``contexts.setup_bootstrap``) and whose keys are loaded."""

    def __init__(self, context: Any, ring: Ring, parameters: Parameters) -> None:
        """ring: of the context's lowest modulus."""
        self._context = context
        self._q0 = ring.q
        self._levels = series_levels(parameters.degree) + parameters.slot_levels
        self._masks = Masks(context, parameters)

    def powers(self, ciphertext: Any, degree: int) -> Any:
        """Modulus raise, CoeffsToSlots, exponential and its powers up to ``degree``: that of every series to come."""
        return self._context.EvalMVBPrecompute(ciphertext, placeholder_series(degree), DIGIT_BITS, self._q0, 1)

    def evaluate(self, powers: Any, series: Series, mask: Mask | None = None) -> Any:
        """The series, then SlotsToCoeffs: a ciphertext at the bottom level with the values as phases.

        mask: which of them are kept; all others are zero.
        """
        # the transform stands at a fixed level: one that the context's highest degree just reaches
        spare = self._levels - series_levels(series.degree)
        values = self.slot_form(powers, series)
        if mask is None:
            return self.decoded(values, spare)
        return self.decoded(self._masks(values, mask, spare - 1), 0)

    def slot_form(self, powers: Any, series: Series) -> Any:
        """The series: its values, in slots."""
        coefficients = [complex(re, im) for re, im in zip(series.real, series.imag, strict=True)]
        return self._context.EvalMVBNoDecoding(powers, coefficients, DIGIT_BITS, 1)

    def decoded(self, slots: Any, spare: int) -> Any:
        """SlotsToCoeffs. spare: levels above it, which the series or products of slot forms did not need."""
        return self._context.EvalHomDecoding(slots, 1, spare)
