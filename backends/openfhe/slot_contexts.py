"""The CKKS context of a slot program, and the exact scales of its registers.

With ``FIXEDMANUAL`` OpenFHE takes every scale for 2^scaling_bits, but a rescaling divides by a prime, which only lies
near it. What a register holds is therefore *drift* times what it should, and the drift of every register follows from
the primes. Weights and biases are ours to choose, so each weighted sum makes the drift whatever is needed (Kim,
Papadimitriou, Polyakov, "Approximate Homomorphic Encryption with Reduced Approximation Error", 2022, adjust scales to
the same end); products have that of their factors. :func:`drifts` finds drifts at which all sums are of like terms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from glyphc.ir.instructions import Instruction, Load, Register, Store
from glyphc.ir.instructions.slots import Drop, SlotProduct, check_slots
from glyphc.ir.slot_parameters import SlotParameters

from ..errors import BackendError
from .bridge import rings_of
from .library import fhe
from .ring import Ring

# Drifts that are equal but for rounding.
_SAME = 1e-9


@dataclass(frozen=True, eq=False)
class SlotContext:
    """A context and the rings of its modulus chain, the one that is left at the end first; no keys."""

    parameters: SlotParameters
    context: Any
    rings: tuple[Ring, ...]

    @property
    def moduli(self) -> tuple[int, ...]:
        return tuple(ring.q for ring in self.rings)

    def drift(self, levels: int) -> float:
        """By what the rescaling from this many levels multiplies messages, in OpenFHE's eyes."""
        return float(2.0**self.parameters.scaling_bits / self.rings[levels].q)


def make_slot_context(parameters: SlotParameters) -> SlotContext:
    """Generate it; OpenFHE checks its security. BackendError when it refuses the parameters."""
    p = fhe.CCParamsCKKSRNS()
    p.SetSecretKeyDist(fhe.UNIFORM_TERNARY)
    p.SetSecurityLevel(getattr(fhe, parameters.security) if parameters.secure else fhe.HEStd_NotSet)
    p.SetRingDim(parameters.ring)
    p.SetBatchSize(parameters.slots)
    p.SetScalingTechnique(fhe.FIXEDMANUAL)
    p.SetScalingModSize(parameters.scaling_bits)
    p.SetFirstModSize(parameters.first_bits)
    p.SetKeySwitchTechnique(fhe.HYBRID)
    p.SetNumLargeDigits(parameters.large_digits)
    p.SetMultiplicativeDepth(parameters.depth)
    try:
        context = fhe.GenCryptoContext(p)
    except RuntimeError as e:
        raise BackendError(f"OpenFHE refuses the parameters {parameters}: {e}") from None
    for feature in (fhe.PKE, fhe.KEYSWITCH, fhe.LEVELEDSHE):
        context.Enable(feature)
    rings = rings_of(context)
    if len(rings) != parameters.limbs:
        raise BackendError(f"this OpenFHE makes {len(rings)} primes for {parameters.depth} levels")
    return SlotContext(parameters, context, rings)


def drifts(code: Sequence[Instruction], context: SlotContext, levels: Mapping[Register, int]) -> dict[Register, float]:
    """The drift of every register of a program; BackendError when terms of a sum cannot be made alike.

    levels: of every register. Products tie registers together; each such group is a small linear system in the
    logarithms of the drifts, of which the solution nearest to no drift is taken.
    """
    names: dict[Register, Register] = {}  # of what a drop makes: where it comes from
    groups: dict[Register, list[SlotProduct]] = {}
    leader: dict[Register, Register] = {}

    def find(r: Register) -> Register:
        while leader.setdefault(r, r) != r:
            leader[r] = leader[leader[r]]
            r = leader[r]
        return r

    fixed: set[Register] = set()
    plain: set[Register] = set()
    products = []
    for instruction in code:
        if isinstance(instruction, Drop):
            names[instruction.target] = names.get(instruction.source, instruction.source)
        elif isinstance(instruction, Load):
            fixed.add(instruction.target)
        elif isinstance(instruction, Store):
            # clients know of no drift
            plain.add(names.get(instruction.source, instruction.source))
        elif isinstance(instruction, SlotProduct):
            products.append(instruction)
            for register in (r for pair in instruction.pairs for r in pair):
                # inputs have no drift, whatever else they meet
                if (origin := names.get(register, register)) not in fixed:
                    leader[find(origin)] = find(instruction.target)
    for product in products:
        groups.setdefault(find(product.target), []).append(product)
    found = _solved(groups.values(), names, fixed, plain, context, levels)
    return {r: found.get(names.get(r, r), 1.0) for r in levels}


def _solved(
    groups: Sequence[list[SlotProduct]] | Any,
    names: Mapping[Register, Register],
    fixed: set[Register],
    plain: set[Register],
    context: SlotContext,
    levels: Mapping[Register, int],
) -> dict[Register, float]:
    found: dict[Register, float] = {}
    for group in groups:
        unknown: dict[Register, int] = {}
        rows: list[dict[int, float]] = []
        values: list[float] = []
        for product in group:
            own = unknown.setdefault(product.target, len(unknown))
            for pair in dict.fromkeys(product.pairs):
                row = {own: 1.0}
                for register in pair:
                    origin = names.get(register, register)
                    if origin not in fixed:
                        at = unknown.setdefault(origin, len(unknown))
                        row[at] = row.get(at, 0.0) - 1.0
                rows.append(row)
                values.append(float(np.log(context.drift(levels[product.target] + 1))))
        for register in plain & unknown.keys():
            rows.append({unknown[register]: 1.0})
            values.append(0.0)
        matrix = np.zeros((len(rows), len(unknown)))
        for number, row in enumerate(rows):
            for at, value in row.items():
                matrix[number, at] = value
        solution = np.linalg.lstsq(matrix, np.array(values), rcond=None)[0]
        if np.abs(matrix @ solution - values).max() > _SAME:
            raise BackendError("the products of a sum cannot be brought to one scale; this is a bug, please report it")
        found |= {register: float(np.exp(solution[at])) for register, at in unknown.items()}
    return found


def levels_of(code: Sequence[Instruction], parts: Mapping[str, int], depth: int) -> dict[Register, int]:
    """Levels of every register; IRError for code that cannot be executed."""
    return {register: type.levels for register, type in check_slots(code, parts, depth).items()}
