"""The encrypted step of two dense layers with a nonlinearity between them, sigmoids at the end.

docs/training.md derives the layout: B samples b, C outputs c, M hidden units i, D columns j (inputs and a bias), each
rounded up to a power of two; G = N/(2*slots), and G*B*C*M <= N. Q = G*B, P = Q*C.

    data X_j, and reversed        b*G, -b*G        one ciphertext for each column
    first layer, packed           i*P + j*P/D      unpacked, column j stands at i*P
    hidden values                 i*P + b*G
    second layer                  c*Q - i*P
    logits, labels, errors        c*Q + b*G
    errors sent back              i*P + b*G

A step has three bootstraps: of the first layer's sums (activation and slope), of the logits, and of the errors that are
sent back, which are multiplied by the slopes while both are in slots.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.approx.cost import CostModel
from glyphc.approx.series import HALF_RANGE, fit
from glyphc.errors import DataError
from glyphc.ir.functions import Function, compose
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import Apply, Dense
from glyphc.ir.parameters import Parameters
from glyphc.ir.series import Series

from .derivatives import chain_derivatives
from .errors import TrainingError
from .frames import Frame
from .losses import BinaryCrossEntropy, Loss
from .mlp_server import KEPT, PARTS, SLOT_LEVELS, Approximated, MLPServerPlan, fresh_limbs, state_name
from .optimizers import SGD
from .plan import GAIN, RING, coefficients, polynomial, secure_parameters
from .server_plan import STATE_LIMBS, power_of_two
from .step import Slot, State, weight_slots

F64 = npt.NDArray[np.floating[Any]]

# A series fills at most half of the slots' [-1, 1].
_HALF = 0.5
# The errors that are sent back are sums of a few products of weights and errors, far smaller than logits.
_BACK_SHARE = 1 / 4
_DEGREES = (27, 59)
_MAX_ERROR = 2.0**-9


@dataclass(frozen=True)
class Layers:
    """The network's two trained layers, what lies between them, and the names of their constants."""

    first: Node
    between: tuple[Function, ...]
    second: Node
    names: tuple[str, str, str, str]


