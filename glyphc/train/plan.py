"""Plan encrypted training of a network's last dense layers: layouts, parameters, units; what the client encrypts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.analysis.cost import CostModel
from glyphc.analysis.security import is_secure, largest_modulus, more_digits
from glyphc.errors import DataError, ParameterError
from glyphc.ir.functions import Function, compose
from glyphc.ir.graph import Graph, Node
from glyphc.ir.parameters import INSECURE, SECURE, Parameters

from .arrange import Arrangement, arrange, most_samples
from .chain import Between, Chain
from .errors import TrainingError
from .first_layers import FeaturesApart, FirstLayer, SamplesApart
from .frames import Frame
from .heads import PASSED, Head, Softmax, approximated, label_data, make_head
from .hidden_layers import Coarse, Grouped, HiddenLayer
from .layers import GRADIENT_LIMBS, ONES, Scales, Trained, decode_state, encode_state, ones_data
from .losses import Loss, SoftmaxCrossEntropy
from .optimizers import SGD
from .ranges import Ranges
from .stages import Stage, find_stages, magnitudes, slope
from .step import State
from .units import HALF_RANGE

F64 = npt.NDArray[np.floating[Any]]

RING = 65536
# A series fills at most half of the slots' [-1, 1].
_HALF = 0.5
# Degrees that are considered, and the errors that are good enough, as a share of a function's range: for one layer, for
# several, and for a softmax, whose probabilities are small beside the product that they come from.
_DEGREES = (13, 27, 59, 119)
_MAX_ERROR, _MAX_ERROR_HIDDEN, _MAX_ERROR_SOFTMAX = 2.0**-11, 2.0**-8, 2.0**-12
# Kinks and steps are never followed well; a higher degree than this is not worth its levels.
_HIGHEST_HIDDEN = 59
# Bits between a bootstrap's result and the lowest bit of its modulus, and the least for the linear context's primes.
_HEADROOM, _MIN_LINEAR_BITS, _MAX_LINEAR_BITS = 28, 30, 36


@dataclass(frozen=True, eq=False)
class Plan:
    """How layers are trained under encryption.

    ranges: what sums and errors must stay within; beyond, bootstraps give garbage.
    """

    network: Graph
    stages: tuple[Stage, ...]
    loss: Loss
    optimizer: SGD
    batch: int
    ranges: Ranges
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
            out |= ones_data(chain.first.target)
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
        sums, back = magnitudes(self.stages, self.loss, weights, features, targets)
        softmax = isinstance(self.server.head, Softmax)
        found, limits = Ranges.of(sums, back).named(softmax), self.ranges.named(softmax)
        return {what: (found[what], limits[what]) for what in found}


def make_plan(
    network: Graph,
    loss: Loss,
    optimizer: SGD,
    batch: int,
    reach: float | Ranges = 16.0,
    frozen: tuple[str, ...] = (),
    insecure_ring: int | None = None,
    cost: CostModel | None = None,
    arrangement: Arrangement | None = None,
) -> Plan:
    """Plan encrypted training, or raise TrainingError that says what stands in the way and what to do.

    DataError when the batch is too large. reach: ranges, or one for the sums of all layers. insecure_ring: for tests;
    NOT SECURE. arrangement: the layouts, instead of those that are predicted to be fastest.
    """
    if not isinstance(reach, Ranges) and not (isfinite(reach) and reach > 0):
        raise TrainingError(f"the range of logits must be positive, not {reach:g}")
    cost = cost or CostModel()
    stages = find_stages(network, loss, frozen)
    ranges = reach if isinstance(reach, Ranges) else Ranges.given(reach, len(stages), stages[-1].weight.shape[0])
    arrangement = arrangement or _arranged(stages, loss, batch, insecure_ring or RING, cost)
    activations = [_activation(stage, sums) for stage, sums in zip(stages[1:], ranges.sums, strict=False)]
    chain = _chain(stages, arrangement, activations, loss, optimizer, ranges, insecure_ring, cost)
    return Plan(network, stages, loss, optimizer, batch, ranges, chain)


def _activation(stage: Stage, reach: float) -> tuple[tuple[tuple[Function, ...], float], ...]:
    """Functions of phases for the activation and its slope, and what they are multiplied by to fit into slots."""
    x = np.linspace(-reach, reach, 4001)
    found = []
    for chain in (stage.before, slope(stage)):
        unit = _HALF / float(np.abs(compose(chain, x)).max() or 1.0)
        scaled = (Function("affine", (reach / HALF_RANGE, 0.0)), *chain, Function("affine", (unit, 0.0)))
        found.append((scaled, unit))
    return tuple(found)


# -- layouts and parameters --


def _arranged(stages: tuple[Stage, ...], loss: Loss, batch: int, ring: int, cost: CostModel) -> Arrangement:
    inputs, widths = stages[0].weight.shape[1], tuple(s.weight.shape[0] for s in stages)
    softmax = isinstance(loss, SoftmaxCrossEntropy)
    found = arrange(inputs, widths, batch, ring, cost, softmax)
    if found is not None:
        return found
    most = most_samples(inputs, widths, ring, cost, softmax)
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
    ranges: Ranges,
    insecure_ring: int | None,
    cost: CostModel,
) -> Chain:
    degree, head, between = _functions(arrangement, activations, loss, ranges)
    # grouped layers send back garbage that nothing but a mask removes
    masks = any(arrangement.grouped)
    slot_levels = max(2 if masks else 1 if between else 0, 2 if isinstance(head, Softmax) else 0)
    decoded = 4 if between or arrangement.samples_apart else 3
    parameters = secure_parameters(arrangement.slots, degree, insecure_ring, cost, decoded, slot_levels)
    values = [1.0, *(units[0][1] for units in activations)]
    # of a layer's errors: sent back to half of the slots' range, times slopes
    errors = [_HALF / back * units[1][1] for units, back in zip(activations, ranges.back, strict=True)]
    trained = [_trained(optimizer, stage) for stage in stages]
    scales = [
        Scales(HALF_RANGE / sums, v, e, HALF_RANGE / back)
        for sums, v, e, back in zip(
            [*ranges.sums[:-1], head.reach], values, [*errors, 1 / head.error], [1.0, *ranges.back], strict=True
        )
    ]
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
    return Chain(parameters, first, tuple(hidden), between, head, masks)


def _functions(
    arrangement: Arrangement,
    activations: list[tuple[tuple[tuple[Function, ...], float], ...]],
    loss: Loss,
    ranges: Ranges,
) -> tuple[int, Head, tuple[Between, ...]]:
    """All series have one degree: the lowest at which all are good enough."""
    softmax = isinstance(loss, SoftmaxCrossEntropy)
    worst = _MAX_ERROR_HIDDEN if activations else _MAX_ERROR
    for degree in _DEGREES:
        head = make_head(loss, arrangement.units[-1], ranges, degree, bool(activations))
        between = tuple(
            Between(approximated(value[0], degree), approximated(slope[0], degree), approximated(PASSED, degree))
            for value, slope in activations
        )
        head_good = all(s.max_error <= (_MAX_ERROR_SOFTMAX if softmax else worst) for s, _ in head.functions)
        good = all(f[0].max_error <= worst for b in between for f in (b.activation, b.slope, b.passed))
        if head_good and (good or degree >= _HIGHEST_HIDDEN):
            return degree, head, between
    reach = ranges.sums[-1]
    if softmax:
        raise TrainingError(
            f"no series follows a softmax over {arrangement.units[-1].count} classes on logits up to {reach:g}; keep "
            "them smaller, with a smaller learning rate or smaller features (then ask for a smaller range, "
            "--logit-range 6, if you gave one), or train each class against the rest (--loss binary-cross-entropy)"
        )
    raise TrainingError(
        f"no series follows the sigmoid on logits up to {reach:g}; keep them smaller, with a smaller learning rate, "
        "weight decay or features of smaller magnitude (then ask for a smaller range, --logit-range, if you gave one)"
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
    usual = cost.configuration(slots).level_budget
    budgets = [usual, *(b for b in _BUDGETS if sum(b) < sum(usual))]
    for budget in budgets:
        for bits in (47, 46, 45, 44):
            for found in more_digits(_with_linear_bits(replace(base, level_budget=budget, scaling_bits=bits))):
                if is_secure(found) and found.linear_bits >= _MIN_LINEAR_BITS:
                    return found
    limit = largest_modulus(base.ring, sparse=True)
    raise ParameterError(f"no secure parameters for bootstraps of degree {degree}: the moduli exceed {limit} bits")


def _with_linear_bits(p: Parameters) -> Parameters:
    """Primes as large as the precision of bootstraps' results makes sense."""
    bits = ((p.levels_kept + 1) * p.scaling_bits - _HEADROOM) // (p.decoded_limbs - 1)
    return replace(p, linear_bits=min(_MAX_LINEAR_BITS, bits))
