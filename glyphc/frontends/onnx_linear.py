"""ONNX operators that are linear maps with constant weights: dense layers, convolutions, mean pooling and the like."""

from __future__ import annotations

import math

import numpy as np
from scipy import sparse

from glyphc.ir import memory
from glyphc.ir.graph import Node
from glyphc.ir.kronecker import Kronecker
from glyphc.ir.matrices import Matrix
from glyphc.ir.network_ops import NO_BIAS
from glyphc.ir.ops import Add, Mul, ReduceSum, Reshape

from .onnx_call import Call, Rule, Shape, places
from .onnx_constants import F64, BatchAxisError, CombinedSamplesError, Named, UnsupportedError
from .onnx_windows import transposed_windows, windows
from .window_maps import convolution, means, require_entries

_PRODUCT_BYTES = 8 * 8

# -- dense layers --


def _gemm(call: Call) -> Node:
    """alpha * A' B' + beta * C for A' (M, K), B' (K, N), each possibly transposed, C broadcast to (M, N)."""
    alpha, beta = call.real("alpha", 1.0), call.real("beta", 1.0)
    if call.lead:
        if call.integer("transA", 0):
            raise CombinedSamplesError("transA=1 transposes the encrypted tensor, batch axis included")
        if not call.is_constant(1):
            raise CombinedSamplesError(
                "operand B is computed by the network and has no batch axis; it must be a constant"
            )
    for index, name in enumerate("AB"):
        constant = call.is_constant(index)
        rank = call.constant(index, f"operand {name}").value.ndim if constant else call.rank(call.tensor(index))
        if rank != 2:
            raise UnsupportedError(f"multiplies matrices, and its operand {name} has {rank} axes")
    if call.is_constant(1) and not call.is_constant(0) and len(call.tensor(0).type.shape) == 1:
        return _dense_gemm(call, alpha, beta)
    a, b = (
        _transposed(call, i) if call.integer(name, 0) else _operand(call, i)
        for i, name in enumerate(("transA", "transB"))
    )
    product = _product(call, a, b)
    if alpha != 1:
        product = call.scale(product, alpha, 0.0)
    if not call.has(2):
        return product
    if call.is_constant(2):
        given = call.constant(2, "operand C")
        return call.scale(product, 1.0, Named(given.name, beta * given.value))
    return call.add(Add(), product, call.scale(call.tensor(2), beta, 0.0))


def _dense_gemm(call: Call, alpha: float, beta: float) -> Node:
    """The usual case: samples of K elements, constant weights."""
    weight, bias, added = call.constant(1, "operand B"), None, None
    matrix = weight.value if call.integer("transB", 0) else weight.value.T
    if call.has(2) and call.is_constant(2):
        given = call.constant(2, "operand C").per_sample(matrix.shape[:1])
        bias = Named(given.name, beta * np.broadcast_to(given.value, matrix.shape[:1]))
    elif call.has(2):
        added = call.tensor(2)
    y = call.dense(call.tensor(0), Named(weight.name, alpha * matrix), bias)
    return y if added is None else call.pair(Add(), y, call.scale(added, beta, 0.0))


def _operand(call: Call, index: int) -> Node | Named:
    return call.constant(index, f"operand {index}") if call.is_constant(index) else call.tensor(index)


def _transposed(call: Call, index: int) -> Node | Named:
    x = _operand(call, index)
    return Named(x.name, x.value.T) if isinstance(x, Named) else call.gather(x, places(x).T)


def _matmul(call: Call) -> Node:
    """As numpy.matmul: stacks of matrices in the last two axes, vectors of one axis."""
    a, b = _operand(call, 0), _operand(call, 1)
    if isinstance(a, Node) and isinstance(b, Named) and len(a.type.shape) == 1 and b.value.ndim in (1, 2):
        matrix = b.value.reshape(b.value.shape[0], -1).T
        y = call.dense(a, Named(b.name, matrix), None)
        return y if b.value.ndim == 2 else call.add(Reshape(()), y)
    if call.lead:
        a, b = _per_sample(call, a, b)
    return _product(call, a, b)


def _per_sample(call: Call, a: Node | Named, b: Node | Named) -> tuple[Node | Named, Node | Named]:
    """Both operands without their batch axes, which must be neither multiplied nor moved."""
    ranks = [x.value.ndim if isinstance(x, Named) else call.rank(x) for x in (a, b)]
    for x, rank, left in ((a, ranks[0], True), (b, ranks[1], False)):
        if isinstance(x, Node) and (rank < max(ranks) or (rank == 2 and not left) or rank == 1):
            raise BatchAxisError(
                "multiplies along the batch axis, or moves it: the encrypted tensor must have as many axes as the "
                "other operand, and stand on the left if it has only two"
            )
    if isinstance(a, Node) and isinstance(b, Node) and ranks[0] == 2:
        raise CombinedSamplesError("multiplies samples with one another (two encrypted tensors of two axes)")
    without = [
        Named(x.name, _without_batch(x)) if isinstance(x, Named) and x.value.ndim == max(ranks) > 2 else x
        for x in (a, b)
    ]
    return without[0], without[1]