@dataclass(frozen=True, eq=False)
class MLPPlan:
    """How two layers are trained under encryption.

    reach: sums of the first layer and logits must stay within [-reach, reach], and what is sent back within a quarter
    of that.
    """

    network: Graph
    layers: Layers
    loss: Loss
    optimizer: SGD
    batch: int
    reach: float
    units: tuple[float, float]
    server: MLPServerPlan

    @property
    def layer(self) -> Node:
        """The first trained layer."""
        return self.layers.first

    @property
    def parameters(self) -> Parameters:
        return self.server.parameters

    # -- what the client encrypts --

    def data(self, features: F64, targets: F64) -> dict[str, tuple[F64, int]]:
        """Messages and limbs of a batch's ciphertexts, by name, from (batch, features) and (batch, outputs)."""
        s, ring = self.server, self.parameters.ring
        rows = np.hstack([features, np.ones((self.batch, 1))])
        samples = s.grid * np.arange(self.batch)
        phase = HALF_RANGE / self.reach
        _, slope_unit = self.units
        back = 2 * self.reach * _BACK_SHARE / slope_unit
        forward = rows * phase / (GAIN * s.parts)
        gradient = rows * s.pushes[0] * back * GAIN / (self.batch * s.period)
        ones = np.ones(self.batch)
        out = {"labels": polynomial(ring, samples[:, None] + s.spread * np.arange(s.outputs), targets - _HALF)}
        for c in range(s.columns):
            out[f"forward:{c}"] = polynomial(ring, samples, forward[:, c])
            out[f"gradient:{c}"] = polynomial(ring, -samples, gradient[:, c])
        out["forward:ones"] = polynomial(ring, samples, ones * phase / GAIN)
        out["gradient:ones"] = polynomial(ring, -samples, ones * s.pushes[1] * GAIN / (self.batch * s.spread))
        return {name: (message, fresh_limbs(name)) for name, message in out.items()}

    def state(self, state: State) -> dict[str, tuple[F64, int]]:
        """Messages and limbs of the state's ciphertexts. ``state`` at step 0."""
        w1, b1, w2, b2 = (state.weights[name] for name in self.layers.names)
        values = {"first": np.hstack([w1, b1[:, None]]), "second": w2, "offset": b2}
        out: dict[str, tuple[F64, int]] = {}
        for part in PARTS:
            message = polynomial(self.parameters.ring, self._places(part), self._gain(part) * values[part])
            for i in range(self.server.components):
                out[state_name(part, i)] = (message if i == 0 else np.zeros_like(message), STATE_LIMBS)
        return out

    def decoded(self, messages: dict[str, F64], step: int) -> dict[str, F64]:
        """Both layers' weights before ``step``, by constant name, from the state's messages."""
        frames = self.server.frames
        u = {part: self._components(part, messages) for part in PARTS}

        def weights(frame: Frame, values: F64) -> F64:
            return np.asarray(np.tensordot(frame.basis(step)[0], values, 1))

        parts = (u["first"][:, :, :-1], u["first"][:, :, -1], u["second"], u["offset"])
        return {n: weights(f, v) for n, f, v in zip(self.layers.names, frames, parts, strict=True)}

    def reaches(self, weights: dict[str, F64], features: F64, targets: F64) -> dict[str, tuple[float, float]]:
        """Largest magnitudes that the bootstraps see, and how large they may be."""
        w1, b1, w2, b2 = (weights[name] for name in self.layers.names)
        sums = features @ w1.T + b1
        logits = compose(self.layers.between, sums) @ w2.T + b2
        errors = 0.5 * (1 + np.tanh(0.5 * logits)) - targets
        largest = (float(np.abs(v).max()) for v in (sums, logits, errors @ w2))
        limits = (self.reach, self.reach, self.reach * _BACK_SHARE)
        names = ("sums of the first layer", "logits", "errors sent back")
        return {n: (v, limit) for n, v, limit in zip(names, largest, limits, strict=True)}

    # -- units and places --

    def _gain(self, part: str) -> float:
        return GAIN if part != "second" else HALF_RANGE / self.reach / self.units[0]

    def _components(self, part: str, messages: dict[str, F64]) -> F64:
        found = [messages[state_name(part, i)] for i in range(self.server.components)]
        return np.array([coefficients(message, self._places(part)) for message in found]) / self._gain(part)

    def _places(self, part: str) -> npt.NDArray[np.int64]:
        """Exponents of a part of the state."""
        s = self.server
        units, outputs = s.period * np.arange(s.hidden), s.spread * np.arange(s.outputs)
        if part == "first":
            return np.asarray(units[:, None] + s.stride * np.arange(s.columns))
        return np.asarray(outputs[:, None] - units) if part == "second" else np.asarray(outputs)


def make_mlp_plan(
    network: Graph,
    loss: Loss,
    optimizer: SGD,
    batch: int,
    reach: float = 16.0,
    frozen: tuple[str, ...] = (),
    insecure_ring: int | None = None,
    cost: CostModel | None = None,
) -> MLPPlan:
    """Plan encrypted training of the last two layers; TrainingError says what stands in the way and what to do."""
    if reach <= 0:
        raise TrainingError(f"the range of logits must be positive, not {reach:g}")
    layers, slots = _trained_layers(network, loss, frozen)
    (hidden, inputs), (outputs, _) = slots[0].shape, slots[2].shape
    activation, slope = _activation(layers, reach)
    functions = {
        "activation": activation[0],
        "slope": slope[0],
        "probability": (
            Function("affine", (reach / HALF_RANGE, 0.0)),
            Function("sigmoid"),
            Function("affine", (1.0, -_HALF)),
        ),
        "passed": (Function("affine", (_HALF / HALF_RANGE, 0.0)),),
    }
    series = _series(list(functions.values()))
    parameters = _parameters(batch, inputs + 1, hidden, outputs, series[0].degree, insecure_ring, cost or CostModel())
    frames = tuple(Frame(optimizer, optimizer.weight_decay > 0 and s.decayed) for s in slots)
    largest = [max((float(p) for p in f.push(0)), key=abs) for f in frames]
    approximated: dict[str, Approximated] = dict(
        zip(functions, zip(series, functions.values(), strict=True), strict=True)
    )
    spread = parameters.ring // (power_of_two(hidden) * power_of_two(outputs))
    second_gain = HALF_RANGE / reach / activation[1]
    server = MLPServerPlan(
        parameters,
        inputs + 1,
        hidden,
        outputs,
        batch,
        (frames[0], frames[1], frames[2], frames[3]),
        **approximated,
        gradient_factor=second_gain / (batch * activation[1] * spread),
        back_factor=HALF_RANGE / (reach * _BACK_SHARE) / second_gain,
        pushes=(largest[0], largest[3]),
    )
    units = (activation[1], slope[1])
    return MLPPlan(network, layers, loss, optimizer, batch, reach, units, server)


