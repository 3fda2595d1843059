"""``glyphc inspect``: what is in a compiled program, as text, Graphviz, JSON or a page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

    from glyphc.ir.graph import Graph, Node
    from glyphc.program import Program

_FORMATS = ("text", "dot", "json", "html")
# Options that would be ignored beside another one.
_CLASHES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("--accuracy", ("--stage", "--text", "--columns", "--why", "--run")),
    ("--why", ("--text", "--columns", "--run")),
    ("--text", ("--columns", "--run")),
    ("--stage", ("--run",)),
)


@click.command("inspect")
@click.argument("artifact", type=click.Path())
@click.option("--stage", help="Show the graph after this stage; 'list' names them, 'all' shows every one.")
@click.option("--text", is_flag=True, help="The complete text form, weights included, instead of aligned columns.")
@click.option("--wide", is_flag=True, help="With --stage schedule: all registers and names in full.")
@click.option("--columns", metavar="NAMES", help="Which columns, in which order, e.g. 'node,shape,error'.")
@click.option("--why", "why_node", metavar="NODE", help="The decisions made for a node: %N, or its location.")
@click.option("--format", "form", type=click.Choice(_FORMATS), default="text", show_default=True)
@click.option("--run", "record", type=click.Path(), help="A record of 'glyphc run --record': shows measured times.")
@click.option(
    "--accuracy", nargs=2, type=click.Path(), metavar="X Y", help="Where accuracy is lost; Y: labels or outputs."
)
@click.option("--encrypted", type=click.Path(), help="With --accuracy: results of an encrypted run on X.")
@click.option("--weights", type=click.Path(), help="The weights of a program compiled with --encrypt-weights.")
@click.option(
    "-o", "--output", type=click.Path(), help="The file to write. [default: standard output; html: beside it]"
)
def inspect_command(
    artifact: str,
    stage: str | None,
    text: bool,
    wide: bool,
    columns: str | None,
    why_node: str | None,
    form: str,
    record: str | None,
    accuracy: tuple[str, str] | None,
    encrypted: str | None,
    weights: str | None,
    output: str | None,
) -> None:
    """Show what is in an ARTIFACT: its graph at any stage, layouts, errors, decisions."""
    from glyphc.errors import GlyphcError
    from glyphc.files import check_writable, write_atomically
    from glyphc.program import Program

    from .arrays import keep_sources

    _check_options(
        {
            "--stage": stage,
            "--text": text,
            "--wide": wide,
            "--columns": columns,
            "--why": why_node,
            "--run": record,
            "--accuracy": accuracy,
            "--encrypted": encrypted,
        },
        form,
    )
    path = Path(output) if output else Path(artifact).with_suffix(".html") if form == "html" else None
    if path is not None:
        keep_sources(path, artifact, record, weights)
        check_writable(path)
    program = Program.load(artifact, weights)
    if stage not in (None, "all", "list", "schedule") and stage not in program.stages:
        raise GlyphcError(f"no stage {stage!r} in {artifact!r}; stages: {', '.join(program.stages)}, schedule")
    if accuracy is not None:
        shown = _accuracy(program, accuracy, encrypted)
    elif form == "text":
        shown = _text(program, stage, text, wide, columns, why_node, record)
    else:
        shown = _report(program, Path(artifact).name, stage, form, record)
    if path is None:
        click.echo(shown, nl=not shown.endswith("\n"))
    else:
        write_atomically(path, (shown if shown.endswith("\n") else shown + "\n").encode())
        click.echo(f"wrote {path} ({path.stat().st_size:,} bytes)")


def _check_options(options: Mapping[str, object], form: str) -> None:
    """UsageError when something that was asked for would be ignored."""
    given = {name for name, value in options.items() if value}
    if form != "text":
        for name in ("--accuracy", "--why", "--text", "--columns"):
            if name in given:
                raise click.UsageError(f"{name} gives text; leave out --format {form}")
    if "--encrypted" in given and "--accuracy" not in given:
        raise click.UsageError("--encrypted goes with --accuracy, whose samples the results are of")
    if "--wide" in given and options["--stage"] != "schedule":
        raise click.UsageError("--wide goes with --stage schedule, whose columns it does not shorten")
    clashes = _CLASHES
    if options["--stage"] in ("list", "schedule"):
        clashes += ((f"--stage {options['--stage']}", ("--text", "--columns", "--why")),)
        given.add(clashes[-1][0])
    for name, others in clashes:
        for other in others:
            if {name, other} <= given:
                why = ", which has times of the final graph's nodes" if (name, other) == ("--stage", "--run") else ""
                raise click.UsageError(f"{name} does not go with {other}{why}")


def _text(
    program: Program,
    stage: str | None,
    text: bool,
    wide: bool,
    columns: str | None,
    why_node: str | None,
    record: str | None,
) -> str:
    from glyphc.diagnostics import COLUMNS, graph_text, predicted, schedule_text, summary
    from glyphc.errors import GlyphcError
    from glyphc.ir.text import to_text
    from glyphc.reasons import why
    from glyphc.run_record import RunRecord

    chosen = tuple(c.strip() for c in columns.split(",")) if columns else COLUMNS
    unknown = [c for c in chosen if c not in COLUMNS]
    if unknown:
        raise GlyphcError(f"there is no column {unknown[0]!r}; columns: {', '.join(COLUMNS)}")
    if stage == "list":
        return "\n".join([*program.stages, "schedule"])
    if stage == "schedule":
        return schedule_text(program.schedule, wide)
    if why_node is not None:
        graph = program.stages[stage] if stage and stage != "all" else program.graph
        return "\n\n".join(why(node, graph) for node in _nodes(graph, why_node))
    if stage == "all":
        graphs = program.stages.items()
        return "\n".join(f"-- {n} --\n{to_text(g) if text else graph_text(g, columns=chosen)}\n" for n, g in graphs)
    if text:
        return to_text(program.stages[stage] if stage else program.graph)
    if stage is not None:
        return graph_text(program.stages[stage], columns=chosen)
    if columns is None and record is None:
        return summary(program)
    if record is None:
        return graph_text(program.graph, predicted(program), columns=chosen)
    run = RunRecord.load(Path(record), program)
    estimates = predicted(program, engine=run.predicted_engine)
    return graph_text(program.graph, estimates, run.node_seconds_of_a_pass, chosen, run.mode)


def _report(program: Program, title: str, stage: str | None, form: str, record: str | None) -> str:
    from glyphc.errors import GlyphcError
    from glyphc.inspector.build import build
    from glyphc.inspector.write import to_dot, to_html, to_json
    from glyphc.run_record import RunRecord

    if stage in ("all", "list", "schedule"):
        raise GlyphcError(f"--stage {stage} is text; a {form} report shows one stage: {', '.join(program.stages)}")
    run = RunRecord.load(Path(record), program) if record is not None else None
    report = build(program, title, stage, run)
    if form == "dot":
        return to_dot(report)
    return to_json(report) if form == "json" else to_html(report)


def _accuracy(program: Program, files: tuple[str, str], encrypted: str | None) -> str:
    from glyphc.accuracy import accuracy, accuracy_text

    from .arrays import load_arrays

    x, y = load_arrays(files[0], "input"), load_arrays(files[1], "labels")
    results = None if encrypted is None else load_arrays(encrypted, "results of the encrypted run")
    return accuracy_text(accuracy(program, x, y, results))


def _nodes(graph: Graph, name: str) -> list[Node]:
    """The node %N, or all that come from a place in the network; those of them with decisions if there are any."""
    from glyphc.errors import GlyphcError

    number = name.removeprefix("%")
    if number.isdecimal() and int(number) < len(graph):
        return [graph.node(int(number))]
    found = [n for n in graph if n.location and name == n.location]
    # one place among those that were folded or merged
    found = found or [n for n in graph if name in re.split(r"[+|]", n.location) and name]
    if not found:
        places = [n.location for n in graph if n.location and n.decisions] or [n.location for n in graph if n.location]
        located = f", or those of a location like {places[0]!r}" if places else ""
        raise GlyphcError(f"no node {name!r}; nodes are %0 to %{len(graph) - 1}{located}")
    return [n for n in found if n.decisions] or found
