"""Plan encrypted training of a network's last dense layers: layouts, parameters, units; what the client encrypts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.approx.cost import CostModel
from glyphc.approx.security import largest_modulus
from glyphc.errors import DataError, ParameterError
from glyphc.ir.functions import Function, compose
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import Apply, Dense
from glyphc.ir.parameters import INSECURE, SECURE, Parameters

from .arrange import Arrangement, arrange, most_samples
from .chain import Between, Chain, needs_masks
from .derivatives import chain_derivatives
from .errors import TrainingError
from .first_layers import FeaturesApart, FirstLayer, SamplesApart
from .frames import Frame
from .heads import PASSED, Head, Softmax, approximated, label_data, make_head, reached
from .hidden_layers import Coarse, Grouped, HiddenLayer
from .layers import GRADIENT_LIMBS, ONES, Scales, Trained, decode_state, encode_state, ones_data
from .losses import Loss, SoftmaxCrossEntropy
from .optimizers import SGD
from .step import Slot, State, weight_slots
from .units import HALF_RANGE, power_of_two

F64 = npt.NDArray[np.floating[Any]]

RING = 65536
# A series fills at most half of the slots' [-1, 1].
_HALF = 0.5
# The errors that are sent back are sums of a few products of weights and errors, far smaller than logits.
_BACK_SHARE = 1 / 4
# Degrees that are considered, and the errors that are good enough, as a share of a function's range: for one layer, for
# several, and for a softmax, whose probabilities are small beside the product that they come from.
_DEGREES = (13, 27, 59, 119)
_MAX_ERROR, _MAX_ERROR_HIDDEN, _MAX_ERROR_SOFTMAX = 2.0**-11, 2.0**-8, 2.0**-12
# Kinks and steps are never followed well; a higher degree than this is not worth its levels.
_HIGHEST_HIDDEN = 59
# Bits between a bootstrap's result and the lowest bit of its modulus, and the least for the linear context's primes.
_HEADROOM, _MIN_LINEAR_BITS, _MAX_LINEAR_BITS = 28, 30, 36


@dataclass(frozen=True)
class Stage:
    """A trained layer of the network and the names of its constants; before: the activation in front of it."""

    node: Node
    weight: Slot
    bias: Slot
    before: tuple[Function, ...] = ()


@dataclass(frozen=True, eq=False)
class Plan:
    """How layers are trained under encryption.

    reach: sums of all layers must stay within [-reach, reach], and what is sent back within a quarter of that; beyond,
    the bootstrap gives garbage.
    """

    network: Graph
    stages: tuple[Stage, ...]
    loss: Loss
    optimizer: SGD
    batch: int
    reach: float
    server: Chain

    @property
    def layer(self) -> Node:
        """The first trained layer, whose input the client computes."""
        return self.stages[0].node

    @property
    def parameters(self) -> Parameters:
        return self.server.parameters

    def data(self, features: F64, targets: F64) -> dict[str, tuple[F64, int]]:
        """Messages and limbs of a batch's ciphertexts, by name, from (batch, features) and (batch, outputs)."""
        chain = self.server
        out = chain.first.data(features) | label_data(chain.head, targets)
        if ONES in chain.data_limbs:
            out |= ones_data(chain.first.target, HALF_RANGE / self.reach)
        return {name: (out[name], limbs) for name, limbs in chain.data_limbs.items()}

    def state(self, state: State) -> dict[str, tuple[F64, int]]:
        """Messages and limbs of the state's ciphertexts. ``state`` at step 0."""
        out: dict[str, F64] = {}
        for stage, layer in zip(self.stages, self.server.layers, strict=True):
            out |= encode_state(layer, state.weights[stage.weight.name], state.weights[stage.bias.name])
        return {name: (message, self.server.fresh_limbs(name)) for name, message in out.items()}

    def decoded(self, messages: dict[str, F64], step: int) -> dict[str, F64]:
        """Weights of the trained layers before ``step``, by constant name, from the state's messages."""
        out: dict[str, F64] = {}
        for stage, layer in zip(self.stages, self.server.layers, strict=True):
            weight, bias = decode_state(layer, messages, step, stage.weight.shape[1])
            out |= {stage.weight.name: weight, stage.bias.name: bias}
        return out

    def reaches(self, weights: dict[str, F64], features: F64, targets: F64) -> dict[str, tuple[float, float]]:
        """Largest magnitudes that the bootstraps see, and how large they may be."""
        found: dict[str, tuple[float, float]] = {}
        values, sums = features, []
        for at, stage in enumerate(self.stages):
            values = compose(stage.before, values) if stage.before else values
            sums.append(values @ weights[stage.weight.name].T + weights[stage.bias.name])
            values = sums[-1]
            if at < len(self.stages) - 1:
                found[_ordinal("sums of", at)] = (float(np.abs(values).max()), self.reach)
        found |= reached(self.server.head, sums[-1], self.reach)
        errors = self._errors(sums[-1], targets)
        for at in range(len(self.stages) - 1, 0, -1):
            sent = errors @ weights[self.stages[at].weight.name]
            found[_ordinal("errors sent back to", at - 1)] = (float(np.abs(sent).max()), self.reach * _BACK_SHARE)
            slopes = chain_derivatives(self.stages[at].before)
            assert slopes is not None
            errors = sent * compose(slopes[0], sums[at - 1])
        return found

    def _errors(self, logits: F64, targets: F64) -> F64:
        if isinstance(self.loss, SoftmaxCrossEntropy):
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            return np.asarray(powers / powers.sum(axis=1, keepdims=True) - targets)
        head = self.server.head
        assert not isinstance(head, Softmax)
        probabilities = compose(head.function[1], logits * HALF_RANGE / self.reach) * head.unit + head.centre
        return np.asarray((probabilities - targets) * head.error / head.unit)


