"""Where networks come from: ONNX models, ``.glyph`` files, graphs in text form (``.gir``)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from glyphc.errors import GlyphcError, ModelError
from glyphc.frontends.dsl_network import Network, QuantizationHints
from glyphc.frontends.dsl_training import Training
from glyphc.ir.errors import IRError
from glyphc.ir.graph import MOST_NODES, Graph
from glyphc.ir.types import Level
from glyphc.passes.base import Pass
from glyphc.passes.quantize import Quantize

GLYPH, TEXT = ".glyph", ".gir"


@dataclass(frozen=True, eq=False)
class Model:
    """What compilation or training starts from. batch: what the file asks for, if it does; notes: what a user should
    know of a compiled program; training: the file's section; network: all that a ``.glyph`` file says;
    dropouts: places where values would be dropped at random in training."""

    graph: Graph
    batch: int | None = None
    hints: QuantizationHints = field(default_factory=QuantizationHints)
    notes: tuple[str, ...] = ()
    training: Training | None = None
    network: Network | None = None
    dropouts: tuple[str, ...] = ()


def read_model(
    model: str | os.PathLike[str] | bytes | Any,
    one_sample: bool = False,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Model:
    """A network from the path of an .onnx, .glyph or .gir file, the bytes of an ONNX file, a ModelProto, or a Graph.

    one_sample: whether an ONNX file describes one sample, see :func:`glyphc.frontends.from_onnx.read_onnx`. shapes: of
    samples, by input ("" for the only one), for what an ONNX file leaves open.
    Raises ModelError for what cannot be read, and for what a file asks for and compilation cannot give.
    """
    if isinstance(model, Graph):
        return Model(model, None if model.level is Level.SOURCE else model.batch)
    if isinstance(model, str | os.PathLike):
        if Path(model).suffix == GLYPH:
            return _read_glyph(model)
        if Path(model).suffix == TEXT:
            graph = read_text(model)
            return Model(graph, graph.batch)
    from glyphc.frontends.from_onnx import read_network  # onnx is loaded only when it is needed

    network = read_network(model, one_sample=one_sample, shapes=shapes)
    return Model(network.graph, notes=network.notes, dropouts=network.dropouts)


def is_graph(model: object) -> bool:
    """Whether a model is one of this compiler's own graphs, of whatever level: a Graph or a .gir file."""
    return isinstance(model, Graph) or (isinstance(model, str | os.PathLike) and Path(model).suffix == TEXT)


def read_text(path: str | os.PathLike[str]) -> Graph:
    """A graph of any level from its text form; ModelError with file, line and column if it is none."""
    from glyphc.ir.text import parse
    from glyphc.ir.verify import verify

    label = os.fspath(path)
    try:
        graph = parse(Path(path).read_text(encoding="utf-8"))
        verify(graph)
    except FileNotFoundError:
        raise ModelError(f"{label!r} does not exist; give the path of a .gir file") from None
    except (OSError, UnicodeDecodeError) as e:
        raise ModelError(f"{label!r} cannot be read as text ({e})") from None
    except IRError as e:
        raise ModelError(f"{label!r} holds no valid graph: {e}") from None
    _check_size(graph, label)
    if graph.withheld:
        raise ModelError(
            f"{label!r} is without the values of encrypted weights ({len(graph.withheld)} constants); print the graph "
            "with them: 'glyphc inspect --text --weights'"
        )
    return graph


def _read_glyph(path: str | os.PathLike[str]) -> Model:
    from glyphc.frontends.from_dsl import read_glyph, refuse_unsupported

    network = read_glyph(path)
    refuse_unsupported(network, os.fspath(path))
    _check_size(network.graph, os.fspath(path))
    notes = network.notes
    if network.training is not None:
        notes += ("the training section is for training; a program compiled for inference does without it",)
    return Model(network.graph, network.batch, network.quantization, notes, network.training, network)


def _check_size(graph: Graph, label: str) -> None:
    if len(graph) > MOST_NODES:
        raise ModelError(f"{label!r} has {len(graph):,} nodes, more than the {MOST_NODES:,} that glyphc compiles")


def with_hints(step: Pass, hints: QuantizationHints) -> Pass:
    """A pass with what a file says about it; options that the caller has set by hand stay. GlyphcError."""
    if not isinstance(step, Quantize):
        return step
    defaults = {f.name: f.default for f in fields(step)}
    wanted: dict[str, Any] = {
        name: getattr(hints, name)
        for name in ("input_bits", "activation_bits", "weight_precision", "margin", "input_margin")
        if getattr(hints, name) is not None and getattr(step, name) == defaults[name]
    }
    if hints.nodes and not step.node_bits:
        for precision in hints.nodes:
            if set(precision.node) & set(":;{},"):
                raise GlyphcError(f"the bits of {precision.node!r} cannot be set: its name has a sign of : ; , {{ }}")
        wanted["node_bits"] = ";".join(f"{p.node}:{p.bits}" for p in hints.nodes)
    return replace(step, **wanted)
