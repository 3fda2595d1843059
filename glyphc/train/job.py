"""A training job: everything that decides its result, data included, checked and ready to be run in any mode."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from math import isfinite, log, prod
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.analysis.security import check_insecure_ring
from glyphc.errors import DataError
from glyphc.ir.graph import Graph
from glyphc.ir.ops import Dense, Input
from glyphc.ir.text import to_text
from glyphc.rounding import up

from .batches import Batches, Shuffle
from .errors import TrainingError
from .frozen import Split, split, unsplit
from .losses import LOSSES, Loss, MeanSquaredError, choose_loss
from .normalise import with_biases
from .optimizers import SGD
from .ranges import MARGIN, Ranges
from .step import StepProgram, convolution_names, make_step, weight_slots, with_weights
from .whitening import WHITENING, check_ridge, unwhitened, whitened

F64 = npt.NDArray[np.floating[Any]]

# A loss that has grown by this factor does not come back.
_DIVERGED = 10.0


# What bounds that hold for exact arithmetic are widened by: the noise of encryption.
_NOISE_MARGIN = 1.05
# Of what a trial on other samples sees, at least.
_SAMPLE_MARGIN = 2.0


class RangeSource(Enum):
    """Where the ranges of an encrypted run come from. TRIAL: the same run in the clear, by the client, on its own data;
    SAMPLE: one on other samples, public ones or a part; BOUNDS: the network and the optimizer alone."""

    TRIAL = "trial"
    SAMPLE = "sample"
    BOUNDS = "bounds"


class Keeper(Enum):
    """Who has the frozen layers before the trained ones. CLIENT: the client computes them in the clear, once; SERVER:
    the server does in every step, with weights that the client need not know."""

    CLIENT = "client"
    SERVER = "server"


@dataclass(frozen=True)
class Options:
    """What a user decides. batch: samples of a step, None for all. loss: a name of ``LOSSES``, None for the usual one.

    frozen: layers that keep their weights. initial: "model", "zeros" or "random" weights to start from. reach: sums
    and logits that encrypted training computes; None: what ``source`` says. margin: how many times larger than what was
    seen or bounded ranges are; None: what goes with the source. clip: samples are scaled down to this Euclidean norm of
    what the trained part reads. insecure_ring: a small ring for tests; NOT SECURE. convolutions: whether those that are
    not frozen are trained, too. keep_on: who has what is frozen before that. clip_errors: what a sample's errors that
    are sent back through an activation stay below, see ``make_step``. monitor: whether encrypted steps give the client
    a statistic to watch. shuffle: what is drawn anew in every epoch. whiten: the ridge of the whitening before the
    first trained layer (``whitening``), None for none. GlyphcError for a ring that there is not, TrainingError for a
    margin below 1 and the like.
    """

    optimizer: SGD
    steps: int
    batch: int | None = None
    loss: str | None = None
    frozen: tuple[str, ...] = ()
    initial: str = "model"
    seed: int = 0
    reach: float | None = None
    insecure_ring: int | None = None
    source: RangeSource = RangeSource.TRIAL
    margin: float | None = None
    clip: float | None = None
    convolutions: bool = False
    clip_errors: float | None = None
    keep_on: Keeper = Keeper.CLIENT
    monitor: bool = False
    shuffle: Shuffle = Shuffle.ONCE
    whiten: float | None = None

    def __post_init__(self) -> None:
        check_insecure_ring(self.insecure_ring)
        if self.margin is not None and not (isfinite(self.margin) and self.margin >= 1):
            raise TrainingError(f"a margin is a factor of at least 1, not {self.margin:g}")
        if self.clip is not None and not (isfinite(self.clip) and self.clip > 0):
            raise TrainingError(f"samples are clipped to a positive norm, not {self.clip:g}")
        if self.clip_errors is not None and not (isfinite(self.clip_errors) and self.clip_errors > 0):
            raise TrainingError(f"errors are limited to a positive number, not {self.clip_errors:g}")
        if self.whiten is not None:
            check_ridge(self.whiten)
        if self.reach is not None and (self.margin is not None or self.source is RangeSource.BOUNDS):
            raise TrainingError("a range is given, so there is nothing to derive: leave margin and bounds out")


@dataclass(frozen=True, eq=False)
class Trial:
    """Samples that ranges are found on, other than those of the training; targets as of a ``Job``."""

    x: F64
    y: F64


@dataclass(frozen=True, eq=False)
class Job:
    """split: the network, and its part that is trained. x: samples; y: targets, shape (samples, outputs).

    ranges: what an earlier trial run found, if there was one. trial: for ``RangeSource.SAMPLE``.
    """

    split: Split
    options: Options
    loss: Loss
    program: StepProgram
    batches: Batches
    x: F64
    y: F64
    ranges: Ranges | None = None
    trial: Trial | None = None

    @property
    def network(self) -> Graph:
        """The whole network."""
        return self.split.network

    @cached_property
    def _whole(self) -> F64:
        """What the trained part reads, of all samples: the client computes everything before it, once."""
        return self.split.features(self.x)

    @cached_property
    def _features(self) -> F64:
        """The same, clipped."""
        return clipped(self._whole, self.radius)

    @cached_property
    def radius(self) -> float | None:
        """The largest norm of what the trained part reads of a sample; None: nothing is clipped.

        Beside a trial on other samples, those beyond the longest of them are clipped: nothing is known of what they
        would do. (Breast cancer, twelve draws of 30 samples: without, half of the ranges do not hold all samples.)
        """
        if self.options.clip is not None or self.trial is None:
            return self.options.clip
        return up(float(norms(self.split.features(self.trial.x)).max()))

    @property
    def clipped(self) -> int:
        """How many samples are beyond the radius."""
        return 0 if self.radius is None else int((norms(self._whole) > self.radius).sum())

    @property
    def widest(self) -> float:
        """What ranges may know of the norm of samples: the radius, or else the largest norm, rounded up."""
        return self.radius if self.radius is not None else up(max(float(norms(self._whole).max(initial=0)), 2.0**-20))

    @property
    def margin(self) -> float:
        """How many times larger than what was seen or bounded ranges are.

        The largest of N samples is log N / log n times that of n ones where tails fall off exponentially. A trial on
        few samples has weights of its own, too: twice what it sees held in 23 of 24 draws of 30 or 60 samples.
        """
        if self.options.margin is not None:
            return self.options.margin
        if self.options.source is RangeSource.BOUNDS:
            return _NOISE_MARGIN
        if self.trial is None:
            return MARGIN
        few, many = max(len(self.trial.x), 3), max(self.batches.samples, 3)
        return max(_SAMPLE_MARGIN, MARGIN * log(many) / log(few))

    @property
    def rehearsal(self) -> Job:
        """What is run in the clear to find ranges: this job, or the same on the samples of the trial."""
        if self.trial is None:
            return self
        x, y = self.trial.x, self.trial.y
        batches = Batches(len(x), min(self.batches.batch, len(x)), self.options.seed, shuffle=self.options.shuffle)
        options = replace(self.options, clip=self.radius, source=RangeSource.TRIAL)
        return job_of(self.network, self.loss, options, batches, x, y, self.ranges)

    def batch(self, number: int) -> tuple[F64, F64]:
        """What the trained part reads, and targets, of a batch."""
        rows = self.batches.rows(number)
        return self._features[rows], self.y[rows]

    def trained(self, weights: dict[str, F64]) -> Graph:
        """The network with these weights; where the server keeps layers of its own, what comes behind these."""
        if self.options.keep_on is Keeper.CLIENT:
            return self.whole(weights)
        head = split(self.network, self.loss, self.options.frozen, self.options.convolutions).head
        return with_weights(head, {name: value for name, value in weights.items() if name in head.constants})

    def whole(self, weights: dict[str, F64]) -> Graph:
        """The given network with these weights, by the names that they are trained under."""
        return unwhitened(with_weights(self.network, weights))

    def named(self, features: F64) -> dict[str, F64]:
        """What the trained part reads, by the name of its input."""
        return {_input(self.split.head).name: features}

    def fingerprint(self) -> str:
        """Equal for equal jobs, so that a run is only resumed as what it was; the number of steps may differ."""
        digest = hashlib.sha256(to_text(self.network).encode())
        digest.update(repr(replace(self.options, steps=0)).encode())
        trial = () if self.trial is None else (self.trial.x, self.trial.y)
        for array in (self.x, self.y, *trial):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def norms(features: F64) -> F64:
    """Euclidean, of each sample."""
    return np.asarray(np.linalg.norm(features.reshape(len(features), prod(features.shape[1:])), axis=1))


def clipped(features: F64, radius: float | None) -> F64:
    """Samples beyond a norm are scaled down to it."""
    if radius is None:
        return features
    factors = radius / np.maximum(norms(features), radius)
    return np.asarray(features * factors.reshape(-1, *(1,) * (features.ndim - 1)))


def make_job(
    network: Graph,
    x: npt.ArrayLike,
    labels: npt.ArrayLike,
    options: Options,
    trial: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    loss: Loss | None = None,
) -> Job:
    """Check everything; DataError or TrainingError says what is wrong and where.

    trial: samples and labels for ``RangeSource.SAMPLE``. loss: one that has no name, instead of that of the options.
    """
    if options.steps < 1:
        raise TrainingError(f"at least one step, not {options.steps}")
    network = with_biases(network)
    samples = samples_of(network, x)
    loss = loss or _loss(network, options.loss, labels)
    last = loss.attachment(network, network.outputs[0])
    y = loss.targets(labels, last.type.size)
    if len(y) != len(samples):
        raise DataError(f"{len(samples)} samples, but {len(y)} labels")
    batch = len(samples) if options.batch is None else options.batch
    if not 1 <= batch <= len(samples):
        raise DataError(f"the batch must be 1 to {len(samples)} samples, not {batch}")
    if (trial is None) is (options.source is RangeSource.SAMPLE):
        raise TrainingError("ranges from a sample take samples and labels for a trial, and other ranges none")
    tried = None
    if trial is not None:
        tried = Trial(samples_of(network, trial[0]), loss.targets(trial[1], last.type.size))
        if len(tried.x) != len(tried.y):
            raise DataError(f"{len(tried.x)} samples for a trial, but {len(tried.y)} labels")
    if options.whiten is not None:
        network, options = _whitened(network, loss, options, samples)
    network = _initialised(network, loss, options)
    batches = Batches(len(samples), batch, options.seed, shuffle=options.shuffle)
    return job_of(network, loss, options, batches, samples, y, trial=tried)


def _whitened(network: Graph, loss: Loss, options: Options, x: F64) -> tuple[Graph, Options]:
    """The network with a whitening layer, and that layer among the frozen ones."""
    if options.keep_on is Keeper.SERVER:
        raise TrainingError("whitening is the client's, before it encrypts: it does not go with --keep-on server")
    last = loss.attachment(network, network.outputs[0])
    slots = weight_slots(network, last, options.frozen, options.convolutions)
    found = split(network, loss, options.frozen, options.convolutions)
    trained = frozenset(slot.name for slot in slots if slot.trained)
    return whitened(found, trained, x, options.whiten or 0.0), replace(options, frozen=(*options.frozen, WHITENING))


def make_owned_job(
    network: Graph, samples: int, options: Options, trial: tuple[npt.ArrayLike, npt.ArrayLike] | None = None
) -> Job:
    """A job on so many samples that others have: nothing is known of them but a norm that their owners clip to.

    They come in batches of one owner each. TrainingError where that is too little to know.
    """
    if options.source is RangeSource.TRIAL:
        raise TrainingError("others' data cannot be tried: use ranges from bounds (--clip) or from a sample")
    if options.batch is None:
        raise TrainingError("say how many samples a step has: --batch")
    if options.keep_on is Keeper.CLIENT and samples % options.batch:
        raise TrainingError(f"{samples} samples of several owners come in whole batches; choose --batch")
    if options.whiten is not None:
        raise TrainingError("whitening takes samples, which others have; let them decorrelate features themselves")
    if options.shuffle is Shuffle.SAMPLES:
        raise TrainingError("each batch is of one owner and encrypted once: --shuffle samples is not possible")
    if options.loss is None:
        raise TrainingError("say what the labels are for: --loss")
    loss = LOSSES[options.loss]
    network = with_biases(network)
    outputs = loss.attachment(network, network.outputs[0]).type.size
    (op,) = (op for _, op in network.of(Input))
    empty = np.zeros((0, *op.shape)), np.zeros((0, outputs))
    tried = None if trial is None else Trial(samples_of(network, trial[0]), loss.targets(trial[1], outputs))
    network = _initialised(network, loss, options)
    job = job_of(
        network,
        loss,
        options,
        Batches(samples, options.batch, options.seed, shuffle=options.shuffle),
        *empty,
        trial=tried,
    )
    if options.keep_on is Keeper.CLIENT and any(slot.patches for slot in job.program.slots):
        raise TrainingError("owners of data encrypt no patches of images yet: convolutions cannot be trained so")
    if job.split.boundary is not None:
        raise TrainingError("layers before those that are trained are the owners': leave them out of the model")
    if job.radius is None:
        raise TrainingError("owners have to know what norm they clip samples to: use --clip")
    if options.source is RangeSource.BOUNDS and isinstance(loss, MeanSquaredError):
        raise TrainingError("numbers as targets have no bound that all owners know; use ranges from a sample")
    return job


def job_of(
    network: Graph,
    loss: Loss,
    options: Options,
    batches: Batches,
    x: F64,
    y: F64,
    ranges: Ranges | None = None,
    trial: Trial | None = None,
) -> Job:
    """A job of a network with the weights it starts from; x and y may be empty if no step is to be done."""
    on_server = options.keep_on is Keeper.SERVER
    if on_server:
        found = unsplit(network, (*options.frozen, *(() if options.convolutions else convolution_names(network))))
    else:
        found = split(network, loss, options.frozen, options.convolutions)
    program = make_step(
        found.head,
        loss,
        options.optimizer,
        batches.batch,
        found.frozen,
        options.convolutions or on_server,
        options.clip_errors,
    )
    return Job(found, options, loss, program, batches, x, y, ranges, trial)


def _loss(network: Graph, name: str | None, labels: npt.ArrayLike) -> Loss:
    if name is None:
        return choose_loss(network, labels)
    if name not in LOSSES:
        raise TrainingError(f"unknown loss {name!r}; known: {', '.join(LOSSES)}")
    return LOSSES[name]


def _input(network: Graph) -> Input:
    inputs = [op for _, op in network.of(Input)]
    if len(inputs) != 1:
        raise TrainingError(f"a network with one input can be trained, this one has {len(inputs)}")
    return inputs[0]


def samples_of(network: Graph, x: npt.ArrayLike) -> F64:
    """Samples as numbers of the network's input; DataError says why they do not fit."""
    op = _input(network)
    values = np.asarray(x)
    if values.dtype.kind not in "fiub" or values.ndim != len(op.shape) + 1 or values.shape[1:] != op.shape:
        wanted = ", ".join(map(str, ("samples", *op.shape)))
        raise DataError(f"the data must be numbers of shape ({wanted}); got {values.dtype} of {list(values.shape)}")
    if not len(values):
        raise DataError("there are no samples")
    if not np.isfinite(values).all():
        at = np.argwhere(~np.isfinite(values))[0]
        raise DataError(f"the data have NaN or infinity, first in sample {at[0]}; repair them")
    return values.astype(np.float64)


