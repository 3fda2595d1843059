"""What the server knows of training two dense layers with a nonlinearity between them: its instructions, no data."""

from __future__ import annotations

from dataclasses import dataclass

from glyphc.ir.ckks import Code, Instruction, Register, check, with_frees
from glyphc.ir.functions import Function
from glyphc.ir.parameters import Parameters
from glyphc.ir.series import Series

from .frames import Frame
from .server_plan import STATE_LIMBS, power_of_two
from .writer import Writer

# Levels after a bootstrap: activations are scaled, then multiplied, and the state stands on two limbs.
KEPT = 3
# Levels in slots: for a mask or a product.
SLOT_LEVELS = 1
_LIMBS = {"forward": STATE_LIMBS + 1, "gradient": KEPT + 1, "labels": KEPT + 1, "state": STATE_LIMBS}
# The parts of the state: the first layer with its bias, the second layer, its bias.
PARTS = ("first", "second", "offset")

Approximated = tuple[Series, tuple[Function, ...]]


def fresh_limbs(name: str) -> int:
    """Limbs of the ciphertext of that name, see ``MLPServerPlan.code``."""
    return _LIMBS[name.partition(":")[0]]


def state_name(part: str, component: int) -> str:
    """The name of a ciphertext of the state."""
    return f"state:{part}:{component}"


@dataclass(frozen=True)
class MLPServerPlan:
    """columns: inputs of the first layer and its bias. frames: of both layers' weights and biases, in order.

    activation, slope, probability, passed: what the bootstraps compute (passed: the errors sent back, unchanged).
    factors: of the gradients of the second layer's weights (for a push of 1) and of the errors that are sent back.
    pushes: what the client's data for the gradients of the first layer and of the second one's bias have already.
    """

    parameters: Parameters
    columns: int
    hidden: int
    outputs: int
    batch: int
    frames: tuple[Frame, Frame, Frame, Frame]
    activation: Approximated
    slope: Approximated
    probability: Approximated
    passed: Approximated
    gradient_factor: float
    back_factor: float
    pushes: tuple[float, float]

    # -- layout: sample b at b*grid, output c at c*spread, hidden unit i at i*period --

    @property
    def grid(self) -> int:
        return self.parameters.ring // (2 * self.parameters.slots)

    @property
    def spread(self) -> int:
        """Distance of two outputs."""
        return self.period // power_of_two(self.outputs)

    @property
    def period(self) -> int:
        """Distance of two hidden units."""
        return self.parameters.ring // power_of_two(self.hidden)

    @property
    def parts(self) -> int:
        """Columns that a ciphertext of the first layer's state has room for."""
        return power_of_two(self.columns)

    @property
    def stride(self) -> int:
        """Distance of two columns of the first layer's state."""
        return self.period // self.parts

    @property
    def periods(self) -> tuple[int, ...]:
        """Of packing, whose keys the server needs."""
        return (self.period,)

    @property
    def components(self) -> int:
        return self.frames[0].size

    def fresh_limbs(self, name: str) -> int:
        """Limbs of the ciphertext of that name when it is fresh."""
        return fresh_limbs(name)

    @property
    def data_names(self) -> tuple[str, ...]:
        """Names of a batch's ciphertexts; what is called "ones" belongs to the second layer's bias."""
        columns = [*map(str, range(self.columns)), "ones"]
        return (*(f"forward:{c}" for c in columns), *(f"gradient:{c}" for c in columns), "labels")

    @property
    def state_names(self) -> tuple[str, ...]:
        return tuple(state_name(part, i) for part in PARTS for i in range(self.components))

    def frame(self, column: int) -> Frame:
        """The frame of a column of the first layer."""
        return self.frames[0] if column < self.columns - 1 else self.frames[1]

    # -- instructions --

    def code(self, step: int) -> Code:
        """The instructions of step 0, 1, ...: from the batch's and the state's ciphertexts to the state's next ones."""
        code = with_frees(tuple(_Step(self, step).write()))
        limbs = {name: fresh_limbs(name) for name in (*self.data_names, *self.state_names)}
        stored = check(code, limbs, KEPT, SLOT_LEVELS)
        assert stored == dict.fromkeys(self.state_names, STATE_LIMBS), stored
        return code


