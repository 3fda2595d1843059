"""The cost model of the engine ``kernels``: the same primitives and configurations, measured there.

``glyphc measure --engine kernels`` measures again. What ships are wall seconds of the fastest lap of such a
measurement, taken before transforms and key generation became faster, times what these won in CPU seconds (0.87; keys
0.6), so no row counts as measured. The highest degrees at 8,192 and 32,768 slots were disturbed by other work: they
follow from an earlier measurement of CPU seconds. Digits of key switching are the kernels' own choice, whatever the
parameters say; the column only keeps the rows beside OpenFHE's.
"""

from __future__ import annotations

from dataclasses import replace

from .cost import (
    CONFIGURATIONS,
    REFERENCE_DEGREE,
    SHIPPED_MACHINE,
    BootstrapCost,
    Configuration,
    CostModel,
    Machine,
)

# The engines whose costs are known.
MODELLED = ("openfhe", "kernels")

KERNELS_CONFIGURATIONS = (
    Configuration(
        64,
        (2, 2),
        2,
        (
            BootstrapCost(13, 1.46, 0.132, 3.58, 1.7e9, 2.06e9, 3.28e8, 2.83e7, measured=False),
            BootstrapCost(27, 1.55, 0.161, 4.64, 1.78e9, 2.16e9, 3.41e8, 3.78e7, measured=False),
            BootstrapCost(59, 1.69, 0.296, 4.31, 1.9e9, 2.27e9, 3.66e8, 4.82e7, measured=False),
            BootstrapCost(119, 2.08, 0.575, 4.28, 1.98e9, 2.36e9, 3.87e8, 5.98e7, measured=False),
            BootstrapCost(247, 1.77, 1.01, 4.22, 2.1e9, 2.5e9, 4.09e8, 7.24e7, measured=False),
        ),
    ),
    Configuration(
        256,
        (3, 3),
        3,
        (
            BootstrapCost(27, 1.4, 0.168, 4.03, 2.17e9, 2.55e9, 3.84e8, 4.4e7, measured=False),
            BootstrapCost(59, 1.64, 0.314, 4.27, 2.3e9, 2.68e9, 3.96e8, 5.56e7, measured=False),
        ),
    ),
    Configuration(
        2048,
        (4, 4),
        3,
        (
            BootstrapCost(27, 1.63, 0.223, 5.21, 2.67e9, 3.08e9, 4.18e8, 5.03e7, measured=False),
            BootstrapCost(59, 2, 0.424, 5.26, 2.77e9, 3.18e9, 4.35e8, 6.29e7, measured=False),
        ),
    ),
    Configuration(
        8192,
        (5, 5),
        4,
        (
            BootstrapCost(27, 2.03, 0.294, 6.61, 3.37e9, 3.94e9, 4.31e8, 5.66e7, measured=False),
            BootstrapCost(59, 2.58, 0.603, 7.63, 3.73e9, 4.31e9, 4.37e8, 7.03e7, measured=False),
            BootstrapCost(119, 2.44, 1.13, 8.01, 4.08e9, 4.67e9, 4.31e8, 9.06e7, measured=False),
        ),
    ),
    Configuration(
        32768,
        (5, 5),
        4,
        (
            BootstrapCost(13, 2.37, 0.317, 5.9, 3.03e9, 3.7e9, 3.92e8, 8.81e7, measured=False),
            BootstrapCost(27, 2.71, 0.423, 6.18, 3.37e9, 4.02e9, 4.46e8, 1.13e8, measured=False),
            BootstrapCost(59, 2.86, 0.747, 6.69, 3.72e9, 4.39e9, 4.59e8, 1.41e8, measured=False),
            BootstrapCost(119, 3.44, 1.57, 7.04, 3.69e9, 4.37e9, 4.82e8, 1.53e8, measured=False),
            BootstrapCost(247, 3.74, 2.7, 9.42, 3.17e9, 4.8e9, 4.4e8, 1.64e8, measured=False),
        ),
    ),
)

KERNELS = CostModel(
    product=0.000168,
    automorphism=0.0066,
    switch=0.0016,
    external=0.0061,
    fresh=0.0018,
    configurations=KERNELS_CONFIGURATIONS,
    machine=Machine("AMD EPYC", 2, 2, "1.6.1.0.22.4", "2026-11-29"),
    engine="kernels",
    limbs=2,
)


def shipped(engine: str) -> CostModel:
    """The model that ships with glyphc for an engine; OpenFHE's for engines without one."""
    return KERNELS if engine == "kernels" else CostModel()


def for_engine(model: CostModel, engine: str) -> CostModel:
    """The model of an engine: the part of a user's model that was measured there, or what ships with glyphc.

    Where a user measured OpenFHE alone, the kernels' seconds are the shipped ones times measured over shipped of
    OpenFHE's reference bootstrap, so that all prices are of one machine.
    """
    if engine != "kernels":
        return model
    return replace(model.kernels or _scaled(model), slots=model.slots)


def _scaled(model: CostModel) -> CostModel:
    if model.machine == SHIPPED_MACHINE:
        return KERNELS
    slots = CONFIGURATIONS[0].slots
    ratio = model.bootstrap_seconds(slots, REFERENCE_DEGREE) / CostModel().bootstrap_seconds(slots, REFERENCE_DEGREE)
    configurations = tuple(
        replace(c, costs=tuple(_scaled_row(row, ratio) for row in c.costs)) for c in KERNELS.configurations
    )
    return replace(
        KERNELS,
        product=KERNELS.product * ratio,
        automorphism=KERNELS.automorphism * ratio,
        switch=KERNELS.switch * ratio,
        external=KERNELS.external * ratio,
        fresh=KERNELS.fresh * ratio,
        configurations=configurations,
        machine=replace(model.machine, processor=f"{model.machine.processor} (scaled from openfhe's)"),
    )


def _scaled_row(row: BootstrapCost, ratio: float) -> BootstrapCost:
    """Bytes are those of any machine."""
    seconds = {name: getattr(row, name) * ratio for name in ("powers", "evaluate", "key_seconds")}
    return replace(row, measured=False, **seconds)


def with_engine(model: CostModel, measured: CostModel) -> CostModel:
    """A model with the part of one engine replaced."""
    if measured.engine == "kernels":
        return replace(model, kernels=measured)
    return replace(measured, kernels=model.kernels)
