"""ONNX operators that move elements and compute nothing: shapes, slices, permutations, padding.

None of them is written out here. ONNX's own reference implementation is run on tensors that hold the numbers of
their elements, for two batch sizes (or the one that the file fixes): what comes out says which element goes where, and
whether samples stay apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from glyphc.ir import memory
from glyphc.ir.graph import Node

from .onnx_call import Call, Rule, places
from .onnx_constants import Array, UnsupportedError, run_node

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Origin:
    """Where every element of one sample of a result comes from: a flat place among the operands, or -1 and a number."""

    place: I64
    number: F64

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Origin)
            and np.array_equal(self.place, other.place)
            and np.array_equal(self.number, other.number)
        )

    __hash__ = None  # type: ignore[assignment]  # arrays cannot be hashed


def moved(call: Call, operands: Sequence[int] = (0,)) -> tuple[Node, ...]:
    """Results of a node that moves the elements of the operands at these positions; the others must be constants."""
    for index in range(len(call.node.input)):
        if call.has(index) and index not in operands and not call.is_constant(index):
            raise UnsupportedError(f"operand {index} is computed by the network; it must be a constant")
    moving = {call.node.input[i]: i for i in operands if call.has(i)}
    constants = [n for n, i in moving.items() if call.is_constant(i)]
    sources = {n: call.tensor(i) for n, i in moving.items() if n not in constants}
    tries = [_try(call, sources, constants, batch) for batch in call.conversion.constants.batches]
    if any(t != tries[0] for t in tries):
        raise UnsupportedError("does different things to different numbers of samples")
    return tuple(_build(call, list(sources.values()), origin) for origin in tries[0])


def _try(call: Call, sources: Mapping[str, Node], constants: Sequence[str], batch: int) -> list[_Origin]:
    """One run, for so many samples. Numbers 1, 2, ... stand for the operands' elements, -1, -2, ... for constants."""
    total = sum(x.type.size for x in sources.values())
    pool = call.conversion.constants
    feeds: dict[str, Array] = {n: pool.at(n, batch) for n in call.node.input if n and n not in sources}
    samples = total * np.arange(batch if call.lead else 1)[:, None]
    start = 1
    for name, x in sources.items():
        codes = samples + start + np.arange(x.type.size)
        feeds[name] = codes.reshape((batch,) * call.lead + x.type.shape).astype(np.float64)
        start += x.type.size
    numbers: list[F64] = [np.zeros(1)]  # what an operator fills in by itself is zero
    for name in constants:
        value = pool.at(name, batch)
        known = sum(map(len, numbers))
        feeds[name] = -(known + np.arange(value.size, dtype=np.float64)).reshape(value.shape)
        numbers.append(np.asarray(value, dtype=np.float64).reshape(-1))
    results = run_node(call.node, feeds, call.conversion.opset)
    return [_origin(call, np.asarray(r), batch, total, np.concatenate(numbers)) for r in results]


def _origin(call: Call, codes: Array, batch: int, total: int, numbers: F64) -> _Origin:
    if call.lead and codes.shape[:1] != (batch,):
        raise UnsupportedError(
            f"does not leave the batch axis alone: it makes {list(codes.shape)} of {batch} sample(s); begin target "
            "shapes with 0, or with the number of samples that the input has"
        )
    rows = codes.astype(np.int64).reshape(batch if call.lead else 1, -1)
    of_network = rows > 0
    place = np.where(of_network, rows - 1 - total * np.arange(len(rows))[:, None], -1)
    number = np.where(of_network, 0.0, numbers[np.where(of_network, 0, -rows)])
    alone = (place >= -1) & (place < total) & (of_network == (place >= 0))
    if not alone.all() or not (place == place[0]).all() or not (number == number[0]).all():
        raise UnsupportedError("does not leave the batch axis alone: it mixes samples, or treats them differently")
    shape = codes.shape[call.lead :]
    return _Origin(place[0].reshape(shape), number[0].reshape(shape))


