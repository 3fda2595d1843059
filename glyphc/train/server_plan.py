"""What the server knows of a training run: parameters, layouts, the instructions of every step. No data, no weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
from glyphc.ir.functions import Function
from glyphc.ir.parameters import Parameters
from glyphc.ir.series import Series

from .frames import Frame

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

    name: str
    columns: tuple[int, ...]
    frame: Frame
    trained: bool


@dataclass(frozen=True)
class ServerPlan:
    """columns: of the data, features and bias. functions: phases of logits to probabilities; series: of them."""

    parameters: Parameters
    groups: tuple[Group, ...]
    functions: tuple[Function, ...]
    series: Series
    columns: int

    @property
    def selection(self) -> int:
        """Coefficients that a selection keeps."""
        return power_of_two(self.columns)

    @property
    def components(self) -> int:
        """Ciphertexts of the state."""
        return self.groups[0].frame.size

    @property
    def data_names(self) -> tuple[str, ...]:
        """Names of a batch's ciphertexts."""
        forward = tuple(f"forward:{g.name}" for g in self.groups)
        return (*forward, *(f"gradient:{g.name}" for g in self.groups if g.trained), "labels")

    @property
    def state_names(self) -> tuple[str, ...]:
        return tuple(state_name(i) for i in range(self.components))

    def code(self, step: int) -> Code:
        """The instructions of step 0, 1, ...: from the batch's and the state's ciphertexts to the state's next ones."""
        writer = _Writer()
        state = [writer.load(name) for name in self.state_names]
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
        limbs = {name: fresh_limbs(name) for name in (*self.data_names, *self.state_names)}
        stored = check(code, limbs, self.parameters.levels_kept)
        assert stored == dict.fromkeys(self.state_names, STATE_LIMBS), stored
        return code


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
