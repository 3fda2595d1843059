"""``glyphc doctor``: what this machine brings, what is missing, and how to mend it."""

from __future__ import annotations

import click


@click.command("doctor")
@click.pass_context
def doctor_command(context: click.Context) -> None:
    """Check this machine: interpreter, OpenFHE, processor, memory, disk, optional parts.

    Exit status 1 when encrypted runs would not work here.
    """
    from glyphc.doctor import State, examine
    from glyphc.text_tables import align

    findings = list(examine())
    click.echo(align([("what", "state", "found"), *((f.subject, f.state.value, f.found) for f in findings)]))
    remedies = [f for f in findings if f.remedy]
    if remedies:
        click.echo()
    for finding in remedies:
        click.echo(f"{finding.subject}: {finding.remedy}")
    if any(f.state is State.MISSING for f in findings):
        context.exit(1)