class _Step:
    """One step: forward through both layers, errors, errors sent back, both updates."""

    def __init__(self, plan: MLPServerPlan, step: int) -> None:
        self.p = plan
        self.step = step
        self.w = Writer()
        self.state = {part: self._load_state(part) for part in PARTS}

    def write(self) -> list[Instruction]:
        p, w = self.p, self.w
        # a hidden unit's values fill the first of the places that its outputs' errors will need
        ring, samples = p.parameters.ring, p.batch * p.grid
        units = ((p.period, samples), (ring, p.hidden * p.period))
        in_slots, slopes = w.bootstrap(self._first_layer(), p.activation, p.slope)
        hidden = w.decode(w.masked(in_slots, *units))
        (in_slots,) = w.bootstrap(self._second_layer(hidden), p.probability)
        logits = ((ring, p.outputs * p.spread), (p.spread, samples))
        errors = w.sum((w.decode(w.masked(in_slots, *logits)), 1), (w.load("labels"), -1))
        # not masked: what stands beside the useful places here, the trace removes while gradients are packed
        (in_slots,) = w.bootstrap(self._sent_back(errors), p.passed)
        first_errors = w.decode(w.slot_product(in_slots, slopes))
        self._update_first(first_errors)
        self._update_second(hidden, errors)
        return list(w.code)

    def _load_state(self, part: str) -> list[Register]:
        return [self.w.load(state_name(part, i)) for i in range(self.p.components)]

    def _first_layer(self) -> Register:
        p, w = self.p, self.w
        pieces = [w.unpack(u, p.columns, p.parts, p.stride) for u in self.state["first"]]
        pairs = []
        for c in range(p.columns):
            x = w.load(f"forward:{c}")
            factors = p.frame(c).basis(self.step)[0]
            pairs += [(w.scaled(x, float(f)), piece[c]) for f, piece in zip(factors, pieces, strict=True) if f]
        return w.product(*pairs)

    def _second_layer(self, hidden: Register) -> Register:
        p, w = self.p, self.w
        ones = w.load("forward:ones")
        pairs = []
        for frame, x, part in ((p.frames[2], hidden, "second"), (p.frames[3], ones, "offset")):
            factors = frame.basis(self.step)[0]
            pairs += [(w.scaled(x, float(f)), u) for f, u in zip(factors, self.state[part], strict=True) if f]
        return w.product(*pairs)

    def _sent_back(self, errors: Register) -> Register:
        p, w = self.p, self.w
        factors = p.frames[2].basis(self.step)[0] * p.back_factor
        return w.product(
            *(
                (w.scaled(errors, float(f)), w.reverse(u))
                for f, u in zip(factors, self.state["second"], strict=True)
                if f
            )
        )

    def _update_first(self, errors: Register) -> None:
        p, w = self.p, self.w
        data = [w.load(f"gradient:{c}") for c in range(p.columns)]
        for i, u in enumerate(self.state["first"]):
            gradients: list[Register | None] = []
            for c, x in enumerate(data):
                factor = float(p.frame(c).push(self.step)[i] / p.pushes[0])
                gradients.append(self._multiple(x, factor, errors))
            self._add(u, "first", i, gradients, p.parts, p.stride)

    def _update_second(self, hidden: Register, errors: Register) -> None:
        p, w = self.p, self.w
        activations, ones = w.reverse(hidden), w.load("gradient:ones")
        for i, (u, offset) in enumerate(zip(self.state["second"], self.state["offset"], strict=True)):
            factor = float(p.frames[2].push(self.step)[i] * p.gradient_factor)
            self._add(u, "second", i, [self._multiple(activations, factor, errors)], 1, p.spread)
            factor = float(p.frames[3].push(self.step)[i] / p.pushes[1])
            self._add(offset, "offset", i, [self._multiple(ones, factor, errors)], 1, p.spread)

    def _multiple(self, x: Register, factor: float, errors: Register) -> Register | None:
        """factor * x * errors on the state's limbs; None when it is zero."""
        if not factor:
            return None
        # always scaled, also by 1: that is what the limbs are for
        return self.w.product((self.w.rescaled(x, factor), errors))

    def _add(
        self, u: Register, part: str, component: int, changes: list[Register | None], parts: int, stride: int
    ) -> None:
        if any(c is not None for c in changes):
            u = self.w.sum((u, 1), (self.w.pack(changes, parts, stride), 1))
        self.w.store(u, state_name(part, component))
