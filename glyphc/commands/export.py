"""``glyphc export``: a network as a ``.glyph`` file and its weights as an ``.npz``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("export")
@click.argument("model", type=click.Path())
@click.option("--dsl", is_flag=True, required=True, help="Write a .glyph file, with the weights in an .npz beside it.")
@click.option("-o", "--output", type=click.Path(), help="The file to write. [default: MODEL with suffix .glyph]")
def export_command(model: str, dsl: bool, output: str | None) -> None:
    """Write MODEL (.onnx, .glyph or a source-level .gir) in another form that can be read and changed by hand."""
    import io

    import numpy as np

    from glyphc.errors import GlyphcError
    from glyphc.files import check_writable, write_atomically
    from glyphc.frontends.dsl_export import export
    from glyphc.sources import GLYPH, read_model

    path = Path(output) if output else Path(model).with_suffix(GLYPH)
    if path.suffix != GLYPH:
        raise GlyphcError(f"the output {str(path)!r} must end in {GLYPH}")
    weights = path.with_suffix(".npz")
    for made in (path, weights):
        if made.exists():
            raise GlyphcError(f"{str(made)!r} exists already; remove it, or choose another name with -o")
        check_writable(made)
    exported = export(read_model(model).graph, path.stem, weights.name, (f"Exported from {Path(model).name}.",))
    if exported.tensors:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **exported.tensors)  # type: ignore[arg-type]
        write_atomically(weights, buffer.getvalue())
    write_atomically(path, exported.text.encode("utf-8", "surrogatepass"))
    click.echo(f"wrote {path}" + (f" and {weights} ({len(exported.tensors)} tensors)" if exported.tensors else ""))
