"""Predicted noise of every value in slots."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from glyphc.analysis.noise import Noise
from glyphc.backends.base import execute
from glyphc.backends.slots_clear import ClearSlots
from glyphc.backends.slots_simulate import SimulatedSlots
from glyphc.ir import slot_noise
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import Fit, Input, Linear, Polynomial
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.ir.types import Encoding

from .polynomials import density, polynomial_depth
from .writer import SlotWriter

_POINTS = 512


def predict_slots(graph: Graph, parameters: SlotParameters) -> dict[int, Noise]:
    """Noise of every value in slots, by node id, in units of its integers; of a tensor, the rms over its elements.

    white: of encryption, rescaling and key switching. approximation: of rounding inputs, and of polynomials beside the
    functions that they stand for.
    """
    found: dict[int, Noise] = {}
    for node in graph:
        if node.type.encoding is not Encoding.SLOTS:
            continue
        operands = [found[i] for i in node.operands]
        match node.op:
            case Input():
                found[node.id] = Noise(slot_noise.fresh(parameters) * _unit(node), 0.0, float(np.sqrt(1 / 12)))
            case Linear():
                found[node.id] = _linear(graph, node, node.op, operands, parameters)
            case Polynomial():
                found[node.id] = _polynomial(graph, node, node.op, operands[0], parameters)
            case _:
                found[node.id] = operands[0]
    return found


def _unit(node: Node) -> float:
    """What a node's integers are divided by in slots."""
    assert node.type.fixed is not None
    return float(max(node.type.fixed.magnitude, 1))


def _linear(graph: Graph, node: Node, op: Linear, operands: list[Noise], parameters: SlotParameters) -> Noise:
    white, approximation = (slot_noise.rescaling(parameters) * _unit(node)) ** 2, 0.0
    for source, weight in zip(operands, op.weights, strict=True):
        gain = float(graph.matrix(weight).energies().mean())
        white += gain * source.white**2
        approximation += gain * source.approximation**2
    return Noise(float(np.sqrt(white)), 0.0, float(np.sqrt(approximation)))


def _polynomial(graph: Graph, node: Node, op: Polynomial, source: Noise, parameters: SlotParameters) -> Noise:
    (operand,) = graph.operands(node)
    assert operand.type.fixed is not None and node.type.fixed is not None
    x = (np.arange(_POINTS) + 0.5) * (2 / _POINTS) - 1
    weight = density(operand, operand.type.fixed, x)
    derivative = np.polynomial.chebyshev.chebder(np.array(op.fit.coefficients))
    slope = float(np.sqrt(np.average(np.polynomial.chebyshev.chebval(x, derivative) ** 2, weights=weight)))
    passed = slope * _unit(node) / _unit(operand)
    added = slot_noise.rescaling(parameters) * added_noise(op.fit) * _unit(node)
    fitted = op.fit.rms_error * (node.type.fixed.hi - node.type.fixed.lo)
    return Noise(
        float(np.hypot(source.white * passed, added)), 0.0, float(np.hypot(source.approximation * passed, fitted))
    )


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
    writer.store(result, "y", 0)
    for machine in (ClearSlots(parameters), SimulatedSlots(parameters)):
        values.append(execute(writer.instructions, machine, {"x": [points]})["y"][0])
    error = float(np.sqrt(np.mean((values[1] - values[0]) ** 2)))
    return abs(factor) * error / slot_noise.rescaling(parameters)
