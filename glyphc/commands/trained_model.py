"""A trained network as ONNX: the file that it came from with other weights, or else written anew."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto

    from glyphc.ir.graph import Graph


def trained_model(source: str | bytes | None, network: Graph) -> ModelProto:
    """source: the path or the bytes of an ONNX file that the network was read from; of other files it is written anew.

    ModelError for what cannot be written.
    """
    from glyphc.frontends.onnx_retrained import retrained
    from glyphc.frontends.to_onnx import to_onnx
    from glyphc.train.normalise import with_biases

    given = onnx_file(source) if isinstance(source, str) else source
    found = retrained(given, network, with_biases) if given else None
    return to_onnx(network) if found is None else found


def onnx_file(path: str) -> bytes | None:
    """The ONNX file at a path, with its external data inside; None for models of other forms."""
    from glyphc.frontends.onnx_constants import load
    from glyphc.sources import GLYPH, TEXT

    return None if Path(path).suffix in (GLYPH, TEXT) else load(path)[0].SerializeToString()
