"""ONNX operators that move elements and compute nothing: shapes, slices, permutations, padding.

None of them is written out here. ONNX's own reference implementation is run on tensors that hold the numbers of
their elements, for two batch sizes (or the one that the file fixes): what comes out says which element goes where,
whether samples stay apart, and which axis counts them afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from glyphc.ir import memory
from glyphc.ir.graph import Node

from .onnx_call import FIRST, Call, Convert, Placed, Rule, Shape, Where, places
from .onnx_constants import Array, CombinedSamplesError, UnsupportedError, run_node

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


def moved(call: Call, operands: Sequence[int] = (0,)) -> tuple[Placed, ...]:
    """Results of a node that moves the elements of the operands at these positions; the others must be constants."""
    for index in range(len(call.node.input)):
        if call.has(index) and index not in operands and not call.is_constant(index):
            raise UnsupportedError(f"operand {index} is computed by the network; it must be a constant")
    moving = {call.node.input[i]: i for i in operands if call.has(i)}
    constants = [n for n, i in moving.items() if call.is_constant(i)]
    sources = {n: call.conversion.values[n] for n, i in moving.items() if n not in constants}
    tries = [_try(call, sources, constants, batch) for batch in call.conversion.constants.batches]
    results = []
    for number in range(len(tries[0].codes)):
        where, origin = _found(call, [t.result(number) for t in tries])
        results.append(Placed(_build(call, list(sources.values()), origin), where))
    return tuple(results)


@dataclass(frozen=True)
class _Trial:
    """Results of one run, for so many samples. Numbers 1, 2, ... stand for the ``total`` elements of the first sample,
    then those of the second one; 0, -1, ... for the constants ``numbers``. For one result of several, ``codes`` is
    that one."""

    batch: int
    total: int
    codes: Sequence[Array]
    numbers: F64

    def result(self, number: int) -> _Trial:
        return _Trial(self.batch, self.total, [self.codes[number]], self.numbers)

    @property
    def shape(self) -> Shape:
        return self.codes[0].shape

    def origin(self, where: Where | None) -> _Origin | None:
        """Where elements come from, if these axes count the samples and all are treated alike; else None."""
        rows = arrange(self.codes[0], where, self.batch).astype(np.int64)
        if len(rows) != self.batch:
            return None
        of_network = rows > 0
        place = np.where(of_network, rows - 1 - self.total * np.arange(len(rows))[:, None], -1)
        number = np.where(of_network, 0.0, self.numbers[np.where(of_network, 0, -rows)])
        alone = (place >= -1) & (place < self.total) & (of_network == (place >= 0))
        if not alone.all() or not (place == place[0]).all() or not (number == number[0]).all():
            return None
        shape = self.shape if where is None else self._sample(where)
        return _Origin(place[0].reshape(shape), number[0].reshape(shape))

    def _sample(self, where: Where) -> Shape:
        """Of one sample: without the axis of the batch, if that is the first one."""
        before, behind = self.shape[: where.axis], self.shape[where.axis + 1 :]
        return behind if where == FIRST else (*before, where.outer * where.inner, *behind)


def _try(call: Call, sources: Mapping[str, Node], constants: Sequence[str], batch: int) -> _Trial:
    total = sum(x.type.size for x in sources.values())
    pool = call.conversion.constants
    feeds: dict[str, Array] = {n: pool.at(n, batch) for n in call.node.input if n and n not in sources}
    samples = total * np.arange(batch)[:, None]
    start = 1
    for name, x in sources.items():
        codes = (samples + start + np.arange(x.type.size)).astype(np.float64)
        feeds[name] = arranged(codes, x.type.shape, _where(call, name))
        start += x.type.size
    numbers: list[F64] = [np.zeros(1)]  # what an operator fills in by itself is zero
    for name in constants:
        value = pool.at(name, batch)
        known = sum(map(len, numbers))
        feeds[name] = -(known + np.arange(value.size, dtype=np.float64)).reshape(value.shape)
        numbers.append(np.asarray(value, dtype=np.float64).reshape(-1))
    # a result becomes a tensor of the network, with so many samples in the feeds
    results = run_node(call.node, feeds, call.conversion.opset, memory.ELEMENT_BYTES // max(1, batch))
    return _Trial(batch, total, [np.asarray(r) for r in results], np.concatenate(numbers))


def _where(call: Call, name: str) -> Where | None:
    return call.conversion.where.get(name, FIRST) if call.conversion.batch_axis else None


def shape_of(x: Node, where: Where | None, batch: int) -> Shape:
    """The ONNX shape of a value for so many samples."""
    shape = x.type.shape
    if where is None:
        return shape
    if where == FIRST:
        return (batch, *shape)
    return (*shape[: where.axis], where.outer * batch * where.inner, *shape[where.axis + 1 :])


def arranged(values: Array, shape: Shape, where: Where | None) -> Array:
    """Samples (samples, elements) as the ONNX tensor that has them there; shape: of one sample as the IR has it."""
    if where is None:
        return np.asarray(values[0]).reshape(shape)
    if where == FIRST:
        return values.reshape(len(values), *shape)
    before, behind = shape[: where.axis], shape[where.axis + 1 :]
    split = values.reshape(len(values), *before, where.outer, where.inner, *behind)
    return np.moveaxis(split, 0, len(before) + 1).reshape(*before, where.outer * len(values) * where.inner, *behind)


def arrange(tensor: Array, where: Where | None, batch: int) -> Array:
    """The inverse of :func:`arranged`: samples (samples, elements) of an ONNX tensor."""
    if where is None:
        return tensor.reshape(1, -1)
    before, behind = tensor.shape[: where.axis], tensor.shape[where.axis + 1 :]
    split = tensor.reshape(*before, where.outer, batch, where.inner, *behind)
    return np.moveaxis(split, len(before) + 1, 0).reshape(batch, -1)


def _found(call: Call, trials: Sequence[_Trial]) -> tuple[Where | None, _Origin]:
    """Where a result has its samples, and where its elements come from: alike for all numbers of samples."""
    for where in _candidates(call, trials):
        origins = [t.origin(where) for t in trials]
        first = origins[0]
        if first is not None and all(o == first for o in origins):
            return where, first
    shape, batch = trials[0].shape, trials[0].batch
    if shape[:1] != (batch,):
        raise UnsupportedError(
            f"does not leave the batch axis alone: it makes {list(shape)} of {batch} sample(s); begin target "
            "shapes with 0, or with the number of samples that the input has"
        )
    raise CombinedSamplesError("does not leave the batch axis alone: it mixes samples, or treats them differently")


def _candidates(call: Call, trials: Sequence[_Trial]) -> Iterator[Where | None]:
    """Axes that may count the samples, the first one first."""
    shape = trials[0].shape
    if len({len(t.shape) for t in trials}) > 1:
        return
    if call.conversion.batch_axis:
        for axis in range(len(shape)):
            share = {t.shape[axis] / t.batch for t in trials}
            others = {(*t.shape[:axis], *t.shape[axis + 1 :]) for t in trials}
            if len(share) == len(others) == 1 and (size := share.pop()).is_integer() and size >= 1:
                for inner in range(int(size), 0, -1):
                    if int(size) % inner == 0:
                        found = Where(axis, int(size) // inner, inner)
                        if found == FIRST or not call.conversion.single:
                            yield found
    if call.conversion.single:
        yield None


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


def _all(call: Call) -> tuple[Placed, ...]:
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


def _scatter(call: Call) -> tuple[Placed, ...]:
    return moved(call, (0, 2))


def _rule(*attributes: str, convert: Convert = moved) -> Rule:
    return Rule(convert, attributes)


RULES: dict[str, Rule] = {
    "CenterCropPad": _rule("axes"),
    "Compress": _rule("axis"),
    "Concat": _rule("axis", convert=_all),
    "DepthToSpace": _rule("blocksize", "mode"),
    "Expand": _rule(),
    "Flatten": _rule("axis"),
    "GatherElements": _rule("axis"),
    "GatherND": _rule("batch_dims"),
    "Pad": _rule("mode", convert=_pad),
    "Reshape": _rule("allowzero"),
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
