"""``glyphc export``: a network as a ``.glyph`` file and its weights as an ``.npz``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("export")
@click.argument("model", type=click.Path())
@click.option("--dsl", is_flag=True, required=True, help="Write a .glyph file, with the weights in an .npz beside it.")
@click.option("-o", "--output", type=click.Path(), help="The file to write. [default: MODEL with suffix .glyph]")
def export_command(model: str, dsl: bool, output: str | None) -> None:
    """Write MODEL (.onnx, .glyph or a source-level .gir) in another form that can be read and changed by hand.

    Of a .glyph file, its name, batch, hints and training section are kept, too.
    """
    import io

    import numpy as np

    from glyphc.errors import GlyphcError
    from glyphc.files import check_writable, write_atomically
    from glyphc.frontends.dsl_export import export_network
    from glyphc.frontends.dsl_network import Network
    from glyphc.sources import GLYPH, read_model

    path = Path(output) if output else Path(model).with_suffix(GLYPH)
    if path.suffix != GLYPH:
        raise GlyphcError(f"the output {str(path)!r} must end in {GLYPH}")
    weights = path.with_suffix(".npz")
    for made in (path, weights):
        if made.exists():
            raise GlyphcError(f"{str(made)!r} exists already; remove it, or choose another name with -o")
        check_writable(made)
    read = read_model(model)
    network = read.network or Network(path.stem, read.graph, read.graph.batch if read.graph.batch > 1 else None)
    exported = export_network(network, weights.name, (f"Exported from {Path(model).name}.",))
    if exported.tensors:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **exported.tensors)  # type: ignore[arg-type]
        write_atomically(weights, buffer.getvalue())
    write_atomically(path, exported.text.encode("utf-8", "surrogatepass"))
    click.echo(f"wrote {path}" + (f" and {weights} ({len(exported.tensors)} tensors)" if exported.tensors else ""))
