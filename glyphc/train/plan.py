"""The encrypted step of one dense layer: logistic, softmax and linear regression, one output or several.

docs/training.md derives the layout. With N coefficients, B samples, C outputs, D columns (features and a bias), each
rounded up to a power of two, and a grid of G coefficients, B*C*G <= N:

    column j of the data, and reversed    b*G, -b*G           one ciphertext each, encrypted by the client
    state (weights), packed               c*N/C + j*N/(C*D)   unpacked, column j stands at c*N/C
    logits, labels, errors                c*N/C + b*G

One step is  unpack W -> Z = sum_j X_j W_j -> bootstrap (sigmoid) -> minus labels -> times each reversed X_j -> pack ->
add to W. Nothing stands between the logits, so a sparse bootstrap holds them all and no mask is needed; what a gradient
has beside its useful coefficients falls to the trace while packing. The state is kept in a moving frame (``frames``),
so the one bootstrap of a step is that of the logits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.approx.cost import CostModel
from glyphc.approx.security import largest_modulus, with_secure_digits
from glyphc.approx.series import HALF_RANGE, fit
from glyphc.errors import DataError, ParameterError
from glyphc.ir.functions import Function, compose
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import Dense
from glyphc.ir.parameters import INSECURE, SECURE, Parameters
from glyphc.ir.series import Series

from .errors import TrainingError
from .frames import Frame
from .losses import BinaryCrossEntropy, Loss, MeanSquaredError, SoftmaxCrossEntropy
from .optimizers import SGD
from .server_plan import KEPT, STATE_LIMBS, Group, ServerPlan, fresh_limbs, power_of_two, state_name
from .softmax_plan import SOFTMAX_LEVELS, plan_softmax, softmax_sums
from .step import Slot, State, weight_slots

F64 = npt.NDArray[np.floating[Any]]

RING = 65536
# The state's messages are this much larger than the weights, so that noise of selections stays far below them.
GAIN = 2.0**8
# A series fills at most half of the slots' [-1, 1], so the sigmoid is moved to the middle, and labels with it.
_CENTRE = 0.5
# Degrees that are considered, and the error that is good enough, as a share of the sigmoid's range. Much less than
# the noise that a batch's own choice brings.
_DEGREES = (27, 59, 119)
_MAX_ERROR = 2.0**-11


@dataclass(frozen=True, eq=False)
class Plan:
    """How a model is trained under encryption. ``weight``, ``bias``: the trained layer's constants.

    reach: logits must stay within [-reach, reach]; beyond, the bootstrap gives garbage.
    """

    network: Graph
    layer: Node
    loss: Loss
    optimizer: SGD
    batch: int
    reach: float
    weight: str
    bias: str
    server: ServerPlan
    softmax_unit: float = 1.0

    # -- sizes --

    @property
    def features(self) -> int:
        return int(self.network.constant(self.weight).shape[1])

    @property
    def columns(self) -> int:
        """Features and the bias."""
        return self.server.columns

    @property
    def parameters(self) -> Parameters:
        return self.server.parameters

    # -- what the client encrypts --

    def data(self, features: F64, targets: F64) -> dict[str, tuple[F64, int]]:
        """Messages and limbs of a batch's ciphertexts, by name, from (batch, features) and (batch, outputs)."""
        server, ring = self.server, self.parameters.ring
        rows = np.hstack([features, np.ones((self.batch, 1))])
        samples = server.grid * np.arange(self.batch)
        places = samples[:, None] + server.period * np.arange(server.outputs)[None, :]
        out = {"labels": polynomial(ring, places, (targets - self._centre) / self._unit)}
        forward = rows * self._phase / (GAIN * server.parts)
        # packing multiplies by the period
        gradient = rows * self._gradient_factor * server.push * GAIN / (self.batch * server.period)
        for c in range(self.columns):
            out[f"forward:{c}"] = polynomial(ring, samples, forward[:, c])
        for c in server.trained:
            out[f"gradient:{c}"] = polynomial(ring, -samples, gradient[:, c])
        return {name: (message, fresh_limbs(name)) for name, message in out.items()}

    def state(self, state: State) -> dict[str, tuple[F64, int]]:
        """Messages and limbs of the state's ciphertexts. ``state`` at step 0."""
        weights = np.hstack([state.weights[self.weight], state.weights[self.bias][:, None]])
        first = polynomial(self.parameters.ring, self._places, GAIN * weights)
        rest = [np.zeros_like(first)] * (self.server.components - 1)
        return {state_name(i): (message, STATE_LIMBS) for i, message in enumerate([first, *rest])}

    def decoded(self, messages: dict[str, F64], step: int) -> dict[str, F64]:
        """The trained layer's weights before ``step``, by constant name, from the state's messages."""
        components = range(self.server.components)
        u = np.array([messages[state_name(i)][self._places] for i in components]) / GAIN
        weights = np.zeros((self.server.outputs, self.columns))
        for group in self.server.groups:
            columns = list(group.columns)
            weights[:, columns] = np.tensordot(group.frame.basis(step)[0], u[:, :, columns], 1)
        return {self.weight: weights[:, : self.features], self.bias: weights[:, self.features]}

    def reaches(self, weights: dict[str, F64], features: F64, targets: F64) -> dict[str, tuple[float, float]]:
        """Largest magnitudes that the bootstraps see, and how large they may be."""
        logits = features @ weights[self.weight].T + weights[self.bias]
        found = {"logits": (float(np.abs(logits).max()), self.reach)}
        if isinstance(self.loss, SoftmaxCrossEntropy):
            sums = np.exp(logits).sum(axis=1)
            lowest, highest = softmax_sums(self.server.outputs, self.reach)
            found["sums of exponentials"] = (float(sums.max()), highest)
            found["inverses of sums of exponentials"] = (float(1 / sums.min()), 1 / lowest)
        return found

    @property
    def _places(self) -> npt.NDArray[np.int64]:
        """Where the state has output c of column j, shape (outputs, columns)."""
        server = self.server
        return np.asarray(
            server.period * np.arange(server.outputs)[:, None] + server.stride * np.arange(server.columns)
        )

    # -- units --

    @property
    def _phase(self) -> float:
        """Phase of a logit of 1."""
        return HALF_RANGE / self.reach

    @property
    def _centre(self) -> float:
        return _CENTRE if isinstance(self.loss, BinaryCrossEntropy) else 0.0

    @property
    def _unit(self) -> float:
        """What a bootstrap's result of 1 stands for."""
        if isinstance(self.loss, SoftmaxCrossEntropy):
            return self.softmax_unit
        return 1.0 if isinstance(self.loss, BinaryCrossEntropy) else 2 * self.reach

    @property
    def _gradient_factor(self) -> float:
        return self._unit * (2.0 / self.server.outputs if isinstance(self.loss, MeanSquaredError) else 1.0)


