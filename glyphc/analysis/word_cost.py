"""What a program on words of encrypted bits costs: seconds for its gates, keys, memory, and what is sent."""

from __future__ import annotations

from glyphc.ir.instructions import Free, Gate, Schedule
from glyphc.ir.word_parameters import WordParameters

from .cost import PROCESS_BYTES
from .slot_cost import SlotEstimate
from .word_figures import (
    BIT_SECONDS,
    INSTRUCTION_BYTES,
    KEY_BYTES,
    OBJECT_BYTES,
    SECURE_WORDS,
    gate_seconds,
)


def gates_of(schedule: Schedule) -> int:
    """Bootstraps of a sample."""
    return sum(isinstance(i, Gate) for i in schedule.instructions)


def word_estimate(schedule: Schedule) -> SlotEstimate:
    """What one sample is expected to take, on the machine that the figures are of, whatever the user's."""
    client = schedule.client
    p = client.parameters
    assert isinstance(p, WordParameters)
    each = gate_seconds(p)
    seconds = tuple(each if isinstance(i, Gate) else 0.0 for i in schedule.instructions)
    by_node: dict[int, float] = {}
    for instruction, spent in zip(schedule.instructions, seconds, strict=True):
        by_node[instruction.node] = by_node.get(instruction.node, 0.0) + spent
    sent, returned = (sum(port.layout.ciphertexts for port in ports) for ports in (client.inputs, client.outputs))
    secret = sum(m.products for m in client.encrypted)
    keys = KEY_BYTES * p.dimension * p.ring / (SECURE_WORDS.dimension * SECURE_WORDS.ring)
    held = (_live(schedule) + secret) * (p.fresh_bytes + OBJECT_BYTES)
    memory = PROCESS_BYTES + keys + held + INSTRUCTION_BYTES * len(schedule.instructions)
    return SlotEstimate(
        seconds,
        by_node,
        (sent + returned) * BIT_SECONDS,
        keys + secret * p.fresh_bytes,
        sent * p.fresh_bytes,
        returned * p.output_bytes,
        memory,
    )


def _live(schedule: Schedule) -> int:
    """The most bits that are held at once."""
    held = most = 0
    for instruction in schedule.instructions:
        held += len(instruction.writes) - (len(instruction.reads) if isinstance(instruction, Free) else 0)
        most = max(most, held)
    return most
