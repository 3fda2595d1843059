"""``glyphc compare --train``: a few training steps by several strategies, side by side."""

from __future__ import annotations

from pathlib import Path

import click

from glyphc.errors import DataError, GlyphcError

STEPS, RATE = 2, 0.5


def compare_training_command(
    model: str,
    samples: str,
    labels: str,
    strategies: str,
    batch: int | None,
    steps: int,
    rate: float,
    seconds: float,
    memory: float | None,
    form: str,
    output: str | None,
    insecure_ring: int | None,
    record: str | None = None,
) -> None:
    """Train a MODEL for a few steps by several strategies, with a quadratic loss, and show all side by side."""
    from glyphc.analysis import cost_file
    from glyphc.analysis.kernels_cost import for_engine
    from glyphc.backends.engine import PREFERRED
    from glyphc.comparison import load_record, save_record
    from glyphc.files import check_writable, write_atomically
    from glyphc.ir.ops import Output, Softmax
    from glyphc.program import INSECURE_WARNING
    from glyphc.sources import read_model
    from glyphc.survey.comparison import Task, TrainingRecord, compare_training, markdown, parse_rows, table, targets_of
    from glyphc.train.job import Options
    from glyphc.train.optimizers import SGD

    from .arrays import keep_sources, load_arrays

    for path in filter(None, (record, output)):
        keep_sources(Path(path), model, samples, labels)
        check_writable(Path(path))
    rows = parse_rows(strategies)
    x, y = load_arrays(samples, "training samples"), load_arrays(labels, "labels")
    for path, array in ((samples, x), (labels, y)):
        if isinstance(array, dict):
            raise DataError(f"{path!r} holds {len(array)} arrays; training takes one of samples and one of labels")
    network = read_model(model).graph
    if any(isinstance(network.operands(node)[0].op, Softmax) for node, _ in network.of(Output)):
        raise GlyphcError(
            f"{model!r} ends in a softmax; --train compares training with a quadratic loss, behind a dense layer or a "
            "sigmoid: leave the softmax out"
        )
    options = Options(SGD(rate), steps, batch, "mean-squared-error", insecure_ring=insecure_ring)
    task = Task(network, x, targets_of(network, y), options, seconds, (memory or 0.0) * 1e9)
    task.job()  # mistakes of the data are of no row
    kept = None if record is None else Path(record)
    known = TrainingRecord(task.subject, for_engine(cost_file.current(), PREFERRED[0]).machine.text)
    if kept is not None and kept.exists():
        known = load_record(kept, TrainingRecord)
        if known.subject != task.subject:
            raise GlyphcError(
                f"{record!r} is of another network, other data or options; name another file, or delete it"
            )
    if insecure_ring is not None:
        click.echo(INSECURE_WARNING, err=True)

    def keep(found: TrainingRecord) -> None:
        if kept is not None:
            save_record(kept, found)

    floats, found = compare_training(task, rows, lambda text: click.echo(text, err=True), known, keep)
    text = (markdown if form == "markdown" else table)(task, floats, found)
    if output is None:
        click.echo(text)
        return
    write_atomically(Path(output), (text + "\n").encode())
    click.echo(f"wrote {output}")
