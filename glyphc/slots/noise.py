"""Predicted noise of every value in slots."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.backends.slots_clear import ClearSlots
from glyphc.backends.slots_machine import slot_step
from glyphc.backends.slots_simulate import SimulatedSlots
from glyphc.ir import slot_noise
from glyphc.ir.graph import Graph, Node
from glyphc.ir.instructions import Load, Store
from glyphc.ir.ops import Fit, Input, Linear, Polynomial, Reshape
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.ir.types import Encoding

from .polynomials import density, polynomial_depth
from .writer import SlotWriter

F64 = npt.NDArray[np.floating[Any]]
_POINTS = 512


def predict_slots(graph: Graph, parameters: SlotParameters) -> dict[int, float]:
    """Standard deviation of every value in slots, by node id, in units of its integers; of a tensor, the rms."""
    shares: dict[int, float] = {}
    for node in graph:
        if node.type.encoding is not Encoding.SLOTS:
            continue
        operands = [shares[i] for i in node.operands]
        match node.op:
            case Input():
                shares[node.id] = slot_noise.fresh(parameters)
            case Reshape():
                shares[node.id] = operands[0]
            case Linear():
                shares[node.id] = _linear(graph, node, node.op, operands, parameters)
            case Polynomial(fit=fit):
                (source,) = graph.operands(node)
                assert source.type.fixed is not None
                x = (np.arange(_POINTS) + 0.5) * (2 / _POINTS) - 1
                weight = density(source, source.type.fixed, x)
                slope = np.polynomial.chebyshev.chebval(x, np.polynomial.chebyshev.chebder(np.array(fit.coefficients)))
                passed = operands[0] * float(np.sqrt(np.average(slope**2, weights=weight)))
                added = slot_noise.rescaling(parameters) * added_noise(fit)
                shares[node.id] = float(np.hypot(passed, added))
    found = {}
    for id, share in shares.items():
        fixed = graph.node(id).type.fixed
        assert fixed is not None
        found[id] = share * max(fixed.magnitude, 1)
    return found


def _linear(graph: Graph, node: Node, op: Linear, operands: list[float], parameters: SlotParameters) -> float:
    assert node.type.fixed is not None
    target = max(node.type.fixed.magnitude, 1)
    variance = slot_noise.rescaling(parameters) ** 2
    for operand, share, const in zip(graph.operands(node), operands, op.weights, strict=True):
        assert operand.type.fixed is not None
        weights = graph.constant(const.name) * (max(operand.type.fixed.magnitude, 1) / target)
        variance += float((weights.astype(np.float64) ** 2).sum(axis=1).mean()) * share**2
    return float(np.sqrt(variance))


@lru_cache(maxsize=256)
def added_noise(fit: Fit) -> float:
    """Noise that the evaluation of a polynomial adds of its own, in deviations of a rescaling: simulated."""
    writer = SlotWriter()
    depth = polynomial_depth(fit.degree)
    x = writer.load("x", 0, depth)
    result, factor = writer.polynomial(x, fit.coefficients)
    parameters = SlotParameters(1 << 10, depth, 30, 40, 1)
    points = np.linspace(-1, 1, 4 * _POINTS)
    values = []
    for machine in (ClearSlots(), SimulatedSlots(parameters)):
        registers = {x: points}
        for instruction in writer.instructions:
            if not isinstance(instruction, Load | Store):
                slot_step(instruction, machine, registers)
        values.append(registers[result])
    error = float(np.sqrt(np.mean((values[1] - values[0]) ** 2)))
    return abs(factor) * error / slot_noise.rescaling(parameters)