# -- making a plan --


def make_plan(
    network: Graph,
    loss: Loss,
    optimizer: SGD,
    batch: int,
    reach: float = 16.0,
    frozen: tuple[str, ...] = (),
    insecure_ring: int | None = None,
    cost: CostModel | None = None,
) -> Plan:
    """Plan encrypted training, or raise TrainingError that says what stands in the way and what to do.

    reach: logits up to this magnitude are computed. insecure_ring: for tests; NOT SECURE.
    """
    if reach <= 0:
        raise TrainingError(f"the range of logits must be positive, not {reach:g}")
    layer, weight, bias = _trained_layer(network, loss, frozen)
    outputs, features = weight.shape
    room, softmax, unit = power_of_two(outputs), None, 1.0
    if isinstance(loss, SoftmaxCrossEntropy):
        room = power_of_two(2 * outputs - 1)
        functions, series, softmax, unit = plan_softmax(outputs, batch, reach)
    else:
        functions = _functions(loss, reach)
        series = _series(functions, reach)
    slot_levels = 0 if softmax is None else SOFTMAX_LEVELS
    parameters = _parameters(batch, features + 1, room, series.degree, slot_levels, insecure_ring, cost or CostModel())
    groups = _groups(optimizer, weight, bias, features)
    push = max((float(p) for g in groups if g.trained for p in g.frame.push(0)), key=abs)
    server = ServerPlan(parameters, groups, functions, series, features + 1, outputs, room, push, softmax)
    return Plan(network, layer, loss, optimizer, batch, reach, weight.name, bias.name, server, unit)


def _trained_layer(network: Graph, loss: Loss, frozen: tuple[str, ...]) -> tuple[Node, Slot, Slot]:
    last = loss.attachment(network, network.outputs[0])
    slots = {slot.name: slot for slot in weight_slots(network, last, frozen)}
    if not isinstance(last.op, Dense) or len(last.operands) != 1:
        raise TrainingError(
            f"encrypted training takes a model that ends in a dense layer, with a sigmoid or without; the loss is "
            f"attached to {last}. Use --mode clear for other models"
        )
    weight, bias = slots[last.op.weights[0].name], slots[last.op.bias.name]
    others = [s.name for s in slots.values() if s.trained and s not in (weight, bias)]
    if others:
        raise TrainingError(
            f"encrypted training trains the last dense layer only, and {others[0]!r} belongs to another one; freeze "
            "the layers before the last (--freeze), or use --mode clear"
        )
    return last, weight, bias


