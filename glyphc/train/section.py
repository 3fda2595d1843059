"""The training section of a ``.glyph`` file in the terms of a training job."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from glyphc.frontends import dsl_training as dsl

from .errors import TrainingError
from .optimizers import SGD, Constant, Cosine, Schedule, Steps, parse_schedule

_LOSSES = {
    "cross_entropy": "softmax-cross-entropy",
    "binary_cross_entropy": "binary-cross-entropy",
    "mse": "mean-squared-error",
}


@dataclass(frozen=True)
class Defaults:
    """What a job does unless its user says otherwise. loss: None for what goes with the model's last operation."""

    loss: str | None
    optimizer: SGD
    epochs: int
    frozen: tuple[str, ...]

    @staticmethod
    def of(training: dsl.Training | None, steps_per_epoch: int) -> Defaults:
        """From a file's section, whose schedules count epochs; without one, plain gradient descent for one epoch."""
        if training is None:
            return Defaults(None, SGD(0.1), 1, ())
        sgd = training.optimizer
        optimizer = SGD(
            sgd.learning_rate,
            sgd.momentum,
            sgd.nesterov,
            sgd.weight_decay,
            _schedule(training.schedule, steps_per_epoch),
        )
        return Defaults(_LOSSES[training.loss.name], optimizer, training.epochs or 1, training.frozen)


def schedule_of(text: str, steps_per_epoch: int) -> Schedule:
    """A schedule from text: as in a ``.glyph`` file, ``cosine(epochs=5, final=0.1)``; or one that counts steps, in
    braces, see :func:`~glyphc.train.optimizers.parse_schedule`. TrainingError says what is wrong with it."""
    call = re.fullmatch(r"\s*([a-z]+)\s*\((.*)\)\s*", text)
    if call is None:
        return parse_schedule(text)
    known = {kind.keyword: kind for kind in (dsl.Constant, dsl.StepDecay, dsl.ExponentialDecay, dsl.CosineDecay)}
    if call[1] not in known:
        raise TrainingError(f"unknown schedule {text!r}; known: {', '.join(known)}")
    kind = known[call[1]]
    types = {f.name: int if f.type == "int" else float for f in fields(kind)}
    try:
        pairs = [part.split("=") for part in call[2].split(",") if part.strip()]
        given = {key.strip(): types[key.strip()](value) for key, value in pairs}
        return _schedule(kind(**given), steps_per_epoch)  # type: ignore[arg-type]
    except (KeyError, ValueError, TypeError):
        example = f"{call[1]}({', '.join(f'{name}=...' for name in types)})"
        raise TrainingError(f"schedule {text!r} cannot be read; write {example}") from None


def _schedule(schedule: dsl.Schedule, steps_per_epoch: int) -> Schedule:
    match schedule:
        case dsl.StepDecay(every=every, factor=factor):
            return Steps(every * steps_per_epoch, factor)
        case dsl.ExponentialDecay(factor=factor):
            return Steps(steps_per_epoch, factor)
        case dsl.CosineDecay(epochs=epochs, final=final):
            return Cosine(epochs * steps_per_epoch, final)
        case dsl.Constant():
            return Constant()