def _ordinal(what: str, at: int) -> str:
    return f"{what} trained layer {at + 1}"


def make_plan(
    network: Graph,
    loss: Loss,
    optimizer: SGD,
    batch: int,
    reach: float = 16.0,
    frozen: tuple[str, ...] = (),
    insecure_ring: int | None = None,
    cost: CostModel | None = None,
    arrangement: Arrangement | None = None,
) -> Plan:
    """Plan encrypted training, or raise TrainingError that says what stands in the way and what to do.

    DataError when the batch is too large. reach: see ``Plan``. insecure_ring: for tests; NOT SECURE. arrangement: the
    layouts, instead of those that are predicted to be fastest.
    """
    if reach <= 0:
        raise TrainingError(f"the range of logits must be positive, not {reach:g}")
    cost = cost or CostModel()
    stages = _stages(network, loss, frozen)
    arrangement = arrangement or _arranged(stages, loss, batch, insecure_ring or RING, cost)
    activations = [_activation(stage, reach) for stage in stages[1:]]
    chain = _chain(stages, arrangement, activations, loss, optimizer, reach, insecure_ring, cost)
    return Plan(network, stages, loss, optimizer, batch, reach, chain)


# -- what is trained --


def _stages(network: Graph, loss: Loss, frozen: tuple[str, ...]) -> tuple[Stage, ...]:
    """The trained layers, which must be the last ones, each reading the one before through one activation."""
    last = loss.attachment(network, network.outputs[0])
    slots = {slot.name: slot for slot in weight_slots(network, last, frozen)}
    remaining = {name for name, slot in slots.items() if slot.trained}
    if not isinstance(last.op, Dense) or len(last.operands) != 1:
        raise TrainingError(
            f"encrypted training takes a model that ends in a dense layer, with a sigmoid or softmax or without; the "
            f"loss is attached to {last}. Use --mode clear for other models"
        )
    stages: list[Stage] = []
    node = last
    while True:
        assert isinstance(node.op, Dense)
        weight, bias = slots[node.op.weights[0].name], slots[node.op.bias.name]
        if any({weight.name, bias.name} & {s.weight.name, s.bias.name} for s in stages):
            raise TrainingError(f"{weight.name!r} belongs to two layers, which encrypted training cannot keep equal")
        remaining -= {weight.name, bias.name}
        if not remaining:
            return (Stage(node, weight, bias), *stages)
        before, functions = _layer_before(network, node, min(remaining))
        stages.insert(0, Stage(node, weight, bias, functions))
        node = before


