"""The cost model of the engine ``kernels``: the same primitives and configurations, measured there.

``glyphc measure`` measures again; what ships is such a measurement on an idle machine. The one row
that it has no program for counts as not measured. Digits of key switching are the kernels' own choice, whatever the
parameters say; the column only keeps the rows beside OpenFHE's.
"""

from __future__ import annotations

from dataclasses import replace

from glyphc.backends.processors import thread_count
from glyphc.ir.integer_parameters import ProgramParameters
from glyphc.ir.parameters import Parameters

from .cost import (
    CONFIGURATIONS,
    REFERENCE_DEGREE,
    SHIPPED_MACHINE,
    BootstrapCost,
    Configuration,
    CostModel,
    Machine,
)
from .slot_figures import FIGURES as SLOT_FIGURES
from .slot_figures import SlotRow
from .training_figures import TrainingFigures, TrainingRow, scaled

# The engines whose costs are known.
MODELLED = ("openfhe", "kernels")
# Measured memory is that of so many threads.
THREADS = 2

KERNELS_CONFIGURATIONS = (
    Configuration(
        64,
        (2, 2),
        2,
        (
            BootstrapCost(13, 1.66, 0.147, 4.48, 1.7e9, 2.04e9, 3.07e8, 2.83e7),
            BootstrapCost(27, 1.82, 0.195, 2.49, 1.78e9, 2.13e9, 3.23e8, 3.78e7),
            BootstrapCost(59, 1.89, 0.325, 2.48, 1.9e9, 2.25e9, 3.44e8, 4.82e7),
            BootstrapCost(119, 1.89, 0.601, 2.75, 1.98e9, 2.34e9, 3.65e8, 5.98e7),
            BootstrapCost(247, 2.35, 1.32, 2.78, 2.1e9, 2.47e9, 3.85e8, 7.24e7),
        ),
    ),
    Configuration(
        256,
        (3, 3),
        3,
        (
            BootstrapCost(27, 1.79, 0.201, 3.11, 2.17e9, 2.52e9, 3.78e8, 4.4e7),
            BootstrapCost(59, 1.92, 0.357, 3.37, 2.3e9, 2.65e9, 4e8, 5.56e7),
        ),
    ),
    Configuration(
        2048,
        (4, 4),
        3,
        (
            BootstrapCost(27, 2.03, 0.316, 4.02, 2.67e9, 3.03e9, 4.23e8, 5.03e7),
            BootstrapCost(59, 2.22, 0.459, 4.67, 2.77e9, 3.14e9, 4.58e8, 6.29e7),
        ),
    ),
    Configuration(
        8192,
        (5, 5),
        4,
        (
            BootstrapCost(27, 2.33, 0.36, 6.18, 3.37e9, 3.86e9, 4.69e8, 5.66e7),
            BootstrapCost(59, 2.64, 0.609, 6.78, 3.73e9, 4.23e9, 4.72e8, 7.03e7),
            BootstrapCost(119, 2.8, 1.39, 7.49, 4.08e9, 4.58e9, 4.69e8, 9.06e7, measured=False),
        ),
    ),
    Configuration(
        32768,
        (5, 5),
        4,
        (
            BootstrapCost(13, 2.76, 0.398, 4.81, 3.03e9, 3.59e9, 4.59e8, 8.81e7),
            BootstrapCost(27, 2.93, 0.511, 5.69, 3.37e9, 3.93e9, 4.98e8, 1.13e8),
            BootstrapCost(59, 3.36, 0.858, 6.13, 3.72e9, 4.28e9, 5.23e8, 1.41e8),
            BootstrapCost(119, 3.71, 1.49, 4.66, 3.69e9, 4.29e9, 5.12e8, 1.53e8),
            BootstrapCost(247, 4.41, 2.46, 5.6, 3.17e9, 4.29e9, 6.71e8, 1.64e8),
        ),
    ),
)

# Rows: CPU seconds of two threads at N = 65536 on 24 operands in turn, whose results are kept (the middle one of three
# laps, on a machine with much else to do), times 0.57: an idle run on two cores takes that share of its CPU seconds
# (digits 3.82 s of 6.79, mnist 5.13 of 9.06). So measured, the products, packings and unpackings of a step take within
# 6 % of what they took in a run. One ciphertext that is used again and again stays in caches: then products take a
# quarter less. Loads, from a step, run on one core. The rest: at N = 32768 on one thread, scaled as N log N.
KERNELS_TRAINING = TrainingFigures(
    rows=(
        TrainingRow(1, 0.00043, 0.0072, 0.0035, 0.0025, 0.00013, 0.0037, 0.00054, 0.0015),
        TrainingRow(2, 0.00043, 0.0072, 0.0077, 0.0025, 0.00038, 0.0075, 0.0013, 0.003),
        TrainingRow(3, 0.00041, 0.0101, 0.0103, 0.0033, 0.0005, 0.011, 0.0017, 0.0045),
        TrainingRow(4, 0.00076, 0.0139, 0.0139, 0.0045, 0.00065, 0.016, 0.0024, 0.0059),
    ),
    to_torus=0.0043,
    from_torus=0.016,
    series=0.11,
    mask=0.006,
    slot_product=0.026,
)

