"""The encrypted step of a model with one trained dense layer and one output: logistic and linear regression.

docs/training.md derives the layout. With N coefficients, B samples on a grid of G = N/(2*slots) >= d columns:

    data X         b*G - j      data reversed   -b*G + j      (both encrypted by the client)
    weights W      j            logits, labels, errors   b*G

One step is  Z = X W  ->  bootstrap (sigmoid)  ->  minus labels  ->  times reversed data  ->  select  ->  add to W.
The product's other terms stand off the grid, where a sparse bootstrap drops them; those of the gradient are removed by
a selection. The state is kept in a moving frame (``frames``), so the one bootstrap of a step is that of the logits.
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
from .losses import BinaryCrossEntropy, Loss, MeanSquaredError
from .optimizers import SGD
from .server_plan import KEPT, STATE_LIMBS, Group, ServerPlan, fresh_limbs, power_of_two, state_name
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
        """Messages and limbs of one batch's ciphertexts, by name. features: (batch, features); targets: (batch, 1)."""
        rows = np.hstack([features, np.ones((self.batch, 1))])
        sample = self.parameters.ring // (2 * self.parameters.slots) * np.arange(self.batch)
        at = sample[:, None] - np.arange(self.columns)[None, :]
        out: dict[str, F64] = {"labels": self._message(sample, (targets[:, 0] - self._centre) / self._unit)}
        for group in self.server.groups:
            columns = list(group.columns)
            forward = rows[:, columns] * self._phase / GAIN
            out[f"forward:{group.name}"] = self._message(at[:, columns], forward)
            if group.trained:
                gradient = rows[:, columns] * self._gradient_factor * GAIN / self.batch
                out[f"gradient:{group.name}"] = self._message(-at[:, columns], gradient)
        return {name: (message, fresh_limbs(name)) for name, message in out.items()}

    def state(self, state: State) -> dict[str, tuple[F64, int]]:
        """Messages and limbs of the state's ciphertexts. ``state`` at step 0."""
        weights = np.append(state.weights[self.weight].reshape(-1), state.weights[self.bias])
        first = self._message(np.arange(self.columns), GAIN * weights)
        rest = [np.zeros_like(first)] * (self.server.components - 1)
        return {state_name(i): (message, STATE_LIMBS) for i, message in enumerate([first, *rest])}

    def decoded(self, messages: dict[str, F64], step: int) -> dict[str, F64]:
        """The trained layer's weights before ``step``, by constant name, from the state's messages."""
        u = np.array([messages[state_name(i)][: self.columns] for i in range(self.server.components)]) / GAIN
        weights = np.zeros(self.columns)
        for group in self.server.groups:
            columns = list(group.columns)
            weights[columns] = group.frame.basis(step)[0] @ u[:, columns]
        return {self.weight: weights[None, : self.features], self.bias: weights[self.features :]}

    def _message(self, exponents: npt.NDArray[np.int64], values: F64) -> F64:
        """Polynomial with these terms, modulo X^N + 1."""
        ring = self.parameters.ring
        out = np.zeros(ring)
        wrapped = np.asarray(exponents) % (2 * ring)
        np.add.at(out, wrapped % ring, np.where(wrapped < ring, values, -np.asarray(values)))
        return out

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
        return 1.0 if isinstance(self.loss, BinaryCrossEntropy) else 2 * self.reach

    @property
    def _gradient_factor(self) -> float:
        return self._unit * (1.0 if isinstance(self.loss, BinaryCrossEntropy) else 2.0)


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
    layer, slots = _trained_layer(network, loss, frozen)
    weight, bias = slots
    features = weight.shape[1]
    functions = _functions(loss, reach)
    series = _series(functions, reach)
    parameters = _parameters(batch, features + 1, series.degree, insecure_ring, cost or CostModel())
    groups = _groups(optimizer, weight, bias, features)
    server = ServerPlan(parameters, groups, functions, series, features + 1)
    return Plan(network, layer, loss, optimizer, batch, reach, weight.name, bias.name, server)


def _trained_layer(network: Graph, loss: Loss, frozen: tuple[str, ...]) -> tuple[Node, tuple[Slot, Slot]]:
    if not isinstance(loss, BinaryCrossEntropy | MeanSquaredError):
        raise TrainingError(
            f"encrypted training does not do {loss.name} yet: it trains one dense layer with one output, with "
            "binary-cross-entropy or mean-squared-error; use --mode clear for other models"
        )
    last = loss.attachment(network, network.outputs[0])
    slots = {slot.name: slot for slot in weight_slots(network, last, frozen)}
    if not isinstance(last.op, Dense) or len(last.operands) != 1 or last.type.size != 1:
        raise TrainingError(
            f"encrypted training takes a model that ends in a dense layer with one output; {last} is of shape "
            f"{list(last.type.shape)}. Use --mode clear for other models"
        )
    weight, bias = slots[last.op.weights[0].name], slots[last.op.bias.name]
    others = [s.name for s in slots.values() if s.trained and s not in (weight, bias)]
    if others:
        raise TrainingError(
            f"encrypted training trains the last dense layer only, and {others[0]!r} belongs to another one; freeze "
            "the layers before the last (--freeze), or use --mode clear"
        )
    return last, (weight, bias)


def _parameters(batch: int, columns: int, degree: int, insecure_ring: int | None, cost: CostModel) -> Parameters:
    ring = insecure_ring or RING
    most = ring // power_of_two(columns)
    if batch > most or batch < 1:
        raise DataError(
            f"a step takes at most {most} samples of {columns - 1} features, not {batch}; choose a smaller --batch"
        )
    # sparse packing: at most N/4 slots, and a grid that has room for the columns
    slots = min(max(8, power_of_two(batch) // 2), ring // 4)
    if 2 * slots < batch:
        raise DataError(f"a step takes at most {2 * slots} samples, not {batch}; choose a smaller --batch")
    configuration = cost.configuration(slots)
    parameters = Parameters(
        ring=ring,
        plaintext_bits=20,
        bgv_bits=44,
        slots=slots,
        degree=degree,
        level_budget=configuration.level_budget if insecure_ring is None else (2, 2),
        large_digits=configuration.large_digits,
        levels_kept=KEPT,
        security=SECURE if insecure_ring is None else INSECURE,
    )
    parameters = with_secure_digits(parameters)
    limit = largest_modulus(ring, sparse=True)
    if parameters.secure and parameters.modulus_bits > limit:
        raise ParameterError(f"the moduli need {parameters.modulus_bits} bits; 128-bit security allows {limit}")
    return parameters


def _groups(optimizer: SGD, weight: Slot, bias: Slot, features: int) -> tuple[Group, ...]:
    """One group if both have the same frame, else one for the weights and one for the bias."""
    columns = tuple(range(features))
    decays = optimizer.weight_decay > 0
    kinds = [(s, Frame(optimizer, decays and s.decayed)) for s in (weight, bias)]
    # what is frozen stays where it is
    still = Frame(replace(optimizer, weight_decay=0.0), False)
    kinds = [(s, f if s.trained else still) for s, f in kinds]
    if kinds[0][1] == kinds[1][1] and weight.trained == bias.trained:
        return (Group("all", (*columns, features), kinds[0][1], True),)
    return (
        Group("weights", columns, kinds[0][1], weight.trained),
        Group("bias", (features,), kinds[1][1], bias.trained),
    )


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
