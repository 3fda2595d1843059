"""The command line. Thin: it reads files, calls the library, prints."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from glyphc import __version__
from glyphc.commands import roles, service
from glyphc.commands.arrays import check_output, input_files, keep_sources, load_inputs, samples_option, save_arrays
from glyphc.commands.compare import compare_command
from glyphc.commands.doctor import doctor_command
from glyphc.commands.engines import engines_command
from glyphc.commands.export import export_command
from glyphc.commands.grouping import RoleGroup
from glyphc.commands.inspect import inspect_command
from glyphc.commands.measure import measure_command
from glyphc.commands.opt import opt_command
from glyphc.commands.plan import plan_command
from glyphc.commands.strategies import load_retraining, strategies_command
from glyphc.commands.train import train_command
from glyphc.commands.training import training_group
from glyphc.errors import GlyphcError, OverrunWarning

_F = TypeVar("_F", bound=Callable[..., Any])


class _Group(RoleGroup):
    """Turns user errors into one paragraph on stderr and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        # what Python programs get as warnings is printed here in so many words
        warnings.filterwarnings("ignore", "NOT SECURE")
        warnings.filterwarnings("ignore", category=OverrunWarning)
        try:
            return super().invoke(ctx)
        except GlyphcError as e:
            click.echo(f"error: {e}", err=True)
            ctx.exit(e.exit_code)
        except KeyboardInterrupt:
            click.echo("interrupted; nothing was written", err=True)
            ctx.exit(130)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Compile neural networks to programs that run on encrypted data."""


@main.command("compile")
@click.argument("model", type=click.Path())
@click.option(
    "--calibration",
    metavar="[NAME=]FILE",
    multiple=True,
    help="Representative samples (.npy, or .npz for several inputs; or NAME=FILE, once for each input); they set value "
    "ranges.",
)
@click.option("--batch", type=click.IntRange(1), help="Samples evaluated at once. [default: the model's, or 1]")
@click.option("-o", "--output", type=click.Path(), help="The artifact to write. [default: MODEL with suffix .glyphc]")
@click.option(
    "--tolerance",
    type=float,
    help="Points of accuracy, or percent of a result's spread, that may be lost beside the float network. [default: "
    "0.5, or 0.75 of the spread]",
)
@click.option("--logit-tolerance", type=float, help="Tolerated rms error of the outputs in their own units, instead.")
@click.option(
    "--measure",
    "measures",
    multiple=True,
    metavar="OUTPUT=KIND",
    help="How an output is judged: classes, relative (to each column's spread), absolute. [default: as the model says]",
)
@click.option(
    "--margin",
    type=float,
    help="Factor by which hidden values may leave their calibrated range. [default: by its tail]",
)
@click.option("--strategy", help="Ways of computing that may be taken; 'glyphc strategies' lists them. [default: auto]")
@click.option("--degree", type=int, help="Of polynomials, for strategies that compute them. [default: the strategy's]")
@click.option(
    "--table-bits",
    type=int,
    help="Of the index of tables, for strategies that look functions up. [default: the strategy's]",
)
@click.option("--word-bits", type=int, help="Of words, for strategies that compute on bits. [default: the strategy's]")
@click.option(
    "--retrain-data",
    type=click.Path(),
    help="Samples to train the network again on, in the clear, with the strategy's polynomials, squares, ... in it.",
)
@click.option("--retrain-labels", type=click.Path(), help="Labels or targets of these samples.")
@click.option(
    "--trips",
    type=click.IntRange(0),
    help="To the client, which sees hidden values there, that a batch may take. [default: for auto 0]",
)
@click.option(
    "--memory",
    type=click.FloatRange(0, min_open=True),
    help="Gigabytes that a run may take at its peak; larger batches are done in passes.",
)
@click.option(
    "--prefer",
    type=click.Choice(["latency", "throughput", "traffic"]),
    help="What 'auto' makes small, of several strategies. [default: latency, with less compared]",
)
@click.option("--allow-slow", is_flag=True, help="A batch may take more than ten minutes by gates or look-ups.")
@click.option(
    "--engine", help="By whose prices layouts and parameters are chosen. [default: the first that can run it]"
)
@click.option("--passes", help="The pipeline as text, e.g. 'fold,calibrate,quantize{input_bits=12},...'.")
@click.option("--from", "start", metavar="STAGE", help="The level or pass that a .gir MODEL comes from.")
@click.option("--insecure-ring", type=int, help="A small ring for tests. NOT SECURE.")
@click.option("--sample", "one_sample", is_flag=True, help="The ONNX file describes one sample: no axis is the batch.")
@click.option(
    "--encrypt-weights",
    metavar="TENSORS",
    help="Tensors that the server must not see, separated by commas, or 'all'. Their values are written to a file of "
    "their own, beside the artifact, with suffix .weights: keep it.",
)
def compile_command(
    model: str,
    calibration: tuple[str, ...],
    batch: int | None,
    output: str | None,
    tolerance: float | None,
    logit_tolerance: float | None,
    measures: tuple[str, ...],
    margin: float | None,
    strategy: str | None,
    degree: int | None,
    table_bits: int | None,
    word_bits: int | None,
    retrain_data: str | None,
    retrain_labels: str | None,
    trips: int | None,
    memory: float | None,
    prefer: str | None,
    allow_slow: bool,
    engine: str | None,
    passes: str | None,
    start: str | None,
    insecure_ring: int | None,
    one_sample: bool,
    encrypt_weights: str | None,
) -> None:
    """Compile a MODEL (.onnx, .glyph, or a graph as .gir); print its schedule and write one artifact file."""
    from glyphc.compiler import compile
    from glyphc.console import reporter
    from glyphc.diagnostics import summary
    from glyphc.files import check_writable
    from glyphc.measures import parse_kinds
    from glyphc.program import INSECURE_WARNING

    path = Path(output) if output else Path(model).with_suffix(".glyphc")
    keep_sources(path, model, *input_files(calibration), retrain_data, retrain_labels)
    check_writable(path)
    secrets = path.with_suffix(".weights")
    if encrypt_weights is not None:
        keep_sources(secrets, model, *input_files(calibration))
        check_writable(secrets)
    samples = load_inputs(calibration, "calibration samples") if calibration else None
    program = compile(
        model,
        samples,
        batch,
        tolerance=tolerance,
        logit_tolerance=logit_tolerance,
        measure={name: kind.value for name, kind in parse_kinds(measures).items()},
        margin=margin,
        passes=passes,
        start=start,
        insecure_ring=insecure_ring,
        encrypt_weights=encrypt_weights,
        one_sample=one_sample,
        strategy=strategy,
        degree=degree,
        table_bits=table_bits,
        word_bits=word_bits,
        retrain=load_retraining(retrain_data, retrain_labels),
        engine=engine,
        reporter=reporter(),
        trips=trips,
        memory=None if memory is None else memory * 1e9,
        prefer=prefer,
        allow_slow=allow_slow,
    )
    text = summary(program)
    if program.encrypted_weights:
        program.save_weights(secrets)
    program.save(path)
    for note in program.notes:
        click.echo(f"note: {note}", err=True)
    if not program.secure:
        click.echo(INSECURE_WARNING, err=True)
    click.echo(text)
    click.echo(f"\nwrote {path} ({path.stat().st_size:,} bytes)")
    if program.encrypted_weights:
        click.echo(f"wrote {secrets} ({secrets.stat().st_size:,} bytes): the weights in the clear, not for the server")


@main.command("run")
@click.argument("artifact", type=click.Path())
@samples_option
@click.option("--output", "output_path", type=click.Path(), required=True, help="Results (.npy, or .npz for several).")
@click.option(
    "--mode",
    type=click.Choice(["encrypted", "simulate", "clear"]),
    default="encrypted",
    show_default=True,
    help="simulate: predicted approximation and noise, no encryption; clear: the quantized graph, no encryption.",
)
@click.option("--engine", help="What encrypts and computes; 'glyphc engines' lists them. [default: the first that can]")
@click.option("--record", type=click.Path(), help="Also write what took how long (.json), for 'inspect --run'.")
@click.option("--weights", type=click.Path(), help="The weights of a program compiled with --encrypt-weights.")
@click.option("--allow-slow", is_flag=True, help="It may take more than ten minutes by gates or look-ups.")
def run_command(
    artifact: str,
    given: tuple[str, ...],
    output_path: str,
    mode: str,
    engine: str | None,
    record: str | None,
    weights: str | None,
    allow_slow: bool,
) -> None:
    """Make keys, encrypt, evaluate, decrypt: all in one process."""
    from glyphc.console import reporter
    from glyphc.diagnostics import graph_text, predicted, run_summary
    from glyphc.files import check_writable
    from glyphc.overruns import message
    from glyphc.program import INSECURE_WARNING, Program
    from glyphc.run_record import RunRecord
    from glyphc.runtime import run

    program = Program.load(artifact, weights)
    program.require_weights()
    if not program.secure and mode == "encrypted":
        click.echo(INSECURE_WARNING, err=True)
    x = load_inputs(given, "input")
    keep_sources(Path(output_path), artifact, weights, *input_files(given))
    check_output(output_path, len(program.client.outputs))
    if record is not None:
        keep_sources(Path(record), artifact, weights, *input_files(given))
        check_writable(Path(record))
    report = run(program, x, mode, reporter(), engine, allow_slow)
    save_arrays(output_path, report.outputs)
    if record is not None:
        RunRecord.of(program, report).save(Path(record))
    if report.node_seconds:
        estimates = predicted(program, engine=report.engine) if mode == "encrypted" and report.passes == 1 else None
        click.echo(graph_text(program.graph, estimates, report.node_seconds, mode=mode) + "\n")
    click.echo(run_summary(report))
    click.echo(f"wrote {output_path}")
    if report.overruns or report.lost:
        click.echo(f"warning: {message(report.overruns, report.samples, report.lost)}", err=True)


main.add_command(compare_command)
main.add_command(doctor_command)
main.add_command(engines_command)
main.add_command(export_command)
main.add_command(inspect_command)
main.add_command(measure_command)
main.add_command(opt_command)
main.add_command(plan_command)
main.add_command(strategies_command)
main.add_command(train_command)
main.add_command(training_group)
roles.register(main)
service.register(main)


if __name__ == "__main__":
    sys.exit(main())