# Wall seconds of the fastest laps on two cores, as ``glyphc measure`` measures them. Encryption on
# fewer limbs than all is from later, as in ``slot_figures``.
KERNELS_SLOTS = (
    SlotRow(16384, 2, 7.8e-05, 0.000156, 0.00164, 0.000992, 0.0057, 0.0046),
    SlotRow(16384, 5, 0.000109, 0.000208, 0.00251, 0.00137, 0.0111, 0.00442),
    SlotRow(16384, 8, 0.000197, 0.000324, 0.00446, 0.00233, 0.0157, 0.00312),
    SlotRow(32768, 2, 0.000114, 0.000235, 0.00374, 0.00225, 0.0099, 0.00778),
    SlotRow(32768, 8, 0.000359, 0.000436, 0.00826, 0.00411, 0.032, 0.00774),
    SlotRow(32768, 15, 0.000612, 0.0015, 0.0141, 0.00762, 0.0545, 0.00807),
)

KERNELS = CostModel(
    product=0.000207,
    automorphism=0.0058,
    switch=0.00203,
    external=0.00787,
    # beside those of a split into 8, of 64 and 256 parts on two cores
    baby=0.68,
    giant=0.62,
    fresh=0.0018,
    # CPU seconds of a full bootstrap's second function with a mask and without, at degree 13, beside other work
    mask=0.2,
    configurations=KERNELS_CONFIGURATIONS,
    machine=Machine("AMD EPYC", 2, 2, "1.6.1.0.22.4", "2026-11-29"),
    training=KERNELS_TRAINING,
    slots=KERNELS_SLOTS,
    engine="kernels",
    limbs=2,
)

# Seconds of a product, an automorphism (of conjugates, too) and a division on fewer primes, beside those on four: CPU
# seconds of two threads at N = 65536 side by side in one process, medians of laps. Those of conjugates lie within 6 %.
_ON_FEWER = {3: (0.52, 0.69, 0.52), 2: (0.49, 0.47, 0.51)}


def on_primes(cost: CostModel, parameters: Parameters) -> CostModel:
    """The model for BGV sums on as many primes as a program has on the kernels; other engines have one way alone."""
    if cost.engine != "kernels" or parameters.sum_primes not in _ON_FEWER:
        return cost
    product, automorphism, division = _ON_FEWER[parameters.sum_primes]
    return replace(
        cost,
        product=cost.product * product,
        automorphism=cost.automorphism * automorphism,
        switch=cost.switch * division,
    )


def shipped(engine: str) -> CostModel:
    """The model that ships with glyphc for an engine; OpenFHE's for engines without one."""
    return KERNELS if engine == "kernels" else CostModel()


def for_engine(model: CostModel, engine: str) -> CostModel:
    """The model of an engine: the part of a user's model that was measured there, or what ships with glyphc.

    Where a user measured one of them alone, the other's seconds are the shipped ones times measured over shipped of the
    measured one's reference bootstrap, so that all prices are of one machine.
    """
    if engine == "kernels":
        return model.kernels or _scaled(KERNELS, model, CostModel())
    if model.kernels is None or model.machine != SHIPPED_MACHINE:
        return model
    return _scaled(model, model.kernels, KERNELS)


def more_bytes(parameters: ProgramParameters, engine: str, threads: int | None = None) -> float:
    """What a run on so many threads takes more than on two, as each of them keeps some for itself.

    threads: by default as many as kernels have in this process; what two or fewer take is predicted without that.
    """
    threads = (thread_count() if threads is None else threads) - THREADS
    if engine != "kernels" or threads <= 0 or not isinstance(parameters, Parameters):
        return 0.0
    from glyphc.backends.kernels.estimate import thread_bytes

    return threads * thread_bytes(parameters)


def _scaled(model: CostModel, measured: CostModel, shipped: CostModel) -> CostModel:
    """An engine's model on the machine of another engine's measurement. shipped: what that other one replaces."""
    if measured.machine == shipped.machine:
        return model
    slots = CONFIGURATIONS[0].slots
    ratio = measured.bootstrap_seconds(slots, REFERENCE_DEGREE) / shipped.bootstrap_seconds(slots, REFERENCE_DEGREE)
    return replace(
        model,
        training=scaled(model.training, ratio),
        slots=tuple(_scaled_slots(row, ratio) for row in model.slots),
        product=model.product * ratio,
        automorphism=model.automorphism * ratio,
        switch=model.switch * ratio,
        external=model.external * ratio,
        fresh=model.fresh * ratio,
        configurations=tuple(
            replace(c, costs=tuple(_scaled_row(row, ratio) for row in c.costs)) for c in model.configurations
        ),
        machine=replace(measured.machine, processor=f"{measured.machine.processor} (scaled from {measured.engine})"),
    )


def _scaled_row(row: BootstrapCost, ratio: float) -> BootstrapCost:
    """Bytes are those of any machine."""
    seconds = {name: getattr(row, name) * ratio for name in ("powers", "evaluate", "key_seconds")}
    return replace(row, measured=False, **seconds)


def _scaled_slots(row: SlotRow, ratio: float) -> SlotRow:
    return replace(row, **{name: getattr(row, name) * ratio for name in SLOT_FIGURES})


def with_engine(model: CostModel, measured: CostModel) -> CostModel:
    """A model with the part of one engine replaced."""
    if measured.engine == "kernels":
        return replace(model, kernels=measured)
    return replace(measured, kernels=model.kernels)
