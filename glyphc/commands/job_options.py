"""The options that say what is trained and how, for all commands that train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from glyphc.errors import DataError, GlyphcError, ModelError

if TYPE_CHECKING:
    import numpy.typing as npt

    from glyphc.exchange.training_continue import Longer
    from glyphc.train.job import Job
    from glyphc.train.plan import Plan

_F = TypeVar("_F", bound=Callable[..., Any])
_LOSSES = ("softmax-cross-entropy", "binary-cross-entropy", "mean-squared-error")
_OPTIONS = (
    click.argument("model", type=click.Path()),
    click.option("--data", type=click.Path(), required=True, help="Training samples (.npy or .npz)."),
    click.option(
        "--labels", type=click.Path(), required=True, help="Classes 0, 1, ... or numbers, one for each sample."
    ),
    click.option(
        "--sample-weights", type=click.Path(), help="How much each sample counts (.npy): it is repeated so often."
    ),
    click.option(
        "--class-weights",
        metavar="WEIGHTS",
        help="How much samples of each class count: 'balanced', or e.g. '0=1,1=3'. Repeats samples.",
    ),
    click.option(
        "--whiten",
        type=float,
        metavar="RIDGE",
        help="Decorrelate what the first trained layer reads, before it is encrypted: principal axes by their "
        "deviations and RIDGE times the mean one (0.3 to 1). Undone in the trained model.",
    ),
    click.option(
        "--epochs", type=click.IntRange(1), help="Times that all samples are seen. [default: the model's, or 1]"
    ),
    click.option("--steps", type=click.IntRange(1), help="Steps, instead of epochs."),
    click.option("--batch", type=click.IntRange(1), help="Samples in a step. [default: all]"),
    click.option("--loss", type=click.Choice(_LOSSES), help="[default: what goes with the model's end and the labels]"),
    click.option("--learning-rate", type=float, help="[default: 0.1]"),
    click.option("--schedule", help="E.g. 'cosine(epochs=5, final=0.1)'. [default: constant]"),
    click.option("--momentum", type=float, help="[default: 0]"),
    click.option("--nesterov", is_flag=True, help="Nesterov's momentum."),
    click.option("--weight-decay", type=float, help="Of weights, not of biases. [default: 0]"),
    click.option("--freeze", metavar="LAYER,...", help="Layers that keep their weights. [default: none]"),
    click.option(
        "--train-convolutions",
        is_flag=True,
        help="Train convolutions, too; encrypted, the one that reads the samples, or what frozen layers make of them.",
    ),
    click.option(
        "--init",
        type=click.Choice(["model", "zeros", "random"]),
        default="model",
        show_default=True,
        help="The weights to start from: those in MODEL, or others.",
    ),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
    click.option(
        "--shuffle",
        type=click.Choice(["once", "batches", "samples"]),
        default="once",
        show_default=True,
        help="What each epoch draws anew: nothing; the order of its batches, for nothing; or its samples, so that "
        "every step has a batch of its own to encrypt and upload.",
    ),
    click.option(
        "--logit-range",
        type=float,
        help="Encryption computes logits and sums of hidden layers up to this magnitude. [default: see --ranges]",
    ),
    click.option(
        "--ranges",
        type=click.Choice(["trial", "sample", "bounds"]),
        help="Where ranges come from: the same run in the clear; one on --trial-data; or what network and optimizer "
        "can reach on any data, where nothing is run in the clear. [default: trial; sample with --trial-data]",
    ),
    click.option(
        "--trial-data", type=click.Path(), help="Samples to find ranges on: public ones, or a few of the data."
    ),
    click.option("--trial-labels", type=click.Path(), help="Their labels."),
    click.option(
        "--margin", type=float, help="How many times larger ranges are. [default: 1.15; more for few samples]"
    ),
    click.option("--clip", type=float, help="Largest norm of what the trained layers read; longer samples are scaled."),
    click.option(
        "--clip-errors",
        type=float,
        metavar="E",
        help="Errors of a sample that are sent back through an activation stay below this, softly: E tanh(e / E).",
    ),
    click.option("--insecure-ring", type=int, help="A small ring for tests. NOT SECURE."),
)


# The options before this one are about the data.
_OF_DATA = 6
_OWNED = click.option("--samples", type=click.IntRange(1), required=True, help="Of all owners together.")


def owned_options(command: _F) -> _F:
    """The same but for the data, which others have, and how many there are."""
    for option in reversed((_OPTIONS[0], _OWNED, *_OPTIONS[_OF_DATA:])):
        command = option(command)
    return command


def job_options(command: _F) -> _F:
    """Add the argument and the options that :func:`job_of` takes."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def job_of(
    model: str,
    *,
    data: str | None = None,
    labels: str | None = None,
    samples: int | None = None,
    sample_weights: str | None = None,
    class_weights: str | None = None,
    whiten: float | None = None,
    epochs: int | None,
    steps: int | None,
    batch: int | None,
    loss: str | None,
    learning_rate: float | None,
    schedule: str | None,
    momentum: float | None,
    nesterov: bool,
    weight_decay: float | None,
    freeze: str | None,
    train_convolutions: bool,
    init: str,
    seed: int,
    shuffle: str,
    logit_range: float | None,
    ranges: str | None,
    trial_data: str | None,
    trial_labels: str | None,
    margin: float | None,
    clip: float | None,
    clip_errors: float | None,
    insecure_ring: int | None,
    keep_on: str = "client",
    monitor: bool = False,
) -> Job:
    """What these options ask for, of data and labels, or of so many samples that others have.

    What the model's training section says holds unless options say otherwise. Every mistake that can be known without
    training is told here, e.g. ModelError for a network that could not be written when it is trained.
    """
    from glyphc.analysis.security import check_insecure_ring
    from glyphc.sources import read_model
    from glyphc.train.batches import Shuffle
    from glyphc.train.job import Keeper, Options, RangeSource, make_job, make_owned_job
    from glyphc.train.optimizers import SGD
    from glyphc.train.section import Defaults, schedule_of
    from glyphc.train.whitening import unwhitened

    from .trained_model import trained_model

    if epochs is not None and steps is not None:
        raise click.UsageError("give --epochs or --steps, not both")
    if (trial_data is None) != (trial_labels is None):
        raise click.UsageError("--trial-data and --trial-labels go together")
    source = RangeSource(ranges or ("trial" if trial_data is None else "sample"))
    if (source is RangeSource.SAMPLE) is (trial_data is None):
        raise click.UsageError("--ranges sample takes --trial-data, and other ranges do not")
    check_insecure_ring(insecure_ring, "--insecure-ring")
    read = read_model(model)
    own = None if data is None else samples_from(data, "training samples")
    y = None if labels is None else samples_from(labels, "labels")
    if own is not None and y is not None and not (sample_weights is None and class_weights is None):
        own, y = _repeated(own, y, sample_weights, class_weights)
    total = len(own) if own is not None else samples
    assert total is not None
    trial = None
    if trial_data is not None and trial_labels is not None:
        trial = (samples_from(trial_data, "samples of the trial"), samples_from(trial_labels, "labels of the trial"))
    size = total if batch is None else batch
    per_epoch = -(-total // max(size, 1))
    defaults = Defaults.of(read.training, per_epoch)
    count = steps if steps is not None else (epochs or defaults.epochs) * per_epoch
    usual = defaults.optimizer
    optimizer = SGD(
        _chosen(learning_rate, usual.learning_rate),
        _chosen(momentum, usual.momentum),
        nesterov or usual.nesterov,
        _chosen(weight_decay, usual.weight_decay),
        usual.schedule if schedule is None else schedule_of(schedule, per_epoch),
    )
    frozen = defaults.frozen if freeze is None else tuple(filter(None, (name.strip() for name in freeze.split(","))))
    options = Options(
        optimizer,
        count,
        batch,
        loss or defaults.loss,
        frozen,
        init,
        seed,
        logit_range,
        insecure_ring,
        source,
        margin,
        clip,
        train_convolutions,
        clip_errors,
        Keeper(keep_on),
        monitor,
        Shuffle(shuffle),
        whiten,
    )
    if own is not None and y is not None:
        job = make_job(read.graph, own, y, options, trial)
    else:
        job = make_owned_job(read.graph, total, options, trial)
    if read.dropouts:
        click.echo(f"nothing is dropped at random in training: {', '.join(read.dropouts)} are left out", err=True)
    try:
        trained_model(model, unwhitened(job.network))
    except ModelError as e:  # found out now, not after hours of training
        raise ModelError(f"the trained model could not be written as ONNX: {e}") from None
    return job


def _repeated(
    x: npt.NDArray[Any], y: npt.NDArray[Any], sample_weights: str | None, class_weights: str | None
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Samples and labels, each as often as its weight says."""
    from glyphc.train.weighting import class_factors, repeated, sample_factors

    if len(x) != len(y):
        raise DataError(f"{len(x)} samples, but {len(y)} labels")
    weights = sample_factors(None if sample_weights is None else samples_from(sample_weights, "weights"), len(x))
    if class_weights is not None:
        weights = weights * class_factors(class_weights, y)
    rows = repeated(weights)
    click.echo(f"weights: {len(x)} samples count as {len(rows)}, by repetition", err=True)
    return x[rows], y[rows]


def samples_from(path: str, what: str) -> npt.NDArray[Any]:
    """An array with at least one sample from a file."""
    from .arrays import load_arrays

    array: npt.NDArray[Any] | dict[str, npt.NDArray[Any]] = load_arrays(path, what)
    if isinstance(array, dict):
        raise GlyphcError(f"{path!r} holds {len(array)} arrays; training takes one of samples and one of labels")
    if array.ndim == 0:
        raise DataError(f"{path!r} holds a single number; its first axis must be that of the samples")
    if not len(array):
        raise DataError(f"{path!r} holds no samples (an array of shape {list(array.shape)}); training needs some")
    return array


def describe(job: Job, how: str) -> None:
    """Say what is going to be done."""
    from glyphc.train.step import fixed_layers

    o = job.options
    steps = f"{o.steps} steps of {job.batches.batch} of {job.batches.samples} samples"
    click.echo(f"{job.loss.name}, {o.optimizer}; {steps}, {how}", err=True)
    if job.clipped:
        click.echo(f"{job.clipped} of {len(job.x)} samples are scaled down to a norm of {job.radius:.3g}", err=True)
    if fixed := fixed_layers(job.network, job.program.slots):
        click.echo(f"convolutions and poolings keep their weights: {', '.join(fixed)}", err=True)


# Of those who prepare a run for a server; a single process shows more by itself ('glyphc train --monitor').
monitor_option = click.option(
    "--monitor",
    is_flag=True,
    help="The server gives one encrypted number of each step, the norm of the loss' gradient, for 'training watch'.",
)

_PLAN_OPTIONS = (
    click.option(
        "--engine",
        help="What computes (see 'glyphc engines'): kernels or openfhe. [default: the first that takes the run]",
    ),
    click.option("--why", is_flag=True, help="Show why each layer is computed as it is."),
    click.option("--dry-run", is_flag=True, help="Say what the run is going to take, and stop before keys are made."),
    click.option(
        "--memory", type=float, help="Gigabytes that the run may take. [default: what is free; for a server 16]"
    ),
)


def plan_options(command: _F) -> _F:
    """Add the options of what is said and checked before keys are made: those of :func:`planned_by`."""
    for option in reversed(_PLAN_OPTIONS):
        command = option(command)
    return command


def bytes_of(memory: float | None) -> float | None:
    """Of ``--memory``."""
    if memory is not None and not memory > 0:
        raise click.UsageError("--memory is a positive number of gigabytes")
    return None if memory is None else memory * 1e9


def planned_by(
    job: Job,
    engine: str | None,
    why: bool,
    dry_run: bool,
    allowed: float | None,
    what: str,
    owned: bool = False,
    here: bool = False,
) -> Callable[[Plan], None]:
    """What is told the plan of a run: it shows it, and ends the command if that is all that was asked for.

    engine: that was asked for; allowed, here: bytes of memory, see ``require_memory``; what: becomes of the server's
    folder; owned: by owners of data, who encrypt the batches.
    """
    from glyphc.exchange.training_client import program_of
    from glyphc.exchange.training_engines import training_engine
    from glyphc.exchange.training_room import folder_bytes
    from glyphc.train.predict import require_memory

    def planned(plan: Plan) -> None:
        chosen, reason = training_engine(plan.parameters, engine)
        size = f"{folder_bytes(program_of(job, plan), chosen, owned) / 1e9:.2f} GB {what}"
        click.echo(f"engine: {chosen}{f' ({reason})' if reason else ''}", err=True)
        show_plan(plan, job, chosen, why, size)
        require_memory(plan, chosen, allowed, here)
        if dry_run:
            click.echo("nothing was encrypted (--dry-run)")
            raise click.exceptions.Exit(0)

    return planned


def show_plan(plan: Plan, job: Job, engine: str, why: bool, size: str) -> None:
    """Say what an encrypted run is going to take on an engine, and why it is planned so."""
    from glyphc.analysis import cost_file
    from glyphc.analysis.kernels_cost import for_engine
    from glyphc.progress import duration
    from glyphc.reasons import why as explained
    from glyphc.train.planning import source_text
    from glyphc.train.predict import different_batches, predict

    steps = job.options.steps
    found = predict(plan, steps, for_engine(cost_file.current(), engine), different_batches(job.batches, steps))
    at = f"{found.step_seconds:.3g} s a step with {found.bootstraps} bootstraps"
    beside = f"keys {duration(found.key_seconds)} and encryption {duration(found.encrypt_seconds)} of it"
    if plan.server.micros > 1:
        parts = f"{plan.server.micros} micro-batches of {plan.server.micro_batch} samples"
        click.echo(f"a step takes {parts} one after another and adds their gradients", err=True)
    click.echo(f"predicted: {at}, {duration(found.seconds)} for {found.steps} on {found.machine} ({beside})", err=True)
    batches = f"{found.batches} batches of {found.ciphertexts} ciphertexts, {found.batch_bytes / 1e6:.0f} MB each"
    click.echo(
        f"predicted: {found.memory_bytes / 1e9:.1f} GB of memory, keys of {found.key_bytes / 1e9:.1f} GB, {batches}",
        err=True,
    )
    click.echo(f"predicted: {size}", err=True)
    click.echo(f"ranges: {plan.ranges} ({source_text(job)}); {plan.precision(engine)}", err=True)
    if why:
        click.echo("seconds of a step by way: as shipped for the engine openfhe, by which ways are chosen", err=True)
        for stage, decision in zip(plan.stages, plan.decisions, strict=True):
            click.echo(explained(replace(stage.product, decisions=(decision,))), err=True)


def show_longer(longer: Longer) -> None:
    """Say what the steps to come of a run that goes on are going to take."""
    from glyphc.analysis import cost_file
    from glyphc.analysis.kernels_cost import for_engine
    from glyphc.exchange.training_room import batch_bytes
    from glyphc.progress import duration
    from glyphc.train.predict import predict

    plan, new = longer.plan, len(longer.numbers)
    found = predict(plan, longer.steps, for_engine(cost_file.current(), longer.engine), new)
    click.echo(f"{longer.job.options.optimizer}; {longer.steps} steps to come", err=True)
    at = f"{found.step_seconds:.3g} s a step with {found.bootstraps} bootstraps"
    whole = duration(longer.steps * found.step_seconds)
    click.echo(f"predicted: {at}, {whole} for {longer.steps} on {found.machine}", err=True)
    upload = f"{new * batch_bytes(longer.program) / 1e6:.0f} MB to upload"
    click.echo(f"predicted: {found.memory_bytes / 1e9:.1f} GB of memory, {new} new batches, {upload}", err=True)
    used = "" if longer.reach is None else f", {longer.reach:.0%} of them used"
    click.echo(f"ranges: {plan.ranges} as before ({longer.tried}{used})", err=True)


def _chosen(given: float | None, usual: float) -> float:
    return usual if given is None else given
