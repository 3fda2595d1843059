"""The step program: forward, loss gradient, backward and update of one batch, as one source-level graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.evaluate import evaluate_all
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import Affine, Dense, Input, Output, Sub
from glyphc.ir.verify import verify

from .autodiff import backward, forward
from .builder import Builder
from .convolutions import Patches, as_convolution, constant_value, has_bias, patches_of, pooled, trained_value
from .errors import TrainingError
from .losses import Loss, mean_loss
from .optimizers import SGD

F64 = npt.NDArray[np.floating[Any]]

# Names of the step program's own inputs and outputs. Weights and velocities have a prefix before the constant's name.
LABELS, RATE, LOSS, LOGITS = "labels", "learning_rate", "loss", "logits"
WEIGHT, VELOCITY = "weight:", "velocity:"


@dataclass(frozen=True)
class Slot:
    """A trained constant of the network, or a frozen one (which the step reads but leaves alone).

    shape: of what is trained, see ``convolutions.trained_value``. patches: what a convolution's weights are multiplied
    with.
    """

    name: str
    shape: tuple[int, ...]
    trained: bool
    decayed: bool
    patches: Patches | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class State:
    """What a step changes. weights: all slots, by constant name; velocity: of the trained ones, with momentum only."""

    step: int
    weights: dict[str, F64]
    velocity: dict[str, F64]


@dataclass(frozen=True, eq=False)
class StepProgram:
    """graph: inputs are the batch, labels, rate, weights and velocities; outputs the loss, logits and the new ones.

    gradients: nodes that hold the gradient of the loss by other nodes, by their ids.
    """

    graph: Graph
    network: Graph
    loss: Loss
    optimizer: SGD
    batch: int
    slots: tuple[Slot, ...]
    gradients: Mapping[int, Node]

    def initial(self) -> State:
        """The network's own weights, at rest."""
        weights: dict[str, F64] = {
            s.name: trained_value(self.network.constant(s.name).astype(np.float64), s.shape) for s in self.slots
        }
        moving = (s.name for s in self.slots if s.trained and self.optimizer.momentum)
        velocity: dict[str, F64] = {name: np.zeros_like(weights[name]) for name in moving}
        return State(0, weights, velocity)

    def run(self, state: State, x: dict[str, F64], y: F64) -> tuple[State, float]:
        """One step in the clear. x: by input name, shape (batch, *shape); y: targets. Returns the loss before it."""
        return self.after(state, self.values(state, x, y))

    def values(self, state: State, x: dict[str, F64], y: F64, known: Mapping[int, F64] | None = None) -> dict[int, F64]:
        """Of all nodes, by id, in one step in the clear. known: values of nodes that are not computed here."""
        inputs = {name: value[None] for name, value in x.items()}
        inputs |= {LABELS: y[None], RATE: np.array([self.optimizer.rate(state.step)])}
        inputs |= {WEIGHT + name: value[None] for name, value in state.weights.items()}
        inputs |= {VELOCITY + name: value[None] for name, value in state.velocity.items()}
        wanted = {op.name for _, op in self.graph.of(Input)}
        given = {} if known is None else {node: value[None] for node, value in known.items()}
        inputs = {name: value for name, value in inputs.items() if name in wanted}
        found = evaluate_all(self.graph, inputs, lambda node, operands: given.get(node.id))
        return {node: value[0] for node, value in found.items()}

    def after(self, state: State, values: dict[int, F64]) -> tuple[State, float]:
        """The state that a step with these values of all nodes leads to, and the loss before it."""
        out = {op.name: values[node.id] for node, op in self.graph.of(Output)}
        weights = {name: out.get(WEIGHT + name, value) for name, value in state.weights.items()}
        velocity = {name: out[VELOCITY + name] for name in state.velocity}
        return State(state.step + 1, weights, velocity), float(out[LOSS])


def make_step(
    network: Graph,
    loss: Loss,
    optimizer: SGD,
    batch: int,
    frozen: tuple[str, ...] = (),
    convolutions: bool = False,
    limit: float | None = None,
) -> StepProgram:
    """Differentiate a source-level network. frozen: layers (locations or constant names) that keep their weights.

    convolutions: whether these are trained, too. limit: errors e of a sample that are sent back through an activation
    become limit * tanh(e / limit).

    TrainingError for several outputs, for layers that do not exist, and when nothing is left to train.
    """
    if len(network.outputs) != 1:
        raise TrainingError(f"a network with one output can be trained, this one has {len(network.outputs)}")
    last = loss.attachment(network, network.outputs[0])
    slots = weight_slots(network, last, frozen, convolutions)
    b = Builder()
    weights = {s.name: b.input(WEIGHT + s.name, s.shape) for s in slots}
    z = forward(network, last, batch, b, weights).values[last.id]
    y = b.input(LABELS, (batch, *last.type.shape))
    losses = mean_loss(b, loss.value(b, z, y))
    trained = [s for s in slots if s.trained]
    limited = () if limit is None else _limited(limit, batch)
    gradients = backward(b, z, loss.gradient(b, z, y), tuple(weights[s.name] for s in trained), limited)
    rate = b.input(RATE, ())
    outputs = {LOSS: losses, LOGITS: z}
    for slot in trained:
        weight = weights[slot.name]
        if weight.id not in gradients:
            raise TrainingError(f"the loss does not depend on {slot.name!r}; freeze it")
        outputs |= _update(b, slot, weight, gradients[weight.id], rate, optimizer)
    for name, node in outputs.items():
        b.output(name, node)
    verify(b.graph)
    return StepProgram(b.graph, network, loss, optimizer, batch, slots, gradients)


