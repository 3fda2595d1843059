"""``glyphc train``: thin; it reads files, calls the library, prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from glyphc.errors import GlyphcError

if TYPE_CHECKING:
    from glyphc.train.job import Job
    from glyphc.train.loop import TrainingReport

_LOSSES = ("softmax-cross-entropy", "binary-cross-entropy", "mean-squared-error")


@click.command("train")
@click.argument("model", type=click.Path())
@click.option("--data", type=click.Path(), required=True, help="Training samples (.npy or .npz).")
@click.option("--labels", type=click.Path(), required=True, help="Classes 0, 1, ... or numbers, one for each sample.")
@click.option("-o", "--output", type=click.Path(), required=True, help="The trained model to write (.onnx).")
@click.option(
    "--mode",
    type=click.Choice(["encrypted", "simulate", "clear"]),
    default="encrypted",
    show_default=True,
    help="simulate: predicted approximation and noise, no encryption; clear: in floating point, no encryption.",
)
@click.option("--epochs", type=click.IntRange(1), help="Times that all samples are seen. [default: the model's, or 1]")
@click.option("--steps", type=click.IntRange(1), help="Steps, instead of epochs.")
@click.option("--batch", type=click.IntRange(1), help="Samples in a step. [default: all]")
@click.option("--loss", type=click.Choice(_LOSSES), help="[default: what goes with the model's end and the labels]")
@click.option("--learning-rate", type=float, help="[default: 0.1]")
@click.option("--schedule", help="E.g. 'cosine{steps=50,final=0.1}'. [default: constant]")
@click.option("--momentum", type=float, help="[default: 0]")
@click.option("--nesterov", is_flag=True, help="Nesterov's momentum.")
@click.option("--weight-decay", type=float, help="Of weights, not of biases. [default: 0]")
@click.option("--freeze", metavar="LAYER,...", help="Layers that keep their weights. [default: none]")
@click.option(
    "--init",
    type=click.Choice(["model", "zeros", "random"]),
    default="model",
    show_default=True,
    help="The weights to start from: those in MODEL, or others.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--logit-range",
    type=float,
    default=16.0,
    show_default=True,
    help="Encryption computes logits up to this magnitude; a trial run in the clear tells whether it suffices.",
)
@click.option("--resume", is_flag=True, help="Go on with an interrupted run, from its last step.")
@click.option("--monitor", is_flag=True, help="Show the loss before every step. Decrypts the weights: the client's.")
@click.option("--insecure-ring", type=int, help="A small ring for tests. NOT SECURE.")
def train_command(
    model: str,
    data: str,
    labels: str,
    output: str,
    mode: str,
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
    init: str,
    seed: int,
    logit_range: float,
    resume: bool,
    monitor: bool,
    insecure_ring: int | None,
) -> None:
    """Train a MODEL (.onnx or .glyph); write it with its new weights, as ONNX.

    What the training section of a .glyph file says holds unless options say otherwise.

    Encrypted (the default): client and server in one process; the server's part gets ciphertexts and evaluation keys
    only. Encryption trains the last dense layers, as many as there are, with one activation between two of them, and
    sigmoids (also for classes: one output against the rest), a softmax or numbers at the end. Layers before them must
    be frozen and are the client's. Convolutions keep their weights always.

    Every step is saved in the folder OUTPUT.run, with keys and encrypted data, until the trained model is written.
    """
    from glyphc.cli import _keep_sources, _load
    from glyphc.compiler import INSECURE_RINGS
    from glyphc.console import reporter
    from glyphc.errors import ArtifactError, ModelError
    from glyphc.files import check_writable, write_atomically
    from glyphc.frontends.to_onnx import to_onnx
    from glyphc.program import INSECURE_WARNING
    from glyphc.sources import read_model
    from glyphc.train.job import Options, make_job
    from glyphc.train.loop import train
    from glyphc.train.optimizers import SGD, parse_schedule
    from glyphc.train.section import Defaults
    from glyphc.train.step import fixed_layers

    if epochs is not None and steps is not None:
        raise click.UsageError("give --epochs or --steps, not both")
    if insecure_ring is not None and insecure_ring not in INSECURE_RINGS:
        raise GlyphcError(f"--insecure-ring must be one of {', '.join(map(str, INSECURE_RINGS))}, not {insecure_ring}")
    path = Path(output)
    if path.suffix != ".onnx":
        raise GlyphcError(f"the trained model {output!r} must end in .onnx")
    _keep_sources(path, model, data, labels)
    check_writable(path)
    read = read_model(model)
    x, y = _load(data, "training samples"), _load(labels, "labels")
    for what, array in ((data, x), (labels, y)):
        if isinstance(array, dict):
            raise GlyphcError(f"{what!r} holds {len(array)} arrays; training takes one of samples and one of labels")
    size = len(x) if batch is None else batch
    per_epoch = -(-len(x) // max(size, 1))
    defaults = Defaults.of(read.training, per_epoch)
    count = steps if steps is not None else (epochs or defaults.epochs) * per_epoch
    usual = defaults.optimizer
    optimizer = SGD(
        _chosen(learning_rate, usual.learning_rate),
        _chosen(momentum, usual.momentum),
        nesterov or usual.nesterov,
        _chosen(weight_decay, usual.weight_decay),
        usual.schedule if schedule is None else parse_schedule(schedule),
    )
    frozen = defaults.frozen if freeze is None else tuple(filter(None, (name.strip() for name in freeze.split(","))))
    options = Options(optimizer, count, batch, loss or defaults.loss, frozen, init, seed, logit_range, insecure_ring)
    job = make_job(read.graph, x, y, options)
    try:
        to_onnx(job.network)
    except ModelError as e:  # found out now, not after hours of training
        raise ModelError(f"the trained model could not be written as ONNX: {e}") from None
    if insecure_ring is not None and mode == "encrypted":
        click.echo(INSECURE_WARNING, err=True)
    click.echo(_what(job, mode), err=True)
    if fixed := fixed_layers(job.network):
        click.echo(f"convolutions and poolings keep their weights: {', '.join(fixed)}", err=True)
    folder = path.with_name(path.name + ".run")
    show = (lambda step, value: click.echo(f"loss before step {step}: {value:.6g}", err=True)) if monitor else None

    def write(report: TrainingReport) -> None:
        try:
            write_atomically(path, to_onnx(report.network).SerializeToString())
        except ArtifactError as e:
            raise ArtifactError(f"{e}; the result is kept in {str(folder)!r}: repeat the command with --resume") from e

    try:
        report = train(job, mode, folder, resume, reporter(), show, write)
    except KeyboardInterrupt:
        if folder.exists():
            click.echo(f"\nstopped; go on later with the same command and --resume ({folder})", err=True)
            raise click.exceptions.Exit(130) from None
        raise
    click.echo(_summary(report))
    click.echo(f"wrote {path}")


def _chosen(given: float | None, usual: float) -> float:
    return usual if given is None else given


def _what(job: Job, mode: str) -> str:
    o = job.options
    return f"{job.loss.name}, {o.optimizer}; {o.steps} steps of {job.batches.batch} of {len(job.x)} samples, {mode}"


def _summary(report: TrainingReport) -> str:
    from glyphc.ir.parameters import INSECURE
    from glyphc.program import INSECURE_WARNING

    security = INSECURE_WARNING if report.security == INSECURE else report.security
    lines = [f"{'steps':18} {report.steps}", f"{'security':18} {security}"]
    if report.reach is not None:
        lines.append(f"{'range used':18} {report.reach:.0%} (in a trial run in the clear)")
    if report.seconds:
        total = sum(report.seconds)
        lines.append(f"{'seconds':18} {total:.1f}, {total / len(report.seconds):.3g} for a step")
    return "\n".join(lines)
