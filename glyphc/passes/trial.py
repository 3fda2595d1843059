"""A laid-out network on samples with all that encryption adds to it, in the graph's own terms.

Values are what the coefficients of ciphertexts hold: fixed-point integers and, behind a bootstrap, approximations to
them, which nothing rounds. Noise is drawn where OpenFHE makes it: of each bootstrap where it stands, of ciphertexts
where they are switched to the bootstrap or decrypted, in the size that :mod:`glyphc.analysis.noise` predicts there. So
a whole batch costs a few matrix products; :mod:`glyphc.backends.simulate` does the same on polynomials.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import hypot
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.analysis import noise
from glyphc.analysis.noise import divisor
from glyphc.ir.evaluate import Value, apply_client_op, dequantize, evaluate_all
from glyphc.ir.functions import compose
from glyphc.ir.graph import Graph, Node
from glyphc.ir.noise import DECODING_FLOOR, bootstrap
from glyphc.ir.ops import Apply, ArgMax, Linear, Op, Output, Softmax, Switch
from glyphc.ir.parameters import Parameters
from glyphc.ir.series import OUTPUT_BITS, Approximation, evaluate_series, rms_slope
from glyphc.ir.types import Scheme

from .fit_series import DEGREES, SeriesFits, plaintext_bits
from .float_maps import FloatMaps

F64 = npt.NDArray[np.floating[Any]]

# The series whose slope stands for that of a function.
_TYPICAL = DEGREES[1]


@dataclass
class Trial:
    """Evaluates a laid-out graph, before its parameters are chosen, with series in place of its nonlinearities.

    seed: of the noise; the same one gives the same values.
    """

    graph: Graph
    seed: int = 0

    def __post_init__(self) -> None:
        self._maps = FloatMaps(self.graph)
        bits = plaintext_bits(self.graph)
        self.fits = SeriesFits(self.graph, bits)
        ring = max(n.type.layout.ring for n in self.graph if n.type.layout is not None)
        self.parameters = Parameters(ring, bits, noise.bgv_bits(self.graph, bits))
        predicted = noise.predict(self.graph, self.parameters, self.parameters.bgv_bits)
        self._white = {id: n.white for id, n in predicted.items()}

    def outputs(self, samples: Mapping[str, F64], series: Mapping[int, Approximation]) -> dict[str, F64]:
        """Real outputs by name, as the client sees them."""
        return self.outputs_of(self.values(samples, series))

    def outputs_of(self, values: Mapping[int, Value]) -> dict[str, F64]:
        """The real outputs among :meth:`values`."""
        return {op.name: np.asarray(values[n.id], dtype=np.float64) for n, op in self.graph.of(Output)}

    def values(
        self,
        samples: Mapping[str, F64],
        series: Mapping[int, Approximation],
        added: Mapping[int, F64] | None = None,
        noisy: bool = True,
        moved: Mapping[int, float] | None = None,
        known: Mapping[int, Value] | None = None,
    ) -> dict[int, Value]:
        """Values of all nodes by id, in units of their integers; those that the client makes are real.

        series: by node id; nonlinearities without one compute their function. added: put on top of a nonlinearity's
        result; moved: on top of its operand. noisy: False leaves the noise out. known: values that are taken as they
        are.
        """
        random = np.random.default_rng(self.seed)

        def drawn(value: F64, deviation: float) -> F64:
            return value + random.normal(0, deviation, value.shape) if noisy and deviation > 0 else value

        def step(node: Node, args: tuple[Value, ...]) -> Value | None:
            if known is not None and node.id in known:
                return known[node.id]
            if isinstance(node.op, Linear):
                return self._maps.value(node.op, args)
            if isinstance(node.op, Switch) and node.op.target is Scheme.TORUS:
                return drawn(args[0].astype(np.float64), self._white.get(node.id, 0.0))
            if isinstance(node.op, Apply):
                chosen, x = series.get(node.id), args[0] + (moved or {}).get(node.id, 0.0)
                out = self._function(node, node.op, x) if chosen is None else self._series(chosen, x)
                out = drawn(out, self._bootstrap_noise(node, chosen))
                return out + added[node.id] if added is not None and node.id in added else out
            (source,) = self.graph.operands(node)
            if node.type.scheme is Scheme.CLIENT and source.type.scheme is not Scheme.CLIENT:
                return self._decrypted(node.op, source, drawn(args[0], self._white.get(source.id, 0.0)))
            return None

        return evaluate_all(self.graph, samples, step)

    def reals(self, values: Mapping[int, Value], ids: Iterable[int] | None = None) -> dict[int, F64]:
        """What values stand for, of these nodes, by default of all."""
        nodes = self.graph if ids is None else map(self.graph.node, ids)
        return {
            node.id: np.asarray(
                values[node.id]
                if node.type.fixed is None or node.type.scheme is Scheme.CLIENT
                else dequantize(values[node.id], node.type.fixed),
                dtype=np.float64,
            )
            for node in nodes
        }

    # -- steps --

    def _series(self, series: Approximation, x: Value) -> F64:
        """From phase to phase, as a bootstrap does it: beyond half the torus, values come back on the other side."""
        modulus = 2.0**self.fits.bits
        return np.asarray(evaluate_series(series, x / modulus) * modulus)

    def _function(self, node: Node, op: Apply, x: Value) -> F64:
        """The function itself, of values inside the format that it is defined on; not rounded."""
        source, target = self.fits.source(node), node.type.fixed
        assert target is not None
        y = compose(op.functions, dequantize(np.clip(x, source.lo, source.hi), source))
        flat = y.reshape(len(y), -1)
        return np.asarray((flat - np.array(target.offset)) / np.array(target.scale)).reshape(y.shape)

    def _bootstrap_noise(self, node: Node, series: Approximation | None) -> float:
        """What a bootstrap adds, in integers of the undivided result."""
        p = self.parameters
        factor = divisor(self.graph, node)
        unit = p.plaintext_modulus * factor / 2.0**OUTPUT_BITS
        slope = rms_slope(series or self.fits.series(node, _TYPICAL)) * 2.0**OUTPUT_BITS / factor
        return hypot(bootstrap(p.ring, slope) * unit, DECODING_FLOOR * p.plaintext_modulus * factor)

    def _decrypted(self, op: Op, source: Node, x: F64) -> Value:
        """What the client makes of a value's message: an integer modulo t."""
        modulus = 2.0**self.fits.bits
        assert source.type.fixed is not None
        value = dequantize(np.rint(x - modulus * np.rint(x / modulus)), source.type.fixed)
        return apply_client_op(op, value) if isinstance(op, Softmax | ArgMax) else value