def _build(call: Call, sources: Sequence[Node], origin: _Origin) -> Node:
    """A gather, or where constants have come in, an affine map."""
    if not origin.place.size:
        raise UnsupportedError("gives an empty tensor")
    used = [x for x, first, end in _spans(sources) if ((origin.place >= first) & (origin.place < end)).any()]
    # elements of what is left out are not counted
    shift = np.zeros(sum(x.type.size for x in sources), dtype=np.int64)
    at = 0
    for x, first, end in _spans(sources):
        shift[first:end] = at - first
        at += x.type.size if x in used else 0
    used = used or list(sources[:1])
    stacked = used[0] if len(used) == 1 else call.stack(used)
    place = np.where(origin.place >= 0, origin.place + shift[origin.place], -1)
    if (place >= 0).all():
        return call.gather(stacked, place)
    rows = np.nonzero(place.reshape(-1) >= 0)[0]
    matrix = sparse.csr_array(
        (np.ones(len(rows)), (rows, place.reshape(-1)[rows])), shape=(place.size, stacked.type.size)
    )
    return call.affine(stacked, matrix, origin.number.reshape(-1), place.shape)


def _spans(sources: Sequence[Node]) -> list[tuple[Node, int, int]]:
    ends = np.cumsum([0] + [x.type.size for x in sources])
    return [(x, int(ends[i]), int(ends[i + 1])) for i, x in enumerate(sources)]


# -- operators that need a look at their attributes first --


def _all(call: Call) -> tuple[Node, ...]:
    return moved(call, range(len(call.node.input)))


def _pad(call: Call) -> Node:
    """Written out, as ONNX's reference implementation knows no negative padding, by which exporters cut."""
    x, rank = call.tensor(0), call.rank(call.tensor(0))
    axes = call.integers(3, "its axes") if call.has(3) else list(range(rank))
    given = call.integers(1, "its pads")
    mode = call.text("mode", "constant")
    if mode not in ("constant", "reflect", "edge", "wrap") or len(given) != 2 * len(axes):
        raise UnsupportedError(f"mode={mode!r} with {len(given)} pads for {len(axes)} axes is not supported")
    place = places(x)
    for axis, before, after in zip(axes, given[: len(axes)], given[len(axes) :], strict=True):
        if before or after:
            at = call.axis(x, axis)
            place = place.take(range(max(0, -before), place.shape[at] - max(0, -after)), axis=at)
            widths = [(max(0, before), max(0, after)) if a == at else (0, 0) for a in range(place.ndim)]
            if place.size:
                grown = [n + sum(w) for n, w in zip(place.shape, widths, strict=True)]
                memory.require_tensor(tuple(grown), "its result")
                filled: dict[str, int] = {"constant_values": -1} if mode == "constant" else {}
                place = np.pad(place, widths, mode=mode, **filled)  # type: ignore[call-overload]
    value = float(call.constant(2, "its value").value.flat[0]) if call.has(2) else 0.0
    return _build(call, [x], _Origin(place, np.where(place < 0, value, 0.0)))


def _resize(call: Call) -> tuple[Node, ...]:
    if call.text("mode", "nearest") != "nearest":
        raise UnsupportedError(f"mode={call.text('mode', '')!r} is not supported, only 'nearest'")
    return moved(call)


def _scatter(call: Call) -> tuple[Node, ...]:
    if call.text("reduction", "none") != "none":
        raise UnsupportedError(f"reduction={call.text('reduction', '')!r} is not supported, only 'none'")
    return moved(call, (0, 2))


def _rule(*attributes: str, convert: Callable[[Call], Node | tuple[Node, ...]] = moved) -> Rule:
    return Rule(convert, attributes)


RULES: dict[str, Rule] = {
    "CenterCropPad": _rule("axes"),
    "Concat": _rule("axis", convert=_all),
    "DepthToSpace": _rule("blocksize", "mode"),
    "Expand": _rule(),
    "Flatten": _rule("axis"),
    "Gather": _rule("axis"),
    "GatherElements": _rule("axis"),
    "GatherND": _rule("batch_dims"),
    "Pad": _rule("mode", convert=_pad),
    "Reshape": _rule("allowzero"),
    "Resize": _rule(
        *("antialias", "axes", "coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside"),
        *("extrapolation_value", "keep_aspect_ratio_policy", "mode", "nearest_mode"),
        convert=_resize,
    ),
    "ReverseSequence": _rule("batch_axis", "time_axis"),
    "ScatterElements": _rule("axis", "reduction", convert=_scatter),
    "ScatterND": _rule("reduction", convert=_scatter),
    "Slice": _rule(),
    "SpaceToDepth": _rule("blocksize", "mode"),
    "Split": _rule("axis", "num_outputs"),
    "Squeeze": _rule(),
    "Tile": _rule(),
    "Transpose": _rule("perm"),
    "Trilu": _rule("upper"),
    "Unsqueeze": _rule(),
}