def _limited(limit: float, batch: int) -> tuple[Function, ...]:
    """Of gradients of the mean over the batch."""
    return (Function("affine", (batch / limit, 0.0)), Function("tanh"), Function("affine", (limit / batch, 0.0)))


def _update(b: Builder, slot: Slot, weight: Node, gradient: Node, rate: Node, optimizer: SGD) -> dict[str, Node]:
    outputs: dict[str, Node] = {}
    if slot.decayed and optimizer.weight_decay:
        gradient = b.add(gradient, b.times(weight, optimizer.weight_decay))
    direction = gradient
    if optimizer.momentum:
        velocity = b.input(VELOCITY + slot.name, slot.shape)
        direction = b.add(b.times(velocity, optimizer.momentum), gradient)
        outputs[VELOCITY + slot.name] = direction
        if optimizer.nesterov:
            direction = b.add(gradient, b.times(direction, optimizer.momentum))
    outputs[WEIGHT + slot.name] = b.node(Sub(), weight, b.mul(direction, rate))
    return outputs


def weight_slots(
    network: Graph, last: Node, frozen: tuple[str, ...] = (), convolutions: bool = False
) -> tuple[Slot, ...]:
    """The weights and biases of the dense layers before ``last``, in order. A bias that the model lacks stays zero.

    convolutions: with those of convolutions. Other layers with constants (normalisation, for
    example) never change; they may be called frozen.
    """
    slots: dict[str, Slot] = {}
    layers: set[str] = set()
    for node in network:
        if node.id > last.id or not node.op.constant_names():
            continue
        layers |= {node.location, *node.op.constant_names()} - {""}
        if convolutions:
            slots |= {slot.name: slot for slot in _convolution_slots(network, node, frozen)}
        if not isinstance(node.op, Dense):
            continue
        still = node.location in frozen
        for name in node.op.constant_names():
            shape = tuple(int(n) for n in network.constant(name).shape)
            lacking = name == node.op.bias.name and not node.op.has_bias
            slots.setdefault(name, Slot(name, shape, not (still or lacking or name in frozen), len(shape) == 2))
    unknown = sorted(set(frozen) - layers)
    if unknown:
        known = sorted({n.location for n in network if n.op.constant_names() and n.location} | set(slots))
        raise TrainingError(f"no layer {unknown[0]!r} to freeze; the network has {', '.join(known) or 'none'}")
    if not any(s.trained for s in slots.values()):
        raise TrainingError("nothing to train: the network has no dense layer that is not frozen")
    return tuple(slots.values())


def _convolution_slots(network: Graph, node: Node, frozen: tuple[str, ...]) -> tuple[Slot, ...]:
    """Of a convolution, with the means that are taken of its pixels; none for other nodes."""
    op, found = node.op, as_convolution(network, node)
    if found is None or not isinstance(op, Affine) or op.kernel is None:
        return ()
    taps, outputs, channels = found.kernel.shape
    users = network.users(node)
    pool = users[0] if len(users) == 1 and pooled(network, users[0]) else None
    still = node.location in frozen
    biased = not (still or op.bias.name in frozen) and has_bias(op)
    trained = not (still or op.kernel.name in frozen)
    return (
        Slot(op.kernel.name, (outputs, taps * channels), trained, True, patches_of(network, node, pool)),
        Slot(op.bias.name, (outputs,), biased, False),
    )


def convolution_names(network: Graph) -> tuple[str, ...]:
    """Constants of all convolutions that could be trained."""
    found = [op for node, op in network.of(Affine) if as_convolution(network, node) is not None]
    return tuple(name for op in found if op.kernel is not None for name in (op.kernel.name, op.bias.name))


def fixed_layers(network: Graph, slots: tuple[Slot, ...] = ()) -> tuple[str, ...]:
    """Layers with weights that training does not change: convolutions and the like, by location. slots: what does."""
    trained = {slot.name for slot in slots if slot.trained}
    fixed = (n for n, op in network.of(Affine) if not trained & set(op.constant_names()))
    return tuple(dict.fromkeys(n.location or f"%{n.id}" for n in fixed))


def with_weights(network: Graph, weights: dict[str, F64]) -> Graph:
    """The same network with other constants, in the shapes that are trained or their own."""
    new = Graph(network.level, network.batch, network.parameters)
    for name, value in network.constants.items():
        changed = constant_value(np.asarray(weights[name], dtype=np.float64), value.shape) if name in weights else value
        new.add_constant(name, changed)
    for node in network:
        new.add(node.op, tuple(new.node(i) for i in node.operands), None, node.location)
    return new
