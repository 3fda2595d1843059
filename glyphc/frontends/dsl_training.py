"""The training section of a ``.glyph`` file as typed data. ``glyphc compile`` does not read it: training does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import ClassVar, TypeVar

from .dsl_ast import Call, Expression, Name, Number, TrainingSection
from .dsl_errors import MistakeError, similar


@dataclass(frozen=True)
class Loss:
    """A loss by name, of one value of the network against the labels."""

    name: str
    value: str


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent with (Nesterov) momentum and weight decay."""

    keyword: ClassVar[str] = "sgd"
    learning_rate: float
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Constant:
    """The learning rate as given."""

    keyword: ClassVar[str] = "constant"


@dataclass(frozen=True)
class StepDecay:
    """The learning rate times ``factor`` after every ``every`` epochs."""

    keyword: ClassVar[str] = "step"
    every: int
    factor: float


@dataclass(frozen=True)
class ExponentialDecay:
    """The learning rate times ``factor`` after every epoch."""

    keyword: ClassVar[str] = "exponential"
    factor: float


@dataclass(frozen=True)
class CosineDecay:
    """Half a cosine from the learning rate down to ``final`` times it over ``epochs`` epochs."""

    keyword: ClassVar[str] = "cosine"
    epochs: int
    final: float = 0.0


Optimizer = Sgd
Schedule = Constant | StepDecay | ExponentialDecay | CosineDecay

LOSSES = ("cross_entropy", "binary_cross_entropy", "mse")
_OPTIMIZERS: Mapping[str, type[Optimizer]] = {Sgd.keyword: Sgd}
_SCHEDULES: Mapping[str, type[Schedule]] = {s.keyword: s for s in (Constant, StepDecay, ExponentialDecay, CosineDecay)}


@dataclass(frozen=True)
class Training:
    """loss: what is minimised. frozen: layers whose tensors stay as they are. epochs: None leaves it to the caller."""

    loss: Loss
    optimizer: Optimizer
    schedule: Schedule = Constant()
    epochs: int | None = None
    frozen: tuple[str, ...] = ()


def read_training(section: TrainingSection, values: Iterable[str], layers: Iterable[str]) -> Training:
    """The section's meaning. ``values``: names a loss may read; ``layers``: names that may be frozen.

    MistakeError with the place of what is wrong.
    """
    found: dict[str, Call | Number | tuple[Name, ...]] = {}
    frozen: list[str] = []
    for keyword, item in section.items:
        if keyword == "freeze":
            assert isinstance(item, tuple)
            frozen += [_layer(name, tuple(layers)) for name in item]
            continue
        if keyword in found:
            assert not isinstance(item, tuple)
            raise MistakeError(item.span, f"{keyword} is given twice", "keep one of them")
        found[keyword] = item
    loss, optimizer, schedule, epochs = (found.get(k) for k in ("loss", "optimizer", "schedule", "epochs"))
    if not isinstance(loss, Call) or not isinstance(optimizer, Call):
        missing = "optimizer" if isinstance(loss, Call) else "loss"
        example = "optimizer sgd(learning_rate=0.1)" if isinstance(loss, Call) else "loss cross_entropy(logits)"
        raise MistakeError(section.span, f"the training section has no {missing}", f"add e.g. '{example}'")
    return Training(
        _loss(loss, tuple(values)),
        _record(optimizer, _OPTIMIZERS, "optimizer"),
        _record(schedule, _SCHEDULES, "schedule") if isinstance(schedule, Call) else Constant(),
        _count(epochs) if isinstance(epochs, Number) else None,
        tuple(dict.fromkeys(frozen)),
    )


def _layer(name: Name, layers: tuple[str, ...]) -> str:
    if name.text not in layers:
        hint = f"{similar(name.text, layers)}layers with weights: {', '.join(layers) or 'none'}"
        raise MistakeError(name.span, f"there is no layer {name.text!r} to freeze", hint)
    return name.text


def _loss(call: Call, values: tuple[str, ...]) -> Loss:
    name = call.name
    if name.text not in LOSSES:
        hint = f"{similar(name.text, LOSSES)}known: {', '.join(LOSSES)}"
        raise MistakeError(name.span, f"unknown loss {name.text!r}", hint)
    if len(call.arguments) != 1 or call.keywords or not isinstance(call.arguments[0], Name):
        raise MistakeError(call.span, "a loss is a function of one value", f"write e.g. '{name.text}(logits)'")
    value = call.arguments[0]
    if value.text not in values:
        hint = f"{similar(value.text, values)}values: {', '.join(values)}"
        raise MistakeError(value.span, f"there is no value {value.text!r}", hint)
    return Loss(name.text, value.text)


_Record = TypeVar("_Record")


def _record(call: Call, known: Mapping[str, type[_Record]], what: str) -> _Record:
    """An optimizer or schedule: the arguments of the call are the fields of its class, in order or by name."""
    if call.name.text not in known:
        hint = f"{similar(call.name.text, known)}known: {', '.join(known)}"
        raise MistakeError(call.name.span, f"unknown {what} {call.name.text!r}", hint)
    cls = known[call.name.text]
    wanted = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    example = f"write {call.name.text}({', '.join(f'{n}=...' for n in wanted)})"
    names = list(wanted)
    positional = [(names[i] if i < len(names) else "", a.span, a) for i, a in enumerate(call.arguments)]
    given: dict[str, float | int | bool] = {}
    for key, span, value in (*positional, *((k.text, k.span, v) for k, v in call.keywords)):
        if key not in wanted or key in given:
            raise MistakeError(span, f"{what} {call.name.text!r} has no place for this argument", example)
        given[key] = _value(value, str(wanted[key].type), key)
    missing = [n for n, f in wanted.items() if f.default is MISSING and n not in given]
    if missing:
        raise MistakeError(call.span, f"{what} {call.name.text!r} needs its {missing[0]}", example)
    return cls(**given)


def _value(value: Expression, kind: str, key: str) -> float | int | bool:
    if kind == "bool" and isinstance(value, Name) and value.text in ("true", "false"):
        return value.text == "true"
    if kind == "float" and isinstance(value, Number) and value.value >= 0:
        return value.value
    if kind == "int" and isinstance(value, Number):
        return _count(value)
    wanted = {"bool": "true or false", "float": "a number that is not negative", "int": "a whole number"}[kind]
    raise MistakeError(value.span, f"{key} is {wanted}", f"write e.g. {key}={'true' if kind == 'bool' else '1'}")


def _count(number: Number) -> int:
    if not number.integer or number.value < 1:
        raise MistakeError(number.span, "this is a whole number of at least 1", "write e.g. 10")
    return int(number.value)
