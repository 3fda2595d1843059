"""Hidden values that leave the ranges which their formats hold: under encryption nobody sees that they do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.codec import filled
from glyphc.ir.evaluate import Value, decrypted
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import (
    CLIENT_OPS,
    Apply,
    Bootstrap,
    ClientBits,
    Linear,
    Output,
    Pixels,
    Polynomial,
    Switch,
    Unpack,
)
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.ir.slot_range import holds
from glyphc.plausible import lost_text

F64 = npt.NDArray[np.floating[Any]]

# Samples that a line of text names.
_NAMED = 5


@dataclass(frozen=True)
class Overrun:
    """A sample with values of a layer that leave its range.

    node: of the graph that was evaluated; layer: where it comes from. values: how many of them leave; wraps: how many
    of these are beyond half the torus, and come back at its other end. farthest: how many times as far from the middle
    of the range as its end.
    """

    node: int
    layer: str
    sample: int
    values: int
    wraps: int
    farthest: float


def find(graph: Graph, values: Mapping[int, Value], modulus: float, first: int = 0) -> tuple[Overrun, ...]:
    """Of linear maps, by layer and sample. values: by node id, in integers of their formats, not wrapped.

    modulus: of plaintexts, which the torus stands for; infinite where values do not wrap. What nothing
    but outputs reads is exact up to half of it: it overruns where it wraps. first: the number of the first sample.
    """
    found = []
    shown = {graph.operands(node)[0].id for node in graph if isinstance(node.op, CLIENT_OPS)}
    for node in graph:
        if not (isinstance(node.op, Linear) or node.id in shown):
            continue
        fixed = node.type.fixed
        if fixed is None or node.id not in values:
            continue
        x = np.asarray(values[node.id], dtype=np.float64)
        x = np.abs(x.reshape(len(x), -1))
        wraps = x > modulus / 2
        beyond = x > fixed.magnitude if _bootstrapped(graph, node) else wraps
        for sample in np.flatnonzero(beyond.any(axis=1)):
            far = float(x[sample].max()) / fixed.magnitude
            counts = int(beyond[sample].sum()), int(wraps[sample].sum())
            found.append(Overrun(node.id, node.location or str(node), first + int(sample), *counts, far))
    return tuple(found)


def _bootstrapped(graph: Graph, node: Node) -> bool:
    """Whether a function is applied to a value, or a table looked up by it."""
    return any(
        isinstance(u.op, Apply | Bootstrap | Polynomial | ClientBits)
        or (isinstance(u.op, Switch | Unpack | Pixels) and _bootstrapped(graph, u))
        for u in graph.users(node)
    )


def spoiled(graph: Graph, values: Mapping[int, Value]) -> bool:
    """Whether numbers in slots leave the modulus of a result: then all samples of the pass are lost.

    values: of the samples of one pass, by node id, in integers of their formats.
    """
    p = graph.parameters
    if not isinstance(p, SlotParameters):
        return False
    for output, _ in graph.of(Output):
        source, _ = decrypted(graph, output)
        assert source.type.fixed is not None
        rows = np.asarray(values[source.id], dtype=np.float64) / max(source.type.fixed.magnitude, 1)
        if not all(holds(filled(column, p.slots), p) for column in rows.reshape(len(rows), -1).T):
            return True
    return False


def lines(overruns: Iterable[Overrun], samples: int) -> list[str]:
    """A line for each layer."""
    out = []
    for _, group in groupby(sorted(overruns, key=lambda o: (o.node, o.sample)), key=lambda o: o.node):
        layer = list(group)
        values, wraps = sum(o.values for o in layer), sum(o.wraps for o in layer)
        wrapped = f", {wraps} of them beyond half the torus: they wrap" if wraps else ""
        out.append(
            f"{layer[0].layer}: {values} value{'s leave' if values > 1 else ' leaves'} the range{wrapped}; "
            f"farthest {max(o.farthest for o in layer):.3g} times as far as the limit; {_named(layer)} of {samples}"
        )
    return out


def _named(layer: Sequence[Overrun]) -> str:
    numbers = ", ".join(str(o.sample) for o in layer[:_NAMED])
    more = f" and {len(layer) - _NAMED} more" if len(layer) > _NAMED else ""
    return f"sample{'s' if len(layer) > 1 else ''} {numbers}{more}"


def message(overruns: Sequence[Overrun], samples: int, lost: Sequence[tuple[int, int]] = ()) -> str:
    """What a user has to know of them, as one paragraph with a line for each layer.

    lost: samples, from and to, of passes that such values spoil as a whole.
    """
    wrong = {o.sample for o in overruns}.union(*(range(*some) for some in lost))
    whole = [
        f"numbers in slots: what is so far out leaves the modulus, and takes its whole pass with it: under encryption "
        f"{lost_text(lost)} are lost (NaN); leave the samples out that are named here"
    ]
    return "\n  ".join(
        [
            f"values leave their ranges: the results of {len(wrong)} of {samples} samples are not to be relied on; "
            "compile with calibration samples that cover such values, or with a larger --margin",
            *lines(overruns, samples),
            *(whole if lost else []),
        ]
    )
