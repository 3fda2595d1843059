"""``glyphc train``: thin; it reads files, calls the library, prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from glyphc.errors import GlyphcError

from .job_options import bytes_of, describe, job_of, job_options, plan_options, planned_by
from .train_strategies import GLYPH, check_sizes, refuse_resume, strategy_options, train_by

if TYPE_CHECKING:
    from glyphc.train.job import Job
    from glyphc.trainer.loop import TrainingReport


@click.command("train")
@job_options
@plan_options
@strategy_options
@click.option("-o", "--output", type=click.Path(), required=True, help="The trained model to write (.onnx).")
@click.option(
    "--mode",
    type=click.Choice(["encrypted", "simulate", "clear"]),
    default="encrypted",
    show_default=True,
    help="simulate: predicted approximation and noise, no encryption; clear: in floating point, no encryption.",
)
@click.option(
    "--keep-on",
    type=click.Choice(["client", "server"]),
    default="client",
    show_default=True,
    help="Who computes what is frozen before the trained layers: the client, once and in the clear, or the server in "
    "every step, which takes longer.",
)
@click.option("--resume", is_flag=True, help="Go on with an interrupted run, from its last step.")
@click.option("--monitor", is_flag=True, help="Show the loss before every step. Decrypts the weights: the client's.")
def train_command(
    output: str,
    mode: str,
    resume: bool,
    monitor: bool,
    engine: str | None,
    why: bool,
    dry_run: bool,
    memory: float | None,
    strategy: str,
    degree: int | None,
    table_bits: int | None,
    word_bits: int | None,
    **chosen: Any,
) -> None:
    """Train a MODEL (.onnx or .glyph); write it with its new weights, as ONNX.

    What the training section of a .glyph file says holds unless options say otherwise.

    Encrypted (the default): client and server in one process; the server's part gets ciphertexts and evaluation keys
    only. Encryption trains the last dense layers, as many as there are, with one activation between two of them, and
    sigmoids (also for classes: one output against the rest), a softmax or numbers at the end. Layers before them must
    be frozen and are the client's, or the server's (--keep-on). Convolutions keep their weights, unless
    --train-convolutions is given: then one that reads the samples is trained, too.

    Every step is saved in the folder OUTPUT.run, with keys and encrypted data, until the trained model is written.

    Another --strategy computes the steps as another system of the survey, in one process and without checkpoints.
    """
    from glyphc.console import reporter
    from glyphc.errors import ArtifactError
    from glyphc.files import check_writable, write_atomically
    from glyphc.program import INSECURE_WARNING
    from glyphc.trainer.loop import train

    from .arrays import keep_sources
    from .trained_model import trained_model

    path = Path(output)
    if dry_run and mode != "encrypted":
        raise click.UsageError("--dry-run is about encrypted runs; leave --mode out")
    allowed = bytes_of(memory)
    check_sizes(strategy, degree, table_bits, word_bits)
    if strategy != GLYPH and resume:
        refuse_resume(strategy)
    if path.suffix != ".onnx":
        raise GlyphcError(f"the trained model {output!r} must end in .onnx")
    keep_sources(path, chosen["model"], chosen["data"], chosen["labels"])
    check_writable(path)
    job = job_of(**chosen)
    if job.options.insecure_ring is not None and mode == "encrypted":
        click.echo(INSECURE_WARNING, err=True)
    describe(job, mode)
    if strategy != GLYPH:
        sizes = (degree, table_bits, word_bits)
        network, summary = train_by(job, strategy, sizes, mode, dry_run, allowed, monitor)
        write_atomically(path, trained_model(chosen["model"], network).SerializeToString())
        click.echo(summary)
        click.echo(f"wrote {path}")
        return
    folder = path.with_name(path.name + ".run")
    show = (lambda step, value: click.echo(f"loss before step {step}: {value:.6g}", err=True)) if monitor else None

    def write(report: TrainingReport) -> None:
        try:
            write_atomically(path, trained_model(chosen["model"], report.network).SerializeToString())
        except ArtifactError as e:
            raise ArtifactError(f"{e}; the result is kept in {str(folder)!r}: repeat the command with --resume") from e

    shown = planned_by(job, engine, why, dry_run, allowed, "on disk until it ends", here=True)
    planned = shown if mode == "encrypted" else lambda plan: None
    try:
        report = train(job, mode, folder, resume, reporter(), show, write, planned, allowed, engine)
    except KeyboardInterrupt:
        if folder.exists():
            click.echo(f"\nstopped; go on later with the same command and --resume ({folder})", err=True)
            raise click.exceptions.Exit(130) from None
        raise
    click.echo(_summary(report, _keeps(job)))
    click.echo(f"wrote {path}")


def _keeps(job: Job) -> bool:
    """Whether there are frozen layers that are the server's."""
    from glyphc.train.job import Keeper
    from glyphc.train.stages import find_stages

    return job.options.keep_on is Keeper.SERVER and any(s.errors is None for s in find_stages(job.program))


def _summary(report: TrainingReport, keeps: bool) -> str:
    from glyphc.ir.parameters import INSECURE
    from glyphc.knowledge import TRAINING, TRAINING_KEPT
    from glyphc.program import INSECURE_WARNING
    from glyphc.runtime import Mode

    security = INSECURE_WARNING if report.security == INSECURE else report.security
    lines = [f"{'steps':18} {report.steps}", f"{'security':18} {security}"]
    if report.mode is Mode.ENCRYPTED:
        learns = f"{TRAINING_KEPT} (as two machines would; this process has it all)" if keeps else str(TRAINING)
        lines.append(f"{'who learns what':18} {learns}")
    if report.ranges is not None:
        lines.append(f"{'ranges':18} {report.ranges} ({report.source})")
    if report.reach is not None:
        lines.append(f"{'range used':18} {report.reach:.0%} in the trial run")
    if report.seconds:
        total = sum(report.seconds)
        lines.append(f"{'seconds':18} {total:.1f}, {total / len(report.seconds):.3g} for a step")
    return "\n".join(lines)
