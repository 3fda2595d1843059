"""The cost model of the engine ``kernels``: the same primitives, measured there.

Rows are those of ``glyphc measure --engine kernels``. Sizes of keys follow from the kernels' own shapes, and so does
which configurations there are: digits are the kernels' own choice, whatever the parameters say.
"""

from __future__ import annotations

from dataclasses import replace

from .cost import CONFIGURATIONS, CostModel

# The engines whose costs are known.
MODELLED = ("openfhe", "kernels")

# placeholder until measured
KERNELS = CostModel(engine="kernels", limbs=2, configurations=CONFIGURATIONS)


def shipped(engine: str) -> CostModel:
    """The model that ships with glyphc for an engine; OpenFHE's for engines without one."""
    return KERNELS if engine == "kernels" else CostModel()


def for_engine(model: CostModel, engine: str) -> CostModel:
    """The model of an engine: the part of a user's model that was measured there, or what ships with glyphc."""
    if engine != "kernels":
        return model
    return replace(model.kernels or KERNELS, slots=model.slots)


def with_engine(model: CostModel, measured: CostModel) -> CostModel:
    """A model with the part of one engine replaced."""
    if measured.engine == "kernels":
        return replace(model, kernels=measured)
    return replace(measured, kernels=model.kernels)
