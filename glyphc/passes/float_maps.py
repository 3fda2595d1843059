"""Linear maps of a quantized graph in floating point: exact below 2^53, and by the libraries that multiply fast."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.evaluate import Value
from glyphc.ir.graph import Graph
from glyphc.ir.ops import Linear

F64 = npt.NDArray[np.floating[Any]]

# Weights with a smaller share of non-zero ones are multiplied as sparse matrices.
_SPARSE = 1 / 8


@dataclass
class FloatMaps:
    """Keeps the weights of a graph as floats, once they were used."""

    graph: Graph
    _weights: dict[str, Any] = field(default_factory=dict)

    def value(self, op: Linear, args: tuple[Value, ...]) -> F64:
        """The result of a map, shape (samples, outputs)."""
        total = self.graph.constant(op.bias.name).astype(np.float64)
        for x, const in zip(args, op.weights, strict=True):
            # as columns: what sparse matrices multiply by
            total = total + (self._weight(const.name) @ x.astype(np.float64).T).T
        return np.asarray(total)

    def _weight(self, name: str) -> Any:
        if name not in self._weights:
            weight = self.graph.constant(name)
            if np.count_nonzero(weight) < _SPARSE * weight.size:
                from scipy import sparse  # not needed for most graphs, and slow to load

                self._weights[name] = sparse.csr_array(weight, dtype=np.float64)
            else:
                self._weights[name] = weight.astype(np.float64)
        return self._weights[name]
