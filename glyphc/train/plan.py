"""Plan encrypted training of a network's last dense layers: layouts, parameters, units; what the client encrypts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite, log2, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.analysis.cost import CostModel
from glyphc.analysis.security import is_secure, largest_modulus, more_digits
from glyphc.errors import DataError, ParameterError
from glyphc.ir.functions import Function, compose
from glyphc.ir.graph import Decision, Graph, Node
from glyphc.ir.noise import bootstrap, bootstrap_bits
from glyphc.ir.ops import Apply
from glyphc.ir.parameters import INSECURE, SECURE, Parameters
from glyphc.ir.series import rms_slope

from .arrange import Arrangement, Wanted, arrange, most_samples
from .errors import TrainingError
from .frames import Frame
from .heads import PASSED, Approximated, Head, Softmax, approximated, make_head
from .losses import Loss, SoftmaxCrossEntropy
from .lower import AssignedStep
from .optimizers import SGD
from .ranges import Ranges
from .stages import Stage, find_stages
from .step import State, StepProgram, make_step
from .units import HALF_RANGE
from .ways.layers import GRADIENT_LIMBS, Scales, Trained, decode_state, encode_state
from .writer import data_name

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
# How many times more micro-batches than necessary are taken where a batch has no other equal parts.
_MOST_SMALLER = 2
_SEEN = 2.0**-100
# Bits between a bootstrap's result and the lowest bit of its modulus, and the least for the linear context's primes.
_HEADROOM, _MIN_LINEAR_BITS, _MAX_LINEAR_BITS = 28, 30, 36


@dataclass(frozen=True)
class Precision:
    """Of what bootstraps compute, as shares of their results' ranges. series: largest error; noise: deviation."""

    degree: int
    series: float
    noise: float

    def __str__(self) -> str:
        series, noise = log2(self.series), log2(self.noise)
        return f"degree {self.degree}, series within 2^{series:.1f} of their ranges, noise 2^{noise:.1f}"


