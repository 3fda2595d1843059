"""Parameters, random cost models and a home folder, for the tests of costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from glyphc.analysis.cost import (
    CONFIGURATIONS,
    FIGURES,
    REFERENCE_DEGREE,
    BootstrapCost,
    Configuration,
    CostModel,
    Machine,
)
from glyphc.analysis.kernels_cost import KERNELS
from glyphc.ir.parameters import INSECURE, MAX_DEGREES, MOST_BABY_STEPS, Parameters
from glyphc.measuring import sum_steps

ROOT = Path(__file__).resolve().parents[1]
SIZES = [c.slots for c in CONFIGURATIONS]
DEGREES = list(MAX_DEGREES.values())
MACHINE = Machine("a processor", 3, 2, "1.6.1", "2030-01-02")
N = 65536
CIPHERTEXT = 2 * 8 * N


def small(slots: int = 32, degree: int = REFERENCE_DEGREE, sums: bool = False) -> Parameters:
    """sums: with keys of the sums over conjugates that are measured."""
    return Parameters(
        ring=1024,
        plaintext_bits=27,
        bgv_bits=54,
        unpack_strides=(1, 2, 4),
        slots=slots,
        degree=degree,
        level_budget=(2, 2),
        large_digits=3,
        security=INSECURE,
        conjugates=tuple(sorted(sum_steps(1024).elements)) if sums else (),
    )


def large(slots: int = 32768, degree: int = REFERENCE_DEGREE) -> Parameters:
    return Parameters(ring=N, plaintext_bits=27, bgv_bits=55, slots=slots, degree=degree)


@st.composite
def rows(draw: st.DrawFn, degree: int) -> BootstrapCost:
    figure = st.floats(1e-3, 1e12)
    return BootstrapCost(degree, *(draw(figure) for _ in FIGURES), measured=draw(st.booleans()))


@st.composite
def models(draw: st.DrawFn) -> CostModel:
    """Any figures at all, in the shape that the file must have."""
    configurations = []
    for configuration in CONFIGURATIONS:
        budgets = draw(st.sets(st.tuples(st.integers(1, 6), st.integers(1, 6)), max_size=2))
        for budget in (configuration.level_budget, *sorted(budgets - {configuration.level_budget})):
            degrees = sorted({REFERENCE_DEGREE} | draw(st.sets(st.sampled_from(DEGREES))))
            costs = tuple(draw(rows(d)) for d in degrees)
            babies = 0 if budget == configuration.level_budget else draw(st.integers(0, MOST_BABY_STEPS))
            configurations.append(replace(configuration, level_budget=budget, costs=costs, baby_steps=babies))
    seconds = st.floats(1e-9, 1e3)
    text = st.text(max_size=20)
    count = st.integers(1, 1000)
    machine = Machine(draw(text), draw(count), draw(count), draw(text), draw(text))
    kernels = None
    if draw(st.booleans()):
        figures = {name: draw(seconds) for name in ("product", "automorphism", "switch", "external")}
        kernels = replace(KERNELS, machine=machine, configurations=tuple(configurations), **figures)
    product, automorphism, switch, baby, giant = (draw(seconds) for _ in range(5))
    return CostModel(
        product, automorphism, switch, tuple(configurations), machine, baby=baby, giant=giant, kernels=kernels
    )


@st.composite
def growing_models(draw: st.DrawFn) -> CostModel:
    """Models in which more slots and higher degrees never cost less."""
    steps = st.floats(1.0, 2.0)
    growth = np.cumprod([1.0] + [draw(steps) for _ in DEGREES[1:]])
    size = 1.0
    configurations = []
    for configuration in CONFIGURATIONS:
        size *= draw(steps)
        costs = (BootstrapCost(d, *(size * g for _ in FIGURES)) for d, g in zip(DEGREES, growth, strict=True))
        configurations.append(replace(configuration, costs=tuple(costs)))
    return CostModel(configurations=tuple(configurations))


def shipped_row(
    slots: int,
    degree: int = REFERENCE_DEGREE,
    factor: float = 1.0,
    configurations: tuple[Configuration, ...] = CONFIGURATIONS,
) -> BootstrapCost:
    configuration = next(c for c in configurations if c.slots == slots)
    figures = (factor * configuration.figure(name, degree) for name in FIGURES)
    return BootstrapCost(degree, *figures)
