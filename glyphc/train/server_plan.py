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
class ServerPlan:
    """columns: of the data, features and bias. functions: phases of logits to probabilities; series: of them.

    push: what the client's data for gradients are multiplied by already.
    """

    parameters: Parameters
    groups: tuple[Group, ...]
    functions: tuple[Function, ...]
    series: Series
    columns: int
    outputs: int
    push: float

    @property
    def periods(self) -> tuple[int, ...]:
        """Of packing, whose keys the server needs."""
        return (self.period,)

    @property
    def period(self) -> int:
        """Distance of two outputs of one column."""
        return self.parameters.ring // power_of_two(self.outputs)

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
        results = w.refresh(w.product(*pairs), self.series, self.functions)
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
        stored = check(code, limbs, self.parameters.levels_kept)
        assert stored == dict.fromkeys(self.state_names, STATE_LIMBS), stored
        return code
