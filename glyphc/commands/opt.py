"""``glyphc opt``: passes alone, on graphs in text form."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from glyphc.ir.graph import Graph


@click.command("opt")
@click.argument("model", type=click.Path())
@click.option("--passes", required=True, help="What to run, e.g. 'fold,calibrate,quantize{input_bits=12}'; may be ''.")
@click.option(
    "--calibration", type=click.Path(), help="Representative samples (.npy or .npz), where a pass needs them."
)
@click.option("--print-between-passes", is_flag=True, help="Show the graph before the first and after every pass.")
@click.option("--columns", is_flag=True, help="Aligned columns instead of the complete text form.")
@click.option("--insecure-ring", type=int, help="A small ring for tests. NOT SECURE.")
@click.option("--engine", help="By whose prices layouts are chosen. [default: the first that can run the result]")
@click.option("-o", "--output", type=click.Path(), help="The .gir file to write. [default: standard output]")
def opt_command(
    model: str,
    passes: str,
    calibration: str | None,
    print_between_passes: bool,
    columns: bool,
    insecure_ring: int | None,
    engine: str | None,
    output: str | None,
) -> None:
    """Run passes on MODEL (.gir, .glyph or .onnx) and write the resulting graph as text.

    The result is a .gir file at whatever level the last pass reaches; 'glyphc compile x.gir' goes on from there.
    What is shown between passes goes to standard error, so the result can be piped.

    \b
    Passes are names, separated by commas, with options in braces:
      glyphc opt net.onnx --passes 'fold,calibrate,quantize{input_bits=12}' --calibration x.npy -o net.gir
    An unknown name is answered with the list of those that there are.
    """
    from glyphc.analysis import cost_file
    from glyphc.compiler import check_modelled, check_ring, for_ring, samples
    from glyphc.diagnostics import graph_text
    from glyphc.errors import GlyphcError
    from glyphc.files import check_writable, write_atomically
    from glyphc.ir.text import to_text
    from glyphc.passes.base import Context
    from glyphc.passes.pipeline import parse_pipeline, run_pipeline
    from glyphc.program import INSECURE_WARNING
    from glyphc.sources import TEXT, read_model

    from .arrays import keep_sources, load_arrays

    if output is not None:
        if Path(output).suffix != TEXT:
            raise GlyphcError(f"the output {output!r} must end in {TEXT}")
        keep_sources(Path(output), model, calibration)
        check_writable(Path(output))
    steps = [for_ring(step, insecure_ring) for step in parse_pipeline(passes)]
    given = read_model(model)
    check_ring(given.graph, insecure_ring)
    if insecure_ring is not None:
        click.echo(INSECURE_WARNING, err=True)
    data: Any = None if calibration is None else load_arrays(calibration, "calibration samples")
    context = Context(samples(given.graph, data), cost_file.current(), engine=check_modelled(engine or ""))
    show = graph_text if columns else to_text

    def observe(name: str, graph: Graph) -> None:
        if print_between_passes:
            click.echo(f"# after {name}\n{show(graph).rstrip()}\n", err=True)

    if print_between_passes:
        click.echo(f"# {model}\n{show(given.graph).rstrip()}\n", err=True)
    result = run_pipeline(given.graph, steps, context, observe)
    if output is None:
        click.echo(show(result).rstrip())
    else:
        write_atomically(Path(output), to_text(result).encode())
        click.echo(f"wrote {output} (level {result.level.value}, {len(result)} nodes)")