def _trained_layers(network: Graph, loss: Loss, frozen: tuple[str, ...]) -> tuple[Layers, tuple[Slot, ...]]:
    last = loss.attachment(network, network.outputs[0])
    slots = {slot.name: slot for slot in weight_slots(network, last, frozen)}
    trained = trained_layers(network, slots)
    if not isinstance(loss, BinaryCrossEntropy):
        raise TrainingError(
            f"encrypted training of two layers takes binary-cross-entropy, not {loss.name}; choose it (--loss) for a "
            "network with sigmoids, or no function, at its end; or use --mode clear"
        )
    if len(trained) != 2 or trained[1].id != last.id or any(len(n.operands) != 1 for n in trained):
        raise TrainingError(
            f"encrypted training trains the last dense layer, or the last two; {len(trained)} of this network are not "
            "frozen. Freeze the others (--freeze), or use --mode clear"
        )
    (between,) = network.operands(last)
    if not isinstance(between.op, Apply) or between.operands != (trained[0].id,):
        raise TrainingError(
            f"encrypted training of two layers takes one activation between them, not {between}; use --mode clear"
        )
    names = tuple(name for n in trained for name in (n.op.constant_names()))
    still = [name for name in names if not slots[name].trained]
    if still or len(set(names)) != 4:
        raise TrainingError(
            f"encrypted training of two layers trains all of both; {still or names} cannot be kept apart"
        )
    layers = Layers(trained[0], between.op.functions, last, (names[0], names[1], names[2], names[3]))
    return layers, tuple(slots[name] for name in names)


def trained_layers(network: Graph, slots: dict[str, Slot]) -> list[Node]:
    """Dense layers of which weights or bias are trained, in order. slots: by the constant's name."""
    return [
        node
        for node, op in network.of(Dense)
        if any(name in slots and slots[name].trained for name in op.constant_names())
    ]


def _activation(layers: Layers, reach: float) -> tuple[tuple[tuple[Function, ...], float], ...]:
    """Functions of phases for the activation and its slope, and what they are multiplied by to fit into slots."""
    slopes = chain_derivatives(layers.between)
    if slopes is None or len(slopes) != 1:
        names = ", ".join(map(str, layers.between))
        raise TrainingError(f"encrypted training takes one differentiable activation, not {names}; use --mode clear")
    x = np.linspace(-reach, reach, 4001)
    found = []
    for chain in (layers.between, slopes[0]):
        unit = _HALF / float(np.abs(compose(chain, x)).max() or 1.0)
        scaled = (Function("affine", (reach / HALF_RANGE, 0.0)), *chain, Function("affine", (unit, 0.0)))
        found.append((scaled, unit))
    return tuple(found)


def _series(functions: list[tuple[Function, ...]]) -> list[Series]:
    """Series of one degree: that at which all are good, or the highest."""
    for degree in _DEGREES:
        series = [fit(lambda x, f=f: compose(f, x), degree) for f in functions]  # type: ignore[misc]
        if all(s.max_error <= _MAX_ERROR for s in series):
            break
    return series


def _parameters(
    batch: int, columns: int, hidden: int, outputs: int, degree: int, insecure_ring: int | None, cost: CostModel
) -> Parameters:
    ring = insecure_ring or RING
    cells = power_of_two(hidden) * power_of_two(outputs)
    most = ring // 2 // cells
    if batch > most:
        raise DataError(
            f"a step takes at most {most} samples of {hidden} hidden units and {outputs} output(s), not {batch}; "
            "choose a smaller --batch"
        )
    if power_of_two(columns) > ring // power_of_two(hidden):
        raise TrainingError(f"{columns - 1} inputs of {hidden} hidden units are too many for one ciphertext")
    values = max(16, cells * power_of_two(batch))
    parameters = secure_parameters(values // 2, degree, insecure_ring, cost, KEPT, SLOT_LEVELS)
    return replace(parameters, degree=degree)
