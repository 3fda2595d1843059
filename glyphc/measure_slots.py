"""Measures what numbers in slots cost on this machine, for ``glyphc measure``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from glyphc.analysis.slot_figures import MEASURED_TOWERS, SlotRow
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.measuring import fastest

# Laps of each measurement, of which the fastest counts: nothing but other work makes one slow.
_LAPS = 12
# Operands of the measured sums: too many for most caches, as in a program.
_TERMS = 24
# Steps that a measurement reports, and about how many seconds it takes.
SLOT_STEPS = 3
SLOT_SECONDS = 12.0


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
    """Measure in this process, in wall seconds, as bootstraps are measured. BackendError from OpenFHE."""
    import numpy as np

    from glyphc.backends.openfhe.slot_client import generate_slot_keys

    client, keys = generate_slot_keys(parameters)
    context = keys.context.context
    message = np.random.default_rng(0).uniform(-1, 1, parameters.slots)
    fresh = [client.encrypt(message) for _ in range(_TERMS)]
    rows = []
    for limbs in sorted({2, (parameters.limbs + 2) // 2, parameters.limbs}):
        begun = time.perf_counter()
        dropped = parameters.limbs - limbs
        operands = [context.LevelReduce(c, None, dropped) if dropped else c for c in fresh]
        primitives = _Primitives(context, operands)
        rows.append(
            SlotRow(
                parameters.ring,
                limbs,
                weighted=_quickest(primitives.weighted) / _TERMS,
                product=_quickest(primitives.products) / _TERMS,
                relinearise=_quickest(primitives.relinearised),
                rescale=_quickest(primitives.rescaled),
                encrypt=_quickest(lambda dropped=dropped: client.encrypt(message, dropped)),  # type: ignore[misc]
                decrypt=_quickest(lambda operand=operands[0]: client.decrypt(operand)),  # type: ignore[misc]
            )
        )
        observe(f"{limbs} limbs", time.perf_counter() - begun)
    return SlotMeasurement(tuple(rows))


def measure_kernel_slots(
    parameters: SlotParameters, observe: Callable[[str, float], None] = lambda step, seconds: None
) -> SlotMeasurement:
    """The same of the engine ``kernels``, which relinearises and rescales at once: what that takes beside a rescaling
    counts as relinearisation."""
    import numpy as np

    from glyphc.backends.kernels.evaluator import Ciphertext
    from glyphc.backends.kernels.slot_client import generate_slot_keys
    from glyphc.backends.kernels.slot_machine import SlotArithmetic, SlotWire
    from glyphc.backends.kernels.warm import exercise

    exercise()
    client, keys = generate_slot_keys(parameters)
    arithmetic, wire = SlotArithmetic(keys), SlotWire(keys)
    message = np.random.default_rng(0).uniform(-1, 1, parameters.slots)
    fresh = [wire.received(client.encrypt(message)) for _ in range(_TERMS)]
    rows = []
    for limbs in sorted({2, (parameters.limbs + 2) // 2, parameters.limbs}):
        begun = time.perf_counter()
        dropped = parameters.limbs - limbs
        operands = [Ciphertext(np.ascontiguousarray(c.elements[:, :limbs]), c.scale) for c in fresh]
        pairs = list(zip(operands, (*operands[1:], operands[0]), strict=True))
        last = Ciphertext(np.ascontiguousarray(fresh[0].elements[:, :1]), fresh[0].scale)
        scale = fresh[0].scale ** 2 / keys.basis.primes[limbs - 1]

        def combined(products: int, multiples: int) -> float:
            terms = [(c, 0.3) for c in operands[:multiples]]  # noqa: B023
            return _quickest(lambda: arithmetic.combine(pairs[:products], terms, 0, limbs, scale))  # noqa: B023

        one, all_terms = combined(0, 1), combined(0, _TERMS)
        weighted = _positive((all_terms - one) / (_TERMS - 1))
        product, all_products = combined(1, 0), combined(_TERMS, 0)
        tensor = _positive((all_products - product) / (_TERMS - 1))
        rescale = _positive(one - weighted)
        rows.append(
            SlotRow(
                parameters.ring,
                limbs,
                weighted=weighted,
                product=tensor,
                relinearise=_positive(product - tensor - rescale),
                rescale=rescale,
                encrypt=_quickest(lambda dropped=dropped: wire.received(client.encrypt(message, dropped))),  # type: ignore[misc]
                decrypt=_quickest(lambda last=last: client.decrypt(wire.sent(last))),  # type: ignore[misc]
            )
        )
        observe(f"{limbs} limbs", time.perf_counter() - begun)
    return SlotMeasurement(tuple(rows))


def _positive(seconds: float) -> float:
    """A difference of two measurements, which other work may have made negative."""
    return max(seconds, 1e-6)


class _Primitives:
    """What the evaluator does with ciphertexts, as it does it (``glyphc.backends.openfhe.slot_evaluator``)."""

    def __init__(self, context: Any, operands: Sequence[Any]) -> None:
        self._context, self._operands = context, operands
        self._wide = context.EvalMultNoRelin(operands[0], operands[1])
        self._scaled = context.EvalMult(operands[0], 0.3)

    def weighted(self) -> None:
        """A weighted sum of all operands."""
        total = None
        for operand in self._operands:
            term = self._context.EvalMult(operand, 0.3)
            if total is None:
                total = term
            else:
                self._context.EvalAddInPlace(total, term)

    def products(self) -> None:
        """As many products, and their sum."""
        total = None
        for a, b in zip(self._operands, (*self._operands[1:], self._operands[0]), strict=True):
            term = self._context.EvalMultNoRelin(a, b)
            total = term if total is None else self._context.EvalAdd(total, term)

    def relinearised(self) -> None:
        self._context.Relinearize(self._wide)

    def rescaled(self) -> None:
        self._context.Rescale(self._scaled)


def _quickest(work: Callable[[], object]) -> float:
    return fastest(work, _LAPS)
