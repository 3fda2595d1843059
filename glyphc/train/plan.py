"""The encrypted step of a model with one trained dense layer and one output: logistic and linear regression.

docs/training.md derives the layout. With N coefficients, B samples on a grid of G = N/(2*slots) >= d columns:

    data X         b*G - j      data reversed   -b*G + j      (both encrypted by the client)
    weights W      j            logits, labels, errors   b*G

One step is  Z = X W  ->  bootstrap (sigmoid)  ->  minus labels  ->  times reversed data  ->  select  ->  add to W.
The product's other terms stand off the grid, where a sparse bootstrap drops them; those of the gradient are removed by
a selection. The state is kept in a moving frame (``frames``), so the one bootstrap of a step is that of the logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.approx.cost import CostModel
from glyphc.approx.security import largest_modulus, with_secure_digits
from glyphc.approx.series import HALF_RANGE, fit
from glyphc.errors import DataError, ParameterError
from glyphc.ir.ckks import (
    Code,
    Instruction,
    Load,
    Product,
    Refresh,
    Register,
    Scaled,
    Select,
    Store,
    Sum,
    check,
    with_frees,
)
from glyphc.ir.functions import Function, compose
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import Dense
from glyphc.ir.parameters import INSECURE, SECURE, Parameters
from glyphc.ir.series import Series

from .errors import TrainingError
from .frames import Frame
from .losses import BinaryCrossEntropy, Loss, MeanSquaredError
from .optimizers import SGD
from .step import Slot, State, weight_slots

F64 = npt.NDArray[np.floating[Any]]

RING = 65536
# The state's messages are this much larger than the weights, so that noise of selections stays far below them.
GAIN = 2.0**8
# Limbs of fresh ciphertexts: errors come out of a bootstrap on three, the state is kept on two. Data is first
# multiplied by the frame's constants, which costs a limb.
_KEPT = 2
STATE_LIMBS = 2
_LIMBS = {"forward": STATE_LIMBS + 1, "gradient": _KEPT + 2, "labels": _KEPT + 1}
# A series fills at most half of the slots' [-1, 1], so the sigmoid is moved to the middle, and labels with it.
_CENTRE = 0.5
_DEGREE = 27


@dataclass(frozen=True)
class Group:
    """Columns of the data whose weights have one frame. trained: whether they change."""

    name: str
    columns: tuple[int, ...]
    frame: Frame
    trained: bool


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
    parameters: Parameters
    groups: tuple[Group, ...]
    functions: tuple[Function, ...]
    series: Series
    weight: str
    bias: str

    # -- sizes --

    @property
    def features(self) -> int:
        return int(self.network.constant(self.weight).shape[1])

    @property
    def columns(self) -> int:
        """Features and the bias."""
        return self.features + 1

    @property
    def grid(self) -> int:
        return self.parameters.ring // (2 * self.parameters.slots)

    @property
    def selection(self) -> int:
        """Coefficients that a selection keeps."""
        return _power_of_two(self.columns)

    @property
    def components(self) -> int:
        """Ciphertexts of the state."""
        return self.groups[0].frame.size

    # -- what the client encrypts --

    def data(self, features: F64, targets: F64) -> dict[str, tuple[F64, int]]:
        """Messages and limbs of one batch's ciphertexts, by name. features: (batch, features); targets: (batch, 1)."""
        rows = np.hstack([features, np.ones((self.batch, 1))])
        at = self.grid * np.arange(self.batch)[:, None] - np.arange(self.columns)[None, :]
        sample = self.grid * np.arange(self.batch)
        out: dict[str, F64] = {"labels": self._message(sample, (targets[:, 0] - self._centre) / self._unit)}
        for group in self.groups:
            columns = list(group.columns)
            forward = rows[:, columns] * self._phase / GAIN
            out[f"forward:{group.name}"] = self._message(at[:, columns], forward)
            if group.trained:
                gradient = rows[:, columns] * self._gradient_factor * GAIN / self.batch
                out[f"gradient:{group.name}"] = self._message(-at[:, columns], gradient)
        return {name: (message, _LIMBS[name.partition(":")[0]]) for name, message in out.items()}

    def state(self, state: State) -> dict[str, tuple[F64, int]]:
        """Messages and limbs of the state's ciphertexts. ``state`` at step 0."""
        weights = np.append(state.weights[self.weight].reshape(-1), state.weights[self.bias])
        first = self._message(np.arange(self.columns), GAIN * weights)
        rest = [np.zeros_like(first)] * (self.components - 1)
        return {state_name(i): (message, STATE_LIMBS) for i, message in enumerate([first, *rest])}

    def decoded(self, messages: dict[str, F64], step: int) -> dict[str, F64]:
        """The trained layer's weights before ``step``, by constant name, from the state's messages."""
        u = np.array([messages[state_name(i)][: self.columns] for i in range(self.components)]) / GAIN
        weights = np.zeros(self.columns)
        for group in self.groups:
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

    # -- what the server executes --

    def code(self, step: int) -> Code:
        """The instructions of step 0, 1, ...: from the batch's and the state's ciphertexts to the state's next ones."""
        writer = _Writer()
        state = [writer.load(state_name(i)) for i in range(self.components)]
        pairs = []
        for group in self.groups:
            data = writer.load(f"forward:{group.name}")
            for factor, u in zip(group.frame.basis(step)[0], state, strict=True):
                if factor:
                    pairs.append((writer.scaled(data, float(factor)), u))
        logits = writer.emit(lambda t: Product(t, tuple(pairs)))
        results = writer.emit(lambda t: Refresh(t, logits, self.series, self.functions))
        labels = writer.load("labels")
        errors = writer.emit(lambda t: Sum(t, ((results, 1), (labels, -1))))
        trained = [g for g in self.groups if g.trained]
        gradients = [writer.load(f"gradient:{group.name}") for group in trained]
        for i, u in enumerate(state):
            parts = [writer.scaled(x, float(g.frame.push(step)[i])) for g, x in zip(trained, gradients, strict=True)]
            scaled = parts[0] if len(parts) == 1 else writer.sum(*parts)
            change = writer.select(writer.product(scaled, errors), self.selection)
            writer.code.append(Store(writer.sum(u, change), state_name(i)))
        code = with_frees(tuple(writer.code))
        self._check(code)
        return code

    def _check(self, code: Code) -> None:
        names = [f"{kind}:{g.name}" for g in self.groups for kind in ("forward", "gradient")]
        limbs = {name: _LIMBS[name.partition(":")[0]] for name in (*names, "labels")}
        limbs |= {state_name(i): STATE_LIMBS for i in range(self.components)}
        stored = check(code, limbs, self.parameters.levels_kept)
        assert stored == {state_name(i): STATE_LIMBS for i in range(self.components)}, stored


