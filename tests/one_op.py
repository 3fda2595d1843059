"""The value of one op, by the evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.evaluate import evaluate_all
from glyphc.ir.graph import Graph
from glyphc.ir.ops import Input, Op
from glyphc.ir.types import FixedPoint, Level, TensorType


def run(
    op: Op,
    x: Any,
    constants: dict[str, Any] | None = None,
    before: FixedPoint | None = None,
    after: FixedPoint | None = None,
) -> npt.NDArray[Any]:
    """The value that ``op`` gives for the samples ``x``, quantized to ``before`` if that is given."""
    x = np.array(x, dtype=np.float64)
    graph = Graph(Level.QUANTIZED if before else Level.SOURCE, len(x))
    for name, value in (constants or {}).items():
        graph.add_constant(name, np.array(value, dtype=np.int64 if before else np.float64))
    shape = x.shape[1:]
    source = graph.add(Input("x", shape), (), TensorType(shape, fixed=before))
    shape = op.result_shape((shape,), graph.constants)
    node = graph.add(op, (source,), TensorType(shape, fixed=after))
    value = evaluate_all(graph, {"x": x})[node.id]
    assert value.shape == (len(x), *shape)
    return value
