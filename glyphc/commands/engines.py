"""``glyphc engines``: what can execute programs on this machine."""

from __future__ import annotations

import click


@click.command("engines")
def engines_command() -> None:
    """List the engines: what each is, and whether it can be used here."""
    from glyphc.backends.engine import engine, engine_names
    from glyphc.text_tables import align

    rows = [("engine", "encrypts", "usable here", "what it is")]
    for name in engine_names():
        each = engine(name)
        rows.append((name, "yes" if each.encrypts else "no", each.problem() or "yes", each.summary))
    click.echo(align(rows))