def state_name(component: int) -> str:
    return f"state:{component}"


class _Writer:
    def __init__(self) -> None:
        self.code: list[Instruction] = []
        self._next: Register = 0

    def emit(self, make: Callable[[Register], Instruction]) -> Register:
        register, self._next = self._next, self._next + 1
        self.code.append(make(register))
        return register

    def load(self, name: str) -> Register:
        return self.emit(lambda t: Load(t, name))

    def scaled(self, source: Register, factor: float) -> Register:
        return self.emit(lambda t: Scaled(t, source, factor))

    def sum(self, *registers: Register) -> Register:
        return self.emit(lambda t: Sum(t, tuple((r, 1) for r in registers)))

    def product(self, a: Register, b: Register) -> Register:
        return self.emit(lambda t: Product(t, ((a, b),)))

    def select(self, source: Register, count: int) -> Register:
        return self.emit(lambda t: Select(t, source, count))


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
    parameters = _parameters(batch, features + 1, insecure_ring, cost or CostModel())
    groups = _groups(optimizer, weight, bias, features)
    functions = _functions(loss, reach)
    series = fit(lambda x: compose(functions, x), parameters.degree)
    return Plan(
        network, layer, loss, optimizer, batch, reach, parameters, groups, functions, series, weight.name, bias.name
    )


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


def _parameters(batch: int, columns: int, insecure_ring: int | None, cost: CostModel) -> Parameters:
    ring = insecure_ring or RING
    most = ring // _power_of_two(columns)
    if batch > most or batch < 1:
        raise DataError(
            f"a step takes at most {most} samples of {columns - 1} features, not {batch}; choose a smaller --batch"
        )
    # sparse packing: at most N/4 slots, and a grid that has room for the columns
    slots = min(max(8, _power_of_two(batch) // 2), ring // 4)
    if 2 * slots < batch:
        raise DataError(f"a step takes at most {2 * slots} samples, not {batch}; choose a smaller --batch")
    configuration = cost.configuration(slots)
    parameters = Parameters(
        ring=ring,
        plaintext_bits=20,
        bgv_bits=44,
        slots=slots,
        degree=_DEGREE,
        level_budget=configuration.level_budget if insecure_ring is None else (2, 2),
        large_digits=configuration.large_digits,
        levels_kept=_KEPT,
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


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
