"""What the server knows of a training run: parameters, layouts, the instructions of every step. No data, no weights."""

from __future__ import annotations

from dataclasses import dataclass

from glyphc.ir.ckks import Code, Register, check, with_frees
from glyphc.ir.functions import Function
from glyphc.ir.parameters import Parameters
from glyphc.ir.series import Series

from .frames import Frame
from .writer import Writer

# Limbs of fresh ciphertexts: errors come out of a bootstrap on KEPT + 1, the state is kept on two. Data is first
# multiplied by the frame's constants, which costs a limb.
KEPT = 2
STATE_LIMBS = 2
_LIMBS = {"forward": STATE_LIMBS + 1, "gradient": KEPT + 2, "labels": KEPT + 1, "state": STATE_LIMBS}


def fresh_limbs(name: str) -> int:
    """Limbs of the ciphertext of that name, see ``ServerPlan.code``."""
    return _LIMBS[name.partition(":")[0]]


def state_name(component: int) -> str:
    """The name of a ciphertext of the state."""
    return f"state:{component}"


def power_of_two(n: int) -> int:
    """The smallest one that is at least n."""
    return 1 << (n - 1).bit_length()


@dataclass(frozen=True)
class Group:
    """Columns of the data whose weights have one frame. trained: whether they change."""

    columns: tuple[int, ...]
    frame: Frame
    trained: bool


@dataclass(frozen=True)
class SoftmaxPlan:
    """A second bootstrap turns exponentials into probabilities: by the inverse of their sums over the outputs.

    The first one's function is the exponential. inverse: from phases to inverses; centre: the phase of sums that is
    subtracted, so that they fill the torus on both sides of zero. weight: that of exponentials in the sums.
    """

    inverse: tuple[Series, tuple[Function, ...]]
    centre: float
    weight: int
    batch: int


@dataclass(frozen=True)
class ServerPlan:
    """columns: of the data, features and bias. functions: phases of logits to probabilities; series: of them.

    room: how many outputs there is room for, a power of two; softmax needs zeros beside the outputs.

    push: what the client's data for gradients are multiplied by already.
    """

    parameters: Parameters
    groups: tuple[Group, ...]
    functions: tuple[Function, ...]
    series: Series
    columns: int
    outputs: int
    room: int
    push: float
    softmax: SoftmaxPlan | None = None

    @property
    def periods(self) -> tuple[int, ...]:
        """Of packing, whose keys the server needs."""
        return (self.period,)

    @property
    def period(self) -> int:
        """Distance of two outputs of one column."""
        return self.parameters.ring // self.room

    @property
    def parts(self) -> int:
        """Columns that a ciphertext of the state has room for."""
        return power_of_two(self.columns)

    @property
    def stride(self) -> int:
        """Distance of two columns of the state."""
        return self.period // self.parts

    @property
    def grid(self) -> int:
        """Distance of two samples."""
        return self.parameters.ring // (2 * self.parameters.slots)

    @property
    def trained(self) -> tuple[int, ...]:
        return tuple(sorted(c for g in self.groups if g.trained for c in g.columns))

    @property
    def components(self) -> int:
        """Ciphertexts of the state."""
        return self.groups[0].frame.size

    def fresh_limbs(self, name: str) -> int:
        """Limbs of the ciphertext of that name when it is fresh."""
        return fresh_limbs(name)

    @property
    def data_names(self) -> tuple[str, ...]:
        """Names of a batch's ciphertexts."""
        forward = tuple(f"forward:{c}" for c in range(self.columns))
        return (*forward, *(f"gradient:{c}" for c in self.trained), "labels")

    @property
    def state_names(self) -> tuple[str, ...]:
        return tuple(state_name(i) for i in range(self.components))

    def code(self, step: int) -> Code:
        """The instructions of step 0, 1, ...: from the batch's and the state's ciphertexts to the state's next ones."""
        w = Writer()
        frames = {c: g.frame for g in self.groups for c in g.columns}
        state = [w.load(name) for name in self.state_names]
        pieces = [w.unpack(u, self.columns, self.parts, self.stride) for u in state]
        data = [w.load(f"forward:{c}") for c in range(self.columns)]
        pairs = [
            (w.scaled(x, float(factor)), piece[c])
            for c, x in enumerate(data)
            for factor, piece in zip(frames[c].basis(step)[0], pieces, strict=True)
            if factor
        ]
        results = self._results(w, w.product(*pairs))
        errors = w.sum((results, 1), (w.load("labels"), -1))
        reversed_data = {c: w.load(f"gradient:{c}") for c in self.trained}
        for i, u in enumerate(state):
            gradients: list[Register | None] = [None] * self.columns
            for c, x in reversed_data.items():
                factor = float(frames[c].push(step)[i] / self.push)
                if factor:
                    gradients[c] = w.product((w.scaled(x, factor), errors))
            if any(g is not None for g in gradients):
                u = w.sum((u, 1), (w.pack(gradients, self.parts, self.stride), 1))
            w.store(u, state_name(i))
        code = with_frees(tuple(w.code))
        limbs = {name: fresh_limbs(name) for name in (*self.data_names, *self.state_names)}
        stored = check(code, limbs, self.parameters.levels_kept, self.parameters.slot_levels)
        assert stored == dict.fromkeys(self.state_names, STATE_LIMBS), stored
        return code

    def _results(self, w: Writer, logits: Register) -> Register:
        """What labels are subtracted from."""
        if self.softmax is None:
            return w.refresh(logits, self.series, self.functions)
        s, outputs = self.softmax, range(1 - self.outputs, self.outputs)
        (in_slots,) = w.bootstrap(logits, (self.series, self.functions))
        places = ((self.parameters.ring, self.outputs * self.period), (self.period, s.batch * self.grid))
        exponentials = w.masked(in_slots, *places)
        # at each output the sum over all outputs: what is beside them is zero
        sums = w.convolved(w.reduced(w.decode(exponentials), 1), tuple(self.period * k for k in outputs), s.weight)
        (inverses,) = w.bootstrap(w.raised(sums, -s.centre), s.inverse)
        return w.decode(w.slot_product(exponentials, inverses))
