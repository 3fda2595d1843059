"""Linear maps of a quantized graph in floating point: exact below 2^53, and by the libraries that multiply fast."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.evaluate import Value
from glyphc.ir.graph import Graph
from glyphc.ir.matrices import Matrix
from glyphc.ir.ops import Linear, Weight

F64 = npt.NDArray[np.floating[Any]]


@dataclass
class FloatMaps:
    """Keeps the weights of a graph as floats, once they were used."""

    graph: Graph
    _matrices: dict[Weight, Matrix] = field(default_factory=dict)

    def value(self, op: Linear, args: tuple[Value, ...]) -> F64:
        """The result of a map, shape (samples, outputs)."""
        total = self.graph.constant(op.bias.name).astype(np.float64)
        for x, weight in zip(args, op.weights, strict=True):
            if weight not in self._matrices:
                self._matrices[weight] = self.graph.matrix(weight).floats()
            total = total + self._matrices[weight].times(x.astype(np.float64).T).T
        return np.asarray(total)
