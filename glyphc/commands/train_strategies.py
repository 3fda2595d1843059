"""``glyphc train --strategy``: training as the survey's other systems do it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from glyphc.errors import GlyphcError

if TYPE_CHECKING:
    from glyphc.ir.graph import Graph
    from glyphc.survey.system import Done, State, System
    from glyphc.train.job import Job

_F = TypeVar("_F", bound=Callable[..., Any])
GLYPH = "glyph"
_OPTIONS = (
    click.option(
        "--strategy",
        default=GLYPH,
        show_default=True,
        metavar="NAME",
        help="How a step is computed: glyph, hesamifard, nandakumar, onoufriou or tbmpnet ('glyphc strategies').",
    ),
    click.option("--degree", type=int, help="Of the strategy's polynomials. [default: the strategy's]"),
    click.option("--table-bits", type=int, help="Of the index of the strategy's tables. [default: 8]"),
    click.option("--word-bits", type=int, help="Of the strategy's words. [default: 8]"),
)


def strategy_options(command: _F) -> _F:
    """Add the options that :func:`system_by` takes."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def check_sizes(strategy: str, *sizes: int | None) -> None:
    """UsageError where glyph is given sizes, which it has none of."""
    if strategy == GLYPH and any(size is not None for size in sizes):
        raise click.UsageError("--degree, --table-bits and --word-bits go with another --strategy than glyph")


def train_by(
    job: Job,
    strategy: str,
    sizes: tuple[int | None, int | None, int | None],
    mode: str,
    dry_run: bool,
    memory: float | None,
    monitor: bool,
) -> tuple[Graph, str]:
    """Train; the network with its new weights, and a summary. Shows the plan before keys are made.

    memory: bytes that the run may take, None for what is free. Exit ends the command after a dry run.
    """
    from glyphc.console import reporter
    from glyphc.runtime import Mode
    from glyphc.survey.choose import Sizes, system_of
    from glyphc.survey.system import carry_out, check_memory

    system = system_of(strategy, job, Sizes(*sizes))
    show_plan(system)
    if memory is not None and mode == Mode.ENCRYPTED.value:
        check_memory(system.forecast, memory, "allowed (--memory)")
    if dry_run:
        click.echo("nothing was encrypted (--dry-run)")
        raise click.exceptions.Exit(0)

    def look(step: int, state: State) -> None:
        x, y = system.job.batch(system.job.batches.number(step))
        program = system.job.program
        start = replace(program.initial(), weights=system.weights(state))
        _, loss = program.run(start, system.job.named(x), y)
        click.echo(f"loss before step {step}: {loss:.6g}", err=True)

    done = carry_out(system, Mode(mode), reporter(), look if monitor else None)
    return job.whole(system.weights(done.state)), _summary(system, done, Mode(mode).value)


def show_plan(system: System) -> None:
    """Say what a run is going to take."""
    from glyphc.progress import duration
    from glyphc.train.predict import different_batches

    found, steps = system.forecast, system.job.options.steps
    up, down = found.sent(steps, different_batches(system.job.batches, steps))
    whole = duration(steps * (found.step_seconds + found.client_seconds))
    for note in system.notes:
        click.echo(note, err=True)
    click.echo(
        f"predicted: {found.step_seconds:.3g} s a step of the server and {found.client_seconds:.3g} s of the client, "
        f"{found.trips} trips a step, {whole} for {steps} on {found.measured_on}",
        err=True,
    )
    click.echo(
        f"predicted: {found.memory_bytes / 1e9:.2f} GB of memory, keys of {found.key_bytes / 1e6:.0f} MB; in all "
        f"{up / 1e6:.1f} MB to the server and {down / 1e6:.1f} MB back",
        err=True,
    )


def _summary(system: System, done: Done, mode: str) -> str:
    from glyphc.ir.parameters import INSECURE
    from glyphc.program import INSECURE_WARNING

    encrypted = mode == "encrypted"
    security = system.security if encrypted else f"none ({mode} mode, no encryption)"
    rows = [
        ("strategy", system.name),
        ("steps", str(len(done.seconds))),
        ("security", INSECURE_WARNING if security == INSECURE else security),
    ]
    if encrypted:
        rows.append(("who learns what", str(system.knowledge)))
    if mode != "clear":
        rows.append(("trips", str(done.trips)))
        rows.append(
            ("seconds", f"{sum(done.seconds):.1f}, {done.server_seconds / len(done.seconds):.3g} of the server a step")
        )
    return "\n".join(f"{name:18} {text}" for name, text in rows)


def refuse_resume(strategy: str) -> None:
    """GlyphcError: only glyph's runs keep checkpoints."""
    raise GlyphcError(f"runs of the strategy {strategy!r} keep no checkpoints, so there is nothing to --resume")