@dataclass(frozen=True, eq=False)
class Plan:
    """How layers are trained under encryption.

    ranges: what sums and errors must stay within; beyond, bootstraps give garbage. decisions: why each layer got its
    way.
    """

    program: StepProgram
    ranges: Ranges
    server: AssignedStep
    decisions: tuple[Decision, ...]

    @property
    def network(self) -> Graph:
        return self.program.network

    @property
    def stages(self) -> tuple[Stage, ...]:
        return self.server.stages

    @property
    def parameters(self) -> Parameters:
        return self.server.parameters

    def precision(self, engine: str = "openfhe") -> Precision:
        """Of the worst of all bootstraps on an engine."""
        server, p = self.server, self.parameters
        series = [s for s, _ in (*server.head.functions, *server.series.values())]
        bits = bootstrap_bits(p.scaling_bits, engine)
        noise = max(bootstrap(p.ring, rms_slope(s), bits) for s in series)
        return Precision(p.degree, max(s.max_error for s in series), noise / _HALF)

    def going_on(self, optimizer: SGD) -> Plan:
        """The same layouts and units, so that a state of this plan goes on as it is, with another learning rate from
        some step on."""
        layers = tuple(
            replace(layer, trained=_trained(optimizer, stage, layer.trained.micros))
            for layer, stage in zip(self.server.layers, self.stages, strict=True)
        )
        return replace(
            self,
            program=replace(self.program, optimizer=optimizer),
            server=replace(self.server, layers=layers),
        )

    def data(self, features: F64, targets: F64) -> dict[str, tuple[F64, int]]:
        """Messages and limbs of a batch's ciphertexts, by name, from (batch, features) and (batch, outputs)."""
        step, out = self.server, dict[str, F64]()
        for micro in range(step.micros):
            rows = slice(micro * step.micro_batch, (micro + 1) * step.micro_batch)
            own = step.data(features[rows], targets[rows])
            out |= {data_name(name, micro): message for name, message in own.items()}
        return {name: (out[name], limbs) for name, limbs in step.data_limbs.items()}

    def state(self, state: State) -> dict[str, tuple[F64, int]]:
        """Messages and limbs of the state's ciphertexts. ``state`` at step 0."""
        out: dict[str, F64] = {}
        for stage, layer in zip(self.stages, self.server.layers, strict=True):
            out |= encode_state(layer, state.weights[stage.weight.name], state.weights[stage.bias.name])
        return {name: (message, self.server.fresh_limbs(name)) for name, message in out.items()}

    def decoded(self, messages: dict[str, F64], step: int, component: int = 0) -> dict[str, F64]:
        """Weights of the trained layers before ``step``, by constant name, from the state's messages. component: 1 for
        their velocities."""
        out: dict[str, F64] = {}
        for stage, layer in zip(self.stages, self.server.layers, strict=True):
            weight, bias = decode_state(layer, messages, step, stage.weight.shape[1], component)
            out |= {stage.weight.name: weight, stage.bias.name: bias}
        return out

    def weights(self, messages: dict[str, F64], step: int) -> dict[str, F64]:
        """All weights before ``step``: those that are frozen as they were, without the noise of encryption."""
        decoded, trained = self.decoded(messages, step), {s.name for s in self.program.slots if s.trained}
        return {**self.program.initial().weights, **{name: v for name, v in decoded.items() if name in trained}}

    def state_at(self, messages: dict[str, F64], step: int) -> State:
        """Weights and velocities before ``step``, to go on from in the clear."""
        velocity = self.program.initial().velocity
        moving = self.decoded(messages, step, 1) if velocity else {}
        return State(step, self.weights(messages, step), {name: moving[name] for name in velocity})

    def gradient_norm(self, message: F64) -> float:
        """Of a step's batch, from the message of ``STATISTIC``: the root mean square, over the samples, of the norm of
        the loss' gradient by the last sums. NaN for what no errors have."""
        squares = float(message[0]) / self.parameters.ring * self.server.head.error**2 / self.program.batch
        return sqrt(squares) if squares >= 0 else float("nan")

    def reaches(self, values: Mapping[int, F64]) -> dict[str, tuple[float, float]]:
        """Largest magnitudes that the bootstraps see, and how large they may be. values: of a step's nodes, by id."""
        softmax = isinstance(self.server.head, Softmax)
        found, limits = seen(self.stages, values).named(softmax), self.ranges.named(softmax)
        return {what: (found[what], limits[what]) for what in found}


def seen(stages: tuple[Stage, ...], values: Mapping[int, F64]) -> Ranges:
    """What bootstraps would see of a step. values: of all its nodes, by id; gradients are those of the mean loss."""
    batch = len(values[stages[-1].sums.id])
    # errors that are there are never quite zero: ranges say so where there are none
    back = [np.append(batch * values[s.back.id], _SEEN) if s.back is not None else np.zeros(1) for s in stages[1:]]
    return Ranges.of([values[stage.sums.id] for stage in stages], back)


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
    """The plan for a network's own step program; see :func:`plan_step`."""
    program = make_step(network, loss, optimizer, batch, frozen)
    return plan_step(program, reach, insecure_ring, cost, arrangement)


def plan_step(
    program: StepProgram,
    reach: float | Ranges,
    insecure_ring: int | None = None,
    cost: CostModel | None = None,
    arrangement: Arrangement | None = None,
    watched: bool = False,
) -> Plan:
    """Plan encrypted training, or raise TrainingError that says what stands in the way and what to do.

    A batch that is too large comes in equal micro-batches; DataError when it has none that fit. reach: ranges, or one
    for the sums of all layers. insecure_ring: for tests; NOT SECURE. arrangement: the ways, instead of those that are
    predicted to be fastest. watched: steps store a statistic, see :meth:`Plan.gradient_norm`.
    """
    if not isinstance(reach, Ranges) and not (isfinite(reach) and reach > 0):
        raise TrainingError(f"the range of logits must be positive, not {reach:g}")
    cost = cost or CostModel()
    stages = find_stages(program)
    ranges = reach if isinstance(reach, Ranges) else Ranges.given(reach, len(stages), stages[-1].weight.shape[0])
    arrangement = arrangement or _arranged(wanted(program, stages, insecure_ring or RING), cost)
    between = [
        _Between.of(stage, sums, back, program.batch)
        for stage, sums, back in zip(stages[1:], ranges.sums, ranges.back, strict=False)
    ]
    step = _assigned(program, stages, arrangement, between, ranges, insecure_ring, cost)
    return Plan(program, ranges, replace(step, watched=watched), arrangement.decisions)


