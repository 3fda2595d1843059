"""The training section of a ``.glyph`` file in the terms of a training job."""

from __future__ import annotations

from dataclasses import dataclass

from glyphc.frontends import dsl_training as dsl

from .optimizers import SGD, Constant, Cosine, Schedule, Steps

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
