"""A network in slots on samples, with all that encryption adds: what its accuracy is promised by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.backends.base import execute
from glyphc.backends.slots_simulate import SimulatedSlots
from glyphc.ir.evaluate import apply_client_op, dequantize, quantize
from glyphc.ir.graph import Graph
from glyphc.ir.instructions import Port
from glyphc.ir.slot_parameters import SlotParameters

from .layout import laid_out
from .lowering import slot_schedule

F64 = npt.NDArray[np.floating[Any]]
# Samples at a time.
_BLOCK = 4096


def simulated(graph: Graph, parameters: SlotParameters, samples: Mapping[str, F64], seed: int = 0) -> dict[str, F64]:
    """Real outputs by name, as the client sees them: the program's own instructions, with noise of its parameters.

    graph: before layouts. seed: of the noise.
    """
    count = len(next(iter(samples.values())))
    block = min(count, _BLOCK)
    schedule = slot_schedule(laid_out(graph, parameters, 1))
    machine, client = SimulatedSlots(parameters, seed), schedule.client
    found: dict[str, list[F64]] = {port.name: [] for port in client.outputs}
    for first in range(0, count, block):
        few = {port.name: _messages(port, samples[port.name][first : first + block]) for port in client.inputs}
        inputs = {name: [machine.encrypt(message) for message in messages] for name, messages in few.items()}
        results = execute(schedule.instructions, machine, inputs)
        for port in client.outputs:
            found[port.name].append(_results(port, np.array(results[port.name])))
    return {name: np.concatenate(parts) for name, parts in found.items()}


# As ``glyphc.codec`` does it, which is the client's: nothing that compiles may need it, as servers compile.


def _messages(port: Port, x: F64) -> F64:
    """What the client encrypts: shape (features, samples)."""
    numbers = x.reshape(len(x), -1) if port.ranks is None else port.ranks.of(x)
    integers = quantize(numbers, port.fixed)
    return np.asarray(integers.T / max(port.fixed.magnitude, 1))


def _results(port: Port, messages: F64) -> F64:
    """What it makes of decrypted messages, shape (features, samples)."""
    value = dequantize(messages.T * max(port.fixed.magnitude, 1), port.fixed).reshape(-1, *port.shape)
    for op in port.tail:
        value = np.asarray(apply_client_op(op, value), dtype=np.float64)
    return value
