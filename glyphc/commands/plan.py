"""``glyphc plan``: what an evaluation or a training run will take, on one machine and on more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from glyphc.cluster.forecast import Forecast

_WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)


@click.command("plan")
@click.argument("program", type=click.Path(path_type=Path))
@click.option("--samples", type=click.IntRange(1), help="To evaluate.")
@click.option("--workers", type=click.IntRange(1, 100000), multiple=True, help="Repeatable. [default: 1 to 1000]")
@click.option(
    "--mbit", type=click.FloatRange(0, min_open=True), default=1000.0, show_default=True, help="Of the network."
)
@click.option(
    "--engine", help="Whose prices are taken. [default: the first that can run the program; that of its keys]"
)
def plan_command(program: Path, samples: int | None, workers: tuple[int, ...], mbit: float, engine: str | None) -> None:
    """Predict what an evaluation or a training run takes with more and more workers, and what limits it.

    PROGRAM is a .glyphc or .server file, with --samples to evaluate, or the folder that 'glyphc training prepare'
    made for the server. Each worker is a host with processors like those that were measured; the network is that of
    the host which gives the command. Passes are shared, one pass is not divided; of a training step, tasks are shared.
    """
    from glyphc.errors import GlyphcError

    rate = mbit * 1e6 / 8
    if program.is_dir():
        if samples is not None:
            raise GlyphcError("--samples is for programs that evaluate; a training run has its samples in its folder")
        _plan_training(program, workers, rate, engine)
    elif samples is None:
        raise GlyphcError(f"how many samples is {program.name} to evaluate? Say --samples N")
    else:
        _plan_evaluation(program, samples, workers, rate, engine)


def _plan_evaluation(program: Path, samples: int, workers: tuple[int, ...], rate: float, engine: str | None) -> None:
    from glyphc.analysis import cost_file
    from glyphc.analysis.estimate import estimate
    from glyphc.analysis.kernels_cost import for_engine
    from glyphc.backends.engine import best_engine
    from glyphc.cluster.forecast import Load, forecast
    from glyphc.compiler import check_modelled
    from glyphc.errors import GlyphcError
    from glyphc.exchange.artifacts import PROGRAM_SUFFIX, ServerProgram
    from glyphc.program import Program

    schedule = (ServerProgram if program.suffix == PROGRAM_SUFFIX else Program).load(program).schedule
    if schedule.client.requests:
        raise GlyphcError("this program asks its client on the way, which one server does: workers cannot share it")
    if engine is not None:
        check_modelled(engine)
    engine = engine or best_engine(schedule.parameters)[0].name
    # workers count what their own threads keep when they are asked
    found = estimate(schedule, for_engine(cost_file.current(), engine), threads=0)
    batch = schedule.client.batch
    load = Load.of(found, batch, samples, rate, engine)
    click.echo(
        f"{samples:,} samples in {load.passes:,} passes of up to {batch:,}; a pass takes {load.pass_seconds:.1f} s and "
        f"moves {load.pass_bytes / 1e6:.1f} MB; a file of keys {load.file_bytes / 1e9:.2f} GB; memory of a worker "
        f"{found.memory_bytes / 1e9:.1f} GB, as measured on {found.measured_on}\n"
    )
    _echo(workers, load.passes, lambda count: forecast(load, count))
    if load.passes == 1:
        click.echo("\nOne pass is not divided: more samples, or a smaller 'compile --batch', make more passes.")


def _plan_training(folder: Path, workers: tuple[int, ...], rate: float, engine: str | None) -> None:
    from glyphc.cluster.step_forecast import TrainingLoad, forecast_training

    load = TrainingLoad.of(folder, rate, engine)
    step, _ = load.steps[0]
    click.echo(
        f"{load.count:,} steps of up to {load.most} tasks; the first takes {step.seconds:.1f} s, its longest chain of "
        f"tasks {step.chain:.1f} s; a batch {load.batch_bytes / 1e6:.1f} MB, a state {load.state_bytes / 1e6:.1f} MB; "
        f"program and keys {load.file_bytes / 1e9:.2f} GB; memory of a worker {load.memory_bytes / 1e9:.1f} GB\n"
    )
    _echo(workers, load.most, lambda count: forecast_training(load, count))


def _echo(workers: tuple[int, ...], most: int, forecast: Callable[[int], Forecast]) -> None:
    """A line for each number of workers; by default until more of them have nothing to do."""
    from glyphc.text_tables import align

    rows = [("workers", "seconds", "times as fast", "what takes longest")]
    for count in workers or _WORKERS:
        f = forecast(count)
        rows.append((f"{count:,}", f"{f.seconds:,.1f}", f"{f.speed_up:.2f}", f.limit.value))
        if not workers and count >= most:
            break
    click.echo(align(rows))
