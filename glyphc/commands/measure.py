"""``glyphc measure``: what this machine takes for the primitives, and which configurations of bootstraps suit it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from glyphc.analysis.cost import CostModel
    from glyphc.measure import Calibration

_INTERRUPTED = 130


@click.command("measure")
@click.option("--quick", is_flag=True, help="Measure the smallest and the largest configuration; scale the others.")
@click.option("--slots", type=int, multiple=True, help="Measure only the configurations of this size (repeatable).")
@click.option(
    "--configurations",
    is_flag=True,
    help="Try other levels of transforms and digits of keys, side by side, and add them to the file.",
)
@click.option("-o", "--output", type=click.Path(), help="The file to write. [default: the user's cost model]")
@click.option("--show", is_flag=True, help="Measure nothing: print the model in use and where it comes from.")
@click.option(
    "--engine",
    type=click.Choice(["openfhe", "kernels"]),
    default="kernels",
    show_default=True,
    help="Whose part to measure: programs run on 'kernels' unless another engine is asked for.",
)
def measure_command(
    quick: bool,
    slots: tuple[int, ...],
    configurations: bool,
    output: str | None,
    show: bool,
    engine: str,
) -> None:
    """Measure this machine for predictions of time and memory.

    Takes minutes (how many, it says before it begins) with gigabytes of memory, and wants the machine for itself. The
    result is a file of the user's, ~/.config/glyphc/cost.json, with a part for each engine, that 'compile' and 'run'
    read; GLYPHC_COST_MODEL names another one, or none (the model that ships with glyphc) when it is empty. An engine
    that was not measured is scaled by the one that was.

    With --configurations, every size of bootstraps is measured with other transforms and digits, too, one after another
    and all of them again. The file keeps them all, and 'compile' takes for each program the fastest that it has room
    for. What was measured before an interruption is kept. Without it, configurations that the file knows beside the
    usual ones stay, scaled to what these take now.
    """
    from glyphc.analysis import cost_file
    from glyphc.analysis.kernels_cost import for_engine
    from glyphc.backends.engine import PREFERRED
    from glyphc.backends.engine import engine as named_engine
    from glyphc.cost_report import cost_text
    from glyphc.errors import EnvironmentSetupError

    if show:
        if quick or slots or output or configurations:
            raise click.UsageError("--show measures nothing and goes with no other option")
        origin = cost_file.source()
        model = cost_file.current()
        click.echo(cost_text(for_engine(model, engine), "ships with glyphc" if origin is None else str(origin)))
        return
    if configurations and quick:
        raise click.UsageError("--configurations does not go with --quick; --slots names the sizes to try")
    if problem := named_engine(engine).problem():
        raise EnvironmentSetupError(f"the engine {engine!r} cannot be measured here: {problem}; --engine names another")
    path = Path(output) if output else cost_file.output_path()
    calibration = _try(path, slots, engine) if configurations else _calibrate(path, quick, slots, engine)
    click.echo(cost_text(calibration.model, str(path)) + "\n")
    for reason in calibration.skipped:
        click.echo(f"not measured, {'left out' if configurations else 'scaled instead'}: {reason}", err=True)
    if calibration.disturbance > 0.1:
        click.echo(
            f"warning: other work took {calibration.disturbance:.0%} of the processors meanwhile, so these seconds "
            "are too many; measure again when the machine is idle",
            err=True,
        )
    click.echo(f"wrote {path}")
    if not cost_file.in_use(path):
        click.echo(f"this file is used when {cost_file.VARIABLE} names it")
    if engine != PREFERRED[0]:
        click.echo(f"predictions for the engine {PREFERRED[0]!r} come from 'glyphc measure'")


def _calibrate(path: Path, quick: bool, slots: tuple[int, ...], engine: str) -> Calibration:
    """Measure and write the file, which appears whole and at the end."""
    from glyphc.analysis import cost_file
    from glyphc.analysis.kernels_cost import for_engine, shipped, with_engine
    from glyphc.console import reporter
    from glyphc.files import check_writable
    from glyphc.measure import calibrate, job_seconds, jobs
    from glyphc.measure_configurations import carried
    from glyphc.measure_slots import SLOT_SECONDS, slot_jobs
    from glyphc.measure_training import TRAINING_SECONDS, training_job

    cost = shipped(engine)
    work = jobs(cost, slots, quick)
    cost_file.make_folder(path)
    check_writable(path)
    in_slots = slot_jobs()
    training = training_job(engine) if not slots else None
    seconds = sum(job_seconds(job, cost) for job in work) + SLOT_SECONDS * len(in_slots)
    minutes = (seconds + (TRAINING_SECONDS if training else 0.0)) / 60
    count = len(work) + len(in_slots) + bool(training)
    click.echo(f"{count} measurements, about {minutes:.0f} minutes on {cost.machine.text}", err=True)
    calibration = calibrate(work, cost, reporter(), in_slots, training)
    earlier = cost_file.earlier(path)
    model = carried(calibration.model, for_engine(earlier, engine))
    cost_file.save(path, with_engine(earlier, model))
    return replace(calibration, model=model)


def _try(path: Path, slots: tuple[int, ...], engine: str) -> Calibration:
    """Measure configurations and write the file, which holds after each measurement what is known by then."""
    from glyphc.analysis import cost_file
    from glyphc.analysis.kernels_cost import shipped, with_engine
    from glyphc.console import reporter
    from glyphc.files import check_writable
    from glyphc.measure_configurations import ROUNDS, candidates, own_part, trial_seconds, try_configurations

    cost_file.make_folder(path)
    check_writable(path)
    earlier = cost_file.earlier(path)
    own = own_part(earlier, engine)
    cost = own or shipped(engine)
    work = candidates(cost, slots)
    minutes = trial_seconds(work, cost) / 60
    count = ROUNDS * sum(map(len, work))
    click.echo(f"{count} measurements, about {minutes:.0f} minutes on {cost.machine.text}", err=True)
    kept = False

    def keep(model: CostModel) -> None:
        nonlocal kept
        cost_file.save(path, with_engine(earlier, model))
        kept = True

    try:
        return try_configurations(work, own, engine, reporter(), keep)
    except KeyboardInterrupt:
        if not kept:
            raise
        click.echo(f"interrupted; what was measured until then is in {path}", err=True)
        click.get_current_context().exit(_INTERRUPTED)