@dataclass(frozen=True)
class _InSlots:
    """Functions of a phase whose results fit into slots; unit: what stands there for 1."""

    functions: tuple[Function, ...]
    unit: float

    @staticmethod
    def of(node: Node | None, reach: float) -> _InSlots:
        """Of a node that is a function of sums up to ``reach``."""
        assert node is not None and isinstance(node.op, Apply)
        largest = float(np.abs(compose(node.op.functions, np.linspace(-reach, reach, 4001))).max())
        unit = _HALF / (largest or 1.0)
        phase, fit = Function("affine", (reach / HALF_RANGE, 0.0)), Function("affine", (unit, 0.0))
        return _InSlots((phase, *node.op.functions, fit), unit)


@dataclass(frozen=True)
class _Between:
    """What lies between two layers: an activation, and its slope; and what is made of errors that are sent back.

    Their unit is that of a sample's errors.
    """

    value: _InSlots
    slope: _InSlots | None
    back: _InSlots | None

    @property
    def errors(self) -> float:
        """What stands for an error of 1: sent back to half of the slots' range, times slopes."""
        return self.back.unit * self.slope.unit if self.back is not None and self.slope is not None else 1.0

    @staticmethod
    def of(stage: Stage, sums: float, back: float, batch: int) -> _Between:
        """Of a layer and the one before it. sums, back: ranges of a sample's."""
        if stage.back is None:  # nothing before it is trained
            return _Between(_InSlots.of(stage.values, sums), None, None)
        returned = _InSlots(PASSED, _HALF / back)
        if stage.limited is not None:  # it reads gradients of the mean over the batch
            found = _InSlots.of(stage.limited, back / batch)
            returned = replace(found, unit=found.unit / batch)
        return _Between(_InSlots.of(stage.values, sums), _InSlots.of(stage.slope, sums), returned)


# -- ways and parameters --


def wanted(program: StepProgram, stages: tuple[Stage, ...], ring: int) -> Wanted:
    """What is to be arranged for a step."""
    before = {stage.values.id: at - 1 for at, stage in enumerate(stages)}
    return Wanted(
        stages[0].weight.shape[1],
        tuple(stage.weight.shape[0] for stage in stages),
        program.batch,
        ring,
        isinstance(program.loss, SoftmaxCrossEntropy),
        tuple((stage.product, program.graph.operands(stage.product)) for stage in stages),
        tuple(_trained(program.optimizer, stage) for stage in stages),
        stages[0].pixels,
        tuple((before[stage.added.id], at) for at, stage in enumerate(stages) if stage.added is not None),
    )


