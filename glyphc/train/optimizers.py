"""Stochastic gradient descent with momentum, Nesterov's momentum and weight decay; schedules of the learning rate.

Conventions (those of PyTorch): g = gradient + weight_decay * w;  v' = momentum * v + g;
w' = w - rate * v', with Nesterov w' = w - rate * (g + momentum * v').
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from math import cos, isfinite, pi
from typing import ClassVar

from .errors import TrainingError


class Schedule(ABC):
    """The factor that a learning rate is multiplied by at step 0, 1, ..."""

    name: ClassVar[str]

    @abstractmethod
    def factor(self, step: int) -> float: ...

    def __str__(self) -> str:
        options = ",".join(f"{f.name}={getattr(self, f.name):g}" for f in fields(self))  # type: ignore[arg-type]
        return self.name + (f"{{{options}}}" if options else "")


@dataclass(frozen=True)
class Constant(Schedule):
    """Always 1."""

    name: ClassVar[str] = "constant"

    def factor(self, step: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Exponential(Schedule):
    """decay^step."""

    name: ClassVar[str] = "exponential"
    decay: float = 0.99

    def __post_init__(self) -> None:
        _check(0 < self.decay <= 1, f"schedule {self.name}: decay={self.decay:g} must be in (0, 1]")

    def factor(self, step: int) -> float:
        return float(self.decay**step)


@dataclass(frozen=True)
class Steps(Schedule):
    """decay^(step // every)."""

    name: ClassVar[str] = "steps"
    every: int = 10
    decay: float = 0.5

    def __post_init__(self) -> None:
        _check(self.every >= 1, f"schedule {self.name}: every={self.every} must be at least 1")
        _check(0 < self.decay <= 1, f"schedule {self.name}: decay={self.decay:g} must be in (0, 1]")

    def factor(self, step: int) -> float:
        return float(self.decay ** (step // self.every))


@dataclass(frozen=True)
class Cosine(Schedule):
    """From 1 down to ``final`` over ``steps`` steps along half a cosine, ``final`` from then on."""

    name: ClassVar[str] = "cosine"
    steps: int = 100
    final: float = 0.0

    def __post_init__(self) -> None:
        _check(self.steps >= 1, f"schedule {self.name}: steps={self.steps} must be at least 1")
        _check(0 <= self.final <= 1, f"schedule {self.name}: final={self.final:g} must be in [0, 1]")

    def factor(self, step: int) -> float:
        share = min(step / self.steps, 1.0)
        return self.final + (1 - self.final) * (1 + cos(pi * share)) / 2


@dataclass(frozen=True)
class InverseTime(Schedule):
    """1 / (1 + decay * step)."""

    name: ClassVar[str] = "inverse-time"
    decay: float = 0.01

    def __post_init__(self) -> None:
        _check(self.decay >= 0, f"schedule {self.name}: decay={self.decay:g} must not be negative")

    def factor(self, step: int) -> float:
        return 1.0 / (1.0 + self.decay * step)


# A rate that is this many times the first one is no continuation: data are scaled by the first.
_MOST_SHARE = 1024.0


@dataclass(frozen=True)
class Followed(Schedule):
    """``first`` for ``steps`` steps, then ``share`` times ``second``, which counts from there: a run that goes on."""

    name: ClassVar[str] = "followed"
    first: Schedule = Constant()
    steps: int = 1
    share: float = 1.0
    second: Schedule = Constant()

    def __post_init__(self) -> None:
        _check(self.steps >= 1, f"schedule {self.name}: steps={self.steps} must be at least 1")
        _check(
            0 < self.share <= _MOST_SHARE,
            f"a run goes on with a learning rate up to {_MOST_SHARE:g} times its first one, not {self.share:g} times",
        )

    def factor(self, step: int) -> float:
        return self.first.factor(step) if step < self.steps else self.share * self.second.factor(step - self.steps)

    def __str__(self) -> str:
        return f"{self.first} for {self.steps} steps, then {self.share:g} times {self.second}"


SCHEDULES: dict[str, type[Schedule]] = {s.name: s for s in (Constant, Exponential, Steps, Cosine, InverseTime)}


def parse_schedule(text: str) -> Schedule:
    """A schedule from text such as ``cosine{steps=50,final=0.1}``; TrainingError says what is wrong with it."""
    match = re.fullmatch(r"([a-z-]+)(?:\{(.*)\})?", text.strip())
    if match is None or match[1] not in SCHEDULES:
        raise TrainingError(f"unknown schedule {text!r}; known: {', '.join(SCHEDULES)}")
    kind = SCHEDULES[match[1]]
    defaults = {f.name: f.default for f in fields(kind)}  # type: ignore[arg-type]
    given: dict[str, float | int] = {}
    for part in filter(None, (match[2] or "").split(",")):
        key, _, value = (p.strip() for p in part.partition("="))
        try:
            given[key] = int(value) if isinstance(defaults[key], int) else float(value)
        except (KeyError, ValueError):
            known = ", ".join(f"{k}={v}" for k, v in defaults.items()) or "none"
            raise TrainingError(f"schedule {text!r}: cannot read {part!r}; options: {known}") from None
    return kind(**given)


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent. Weight decay holds for weights, not for biases (as scikit-learn's penalties)."""

    learning_rate: float = 0.1
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: Schedule = Constant()

    def __post_init__(self) -> None:
        rate, decay = self.learning_rate, self.weight_decay
        _check(isfinite(rate) and rate > 0, f"the learning rate must be positive, not {rate:g}")
        _check(0 <= self.momentum < 1, f"the momentum must be in [0, 1), not {self.momentum:g}")
        _check(isfinite(decay) and decay >= 0, f"the weight decay must not be negative, not {decay:g}")
        _check(rate * decay < 1, f"learning rate times weight decay must be below 1, not {rate * decay:g}")
        _check(not self.nesterov or self.momentum > 0, "Nesterov's momentum needs a momentum above 0")

    def __str__(self) -> str:
        parts = [f"rate {self.learning_rate:g}", str(self.schedule)]
        if self.momentum:
            parts.append(f"{'Nesterov momentum' if self.nesterov else 'momentum'} {self.momentum:g}")
        if self.weight_decay:
            parts.append(f"weight decay {self.weight_decay:g}")
        return ", ".join(parts)

    def rate(self, step: int) -> float:
        """The learning rate of step 0, 1, ..."""
        return self.learning_rate * self.schedule.factor(step)

    @property
    def first(self) -> SGD:
        """As the run was begun, whatever it went on with."""
        schedule = self.schedule
        while isinstance(schedule, Followed):
            schedule = schedule.first
        return replace(self, schedule=schedule)

    def followed(self, steps: int, rate: float, schedule: Schedule) -> SGD:
        """The same for ``steps`` steps, then with another learning rate; the velocity stays what it is."""
        _check(isfinite(rate) and rate > 0, f"the learning rate must be positive, not {rate:g}")
        decay = rate * self.weight_decay
        _check(decay < 1, f"learning rate times weight decay must be below 1, not {decay:g}")
        return replace(self, schedule=Followed(self.schedule, steps, rate / self.learning_rate, schedule))


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise TrainingError(message)