def _without_batch(constant: Named) -> F64:
    if len(constant.value) != 1:
        raise UnsupportedError(f"{constant} differs along the batch axis; all samples must be alike")
    return np.asarray(constant.value[0])


def _product(call: Call, a: Node | Named, b: Node | Named) -> Node:
    """numpy.matmul of tensors of one sample; at least one of them is encrypted."""
    shapes = [x.value.shape if isinstance(x, Named) else x.type.shape for x in (a, b)]
    # rows of a and columns of b, the summed axis last, for every element of the result
    left = np.arange(math.prod(shapes[0])).reshape(shapes[0] if len(shapes[0]) > 1 else (1, *shapes[0]))
    right = np.arange(math.prod(shapes[1])).reshape(shapes[1] if len(shapes[1]) > 1 else (*shapes[1], 1))
    if left.shape[-1] != right.shape[-2]:
        raise UnsupportedError(f"multiplies tensors of shapes {list(shapes[0])} and {list(shapes[1])}")
    try:
        stacks = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        count = math.prod((*stacks, *left.shape[-2:], right.shape[-1]))
        # as integers: the places of both factors of every product, and working copies of them
        memory.require(_PRODUCT_BYTES * count, f"a list of {count:,} products")
        left, right = np.broadcast_arrays(left[..., :, None, :], np.swapaxes(right, -1, -2)[..., None, :, :])
    except ValueError:
        raise UnsupportedError(f"stacks of shapes {list(shapes[0])} and {list(shapes[1])} do not broadcast") from None
    result = [n for n, shape in zip(left.shape[-3:-1], shapes, strict=True) if len(shape) > 1]
    shape = (*left.shape[:-3], *result)
    if isinstance(a, Node) and isinstance(b, Node):
        products = call.add(Mul(), call.gather(a, left), call.gather(b, right))
        return call.reshape(call.add(ReduceSum(), products), shape)
    x, columns = (a, left) if isinstance(a, Node) else (b, right)
    weight, chosen = (b, right) if isinstance(a, Node) else (a, left)
    assert isinstance(x, Node) and isinstance(weight, Named)
    inner = left.shape[-1]
    indptr = np.arange(0, left.size + 1, inner) if inner else np.zeros(math.prod(shape) + 1, dtype=np.int64)
    matrix = sparse.csr_array(
        (weight.value.reshape(-1)[chosen.reshape(-1)], columns.reshape(-1), indptr),
        shape=(math.prod(shape), x.type.size),
    )
    return call.affine(x, matrix, 0.0, shape)


# -- convolutions --


def _conv(call: Call) -> Node:
    """Weights (outputs, inputs of one group, *kernel) over x (samples, channels, *spatial)."""
    x, weight = call.tensor(0), call.constant(1, "its weight")
    count, item = call.items(x)
    kernel, channels, groups = _geometry(call, item, weight, outputs_first=True)
    axes = windows(item[1:], kernel, *_window_attributes(call), ceil_mode=False)
    matrix = convolution(weight.value, channels, groups, axes)
    outputs = (weight.value.shape[0], *(a.outputs for a in axes))
    return _per_item(call, x, matrix, _channel_bias(call, outputs), count, outputs, "bias" if call.has(2) else NO_BIAS)


def _conv_transpose(call: Call) -> Node:
    """Weights (inputs, outputs of one group, *kernel): the transpose of a convolution's map."""
    x, weight = call.tensor(0), call.constant(1, "its weight")
    count, item = call.items(x)
    kernel, _, groups = _geometry(call, item, weight, outputs_first=False)
    strides, dilations, pads, auto_pad = _window_attributes(call)
    axes = transposed_windows(
        item[1:], kernel, strides, dilations, pads, auto_pad, call.sizes("output_padding"), call.sizes("output_shape")
    )
    per_group = weight.value.shape[1]
    # as a convolution from the result to x it has (inputs, outputs of one group, *kernel) already
    matrix = convolution(weight.value, per_group * groups, groups, axes).transposed
    outputs = (per_group * groups, *(a.size for a in axes))
    return _per_item(call, x, matrix, _channel_bias(call, outputs), count, outputs)


def _geometry(call: Call, item: Shape, weight: Named, outputs_first: bool) -> tuple[Shape, int, int]:
    """Kernel sizes, input channels and groups, checked against each other."""
    groups = call.integer("group", 1)
    if weight.value.ndim != len(item) + 1 or len(item) < 2:
        raise UnsupportedError(f"{weight} does not fit samples of shape {list(item)}")
    kernel = weight.value.shape[2:]
    if call.sizes("kernel_shape") not in ((), kernel):
        raise UnsupportedError(f"kernel_shape {list(call.sizes('kernel_shape'))} is not that of {weight}")
    expected = weight.value.shape[1] * groups if outputs_first else weight.value.shape[0]
    if item[0] != expected or weight.value.shape[0] % groups:
        raise UnsupportedError(f"{weight} in {groups} group(s) does not fit {item[0]} channels")
    return kernel, item[0], groups


