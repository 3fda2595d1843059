"""The cost model of the engine ``kernels``: the same primitives and configurations, measured there.

``glyphc measure --engine kernels`` measures again. What ships was measured as CPU seconds beside other work, on two
threads, and divided by 1.85: what two cores of an idle machine gain over one. Rows between the smallest and the largest
configuration follow a run of ``digits-mlp`` with 8,192 slots. Digits of key switching are the kernels'
own choice, whatever the parameters say; the column only keeps the rows beside OpenFHE's.
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
            BootstrapCost(13, 1.6, 0.117, 5.15, 1.7e09, 2.08e09, 3.28e08, 2.83e07),
            BootstrapCost(27, 1.86, 0.17, 5.53, 1.78e09, 2.16e09, 3.43e08, 3.78e07),
            BootstrapCost(59, 2.04, 0.35, 5.85, 1.9e09, 2.27e09, 3.69e08, 4.82e07),
            BootstrapCost(119, 2.2, 0.62, 5.71, 1.97e09, 2.47e09, 4.4e08, 6.08e07, measured=False),
            BootstrapCost(247, 2.4, 1.1, 6.03, 2.08e09, 2.58e09, 4.4e08, 7.22e07, measured=False),
        ),
    ),
    Configuration(
        256,
        (3, 3),
        3,
        (
            BootstrapCost(27, 2.05, 0.22, 6.26, 2.16e09, 2.66e09, 4.4e08, 3.8e07, measured=False),
            BootstrapCost(59, 2.2, 0.45, 6.61, 2.28e09, 2.78e09, 4.4e08, 4.75e07, measured=False),
        ),
    ),
    Configuration(
        2048,
        (4, 4),
        3,
        (
            BootstrapCost(27, 2.3, 0.3, 7.71, 2.66e09, 3.16e09, 4.4e08, 5e07, measured=False),
            BootstrapCost(59, 2.4, 0.6, 8, 2.76e09, 3.26e09, 4.4e08, 6.25e07, measured=False),
        ),
    ),
    Configuration(
        8192,
        (5, 5),
        4,
        (
            BootstrapCost(27, 2.45, 0.36, 9.74, 3.36e09, 3.86e09, 4.4e08, 5e07, measured=False),
            BootstrapCost(59, 2.6, 0.7, 10.8, 3.71e09, 4.21e09, 4.4e08, 6.25e07, measured=False),
            BootstrapCost(119, 2.8, 1.3, 11.8, 4.07e09, 4.57e09, 4.4e08, 8e07, measured=False),
        ),
    ),
    Configuration(
        32768,
        (5, 5),
        4,
        (
            BootstrapCost(13, 3.08, 0.489, 9.45, 3.03e09, 3.68e09, 4.4e08, 8.81e07),
            BootstrapCost(27, 3.69, 0.608, 9.68, 3.37e09, 4.02e09, 4.46e08, 1.13e08),
            BootstrapCost(59, 3.67, 1.05, 10.5, 3.72e09, 4.39e09, 4.58e08, 1.41e08),
            BootstrapCost(119, 3.95, 1.8, 11.8, 4.06e09, 4.56e09, 4.4e08, 1.76e08, measured=False),
            BootstrapCost(247, 4.3, 3.1, 12.8, 4.41e09, 4.91e09, 4.4e08, 2.09e08, measured=False),
        ),
    ),
)

KERNELS = CostModel(
    product=0.000154,
    automorphism=0.00801,
    switch=0.00147,
    external=0.0059,
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