def _arranged(wanted: Wanted, cost: CostModel) -> Arrangement:
    found = arrange(wanted, cost)
    if found is not None:
        return found
    batch, most = wanted.batch, most_samples(wanted, cost)
    layers = "-".join(map(str, (wanted.inputs, *wanted.widths)))
    if most:
        # all micro-batches are as large as the ring has room for, or a little smaller
        least = -(-batch // most)
        micros = next(n for n in range(least, batch + 1) if batch % n == 0)
        if micros > _MOST_SMALLER * least:
            raise DataError(
                f"of layers {layers} at most {most} samples are computed at once, and {batch} samples have no equal "
                f"parts near that; choose another --batch, {batch - batch % least} or {least * most} for example"
            )
        found = arrange(replace(wanted, batch=batch // micros), cost)
        assert found is not None
        return found
    raise TrainingError(f"layers {layers} are too large to be trained under encryption; use --mode clear")


def _assigned(
    program: StepProgram,
    stages: tuple[Stage, ...],
    arrangement: Arrangement,
    between: list[_Between],
    ranges: Ranges,
    insecure_ring: int | None,
    cost: CostModel,
) -> AssignedStep:
    degree, head, series = _functions(program, stages, arrangement, between, ranges)
    hidden = len(stages) > 1
    # grouped layers send back garbage that nothing but a mask removes
    slot_levels = max(2 if arrangement.masks else int(hidden), 2 if isinstance(head, Softmax) else 0)
    values = [1.0, *(each.value.unit for each in between)]
    errors = [each.errors for each in between]
    scales = [
        Scales(HALF_RANGE / sums, v, e, HALF_RANGE / (back or 1.0))
        for sums, v, e, back in zip(
            [*ranges.sums[:-1], head.reach], values, [*errors, 1 / head.error], [1.0, *ranges.back], strict=True
        )
    ]
    layers = tuple(
        way.layer(
            str(at + 1),
            stage.weight.shape[1],
            arrangement.units[at - 1].flat if at else None,
            arrangement.units[at],
            _trained(program.optimizer, stage, program.batch // arrangement.units[at].batch),
            scales[at],
            arrangement.clean,
        )
        for at, (way, stage) in enumerate(zip(arrangement.ways, stages, strict=True))
    )
    decoded = 4 if hidden or any(layer.wide for layer in layers) else 3
    parameters = secure_parameters(arrangement.slots, degree, insecure_ring, cost, decoded, slot_levels)
    return AssignedStep(program.graph, stages, layers, series, head, arrangement.masks, parameters)


def _functions(
    program: StepProgram,
    stages: tuple[Stage, ...],
    arrangement: Arrangement,
    between: list[_Between],
    ranges: Ranges,
) -> tuple[int, Head, dict[int, Approximated]]:
    """All series have one degree: the lowest at which all are good enough. Those between layers by their nodes."""
    softmax = isinstance(program.loss, SoftmaxCrossEntropy)
    worst = _MAX_ERROR_HIDDEN if between else _MAX_ERROR
    functions: dict[int, tuple[Function, ...]] = {}
    for stage, each in zip(stages[1:], between, strict=True):
        functions[stage.values.id] = each.value.functions
        for node, found in ((stage.slope, each.slope), (stage.returned, each.back)):
            if node is not None and found is not None:
                functions[node.id] = found.functions
    for degree in _DEGREES:
        head = make_head(program.loss, arrangement.units[-1], ranges, degree, bool(between))
        series = {node: approximated(chain, degree) for node, chain in functions.items()}
        head_good = all(s.max_error <= (_MAX_ERROR_SOFTMAX if softmax else worst) for s, _ in head.functions)
        good = all(found.max_error <= worst for found, _ in series.values())
        if head_good and (good or degree >= _HIGHEST_HIDDEN):
            return degree, head, series
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


def _trained(optimizer: SGD, stage: Stage, micros: int = 1) -> Trained:
    still = Frame(replace(optimizer, weight_decay=0.0), False)
    decays = optimizer.weight_decay > 0
    weight, bias = (Frame(optimizer, decays and s.decayed) if s.trained else still for s in (stage.weight, stage.bias))
    return Trained(weight, bias, stage.weight.trained, stage.bias.trained, micros)


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
    limit = largest_modulus(base.ring)
    raise ParameterError(f"no secure parameters for bootstraps of degree {degree}: the moduli exceed {limit} bits")


def _with_linear_bits(p: Parameters) -> Parameters:
    """Primes as large as the precision of bootstraps' results makes sense."""
    bits = ((p.levels_kept + 1) * p.scaling_bits - _HEADROOM) // (p.decoded_limbs - 1)
    return replace(p, linear_bits=min(_MAX_LINEAR_BITS, bits))
