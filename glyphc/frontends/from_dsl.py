"""Reads ``.glyph`` files: networks as papers write them (docs/dsl.md)."""

from __future__ import annotations

import os
from pathlib import Path

from glyphc.errors import ModelError

from .dsl_ast import Secrecy, Source
from .dsl_build import build
from .dsl_network import Network
from .dsl_parse import parse


def read_glyph(path: str | os.PathLike[str]) -> Network:
    """Read a file; tensors and tables that it names start at its folder.

    Raises ModelError for a file that cannot be read, DslError with the place of a mistake and a hint otherwise.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ModelError(f"{os.fspath(path)!r} does not exist; give the path of a .glyph file") from None
    except (OSError, UnicodeDecodeError) as e:
        raise ModelError(f"{os.fspath(path)!r} cannot be read as text ({e})") from None
    return parse_glyph(text, os.fspath(path), Path(path).parent)


def parse_glyph(text: str, label: str = "network.glyph", folder: Path = Path()) -> Network:
    """The network that a text describes. label: its name in messages; folder: where its file names start."""
    return build(parse(Source(text, label)), folder)


def refuse_unsupported(network: Network, label: str) -> None:
    """ModelError for wishes of a file that compilation for inference cannot fulfil: they must not pass unheard."""
    if network.public_inputs:
        raise ModelError(
            f"{label}: input {network.public_inputs[0]!r} is public, but compiled programs take encrypted inputs only; "
            "declare it encrypted, or make it a tensor of the weights file"
        )
    secret = [s.tensor for s in network.secrecy if s.secrecy is Secrecy.ENCRYPTED]
    if secret:
        raise ModelError(
            f"{label}: tensor {secret[0]!r} is declared encrypted, but compiled programs keep their weights in the "
            "clear on the server; leave the declaration out if that is fine"
        )
