"""Which configuration of bootstraps a program gets: those that there is room for, and the cheapest of these.

A configuration says how many levels both transforms have, how many digits keys have, at least, and how many baby steps
a level takes. What becomes of it at a degree is in a program's parameters: more digits where 128-bit security asks for
them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from glyphc.ir.integer_parameters import ProgramParameters
from glyphc.ir.parameters import Parameters

from .cost import Configuration, CostModel, Shape
from .kernels_cost import on_primes
from .security import is_secure, secured


@dataclass(frozen=True)
class Way:
    """One configuration for a program: what its parameters are, and what a pass of it is predicted to take.

    memory_bytes: at the peak, on the engine that is planned for. beyond: which limit there is no room in, in words.
    """

    configuration: Configuration
    parameters: Parameters
    seconds: float
    memory_bytes: float
    beyond: str = ""

    @property
    def fits(self) -> bool:
        """Whether there is room for it."""
        return not self.beyond

    @property
    def label(self) -> str:
        """What became of the configuration, in words."""
        return Shape.of(self.parameters).label


def cheapest(ways: Iterable[Way]) -> Way:
    """The fastest that fits; of equally fast ones that of least memory, then the first. Where none fits, that of least
    memory. ValueError without any."""
    return min(ways, key=lambda w: (False, w.seconds, w.memory_bytes) if w.fits else (True, w.memory_bytes, w.seconds))


def configured(parameters: Parameters, configuration: Configuration) -> Parameters:
    """Parameters for bootstraps in a configuration, within 128-bit security where that is possible."""
    # a transform of 2^k slots has at most k levels
    most = max(1, parameters.slots.bit_length() - 1)
    encode, decode = configuration.level_budget
    budget = min(encode, most), min(decode, most)
    digits, babies = configuration.large_digits, configuration.baby_steps
    return secured(replace(parameters, level_budget=budget, large_digits=digits, baby_steps=babies))


def possible(cost: CostModel, parameters: Parameters) -> dict[Configuration, Parameters]:
    """What parameters become in each configuration of their size that there is security for; the usual one comes first.

    Of others only what differs from all before it, keeps the levels of its transforms, and is taken by the engine that
    is planned for. Where there is security for none, the usual one stands alone.
    """
    usual, *others = cost.alternatives(parameters.slots)
    found = {usual: configured(parameters, usual)}
    for configuration in others if parameters.slots else ():
        made = configured(parameters, configuration)
        if made not in found.values() and _kept(made, configuration) and _taken(made, cost.engine):
            found[configuration] = made
    if len(found) > 1 and not _secure(found[usual]):
        del found[usual]
    return found


def priced(cost: CostModel, parameters: ProgramParameters) -> CostModel:
    """The model of the configuration that a program's parameters are of, the usual one where they are of none, and of
    its BGV sums."""
    if not isinstance(parameters, Parameters):
        return cost
    cost = on_primes(cost, parameters)
    if not parameters.slots:
        return cost
    made = possible(cost, parameters)
    return cost.taking(next((c for c in made if made[c] == parameters), None))


def _kept(made: Parameters, configuration: Configuration) -> bool:
    """Whether parameters are secure in this configuration, and not only with other transforms."""
    most = max(1, made.slots.bit_length() - 1)
    wanted = tuple(min(levels, most) for levels in configuration.level_budget)
    return _secure(made) and made.level_budget == wanted


def _secure(made: Parameters) -> bool:
    """Whether parameters keep to 128 bits, or are of a small ring, which does not ask for that."""
    return not made.secure or is_secure(made)


def _taken(made: Parameters, name: str) -> bool:
    """Whether the engine of that name executes such programs."""
    from glyphc.backends.engine import engine  # loads compiled code for some

    return engine(name).refusal(made) is None
