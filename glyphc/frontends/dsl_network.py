"""What a ``.glyph`` file says, as typed data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from glyphc.ir.graph import Graph

from .dsl_ast import Secrecy
from .dsl_training import Training


@dataclass(frozen=True)
class NodePrecision:
    """A wish for the width of one value's fixed-point integers, sign included."""

    node: str
    bits: int


@dataclass(frozen=True)
class QuantizationHints:
    """What a file says about the pass ``quantize``: its options (None: not mentioned), and bits of single values."""

    input_bits: int | None = None
    activation_bits: int | None = None
    weight_precision: int | None = None
    margin: float | None = None
    input_margin: float | None = None
    nodes: tuple[NodePrecision, ...] = ()


@dataclass(frozen=True)
class TensorSecrecy:
    """Who may know a tensor of the weights."""

    tensor: str
    secrecy: Secrecy


@dataclass(frozen=True, eq=False)
class Network:
    """A ``.glyph`` file's content. graph: at the source level with batch 1; batch: what the file asks for.

    secrecy: of weights that the file says something about (others are public); notes: what a user should know, in
    sentences; values: ids of the nodes that have names in the file.
    """

    name: str
    graph: Graph
    batch: int | None = None
    quantization: QuantizationHints = field(default_factory=QuantizationHints)
    secrecy: tuple[TensorSecrecy, ...] = ()
    public_inputs: tuple[str, ...] = ()
    training: Training | None = None
    notes: tuple[str, ...] = ()
    values: Mapping[str, int] = field(default_factory=dict)