def _window_attributes(call: Call) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], str]:
    strides, dilations, pads = (call.sizes(name) for name in ("strides", "dilations", "pads"))
    return strides, dilations, pads, call.text("auto_pad", "NOTSET")


def _channel_bias(call: Call, outputs: tuple[int, ...]) -> F64:
    """The bias of every element of (channels, *spatial)."""
    bias = call.constant(2, "its bias").value if call.has(2) else np.zeros(outputs[0])
    if bias.shape != outputs[:1]:
        raise UnsupportedError(f"its bias has shape {list(bias.shape)}, not one number for each output channel")
    return np.repeat(bias, math.prod(outputs[1:]))


def _per_item(
    call: Call,
    x: Node,
    matrix: Matrix,
    bias: F64 | float,
    count: int,
    outputs: tuple[int, ...],
    called: str = "bias",
) -> Node:
    """The same map for every entry of axis 0. called: what the name of the bias ends in."""
    if call.lead:
        return call.affine(x, matrix, bias, outputs, called)
    require_entries(count * matrix.count)
    everywhere = matrix if count == 1 else sparse.kron(sparse.eye_array(count), matrix.csr(), format="csr")
    return call.affine(x, everywhere, np.tile(bias, count) if np.ndim(bias) else bias, (count, *outputs))


# -- mean pooling --


def _average_pool(call: Call) -> Node:
    """Means over windows; padding counts only with count_include_pad, what lies beyond it never."""
    x = call.tensor(0)
    count, item = call.items(x)
    ceil_mode, padded = call.integer("ceil_mode", 0) != 0, call.integer("count_include_pad", 0) != 0
    axes = windows(item[1:], call.sizes("kernel_shape"), *_window_attributes(call), ceil_mode=ceil_mode)
    matrix = means(item[0], axes, padded)
    return _per_item(call, x, matrix, 0.0, count, (item[0], *(a.outputs for a in axes)))


def _global_average_pool(call: Call) -> Node:
    x = call.tensor(0)
    count, item = call.items(x)
    if len(item) < 2:
        raise UnsupportedError(f"samples have shape {list(item)}; channels and spatial axes are needed")
    size = math.prod(item[1:])
    places = np.arange(size)
    everywhere = Kronecker.of_taps(np.eye(item[0])[None] / size, np.ones(size), places, np.array([0, size]), size)
    return _per_item(call, x, everywhere, 0.0, count, (item[0], *[1] * (len(item) - 1)))


# -- normalisation by constants --


def _batch_normalization(call: Call) -> Node:
    """scale * (x - mean) / sqrt(variance + epsilon) + B for x (batch, C, *spatial) and constants (C,)."""
    # In opset 13 further outputs, even unused ones, mean training.
    if call.integer("training_mode", 0) or any(call.node.output[1:]):
        raise UnsupportedError("uses the batch's own statistics (training mode); export it for inference")
    x = call.tensor(0)
    _, item = call.items(x)
    if not item:
        raise UnsupportedError("samples are single numbers; a channel axis is needed")
    roles = ("scale", "B", "mean", "variance")
    scale, shift, mean, variance = (call.constant(i, role) for i, role in enumerate(roles, start=1))
    for given in (scale, shift, mean, variance):
        if given.value.shape not in (item[:1], (1,)):
            raise UnsupportedError(f"{given} is not one number for each of {item[0]} channels")
    spread = variance.value + call.real("epsilon", 1e-5)
    if not (spread > 0).all():
        raise UnsupportedError(f"constant {variance.name!r} holds a variance that is not positive")
    factor = scale.value / np.sqrt(spread)
    offset = shift.value - mean.value * factor
    behind = (-1, *[1] * (len(item) - 1))
    return call.scale(x, Named(scale.name, factor.reshape(behind)), Named(shift.name, offset.reshape(behind)))


_WINDOWS = ("auto_pad", "dilations", "kernel_shape", "pads", "strides")

RULES: dict[str, Rule] = {
    "AveragePool": Rule(_average_pool, (*_WINDOWS, "ceil_mode", "count_include_pad")),
    "BatchNormalization": Rule(_batch_normalization, ("epsilon", "momentum", "training_mode")),
    "Conv": Rule(_conv, (*_WINDOWS, "group")),
    "ConvTranspose": Rule(_conv_transpose, (*_WINDOWS, "group", "output_padding", "output_shape")),
    "Gemm": Rule(_gemm, ("alpha", "beta", "transA", "transB")),
    "GlobalAveragePool": Rule(_global_average_pool),
    "MatMul": Rule(_matmul),
}
