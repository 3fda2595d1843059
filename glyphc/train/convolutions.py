"""Convolutions that are trained: dense layers over patches, with the same weights at every pixel.

A convolution's sum at a pixel is the product of its weights and a patch of the image (Chellapilla, Puri, Simard, "High
performance convolutional neural networks for document processing", 2006, section 3). So patches of all pixels of all
samples are the rows of one matrix, and the gradient of the weights sums over both. Where the client has the image, the
client makes the patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.graph import Graph, Node
from glyphc.ir.kronecker import Kronecker
from glyphc.ir.network_ops import NO_BIAS
from glyphc.ir.ops import Affine

if TYPE_CHECKING:
    from scipy.sparse import csr_array

F64 = npt.NDArray[np.floating[Any]]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Patches:
    """What a convolution reads for each pixel of its result: ``size`` numbers, by tap and channel.

    matrix: from the elements of a sample to its patches, shape (pixels * size, elements), pixel by pixel.
    """

    matrix: csr_array
    pixels: int

    @property
    def size(self) -> int:
        return int(self.matrix.shape[0] // self.pixels)

    def of(self, samples: F64) -> F64:
        """Patches of samples of shape (samples, elements): (pixels * samples, size), samples of a pixel in a row."""
        found = np.asarray(self.matrix @ samples.T).reshape(self.pixels, self.size, len(samples))
        return found.transpose(0, 2, 1).reshape(-1, self.size)

    def batched(self, batch: int) -> csr_array:
        """The map of :meth:`of`, for a whole batch as one tensor."""
        from scipy import sparse

        one, (rows, columns) = self.matrix.tocoo(), self.matrix.shape
        pixel, element = np.divmod(one.row.astype(np.int64), self.size)
        sample = np.arange(batch)[:, None]
        places = (pixel * batch + sample) * self.size + element, one.col.astype(np.int64) + sample * columns
        data = np.broadcast_to(one.data, places[0].shape)
        shape = (rows * batch, columns * batch)
        return sparse.csr_array((data.ravel(), (places[0].ravel(), places[1].ravel())), shape=shape)


def as_convolution(network: Graph, node: Node) -> Kronecker | None:
    """A node's map where it is a convolution whose weights can be trained, one for each pair of channels and tap.

    None for poolings, for convolutions in groups, whose other weights have to stay zero, and for all else.
    """
    op = node.op
    if not isinstance(op, Affine) or op.kernel is None:
        return None
    found = network.matrix(op.matrix(network.operands(node)[0].type.size, network.constants))
    if not isinstance(found, Kronecker):
        return None
    places = found.taps.tocoo()
    once = len(np.unique(np.stack([places.row, places.data]), axis=1).T) == places.nnz
    between = bool(found.kernel.any(axis=0).all())
    bias = network.constant(op.bias.name).reshape(found.kernel.shape[1], -1)
    return found if once and between and bool((bias == bias[:, :1]).all()) else None


def has_bias(op: Affine) -> bool:
    """Whether the model has one; if not, front ends fill in zeros under a name of their own."""
    return NO_BIAS not in op.bias.name.rsplit(".", 2)[1:]


def patches_of(network: Graph, convolution: Node, pool: Node | None = None) -> Patches:
    """What a convolution reads; with a pooling behind it, means of that: a mean of sums is the sum of a mean."""
    from scipy import sparse

    found = as_convolution(network, convolution)
    assert found is not None
    (taps, _, channels), (pixels, positions) = found.kernel.shape, found.taps.shape
    places, channel = found.taps.tocoo(), np.arange(channels)[:, None]
    rows = (places.row.astype(np.int64) * taps + places.data - 1) * channels + channel
    columns = channel * positions + places.col.astype(np.int64)
    shape = (pixels * taps * channels, channels * positions)
    matrix = sparse.csr_array((np.ones(rows.size), (rows.ravel(), columns.ravel())), shape=shape)
    if pool is None:
        return Patches(matrix, pixels)
    means = _means(network, pool)
    assert means is not None
    each = sparse.kron(means, sparse.eye_array(taps * channels), format="csr")
    return Patches(sparse.csr_array(each @ matrix), means.shape[0])


def pooled(network: Graph, node: Node) -> Node | None:
    """The convolution that a node takes means of over pixels, in all channels alike, if nothing else reads it."""
    if not isinstance(node.op, Affine):
        return None
    (source,) = network.operands(node)
    if as_convolution(network, source) is None or len(network.users(source)) > 1:
        return None
    return source if _means(network, node) is not None else None


def _means(network: Graph, node: Node) -> csr_array | None:
    """The map over pixels of one that does the same in every channel; None for others. Weights of each pixel add up to
    one: then what a convolution adds to all pixels stays as it is."""
    from scipy import sparse

    op = node.op
    assert isinstance(op, Affine)
    found = network.matrix(op.matrix(network.operands(node)[0].type.size, network.constants))
    if not isinstance(found, Kronecker) or network.constant(op.bias.name).any():
        return None
    kernel = found.kernel
    if kernel.shape[1] != kernel.shape[2]:
        return None
    factors = kernel[:, 0, 0]
    if not (kernel == factors[:, None, None] * np.eye(kernel.shape[1])).all():
        return None
    means = sparse.csr_array(
        (factors[found.taps.data - 1], found.taps.indices, found.taps.indptr), shape=found.taps.shape
    )
    return means if np.allclose(means.sum(axis=1), 1) else None


def trained_value(constant: F64, shape: tuple[int, ...]) -> F64:
    """What is trained of a network's constant: a kernel (taps, outputs, channels) as a matrix (outputs, taps *
    channels), a number for each output of the shifts of all pixels; others as they are."""
    if constant.shape == shape:
        return constant
    if constant.ndim == 3:
        return constant.transpose(1, 0, 2).reshape(shape)
    return constant.reshape(shape[0], -1)[:, 0]


def constant_value(value: F64, shape: tuple[int, ...]) -> F64:
    """The inverse: a constant of that shape."""
    if value.shape == shape:
        return value
    if len(shape) == 3:
        taps, outputs, channels = shape
        return value.reshape(outputs, taps, channels).transpose(1, 0, 2)
    return np.repeat(value, shape[0] // len(value))