def _layer_before(network: Graph, node: Node, trained: str) -> tuple[Node, tuple[Function, ...]]:
    """The dense layer whose values a layer reads through an activation."""
    (between,) = network.operands(node)
    if isinstance(between.op, Apply) and len(between.operands) == 1:
        (before,) = network.operands(between)
        if isinstance(before.op, Dense) and len(before.operands) == 1:
            return before, between.op.functions
    raise TrainingError(
        f"encrypted training takes dense layers with one activation between them, and {trained!r} lies before "
        f"{between}; freeze the layers before the last ones (--freeze), or use --mode clear"
    )


def _activation(stage: Stage, reach: float) -> tuple[tuple[tuple[Function, ...], float], ...]:
    """Functions of phases for the activation and its slope, and what they are multiplied by to fit into slots."""
    slopes = chain_derivatives(stage.before)
    if slopes is None or len(slopes) != 1:
        names = ", ".join(map(str, stage.before))
        raise TrainingError(f"encrypted training takes one differentiable activation, not {names}; use --mode clear")
    x = np.linspace(-reach, reach, 4001)
    found = []
    for chain in (stage.before, slopes[0]):
        unit = _HALF / float(np.abs(compose(chain, x)).max() or 1.0)
        scaled = (Function("affine", (reach / HALF_RANGE, 0.0)), *chain, Function("affine", (unit, 0.0)))
        found.append((scaled, unit))
    return tuple(found)


# -- layouts and parameters --


def _arranged(stages: tuple[Stage, ...], loss: Loss, batch: int, ring: int, cost: CostModel) -> Arrangement:
    inputs, widths = stages[0].weight.shape[1], tuple(s.weight.shape[0] for s in stages)
    outputs = widths[-1]
    # sums over classes spread to both sides
    alone = isinstance(loss, SoftmaxCrossEntropy) and len(widths) == 1
    room = power_of_two(2 * outputs - 1 if alone else outputs)
    whole = isinstance(loss, SoftmaxCrossEntropy)
    found = arrange(inputs, widths, batch, ring, room, cost, whole)
    if found is not None:
        return found
    most = most_samples(inputs, widths, ring, room, cost, whole)
    layers = "-".join(map(str, (inputs, *widths)))
    if most:
        raise DataError(
            f"a step takes at most {most} samples of layers {layers}, not {batch}; choose a smaller --batch"
        )
    raise TrainingError(f"layers {layers} are too large to be trained under encryption; use --mode clear")


def _chain(
    stages: tuple[Stage, ...],
    arrangement: Arrangement,
    activations: list[tuple[tuple[tuple[Function, ...], float], ...]],
    loss: Loss,
    optimizer: SGD,
    reach: float,
    insecure_ring: int | None,
    cost: CostModel,
) -> Chain:
    degree, head, between = _functions(arrangement, activations, loss, reach)
    masks = _needs_masks(arrangement)
    slot_levels = max(2 if masks else 1 if between else 0, 2 if isinstance(head, Softmax) else 0)
    decoded = 4 if between or arrangement.samples_apart else 3
    parameters = secure_parameters(arrangement.slots, degree, insecure_ring, cost, decoded, slot_levels)
    phase, back = HALF_RANGE / reach, HALF_RANGE / (reach * _BACK_SHARE)
    values = [1.0, *(units[0][1] for units in activations)]
    # of a layer's errors: sent back to half of the slots' range, times slopes
    errors = [_HALF / (reach * _BACK_SHARE) * units[1][1] for units in activations] + [1 / head.error]
    trained = [_trained(optimizer, stage) for stage in stages]
    scales = [Scales(phase, v, e, back) for v, e in zip(values, errors, strict=True)]
    inputs, first_units = stages[0].weight.shape[1], arrangement.units[0]
    clean = masks or not between
    first: FirstLayer = (
        SamplesApart("1", inputs, first_units, trained[0], scales[0], clean)
        if arrangement.samples_apart
        else FeaturesApart("1", inputs, first_units, trained[0], scales[0])
    )
    hidden: list[HiddenLayer] = []
    for at, grouped in enumerate(arrangement.grouped, 1):
        kind = Grouped if grouped else Coarse
        source, target = arrangement.units[at - 1 : at + 1]
        hidden.append(kind(str(at + 1), source, target, trained[at], scales[at]))
    assert masks == needs_masks(tuple(hidden))
    return Chain(parameters, first, tuple(hidden), between, head, masks)


