"""What a program on integers in slots costs: seconds on both sides, memory, keys, and what is sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import log2

import numpy as np

from glyphc.ir.instructions import (
    ClientRequest,
    Free,
    Instruction,
    IntegerBlocks,
    IntegerDot,
    IntegerProduct,
    IntegerTotal,
    Load,
    Schedule,
    Store,
)
from glyphc.ir.integer_parameters import IntegerParameters

from .cost import PROCESS_BYTES
from .slot_cost import SlotEstimate

REFERENCE_RING = 16384


@dataclass(frozen=True)
class IntegerRow:
    """Seconds at N = 16384 on ciphertexts of so many limbs: a product by a constant, an addition, a product of
    ciphertexts with its relinearisation, an automorphism, encryption and decryption. constant: to encode an integer
    for all slots; packed: one for each slot; shifted: to encode a constant and add it."""

    limbs: int
    scaled: float
    added: float
    product: float
    automorphism: float
    encrypt: float
    decrypt: float
    constant: float
    packed: float
    shifted: float


# Wall seconds on two cores, the middle one of eight laps: medians of three runs of ``benchmarks/integer_costs.py``.
# Encryption on 3 limbs is from later: the fastest of 40 laps beside other work, where that on 2 limbs took what stands
# here.
ROWS: tuple[IntegerRow, ...] = (
    IntegerRow(2, 0.00033, 0.00012, 0.0139, 0.0015, 0.0115, 0.0043, 0.0048, 0.0052, 0.005),
    IntegerRow(3, 0.00047, 0.00017, 0.0251, 0.0042, 0.0145, 0.0055, 0.0054, 0.0059, 0.009),
    IntegerRow(4, 0.00046, 0.00019, 0.0331, 0.0062, 0.0188, 0.0055, 0.0045, 0.0061, 0.0077),
    IntegerRow(7, 0.001, 0.00027, 0.0593, 0.0154, 0.029, 0.0066, 0.0074, 0.0066, 0.0175),
)
# Bytes for each coefficient of a constant that OpenFHE keeps beside its residues, as an integer of any length: by
# resident memory before and after sixty of them, at 3 and 4 limbs.
_KEPT_BYTES = 62
# Precomputed tables of a context, in polynomials over all primes; and what a product takes meanwhile.
_CONTEXT_POLYNOMIALS = 12
_SCRATCH = 12


def integer_estimate(schedule: Schedule, inputs_stay: bool = False) -> SlotEstimate:
    """What one pass is expected to take, on the machine that ``ROWS`` were measured on, whatever the user's.

    inputs_stay: in memory until the pass ends, where others need them, too."""
    client = schedule.client
    p = client.parameters
    assert isinstance(p, IntegerParameters)
    encoded: set[int] = set()
    seconds = tuple(_seconds(i, p, encoded) for i in schedule.instructions)
    by_node: dict[int, float] = {}
    for instruction, each in zip(schedule.instructions, seconds, strict=True):
        by_node[instruction.node] = by_node.get(instruction.node, 0.0) + each
    sent, returned = (sum(port.layout.ciphertexts for port in ports) for ports in (client.inputs, client.outputs))
    ciphertexts = len(p.moduli)
    requests = [i for i in schedule.instructions if isinstance(i, ClientRequest)]
    sent += sum(len(i.writes) for i in requests)
    returned += sum(len(i.reads) for i in requests)
    return SlotEstimate(
        seconds,
        by_node,
        ciphertexts * (sent * _figure("encrypt", p) + returned * _figure("decrypt", p)),
        key_bytes(p),
        sent * p.fresh_bytes,
        returned * p.output_bytes,
        _peak_bytes(schedule, p, inputs_stay),
    )


def key_bytes(p: IntegerParameters) -> float:
    """Of the keys in memory, for relinearisation and automorphisms: two elements for each digit, which is a prime."""
    return 8.0 * 2 * p.ring * p.limbs * p.limbs * len(p.moduli) * (p.products + len(p.key_automorphisms))


def client_figures(p: IntegerParameters) -> tuple[float, float]:
    """Seconds to encrypt a register, and to decrypt one."""
    return len(p.moduli) * _figure("encrypt", p), len(p.moduli) * _figure("decrypt", p)


def _figure(name: str, p: IntegerParameters) -> float:
    limbs = np.array([row.limbs for row in ROWS], dtype=np.float64)
    y = np.array([getattr(row, name) for row in ROWS])
    slope = (y[-1] - y[0]) / (limbs[-1] - limbs[0])
    beyond = max(0.0, p.limbs - limbs[-1]) - max(0.0, limbs[0] - p.limbs)
    at = float(np.interp(p.limbs, limbs, y)) + slope * beyond
    return float(max(at, 0.0) * p.ring * log2(p.ring) / (REFERENCE_RING * log2(REFERENCE_RING)))


def _seconds(instruction: Instruction, p: IntegerParameters, encoded: set[int]) -> float:
    """encoded: constants that earlier instructions have encoded; those of this one are added."""
    each = 0.0
    match instruction:
        case IntegerDot(weights=weights, bias=bias):
            # what has the same weight but for its sign is added up, multiplied once, and added to the others
            terms = Counter(abs(w) for w in weights if w)
            sizes = terms.keys() - {1}
            added = terms[1] + sum(1 + (terms[size] if terms[size] > 1 else 0) for size in sizes)
            each = added * _figure("added", p) + len(sizes) * _figure("scaled", p)
            each += len(sizes - encoded) * _figure("constant", p) + bool(bias) * _figure("shifted", p)
            encoded |= sizes
        case IntegerBlocks(sources=sources, bias=bias):
            each = len(sources) * (_figure("packed", p) + _figure("scaled", p))
            each += (len(sources) - 1) * _figure("added", p)
            each += len(p.automorphisms) * (_figure("automorphism", p) + _figure("added", p))
            each += _figure("shifted", p) if bias else 0.0
        case IntegerTotal(inner=inner):
            images = len(p.inner_automorphisms if inner else p.automorphisms)
            each = images * (_figure("automorphism", p) + _figure("added", p))
        case IntegerProduct():
            each = _figure("product", p)
    return each * len(p.moduli)


def _peak_bytes(schedule: Schedule, p: IntegerParameters, inputs_stay: bool) -> float:
    """Predicted resident memory at the peak of a run."""
    element = 8.0 * p.ring * p.limbs
    ciphertext = 2 * element * len(p.moduli)
    staying = {i.source for i in schedule.instructions if isinstance(i, Store)}
    if inputs_stay:
        staying |= {r for i in schedule.instructions if isinstance(i, Load) for r in i.writes}
    held = peak = 0.0
    for instruction in schedule.instructions:
        match instruction:
            case Free(registers=registers):
                held -= ciphertext * sum(r not in staying for r in registers)
            case Store():
                pass
            case _:
                held += ciphertext * len(instruction.writes)
        peak = max(peak, held)
    constants = len(set(_constants(schedule))) * (element + _KEPT_BYTES * p.ring) * len(p.moduli)
    tables = len(p.moduli) * _CONTEXT_POLYNOMIALS * element
    return PROCESS_BYTES + tables + key_bytes(p) + constants + peak + _SCRATCH * element


def _constants(schedule: Schedule) -> Iterator[int]:
    for instruction in schedule.instructions:
        if isinstance(instruction, IntegerDot):
            yield from (abs(w) for w in instruction.weights if abs(w) > 1)