def _parameters(
    batch: int, columns: int, wide: int, degree: int, slot_levels: int, insecure_ring: int | None, cost: CostModel
) -> Parameters:
    ring = insecure_ring or RING
    if wide * power_of_two(columns) > ring:
        raise TrainingError(
            f"a layer of {columns - 1} inputs is too large: at most {ring // wide - 1}, for so many outputs"
        )
    # sparse packing has half of the coefficients at most
    values = max(16, wide * power_of_two(batch))
    if values > ring // 2:
        raise DataError(
            f"a step takes at most {ring // 2 // wide} samples for so many outputs, not {batch}; choose a smaller "
            "--batch"
        )
    return secure_parameters(values // 2, degree, insecure_ring, cost, KEPT, slot_levels)


def secure_parameters(
    slots: int, degree: int, insecure_ring: int | None, cost: CostModel, kept: int, slot_levels: int = 0
) -> Parameters:
    """128-bit parameters for bootstraps that leave ``kept`` levels; on a small ring insecure ones, if asked for."""
    ring = insecure_ring or RING
    configuration = cost.configuration(slots)
    base = Parameters(
        ring=ring,
        plaintext_bits=20,
        bgv_bits=44,
        slots=slots,
        degree=degree,
        large_digits=configuration.large_digits,
        levels_kept=kept,
        slot_levels=slot_levels,
        security=SECURE if insecure_ring is None else INSECURE,
    )
    if insecure_ring is not None:
        return replace(base, level_budget=(2, 2))
    first, second = configuration.level_budget
    limit = largest_modulus(ring, sparse=True)
    for most_digits in (4, 5, 6):
        for less in range(first + second):
            # what the levels that are kept take from the modulus, the transforms give back, before keys get more digits
            parameters = replace(base, level_budget=(max(2, first - less // 2), max(2, second - (less + 1) // 2)))
            parameters = with_secure_digits(parameters)
            too_small = min(parameters.level_budget) < 3 and slots > 2048  # transforms that take gigabytes of keys
            if parameters.modulus_bits <= limit and parameters.large_digits <= most_digits and not too_small:
                return parameters
    raise ParameterError(f"no secure parameters: the moduli need {parameters.modulus_bits} bits, {limit} are allowed")


def _groups(optimizer: SGD, weight: Slot, bias: Slot, features: int) -> tuple[Group, ...]:
    """One group if both have the same frame, else one for the weights and one for the bias."""
    columns = tuple(range(features))
    # what is frozen stays where it is
    still = Frame(replace(optimizer, weight_decay=0.0), False)
    decays = optimizer.weight_decay > 0
    weights, biases = (Frame(optimizer, decays and s.decayed) if s.trained else still for s in (weight, bias))
    if weights == biases and weight.trained == bias.trained:
        return (Group((*columns, features), weights, True),)
    return (Group(columns, weights, weight.trained), Group((features,), biases, bias.trained))


def _functions(loss: Loss, reach: float) -> tuple[Function, ...]:
    if isinstance(loss, BinaryCrossEntropy):
        logit = Function("affine", (reach / HALF_RANGE, 0.0))
        return (logit, Function("sigmoid"), Function("affine", (1.0, -_CENTRE)))
    return (Function("affine", (0.5 / HALF_RANGE, 0.0)),)


def _series(functions: tuple[Function, ...], reach: float) -> Series:
    for degree in _DEGREES:
        series = fit(lambda x: compose(functions, x), degree)
        if series.max_error <= _MAX_ERROR:
            return series
    raise TrainingError(
        f"no series follows the sigmoid on logits up to {reach:g}; ask for a smaller range (--logit-range), and keep "
        "logits in it with a smaller learning rate, weight decay or features of smaller magnitude"
    )


def polynomial(ring: int, exponents: npt.NDArray[np.int64], values: F64) -> F64:
    """The polynomial with these terms, modulo X^N + 1."""
    out = np.zeros(ring)
    wrapped = np.asarray(exponents) % (2 * ring)
    np.add.at(out, wrapped % ring, np.where(wrapped < ring, values, -np.asarray(values)))
    return out


def coefficients(message: F64, exponents: npt.NDArray[np.int64]) -> F64:
    """Coefficients of a polynomial modulo X^N + 1 at any exponents, in their shape."""
    wrapped = np.asarray(exponents) % (2 * len(message))
    values = message[wrapped % len(message)]
    return np.asarray(np.where(wrapped < len(message), values, -values))
