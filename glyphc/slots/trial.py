"""A network in slots on samples, with all that encryption adds: what its accuracy is promised by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.backends.base import execute
from glyphc.backends.slots_simulate import SimulatedSlots
from glyphc.codec import decode, encode
from glyphc.ir.graph import Graph
from glyphc.ir.layout import next_power_of_two
from glyphc.ir.slot_parameters import SlotParameters

from .layout import laid_out
from .lowering import slot_schedule

F64 = npt.NDArray[np.floating[Any]]
# The smallest ring that a schedule can be written for.
_SMALLEST = 8
# Samples at a time.
_BLOCK = 4096


def simulated(graph: Graph, parameters: SlotParameters, samples: Mapping[str, F64], seed: int = 0) -> dict[str, F64]:
    """Real outputs by name, as the client sees them: the program's own instructions, with noise of its parameters.

    graph: before layouts. seed: of the noise.
    """
    count = len(next(iter(samples.values())))
    block = min(count, _BLOCK)
    # the same instructions, with hardly more slots than samples
    ring = max(_SMALLEST, 2 * next_power_of_two(block))
    schedule = slot_schedule(laid_out(graph, replace(parameters, ring=ring), block))
    machine, client = SimulatedSlots(parameters, seed), schedule.client
    found: dict[str, list[F64]] = {port.name: [] for port in client.outputs}
    for first in range(0, count, block):
        few = {name: x[first : first + block] for name, x in samples.items()}
        messages = {port.name: encode(port, few[port.name]) for port in client.inputs}
        inputs = {name: [machine.encrypt(np.asarray(m, dtype=np.float64)) for m in ms] for name, ms in messages.items()}
        results = execute(schedule.instructions, machine, inputs)
        for port in client.outputs:
            found[port.name].append(decode(port, np.array(results[port.name]), min(block, count - first)))
    return {name: np.concatenate(parts) for name, parts in found.items()}
