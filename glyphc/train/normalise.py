"""A network as training wants it: what computes one layer is one node, whatever operators its file has for it."""

from __future__ import annotations

import numpy as np

from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import Const, Dense, Scale


def with_biases(network: Graph) -> Graph:
    """The same network with the additions of constants behind dense layers that have no bias as these layers' biases.

    Files write a layer as a product and an addition as often as in one operator; its bias is to be trained as well.
    """
    additions = {node.operands[0]: node for node, op in network.of(Scale) if _is_bias(network, node, op)}
    if not additions:
        return network
    new, nodes = Graph(network.level, network.batch, network.parameters), dict[int, Node]()
    for name, value in network.constants.items():
        new.add_constant(name, value)
    joined = {node.id: dense for dense, node in additions.items()}
    for node in network:
        if node.id in joined:
            nodes[node.id] = nodes[joined[node.id]]
            continue
        op = node.op
        if node.id in additions and isinstance(op, Dense):
            scale = additions[node.id].op
            assert isinstance(scale, Scale)
            op = Dense(op.weights, Const(_shift(new, scale, node.type.size)))
        nodes[node.id] = new.add(op, tuple(nodes[i] for i in node.operands), None, node.location)
    return new


def _is_bias(network: Graph, node: Node, op: Scale) -> bool:
    (source,) = network.operands(node)
    return (
        isinstance(source.op, Dense)
        and not source.op.has_bias
        and len(network.users(source)) == 1
        and bool((network.constant(op.factor.name) == 1).all())
    )


def _shift(new: Graph, scale: Scale, units: int) -> str:
    """The name of a constant with a number for each unit."""
    value = new.constants[scale.shift.name]
    if value.shape == (units,):
        return scale.shift.name
    return new.add_constant(scale.shift.name, np.array(np.broadcast_to(value, (units,))))
