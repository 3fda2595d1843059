"""Where the samples are when they are no longer axis 0: what operators do to the axis of the batch.

Networks move it (time-first recurrent layers, attention) and join it with others (samples x heads, time x samples).
As long as samples stay apart, that is fine. A tensor whose samples are not axis 0 is converted with all of its axes, as
it is for a single sample; the rules here say which axis of the result counts the samples, or that samples would be
combined. Operators that only move elements have no rule: ``onnx_shapes`` tries them out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from glyphc.ir.graph import Node

from .onnx_call import Call, Where
from .onnx_constants import DEFAULT_DOMAINS, CombinedSamplesError, UnsupportedError
from .onnx_functions import FUNCTIONS
from .onnx_resize import resized_axes

# Given a call and its results, with all axes: where the samples are in each of them.
BatchRule = Callable[[Call, Sequence[Node]], Sequence[Where]]


def results_where(call: Call, results: Sequence[Node]) -> Sequence[Where]:
    """Where the samples are in the results of a call whose operands have them elsewhere. Raises UnsupportedError."""
    rule = _RULES.get(call.node.op_type) if call.node.domain in DEFAULT_DOMAINS else None
    if rule is None:
        raise UnsupportedError("works on samples along axis 0, and the network has moved them to another axis")
    return rule(call, results)


def _elementwise(call: Call, results: Sequence[Node]) -> Sequence[Where]:
    """Operands broadcast to one shape, aligned at their last axes."""
    rank = len(results[0].type.shape)
    found = set()
    for index in filter(call.has, range(len(call.node.input))):
        if not call.is_constant(index):
            where = call.where(index)
            found.add(replace(where, axis=where.axis + rank - len(call.tensor(index).type.shape)))
    if len(found) != 1:
        raise CombinedSamplesError("combines tensors whose samples are along different axes; transpose one of them")
    (where,) = found
    for index in filter(call.has, range(len(call.node.input))):
        if call.is_constant(index):
            shape = call.conversion.constants.raw(call.node.input[index]).shape
            at = where.axis - rank + len(shape)
            if at >= 0 and shape[at] != 1:
                raise CombinedSamplesError(
                    f"constant {call.node.input[index]!r} differs along axis {where.axis}, which is the batch"
                )
    return [where] * len(results)


def _along(axes: Callable[[Call], Iterable[int]], kept: Callable[[Call], bool] = lambda call: True) -> BatchRule:
    """Works along some axes of operand 0, which the result has or has not."""

    def rule(call: Call, results: Sequence[Node]) -> Sequence[Where]:
        where, rank = call.where(0), len(call.tensor(0).type.shape)
        combined = {a % rank for a in axes(call)}
        if where.axis in combined:
            raise CombinedSamplesError.along(where.axis)
        if not kept(call):
            where = replace(where, axis=where.axis - sum(a < where.axis for a in combined))
        return [where] * len(results)

    return rule


def _attribute(default: int) -> Callable[[Call], tuple[int, ...]]:
    return lambda call: (call.integer("axis", default),)


def _keepdims(call: Call) -> bool:
    return call.integer("keepdims", 1) != 0


def _reduced(call: Call) -> tuple[int, ...]:
    given = call.sizes("axes") or (tuple(call.integers(1, "its axes")) if call.has(1) else ())
    if not given and call.integer("noop_with_empty_axes", 0):
        return ()
    return given or tuple(range(len(call.tensor(0).type.shape)))


def _from_axis(call: Call) -> Iterable[int]:
    """All axes from the one that is named on."""
    rank = len(call.tensor(0).type.shape)
    return range(call.integer("axis", -1) % rank, rank)


def _constant_axes(call: Call) -> Iterable[int]:
    return call.integers(1, "its axis")


def _grid_axis(call: Call) -> tuple[int, ...]:
    """Of quantisation with one scale for each entry of an axis."""
    return (call.integer("axis", 1),) if call.constant(1, "its scale").value.size > 1 else ()


def _padded(call: Call) -> Iterable[int]:
    rank, given = len(call.tensor(0).type.shape), call.integers(1, "its pads")
    axes = call.integers(3, "its axes") if call.has(3) else list(range(rank))
    return [a for at, a in enumerate(axes) if given[at] or given[at + len(axes)]]


def _looked_up(call: Call, results: Sequence[Node]) -> Sequence[Where]:
    """Rows of a constant table in place of each id."""
    if not call.is_constant(0) or call.integer("axis", 0):
        raise UnsupportedError("looks up in what belongs to samples, and the network has moved these to another axis")
    return [call.where(1)] * len(results)


def _one_hot(call: Call, results: Sequence[Node]) -> Sequence[Where]:
    """A new axis, which may come before the one that counts the samples."""
    where, axis = call.where(0), call.integer("axis", -1) % len(results[0].type.shape)
    return [replace(where, axis=where.axis + (axis <= where.axis))] * len(results)


def _items(call: Call, results: Sequence[Node]) -> Sequence[Where]:
    """Every entry of axis 0 is treated alike."""
    where = call.where(0)
    if where.axis:
        raise UnsupportedError(f"works on each entry of axis 0, but the network has moved its samples to {where.axis}")
    return [where] * len(results)


def _matmul(call: Call, results: Sequence[Node]) -> Sequence[Where]:
    return [_product(call, len(results[0].type.shape), (False, False))]


def _gemm(call: Call, results: Sequence[Node]) -> Sequence[Where]:
    where = _product(call, 2, (call.integer("transA", 0) != 0, call.integer("transB", 0) != 0))
    if call.has(2) and not call.is_constant(2):
        third = call.where(2)
        if replace(third, axis=third.axis + 2 - len(call.tensor(2).type.shape)) != where:
            raise CombinedSamplesError("adds a tensor whose samples are along another axis")
    elif call.has(2):
        shape = call.constant(2, "operand C").value.shape
        at = where.axis - 2 + len(shape)
        if at >= 0 and shape[at] != 1:
            raise CombinedSamplesError(f"operand C differs along axis {where.axis}, which is the batch")
    return [where]


def _product(call: Call, rank: int, transposed: tuple[bool, bool]) -> Where:
    """Of matrices in the last two axes: samples may be stacks of them, rows on the left or columns on the right."""
    found = []
    constant = [call.is_constant(i) for i in (0, 1)]
    shapes = [call.constant(i, "operand").value.shape if constant[i] else call.tensor(i).type.shape for i in (0, 1)]
    for i in (0, 1):
        if constant[i]:
            continue
        where = call.where(i)
        if len(shapes[i]) == 1:
            raise UnsupportedError(f"sums over axis {where.axis}, which is the batch")
        from_right = len(shapes[i]) - 1 - where.axis
        if transposed[i] and from_right < 2:
            from_right = 1 - from_right
        inner = 0 if i == 0 else 1
        if from_right == inner:
            # with a constant, the file has one number of samples in mind
            kind = UnsupportedError if constant[1 - i] else CombinedSamplesError
            raise kind(f"sums over axis {where.axis}, which is the batch")
        if from_right < 2:
            if not constant[1 - i]:
                raise CombinedSamplesError("multiplies samples with one another")
            # a vector on the other side leaves out an axis of the result
            axis = rank - 1 - (from_right if len(shapes[1 - i]) > 1 else 0)
        else:
            axis = rank - 1 - (from_right if len(shapes[1 - i]) > 1 else from_right - 1)
            other = len(shapes[1 - i]) - 1 - from_right
            if constant[1 - i] and other >= 0 and shapes[1 - i][other] != 1:
                raise CombinedSamplesError(f"the constant differs along axis {where.axis}, which is the batch")
        found.append(replace(where, axis=axis))
    if len(set(found)) != 1:
        raise CombinedSamplesError("multiplies tensors whose samples are along different axes")
    return found[0]


_REDUCE = _along(_reduced, _keepdims)
_ARG = _along(_attribute(0), _keepdims)
_PAIRS = (
    *("Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod"),
    *("Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor", "CastLike"),
)
_RULES: dict[str, BatchRule] = {
    **dict.fromkeys(FUNCTIONS, _along(lambda call: ())),
    **dict.fromkeys(_PAIRS, _elementwise),
    "ArgMax": _ARG,
    "ArgMin": _ARG,
    "AveragePool": _items,
    "BatchNormalization": _items,
    "Cast": _along(lambda call: ()),
    "Conv": _items,
    "ConvTranspose": _items,
    "CumSum": _along(_constant_axes),
    "DequantizeLinear": _along(_grid_axis),
    "Dropout": _along(lambda call: ()),
    "Gather": _looked_up,
    "Gemm": _gemm,
    "GlobalAveragePool": _items,
    "GlobalMaxPool": _items,
    "Hardmax": _along(_attribute(-1)),
    "Identity": _along(lambda call: ()),
    "InstanceNormalization": _items,
    "LayerNormalization": _along(_from_axis),
    "LogSoftmax": _along(_attribute(-1)),
    "MatMul": _matmul,
    "MaxPool": _items,
    "Neg": _along(lambda call: ()),
    "Not": _along(lambda call: ()),
    "OneHot": _one_hot,
    "Pad": _along(_padded),
    "QuantizeLinear": _along(_grid_axis),
    **{f"Reduce{kind}": _REDUCE for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum")},
    "ReduceSumSquare": _REDUCE,
    "Resize": _along(resized_axes),
    "Softmax": _along(_attribute(-1)),
    "TopK": _along(_attribute(-1)),
}