def _needs_masks(arrangement: Arrangement) -> bool:
    return any(arrangement.grouped)


def _functions(
    arrangement: Arrangement,
    activations: list[tuple[tuple[tuple[Function, ...], float], ...]],
    loss: Loss,
    reach: float,
) -> tuple[int, Head, tuple[Between, ...]]:
    """All series have one degree: the lowest at which all are good enough."""
    softmax = isinstance(loss, SoftmaxCrossEntropy)
    worst = _MAX_ERROR_HIDDEN if activations else _MAX_ERROR
    for degree in _DEGREES:
        head = make_head(loss, arrangement.units[-1], reach, degree, bool(activations))
        between = tuple(
            Between(approximated(value[0], degree), approximated(slope[0], degree), approximated(PASSED, degree))
            for value, slope in activations
        )
        head_good = all(s.max_error <= (_MAX_ERROR_SOFTMAX if softmax else worst) for s, _ in head.functions)
        good = all(f[0].max_error <= worst for b in between for f in (b.activation, b.slope, b.passed))
        if head_good and (good or degree >= _HIGHEST_HIDDEN):
            return degree, head, between
    if softmax:
        raise TrainingError(
            f"no series follows a softmax over {arrangement.units[-1].count} classes on logits up to {reach:g}; ask "
            "for a smaller range (--logit-range 6), with features of smaller magnitude or a smaller learning rate, or "
            "train each class against the rest (--loss binary-cross-entropy)"
        )
    raise TrainingError(
        f"no series follows the sigmoid on logits up to {reach:g}; ask for a smaller range (--logit-range), and keep "
        "logits in it with a smaller learning rate, weight decay or features of smaller magnitude"
    )


def _trained(optimizer: SGD, stage: Stage) -> Trained:
    still = Frame(replace(optimizer, weight_decay=0.0), False)
    decays = optimizer.weight_decay > 0
    weight, bias = (Frame(optimizer, decays and s.decayed) if s.trained else still for s in (stage.weight, stage.bias))
    return Trained(weight, bias, stage.weight.trained, stage.bias.trained)


# Configurations of the bootstrap that are considered beside the cost model's own: levels of both transforms.
_BUDGETS = ((5, 5), (4, 5), (4, 4), (3, 4), (3, 3))


def secure_parameters(
    slots: int, degree: int, insecure_ring: int | None, cost: CostModel, decoded: int, slot_levels: int = 0
) -> Parameters:
    """128-bit parameters for bootstraps whose results have ``decoded`` limbs in the linear context.

    On a small ring insecure ones, if asked for. linear_limbs is what gradients' data needs.
    """
    kept = 1 if decoded <= 3 else 2
    base = Parameters(
        ring=insecure_ring or RING,
        plaintext_bits=20,
        bgv_bits=44,
        slots=slots,
        degree=degree,
        large_digits=3,
        levels_kept=kept,
        slot_levels=slot_levels,
        linear_limbs=max(decoded, GRADIENT_LIMBS),
        decoded_limbs=decoded,
        security=SECURE if insecure_ring is None else INSECURE,
    )
    if insecure_ring is not None:
        return _with_linear_bits(replace(base, level_budget=(2, 2)))
    limit = largest_modulus(base.ring, sparse=True)
    usual = cost.configuration(slots).level_budget
    budgets = [usual, *(b for b in _BUDGETS if sum(b) < sum(usual))]
    for budget in budgets:
        for digits in (3, 4, 5, 6):
            for bits in (47, 46, 45, 44):
                found = _with_linear_bits(replace(base, level_budget=budget, large_digits=digits, scaling_bits=bits))
                if found.modulus_bits <= limit and found.linear_bits >= _MIN_LINEAR_BITS:
                    return found
    raise ParameterError(f"no secure parameters for bootstraps of degree {degree}: the moduli exceed {limit} bits")


def _with_linear_bits(p: Parameters) -> Parameters:
    """Primes as large as the precision of bootstraps' results makes sense."""
    bits = ((p.levels_kept + 1) * p.scaling_bits - _HEADROOM) // (p.decoded_limbs - 1)
    return replace(p, linear_bits=min(_MAX_LINEAR_BITS, bits))
