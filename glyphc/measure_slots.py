"""Measures what numbers in slots cost on this machine, for ``glyphc measure``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from glyphc.analysis.slot_figures import MEASURED_TOWERS, SlotRow
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.measuring import fastest

# Terms of the measured weighted sum.
_TERMS = 8
# Steps that a measurement reports, and about how many seconds it takes at N = 16384.
SLOT_STEPS = 3
SLOT_SECONDS = 4.0


@dataclass(frozen=True)
class SlotMeasurement:
    """What one process found: a row for each number of limbs that was measured."""

    rows: tuple[SlotRow, ...]


def slot_jobs() -> tuple[SlotParameters, ...]:
    """What to measure: the rings that programs use, as deep as 128-bit security lets them be with such digits."""
    return tuple(
        SlotParameters(ring, depth, 28, 32, -(-(depth + 1) // MEASURED_TOWERS))
        for ring, depth in ((16384, 7), (32768, 14))
    )


def measure_slots(
    parameters: SlotParameters, observe: Callable[[str, float], None] = lambda step, seconds: None
) -> SlotMeasurement:
    """Measure in this process. BackendError from OpenFHE."""
    import numpy as np

    from glyphc.backends.openfhe.slot_client import generate_slot_keys

    client, keys = generate_slot_keys(parameters)
    context = keys.context.context
    message = np.random.default_rng(0).uniform(-1, 1, parameters.slots)
    fresh = client.encrypt(message)
    rows = []
    for limbs in sorted({2, (parameters.limbs + 2) // 2, parameters.limbs}):
        begun = time.perf_counter()
        operand = fresh if limbs == parameters.limbs else context.LevelReduce(fresh, None, parameters.limbs - limbs)

        def weighted(operand: object = operand) -> None:
            total = context.EvalMult(operand, 0.3)
            for _ in range(_TERMS - 1):
                context.EvalAddInPlace(total, context.EvalMult(operand, 0.3))

        def product(operand: object = operand) -> None:
            found = context.EvalMultNoRelin(operand, operand)
            context.EvalAdd(found, found)

        wide, scaled = context.EvalMultNoRelin(operand, operand), context.EvalMult(operand, 0.3)
        rows.append(
            SlotRow(
                parameters.ring,
                limbs,
                weighted=fastest(weighted) / _TERMS,
                product=fastest(product),
                relinearise=fastest(lambda wide=wide: context.Relinearize(wide)),  # type: ignore[misc]
                rescale=fastest(lambda scaled=scaled: context.Rescale(scaled)),  # type: ignore[misc]
                encrypt=fastest(lambda: client.encrypt(message)),
                decrypt=fastest(lambda operand=operand: client.decrypt(operand)),  # type: ignore[misc]
            )
        )
        observe(f"{limbs} limbs", time.perf_counter() - begun)
    return SlotMeasurement(tuple(rows))
