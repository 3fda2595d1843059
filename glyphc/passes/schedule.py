"""Lower a laid-out graph to instructions on numbered ciphertexts."""

from __future__ import annotations

from glyphc.errors import ParameterError
from glyphc.gates.lowering import word_schedule
from glyphc.ir.evaluate import decrypted
from glyphc.ir.graph import Graph, Node
from glyphc.ir.instructions import ClientSpec, Port, Schedule, with_frees
from glyphc.ir.integer_parameters import IntegerParameters
from glyphc.ir.ops import Input, Output
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.ir.types import Level
from glyphc.ir.word_parameters import WordParameters
from glyphc.slots.integer_lowering import integer_schedule
from glyphc.slots.lowering import slot_schedule
from glyphc.ways import registry  # noqa: F401 (its modules bring the rules of their ops)
from glyphc.ways.lowering import Lowering


def schedule(graph: Graph) -> Schedule:
    """The instructions of a laid-out graph with parameters, in an order that keeps few ciphertexts alive."""
    if graph.level is not Level.LAIDOUT or graph.parameters is None:
        raise ParameterError("only a laid-out graph with parameters can be scheduled")
    if isinstance(graph.parameters, SlotParameters):
        return slot_schedule(graph)
    if isinstance(graph.parameters, IntegerParameters):
        return integer_schedule(graph)
    if isinstance(graph.parameters, WordParameters):
        return word_schedule(graph)
    lowering = Lowering(graph)
    for node, op in graph.of(Output):
        lowering.output(node, op)
    ports = [_port(graph, node, op) for node, op in graph.of(Output)]
    inputs = [_input_port(node, op) for node, op in graph.of(Input)]
    client = ClientSpec(graph.parameters, tuple(inputs), tuple(ports), graph.batch, tuple(lowering.encrypted.values()))
    return Schedule(client, tuple(with_frees(lowering.instructions)), lowering.polynomials, lowering.secret)


def chunk_order(graph: Graph) -> dict[int, tuple[int, ...]]:
    """The chunks of every computed node in the order in which its instructions make them, by node id."""
    lowering = Lowering(graph)
    for node, op in graph.of(Output):
        lowering.output(node, op)
    order: dict[int, tuple[int, ...]] = {}
    for task in lowering.registers:
        if task.step < 0:
            order[task.node] = (*order.get(task.node, ()), task.chunk)
    return order


def _input_port(node: Node, op: Input) -> Port:
    assert node.type.fixed is not None and node.type.layout is not None
    return Port(op.name, op.shape, node.type.fixed, node.type.layout, ranks=op.ranks, columns=op.columns, ids=op.ids)


def _port(graph: Graph, node: Node, op: Output) -> Port:
    source, tail = decrypted(graph, node)
    assert source.type.fixed is not None and source.type.layout is not None
    return Port(op.name, source.type.shape, source.type.fixed, source.type.layout, tail, labels=op.labels)
