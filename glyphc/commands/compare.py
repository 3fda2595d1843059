"""``glyphc compare``: strategies side by side on one network and its data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from glyphc.errors import DataError, GlyphcError

from .compare_training import RATE, STEPS, compare_training_command

if TYPE_CHECKING:
    from glyphc.comparison import Comparison


@click.command("compare")
@click.argument("model", type=click.Path())
@click.option("--calibration", type=click.Path(), help="Representative samples (.npy or .npz); not with --train.")
@click.option("--input", "samples", type=click.Path(), required=True, help="Held-out samples to run on (.npy).")
@click.option("--labels", type=click.Path(), required=True, help="Their classes 0, 1, ... or targets (.npy).")
@click.option(
    "--strategies",
    default="all",
    show_default=True,
    metavar="NAMES",
    help="Which, separated by commas: NAME[:SIZE][+retrained], SIZE a degree, or the bits of a table's index or of "
    "words; 'glyphc strategies' lists the names.",
)
@click.option("--retrain-data", type=click.Path(), help="Samples to train changed networks again on, in the clear.")
@click.option("--retrain-labels", type=click.Path(), help="Labels or targets of these samples.")
@click.option("--batch", type=click.IntRange(1), help="Samples evaluated at once. [default: all]")
@click.option("--tolerance", type=float, help="As of 'compile', for strategies that heed it.")
@click.option("--seconds", type=float, default=600, show_default=True, help="What takes longer is only predicted.")
@click.option("--memory", type=float, help="Gigabytes; what takes more is only predicted. [default: what is free]")
@click.option("--engine", help="What encrypts and computes; 'glyphc engines' lists them. [default: the first that can]")
@click.option("--record", type=click.Path(), help="Keep results in this file (.json); what is in it is not done again.")
@click.option("--format", "form", type=click.Choice(["table", "markdown", "html"]), default="table", show_default=True)
@click.option("-o", "--output", type=click.Path(), help="The file to write. [default: standard output]")
@click.option(
    "--train", "training", is_flag=True, help="Compare training: --input and --labels are what is trained on."
)
@click.option("--steps", type=click.IntRange(1), help=f"With --train. [default: {STEPS}]")
@click.option("--learning-rate", type=float, help=f"With --train. [default: {RATE:g}]")
@click.option("--insecure-ring", type=int, help="A small ring for tests. NOT SECURE.")
def compare_command(
    model: str,
    calibration: str | None,
    samples: str,
    labels: str,
    strategies: str,
    retrain_data: str | None,
    retrain_labels: str | None,
    batch: int | None,
    tolerance: float | None,
    seconds: float,
    memory: float | None,
    engine: str | None,
    record: str | None,
    form: str,
    output: str | None,
    training: bool,
    steps: int | None,
    learning_rate: float | None,
    insecure_ring: int | None,
) -> None:
    """Compile a MODEL by several strategies, predict what each takes, run what fits, and show all side by side.

    Labels are for scoring alone: nothing is ever trained or calibrated on them. But with --train: then a few training
    steps are compared, by 'glyph', 'hesamifard', 'nandakumar', 'onoufriou' and 'tbmpnet', all with a quadratic loss.
    """
    if training:
        others = (calibration, retrain_data, retrain_labels, tolerance, engine)
        if any(given is not None for given in others) or form == "html":
            raise click.UsageError(
                "--train goes with --strategies, --batch, --steps, --learning-rate, --seconds, "
                "--memory, --record, --insecure-ring, -o and --format table or markdown"
            )
        compare_training_command(
            model,
            samples,
            labels,
            strategies,
            batch,
            steps or STEPS,
            learning_rate or RATE,
            seconds,
            memory,
            form,
            output,
            insecure_ring,
            record,
        )
        return
    if calibration is None or steps is not None or learning_rate is not None:
        raise click.UsageError("--calibration is needed, and --steps and --learning-rate go with --train")
    from glyphc.analysis import cost_file
    from glyphc.comparison import parse_choices
    from glyphc.comparison_report import markdown, page, table
    from glyphc.comparison_run import Task, compare
    from glyphc.console import reporter
    from glyphc.files import check_writable, write_atomically
    from glyphc.program import INSECURE_WARNING
    from glyphc.sources import read_model

    from .arrays import keep_sources
    from .strategies import load_retraining

    sources = (model, calibration, samples, labels, retrain_data, retrain_labels)
    for path in filter(None, (record, output)):
        keep_sources(Path(path), *sources)
        check_writable(Path(path))
    retraining = load_retraining(retrain_data, retrain_labels)
    choices = parse_choices(strategies, retraining is not None)
    given = _array(calibration, "calibration samples")
    x, y = _array(samples, "samples"), _array(labels, "labels")
    options: dict[str, Any] = {"batch": batch or len(x), "tolerance": tolerance, "insecure_ring": insecure_ring}
    network = read_model(model).graph
    task = Task(network, given, x, y, cost_file.current(), retraining, options, engine, seconds, (memory or 0.0) * 1e9)
    start = _start(task, Path(model), Path(record) if record else None, engine)
    if insecure_ring is not None:
        click.echo(INSECURE_WARNING, err=True)

    def keep(found: Comparison) -> None:
        if record is not None:
            found.save(Path(record))

    found = compare(task, choices, start, keep, reporter(), lambda text: click.echo(text, err=True))
    text = {"html": page, "markdown": markdown, "table": table}[form](found)
    if output is None:
        click.echo(text)
        return
    write_atomically(Path(output), (text + "\n").encode())
    click.echo(f"wrote {output}")


def _start(task: Any, model: Path, record: Path | None, engine: str | None) -> Comparison:
    """What is known already: nothing, or what the record holds. GlyphcError for a record of something else."""
    from glyphc.analysis.kernels_cost import for_engine
    from glyphc.backends.engine import PREFERRED
    from glyphc.comparison import Comparison, digest
    from glyphc.comparison_run import Scorer
    from glyphc.ir.text import to_text

    retraining = task.retraining
    arrays = (task.calibration, task.x, task.labels)
    arrays += (None, None) if retraining is None else (retraining.x, retraining.labels)
    subject = digest(to_text(task.network).encode(), arrays, repr((task.options, engine)))
    if record is not None and record.exists():
        found = Comparison.load(record)
        if found.subject != subject:
            raise GlyphcError(
                f"{str(record)!r} is of another network, other data or options; name another file, or delete it"
            )
        return found
    scorer = Scorer(task.network, task.x, task.labels)
    machine = for_engine(task.cost, engine or PREFERRED[0]).machine
    return Comparison(subject, model.name, len(task.x), scorer.scores(scorer.truth), machine.text)


def _array(path: str, what: str) -> Any:
    from .arrays import load_arrays

    found = load_arrays(path, what)
    if isinstance(found, dict):
        raise DataError(f"{path!r} holds {len(found)} arrays; networks with one input and one output can be compared")
    return found
