"""The cleartext backend with what encryption adds: series instead of functions, and noise of the predicted size.

Messages are float64 coefficients in message units as in :mod:`.cleartext`; noise is drawn from a seeded generator, so a
simulation can be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import hypot, log2, sqrt

import numpy as np
import numpy.typing as npt

from glyphc.ir.instructions import ConjugateDot, Evaluate, Schedule
from glyphc.ir.noise import (
    DECODING_FLOOR,
    ROUNDING,
    baby_step_noise,
    bootstrap,
    external_products,
    fresh,
    giant_step_noise,
    key_switch,
)
from glyphc.ir.parameters import Parameters
from glyphc.ir.series import OUTPUT_BITS, evaluate_series, rms_slope

from .cleartext import F64, ClearEngine, CleartextMachine
from .slots_simulate import SimulatedSlots


class SimulatedMachine(CleartextMachine):
    """Adds Gaussian noise where OpenFHE does; the noise then travels through the arithmetic by itself."""

    def __init__(self, schedule: Schedule, seed: int = 0) -> None:
        super().__init__(schedule)
        assert isinstance(schedule.parameters, Parameters)
        self._parameters = schedule.parameters
        self._random = np.random.default_rng(seed)
        p = schedule.parameters
        # one unit of the BGV modulus' last place, in message units
        self._unit = 2.0 ** (p.plaintext_bits - p.bgv_bits)
        # of a key switch, in message units
        self._switch = key_switch(p.ring, p.bgv_bits, p.sum_auxiliary_bits) * self._unit

    def encrypt(self, coefficients: npt.NDArray[np.int64]) -> F64:
        return super().encrypt(coefficients) + self._noise(fresh(self._parameters) * self._unit)

    def encrypted_dot(self, sources: Sequence[F64], weights: str, total: F64 | None = None) -> F64:
        noise = external_products(self._ring, self._parameters.bgv_bits, len(sources))
        return super().encrypted_dot(sources, weights, total) + self._noise(noise * self._unit)

    def split(self, source: F64, parts: int, stride: int, count: int) -> list[F64]:
        levels = int(log2(parts))
        # level l is doubled by all later ones
        switches = self._switch * np.sqrt(sum(4.0 ** (levels - 1 - level) for level in range(levels)))
        deviation = np.full(stride, switches)
        # what stands between is moved to other places by each level, and does not double
        deviation[1:] = hypot(switches, sqrt(parts) * _between(source, stride))
        return [piece + self._noise(deviation) for piece in super().split(source, parts, stride, count)]

    def conjugate_dot(self, sources: Sequence[F64], instruction: ConjugateDot, total: F64 | None = None) -> F64:
        weights, steps = self._polynomials[instruction.weights], instruction.steps(self._ring)
        switch, parts, stride = self._switch, instruction.parts, instruction.stride
        # at coefficients of each residue class modulo the stride
        variance = np.full(stride, giant_step_noise(switch, steps) ** 2)
        for number, source in enumerate(sources[:: instruction.babies]):
            _, exponents, values = weights.terms(number * parts, parts)
            energies = np.bincount(exponents % stride, np.square(values.astype(np.float64)), minlength=stride)
            # automorphisms and powers of the stride keep what is on it apart from what is between: that is met by all
            # terms but those of the same class, of P images
            met = energies.sum() - energies
            variance += baby_step_noise(switch, steps) ** 2 * energies.sum()
            variance += parts * _between(source, stride) ** 2 * met
        return super().conjugate_dot(sources, instruction, total) + self._noise(np.sqrt(variance))

    def to_torus(self, source: F64, slots: int) -> F64:
        return source + self._noise(ROUNDING * self._modulus / 2.0**self._parameters.scaling_bits)

    def evaluate(self, powers: F64, instruction: Evaluate) -> F64:
        series = instruction.series
        grid = self._ring // (2 * self._parameters.slots)
        phase = evaluate_series(series, powers[::grid] / self._modulus)
        noise = self._random.normal(0, bootstrap(self._ring, rms_slope(series)), len(phase))
        if instruction.mask is not None:
            cleared = ~instruction.mask.kept(self._ring, grid)
            # with the noise of SlotsToCoeffs alone
            phase[cleared] = 0.0
            noise[cleared] = self._random.normal(0, bootstrap(self._ring, 0.0), cleared.sum())
        phase += noise
        out = np.zeros(self._ring)
        out[::grid] = phase / 2.0**OUTPUT_BITS * self._modulus
        return self._centred(out + self._noise(DECODING_FLOOR * self._modulus))

    def _noise(self, deviation: float | F64) -> F64:
        """On all coefficients; of several deviations, one for each residue class of their exponents."""
        if np.ndim(deviation):
            deviation = np.tile(deviation, self._ring // len(np.atleast_1d(deviation)))
        return self._random.normal(0, deviation, self._ring)


def _between(source: F64, stride: int) -> float:
    """Rms of a polynomial between multiples of a stride, where it has noise alone."""
    return float(np.sqrt(np.square(source.reshape(-1, stride)[:, 1:]).mean())) if stride > 1 else 0.0


class SimulateEngine(ClearEngine):
    """What an encrypted run is expected to give."""

    name = "simulate"
    summary = "no encryption: the same instructions with the predicted approximation and noise"

    @property
    def machine(self) -> type[SimulatedMachine]:
        return SimulatedMachine

    @property
    def slot_machine(self) -> type[SimulatedSlots]:
        return SimulatedSlots


ENGINE = SimulateEngine()
