"""What a slot program costs: seconds on both sides, memory, keys, and what is sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from glyphc.ir.instructions import Drop, Free, Instruction, Load, Register, Schedule, SlotDot, SlotProduct, Store
from glyphc.ir.instructions.slots import SlotType, check_slots
from glyphc.ir.slot_parameters import SlotParameters

from .cost import PROCESS_BYTES, CostModel
from .slot_figures import MEASURED_TOWERS, slot_seconds

# Precomputed tables of a context, in polynomials over all primes.
_CONTEXT_POLYNOMIALS = 12
# Compiled kernels and what compiles them.
_COMPILED_BYTES = 0.125e9
# Intermediate results of a product and its key switch, in ciphertexts.
_SCRATCH = 8


@dataclass(frozen=True)
class SlotEstimate:
    """Of one pass: seconds by instruction, by node, and of the client; bytes of keys, of what is sent, at the peak."""

    instruction_seconds: tuple[float, ...]
    node_seconds: dict[int, float]
    client_seconds: float
    key_bytes: float
    upload_bytes: float
    download_bytes: float
    memory_bytes: float

    @property
    def seconds(self) -> float:
        """Of the server."""
        return sum(self.instruction_seconds)


def slot_estimate(schedule: Schedule, cost: CostModel) -> SlotEstimate:
    """What one pass of a slot program is expected to take."""
    client = schedule.client
    p = client.parameters
    assert isinstance(p, SlotParameters)
    types = slot_types(schedule)
    seconds = tuple(_seconds(i, types, p, cost) for i in schedule.instructions)
    by_node: dict[int, float] = {}
    for instruction, each in zip(schedule.instructions, seconds, strict=True):
        by_node[instruction.node] = by_node.get(instruction.node, 0.0) + each
    sent, returned = (sum(port.layout.ciphertexts for port in ports) for ports in (client.inputs, client.outputs))
    client_seconds = sent * slot_seconds(cost.slots, "encrypt", p.ring, p.limbs)
    client_seconds += returned * slot_seconds(cost.slots, "decrypt", p.ring, 1)
    return SlotEstimate(
        seconds,
        by_node,
        client_seconds,
        slot_key_bytes(p),
        sent * p.fresh_bytes,
        returned * p.output_bytes,
        _peak_bytes(schedule, types, p) + (_COMPILED_BYTES if cost.engine == "kernels" else 0),
    )


@dataclass(frozen=True)
class SlotWork:
    """What a program does, in numbers of primitives by the limbs that they work on: the same in every ring."""

    counts: tuple[tuple[str, int, int], ...]

    def seconds(self, p: SlotParameters, cost: CostModel) -> float:
        """Of server and client together."""
        return sum(count * primitive_seconds(name, limbs, p, cost) for name, limbs, count in self.counts)


def slot_work(schedule: Schedule) -> SlotWork:
    """Counts the primitives of one pass."""
    p = schedule.parameters
    assert isinstance(p, SlotParameters)
    types = slot_types(schedule)
    counts: Counter[tuple[str, int]] = Counter()
    for instruction in schedule.instructions:
        for name, limbs, count in _primitives(instruction, types):
            counts[name, limbs] += count
    for name, ports in (("encrypt", schedule.client.inputs), ("decrypt", schedule.client.outputs)):
        limbs = p.limbs if name == "encrypt" else 1
        counts[name, limbs] += sum(port.layout.ciphertexts for port in ports)
    return SlotWork(tuple((*key, count) for key, count in counts.items()))


def slot_types(schedule: Schedule) -> dict[Register, SlotType]:
    """The type of every register of a slot program."""
    p = schedule.client.parameters
    assert isinstance(p, SlotParameters)
    parts = {port.name: port.layout.ciphertexts for port in schedule.client.inputs}
    return check_slots(schedule.instructions, parts, p.depth)


def slot_key_bytes(p: SlotParameters) -> float:
    """Of the relinearisation key in memory: two elements for each digit, over all primes of Q and P."""
    return 8.0 * 2 * p.ring * (p.limbs + p.auxiliary_primes) * p.large_digits


def primitive_seconds(name: str, limbs: int, p: SlotParameters, cost: CostModel) -> float:
    """Of one primitive (``slot_figures.FIGURES``) on ciphertexts of so many limbs."""
    seconds = slot_seconds(cost.slots, name, p.ring, limbs)
    # the kernels choose the digits themselves
    if name != "relinearise" or cost.engine == "kernels":
        return seconds
    digits, measured = (-(-limbs // towers) for towers in (p.towers_per_digit, MEASURED_TOWERS))
    # each digit is extended to all primes
    return seconds * digits * (limbs + p.auxiliary_primes) / (measured * (limbs + MEASURED_TOWERS - 1))


def _primitives(instruction: Instruction, types: dict[Register, SlotType]) -> Iterator[tuple[str, int, int]]:
    """(primitive, limbs, how often) of an instruction."""
    if isinstance(instruction, SlotDot | SlotProduct):
        limbs = types[instruction.target].levels + 2
        yield "weighted", limbs, len(instruction.sources)
        yield "rescale", limbs, 1
        if isinstance(instruction, SlotProduct):
            yield "product", limbs, len(set(instruction.pairs))
            yield "relinearise", limbs, 1


def _seconds(instruction: Instruction, types: dict[Register, SlotType], p: SlotParameters, cost: CostModel) -> float:
    primitives = _primitives(instruction, types)
    return sum(count * primitive_seconds(name, limbs, p, cost) for name, limbs, count in primitives)


def _peak_bytes(schedule: Schedule, types: dict[Register, SlotType], p: SlotParameters) -> float:
    """Predicted resident memory at the peak of a run."""
    polynomial = 8.0 * p.ring
    stored = {i.source for i in schedule.instructions if isinstance(i, Store)}
    held = peak = 0.0
    for instruction in schedule.instructions:
        match instruction:
            case Free(registers=registers):
                held -= sum(_register_bytes(types[r], polynomial) for r in registers if r not in stored)
            case Load() | SlotDot() | SlotProduct() | Drop():
                held += _register_bytes(types[instruction.target], polynomial)
        peak = max(peak, held)
    tables = _CONTEXT_POLYNOMIALS * polynomial * (p.limbs + p.auxiliary_primes)
    return PROCESS_BYTES + tables + slot_key_bytes(p) + peak + _SCRATCH * 2 * polynomial * p.limbs


def _register_bytes(type: SlotType, polynomial: float) -> float:
    return 2 * polynomial * (type.levels + 1)
