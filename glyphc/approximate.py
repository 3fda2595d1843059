"""A laid-out graph evaluated with series in place of functions, as encryption does it, without noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.evaluate import Override, Value, apply_client_op, dequantize
from glyphc.ir.functions import compose
from glyphc.ir.graph import Graph, Node
from glyphc.ir.integer_parameters import IntegerParameters
from glyphc.ir.ops import ArgMax, Bootstrap, Output, Polynomial, Softmax
from glyphc.ir.series import OUTPUT_BITS, evaluate_series
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.ir.word_parameters import WordParameters

F64 = npt.NDArray[np.floating[Any]]


def with_series(graph: Graph, exact: int | None = None) -> Override:
    """For ``evaluate_all``: bootstraps compute their series, but the one with the id ``exact`` its function.

    A series has the period of the torus: what leaves that wraps, as it does in encryption. Where values are in slots,
    the graph itself is one of polynomials, and does not wrap.
    """
    assert graph.parameters is not None
    if isinstance(graph.parameters, SlotParameters):
        return lambda node, operands: (
            _function(graph, node, node.op, operands[0])
            if isinstance(node.op, Polynomial) and node.id == exact
            else None
        )
    if isinstance(graph.parameters, IntegerParameters | WordParameters):
        return lambda node, operands: None
    modulus = float(graph.parameters.plaintext_modulus)

    def override(node: Node, operands: tuple[Value, ...]) -> Value | None:
        if isinstance(node.op, Bootstrap) and node.id == exact:
            return _function(graph, node, node.op, operands[0])
        if isinstance(node.op, Bootstrap):
            # like the real one, it does not round: from here on, values are floats in units of the format
            phases = evaluate_series(node.op.series, np.asarray(operands[0], dtype=np.float64) / modulus)
            return np.asarray(phases * (modulus * node.op.divisor / 2.0**OUTPUT_BITS))
        fixed = graph.operands(node)[0].type.fixed
        if isinstance(node.op, Output | Softmax | ArgMax) and fixed is not None:
            decrypted = dequantize(operands[0], fixed)
            return decrypted if isinstance(node.op, Output) else apply_client_op(node.op, decrypted)
        return None

    return override


def _function(graph: Graph, node: Node, op: Bootstrap | Polynomial, operand: Value) -> F64:
    """The function of an approximate value, in units of the node's format and not rounded."""
    source, target = graph.operands(node)[0].type.fixed, node.type.fixed
    assert source is not None and target is not None
    y = compose(op.functions, dequantize(operand, source))
    return np.asarray((y - target.offset[0]) / target.scale[0])
