"""Plaintext weights as polynomials, for products on coefficients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from glyphc.ir.instructions import Polynomials
from glyphc.ir.layout import Layout
from glyphc.ir.matrices import Parts
from glyphc.ir.stencils import Stencil

I64 = npt.NDArray[np.int64]


def weight_polynomials(
    weight: Parts, bias: I64 | None, source: Layout, target: Layout, used: tuple[int, ...] | None = None
) -> Polynomials:
    """Polynomials of a linear map, W_r = sum_{k, q} w[k, r + q*parts] X^(k*s_out - q*s_in), and the bias at the end.

    weight: a matrix (out, in) in the source's parts; bias: (out,) or none. used: the parts r, by default all that hold
    a feature. The results of the samples of a source chunk stand at the source's distances; the caller moves them to
    their places in the target.
    """
    n = source.ring
    rows: list[tuple[I64, I64]] = []
    for part in range(min(source.parts, source.features)) if used is None else used:
        outputs, inputs, values = weight.entries(part)
        rows.append(_wrap(outputs * target.stride - inputs * source.stride, values, n))
    if bias is not None:
        outputs = np.arange(len(bias), dtype=np.int64) * target.stride
        samples = np.arange(source.per_chunk, dtype=np.int64) * source.batch_stride
        positions = samples[:, None] + outputs[None, :]
        rows.append(_wrap(positions.ravel(), np.broadcast_to(bias, positions.shape).ravel(), n))
    return _polynomials(rows)


def stencil_polynomials(
    stencil: Stencil, bias: I64 | None, source: Layout, target: Layout, part: int, used: tuple[int, ...]
) -> Polynomials:
    """Polynomials of a linear map of images for a part of its result, K_r = sum k[c', c, dy, dx] X^(c' - c - (dy, dx))
    over the channels c of register r, with c and c' for the channels' offsets, and the bias at the end.

    source: unpacked. part: of the target, whose channels c' are meant. used: the registers r, in this order.
    """
    rows = [_wrap(*_stencil_row(stencil, source, target, part, register), source.ring) for register in used]
    n = source.ring
    if bias is not None:
        assert target.image is not None
        positions, each = target.positions(part), bias[target.image.columns_of(part)]
        rows.append(_wrap(positions.ravel(), np.broadcast_to(each, positions.shape).ravel(), n))
    return _polynomials(rows)


def _stencil_row(stencil: Stencil, source: Layout, target: Layout, part: int, register: int) -> tuple[I64, I64]:
    """Exponents and values of the terms that one register meets."""
    read, made = source.image, target.image
    assert read is not None and made is not None
    # what is read of every second pixel begins at any of the first ones
    moves = stencil.moves(read) + read.steps(*read.origin) - made.steps(*made.origin)
    after, own = made.channel_offsets(part), made.channels_of(part)
    # by tap, channel made, channel read
    exponents = (after[:, None] - read.channel_offsets(register)) - moves[:, None, None]
    values = stencil.kernel[:, own.start : own.stop, list(read.channels_of(register))].astype(np.int64)
    return exponents.ravel() * source.stride, values.ravel()


def crossing_polynomials(
    stencil: Stencil, edges: int, source: Layout, target: Layout, part: int
) -> tuple[Polynomials, tuple[int, ...]]:
    """What takes back what a stencil's products carry from the ends of rows to other rows, for a part of its result:
    the same taps, with the other sign, of the columns at the ends alone. And the numbers of the columns that they meet.

    edges: so many columns at either end are there, the last ones of a row before the first ones of the next, each with
    the channels of its group side by side: register (g*2*edges + column)*group + c. What stands there has been moved by
    ``edges`` pixels, and each column to that of the first.
    """
    read = source.image
    assert read is not None
    rows, used = [], []
    for group in range(-(-read.channels // read.group)):
        for column in range(2 * edges):
            before = column >= edges
            taps = stencil.crossing(column - edges if before else edges - 1 - column, before)
            if not taps.any():
                continue
            own = replace(stencil, kernel=-stencil.kernel[taps], reads=stencil.reads[taps])
            for c in range(min(read.group, read.channels - group * read.group)):
                (exponents, values) = _stencil_row(own, source, target, part, group * read.group + c)
                rows.append((exponents + read.steps(0, column - edges) * source.stride, values))
                used.append((group * 2 * edges + column) * read.group + c)
    return _polynomials([_wrap(*row, source.ring) for row in rows]), tuple(used)


def monomial(exponent: int, ring: int) -> Polynomials:
    """X^exponent, of either sign."""
    return _polynomials([_wrap(np.array([exponent]), np.array([1]), ring)])


def placed(polynomials: Polynomials, places: Sequence[int], count: int) -> Polynomials:
    """The first rows at these places of ``count`` rows, the others zero; rows beyond ``places`` stay behind them."""
    nothing: I64 = np.zeros(0, dtype=np.int64)
    rows = [(nothing, nothing)] * count
    given = [slice(*bounds) for bounds in pairwise(polynomials.offsets)]
    terms = [(polynomials.exponents[at].astype(np.int64), polynomials.values[at]) for at in given]
    for place, row in zip(places, terms, strict=False):
        rows[place] = row
    return _polynomials(rows + terms[len(places) :])


def _polynomials(rows: list[tuple[I64, I64]]) -> Polynomials:
    offsets = np.cumsum([0] + [len(e) for e, _ in rows])
    return Polynomials(
        offsets.astype(np.int64),
        np.concatenate([e for e, _ in rows]).astype(np.int32),
        np.concatenate([v for _, v in rows]).astype(np.int64),
    )


def _wrap(exponents: I64, values: I64, n: int) -> tuple[I64, I64]:
    """Exponents into [0, n) with X^n = -1; terms that are zero are dropped."""
    keep = values != 0
    exponents, values = exponents[keep], values[keep]
    turns = np.floor_divide(exponents, n)
    return exponents - turns * n, np.where(turns % 2 == 0, values, -values)