def _initialised(network: Graph, loss: Loss, options: Options) -> Graph:
    """The network with the weights that training starts from. Random ones as He et al. 2015, biases zero."""
    if options.initial == "model":
        return network
    if options.initial not in ("zeros", "random"):
        raise TrainingError(f"unknown initial weights {options.initial!r}; known: model, zeros, random")
    last = loss.attachment(network, network.outputs[0])
    slots = [s for s in weight_slots(network, last, options.frozen, options.convolutions) if s.trained]
    hidden = sum(isinstance(n.op, Dense) for n in network) > 1 or any(s.patches for s in slots)
    if options.initial == "zeros" and hidden and len(slots) > 2:
        raise TrainingError("hidden layers do not learn from zeros, which all have the same gradient; use random")
    random = np.random.default_rng(options.seed)
    weights: dict[str, F64] = {}
    for slot in slots:
        spread = np.sqrt(2.0 / slot.shape[1]) if len(slot.shape) == 2 and options.initial == "random" else 0.0
        weights[slot.name] = random.normal(size=slot.shape) * spread
    return with_weights(network, weights)


def check_loss(step: int, loss: float, first: float) -> None:
    """TrainingError when training diverges."""
    if not np.isfinite(loss) or loss > _DIVERGED * max(first, 1e-9):
        raise TrainingError(
            f"training diverges: the loss is {loss:.4g} before step {step}, {first:.4g} at the start; use a smaller "
            "learning rate or less momentum"
        )
