"""How large the numbers of a run are, by a run in the clear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.rounding import up
from glyphc.train.job import Job

from .chain import chain_of
from .trial import in_the_clear, require_trial

F64 = npt.NDArray[np.floating[Any]]

# What nothing is smaller than, of what a trial sees.
LEAST = 2.0**-20


@dataclass(frozen=True)
class Seen:
    """Largest magnitudes with a margin, rounded up: of samples, and by layer."""

    inputs: float
    weights: tuple[float, ...]
    values: tuple[float, ...]
    sums: tuple[float, ...]
    errors: tuple[float, ...]

    @staticmethod
    def of(job: Job, name: str) -> Seen:
        """name: of the strategy, for messages. TrainingError where the run diverges, or is not to be done."""
        trial = require_trial(job, name)
        chain, margin = chain_of(trial, name), job.margin
        largest: dict[str, list[float]] = {}

        def saw(what: str, found: list[F64]) -> None:
            sizes = [float(np.abs(v).max(initial=0.0)) for v in found]
            largest[what] = [*map(max, largest.get(what, sizes), sizes)]

        for number, (state, _) in enumerate(in_the_clear(trial)):
            x, y = trial.batch(trial.batches.number(number))
            values = chain.values(state.weights, x.reshape(len(x), -1), y)
            after = chain.after(state.weights, values, trial.options.optimizer.learning_rate)
            for weights in (state.weights, after):
                saw("weights", [weights[layer.weight] for layer in chain.layers])
                saw("biases", [weights[layer.bias] if layer.bias else np.zeros(1) for layer in chain.layers])
            saw("values", values.read)
            saw("sums", values.sums)
            saw("errors", values.errors)
        features = [job.batch(n)[0] for n in range(job.batches.per_epoch)]
        inputs = max((float(np.abs(f).max(initial=0.0)) for f in features), default=0.0)
        planned = {what: tuple(up(max(margin * v, LEAST)) for v in sizes) for what, sizes in largest.items()}
        both = tuple(map(max, planned["weights"], planned["biases"]))
        return Seen(up(max(inputs, LEAST)), both, planned["values"], planned["sums"], planned["errors"])
