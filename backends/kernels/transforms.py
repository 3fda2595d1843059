"""The negacyclic number-theoretic transform on doubles, vectorised.

An element of Z_q[X]/(X^n + 1) is transformed by Cooley-Tukey stages, and back by Gentleman-Sande stages (Longa, Naehrig
2016), two at a time (radix 4). Stages of long stride run over contiguous memory as they are. For the last ones, chunks
of rows*columns elements are transposed, so that they run over contiguous memory, too; they are not transposed back. So
in *evaluation order* position c*rows*columns + r*columns + b holds the value at psi^(2*rev(i) + 1) with
i = c*rows*columns + b*rows + r, where rev reverses log2(n) bits. Products do not care; automorphisms look it up.

Kernels work on rows of two-dimensional arrays and release the interpreter's lock. Bounds: see :mod:`.arithmetic`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .arithmetic import canonical, product, product_by, reduce
from .transposition import transpose_four


@njit(nogil=True, error_model="numpy", cache=True)
def _pair(x, head, q, inverse):  # type: ignore[no-untyped-def]
    """The first stage alone, where the number of stages is odd."""
    half = x.shape[0] // 2
    w = head[1]
    ratio = w * inverse
    x0, x1 = x[:half], x[half:]
    for j in range(half):
        v = product_by(x1[j], w, ratio, q)
        u = x0[j]
        x0[j] = u + v
        x1[j] = u - v


@njit(nogil=True, error_model="numpy", cache=True)
def _quads(x, start, stop, blocks, head, q, inverse):  # type: ignore[no-untyped-def]
    """Two stages on x[start:stop], which is whole blocks, of which the array has ``blocks`` now.

    Each stage adds less than q to a bound, and multiplies by roots of at most q/2: from reduced elements on, the last
    of 16 stages multiplies |x| < 16 q < 2^52 and leaves 17 q < 2^53. So nothing is reduced on the way.
    """
    quarter = x.shape[0] // (4 * blocks)
    i = start // (4 * quarter)
    for at in range(start, stop, 4 * quarter):
        w1 = head[blocks + i]
        w2 = head[2 * (blocks + i)]
        w3 = head[2 * (blocks + i) + 1]
        i += 1
        r1, r2, r3 = w1 * inverse, w2 * inverse, w3 * inverse
        x0 = x[at : at + quarter]
        x1 = x[at + quarter : at + 2 * quarter]
        x2 = x[at + 2 * quarter : at + 3 * quarter]
        x3 = x[at + 3 * quarter : at + 4 * quarter]
        for j in range(quarter):
            u2 = product_by(x2[j], w1, r1, q)
            u3 = product_by(x3[j], w1, r1, q)
            s, d = x0[j] + u2, x0[j] - u2
            t = product_by(x1[j] + u3, w2, r2, q)
            e = product_by(x1[j] - u3, w3, r3, q)
            x0[j] = s + t
            x1[j] = s - t
            x2[j] = d + e
            x3[j] = d - e


# Rows of a buffer are so much longer than they need to be: at a distance of 512 bytes they would share a few sets of
# the nearest cache.
_APART = 4


@njit(nogil=True, error_model="numpy", cache=True)
def scratch(tail):  # type: ignore[no-untyped-def]
    """A buffer for :func:`forward` and :func:`backward`. tail: of all primes."""
    return np.empty((tail.shape[2] + 1, tail.shape[3] + _APART), dtype=np.float64)


@njit(nogil=True, error_model="numpy", cache=True)
def _turn(x, buffer, columns):  # type: ignore[no-untyped-def]
    """Transpose a chunk into the buffer."""
    rows, apart = buffer.shape
    for b in range(0, columns, 4):
        for r in range(0, rows, 4):
            transpose_four(x, b * rows + r, rows, buffer, r * apart + b, apart)


@njit(nogil=True, error_model="numpy", cache=True)
def _row_quads(x, tail, quarter, q, inverse):  # type: ignore[no-untyped-def]
    """Two stages across rows, in place.

    By the same names on both sides: LLVM takes arrays of two names that overlap for dependent, and loops over them are
    not vectorised.
    """
    rows, columns = x.shape[0], tail.shape[1]
    inner = rows // (4 * quarter)
    for i in range(inner):
        w1 = tail[inner - 1 + i]
        w2 = tail[2 * inner - 1 + 2 * i]
        w3 = tail[2 * inner + 2 * i]
        for j in range(4 * i * quarter, 4 * i * quarter + quarter):
            x0, x1 = x[j], x[j + quarter]
            x2, x3 = x[j + 2 * quarter], x[j + 3 * quarter]
            for b in range(columns):
                u2 = product(x2[b], w1[b], q, inverse)
                u3 = product(x3[b], w1[b], q, inverse)
                s, d = x0[b] + u2, x0[b] - u2
                t = product(x1[b] + u3, w2[b], q, inverse)
                e = product(x1[b] - u3, w3[b], q, inverse)
                x0[b] = s + t
                x1[b] = s - t
                x2[b] = d + e
                x3[b] = d - e


@njit(inline="always")
def _row(x, number, columns):  # type: ignore[no-untyped-def]
    """Of a chunk, in which rows follow one another."""
    return x[number * columns : (number + 1) * columns]


@njit(nogil=True, error_model="numpy", cache=True)
def _last_row_quads(x, tail, quarter, out, q, inverse):  # type: ignore[no-untyped-def]
    """The last two stages, canonical, into ``out``, where rows follow one another. quarter: 1, as a variable: of rows
    at constant distances LLVM does not find out that they are apart."""
    rows, columns = x.shape[0], tail.shape[1]
    inner = rows // (4 * quarter)
    for i in range(inner):
        w1 = tail[inner - 1 + i]
        w2 = tail[2 * inner - 1 + 2 * i]
        w3 = tail[2 * inner + 2 * i]
        for j in range(4 * i * quarter, 4 * i * quarter + quarter):
            x0, x1 = x[j], x[j + quarter]
            x2, x3 = x[j + 2 * quarter], x[j + 3 * quarter]
            o0, o1 = _row(out, j, columns), _row(out, j + quarter, columns)
            o2, o3 = _row(out, j + 2 * quarter, columns), _row(out, j + 3 * quarter, columns)
            for b in range(columns):
                u2 = product(x2[b], w1[b], q, inverse)
                u3 = product(x3[b], w1[b], q, inverse)
                s, d = x0[b] + u2, x0[b] - u2
                t = product(x1[b] + u3, w2[b], q, inverse)
                e = product(x1[b] - u3, w3[b], q, inverse)
                o0[b] = canonical(reduce(s + t, q, inverse), q)
                o1[b] = canonical(reduce(s - t, q, inverse), q)
                o2[b] = canonical(reduce(d + e, q, inverse), q)
                o3[b] = canonical(reduce(d - e, q, inverse), q)


@njit(nogil=True, error_model="numpy", cache=True)
def forward(x, head, tail, buffer, q, inverse):  # type: ignore[no-untyped-def]
    """Coefficients, |x| < q, to canonical values in evaluation order, in place.

    x: (n,); head: psi^rev(i) for i < n/rows; tail: (n/chunk, rows - 1, columns); buffer: see :func:`scratch`.
    """
    # np.int64(0): a literal would make numba compile the stage for it alone
    n = x.shape[0]
    rows, columns = buffer.shape[0], tail.shape[2]
    chunk = rows * columns
    ends = n // rows
    blocks = 1
    stages = 0
    while (1 << stages) < ends:
        stages += 1
    if stages % 2 == 1:
        _pair(x, head, q, inverse)
        blocks = 2
    while n // blocks > chunk:
        _quads(x, np.int64(0), n, blocks, head, q, inverse)
        blocks *= 4
    for c in range(n // chunk):
        start = c * chunk
        local = blocks
        while local < ends:
            _quads(x, start, start + chunk, local, head, q, inverse)
            local *= 4
        part = x[start : start + chunk]
        _turn(part, buffer, columns)
        quarter = rows // 4
        while quarter > 1:
            _row_quads(buffer, tail[c], quarter, q, inverse)
            quarter //= 4
        _last_row_quads(buffer, tail[c], quarter, part, q, inverse)


@njit(nogil=True, error_model="numpy", cache=True)
def _row_quads_back(x, tail, quarter, q, inverse):  # type: ignore[no-untyped-def]
    """Two Gentleman-Sande stages across rows, in place, by the same names on both sides (see :func:`_row_quads`).

    |x| <= 2 q stays so, as only the full sum has to be reduced.
    """
    rows, columns = x.shape[0], tail.shape[1]
    inner = rows // (4 * quarter)
    for i in range(inner):
        w1 = tail[inner - 1 + i]
        w2 = tail[2 * inner - 1 + 2 * i]
        w3 = tail[2 * inner + 2 * i]
        for j in range(4 * i * quarter, 4 * i * quarter + quarter):
            x0, x1 = x[j], x[j + quarter]
            x2, x3 = x[j + 2 * quarter], x[j + 3 * quarter]
            for b in range(columns):
                s0, s1 = x0[b] + x1[b], x2[b] + x3[b]
                d0 = product(x0[b] - x1[b], w2[b], q, inverse)
                d1 = product(x2[b] - x3[b], w3[b], q, inverse)
                x0[b] = reduce(s0 + s1, q, inverse)
                x1[b] = d0 + d1
                x2[b] = product(s0 - s1, w1[b], q, inverse)
                x3[b] = product(d0 - d1, w1[b], q, inverse)


@njit(nogil=True, error_model="numpy", cache=True)
def _turn_back(buffer, x, columns):  # type: ignore[no-untyped-def]
    rows, apart = buffer.shape
    for b in range(0, columns, 4):
        for r in range(0, rows, 4):
            transpose_four(buffer, r * apart + b, apart, x, b * rows + r, rows)


@njit(nogil=True, error_model="numpy", cache=True)
def _quads_back(x, start, stop, blocks, head, constant, q, inverse):  # type: ignore[no-untyped-def]
    """Two stages; ``blocks``: that the array has after them. The result is multiplied by ``constant``, if not zero."""
    quarter = x.shape[0] // (4 * blocks)
    i = start // (4 * quarter)
    ratio = constant * inverse
    for at in range(start, stop, 4 * quarter):
        w1 = head[blocks + i]
        w2 = head[2 * (blocks + i)]
        w3 = head[2 * (blocks + i) + 1]
        i += 1
        x0 = x[at : at + quarter]
        x1 = x[at + quarter : at + 2 * quarter]
        x2 = x[at + 2 * quarter : at + 3 * quarter]
        x3 = x[at + 3 * quarter : at + 4 * quarter]
        r2, r3 = w2 * inverse, w3 * inverse
        if constant != 0.0:
            w1 = product(w1, constant, q, inverse)
            r1 = w1 * inverse
            for j in range(quarter):
                s0, s1 = x0[j] + x1[j], x2[j] + x3[j]
                d0 = product_by(x0[j] - x1[j], w2, r2, q)
                d1 = product_by(x2[j] - x3[j], w3, r3, q)
                x0[j] = product_by(s0 + s1, constant, ratio, q)
                x1[j] = product_by(d0 + d1, constant, ratio, q)
                x2[j] = product_by(s0 - s1, w1, r1, q)
                x3[j] = product_by(d0 - d1, w1, r1, q)
        else:
            r1 = w1 * inverse
            for j in range(quarter):
                s0, s1 = x0[j] + x1[j], x2[j] + x3[j]
                d0 = product_by(x0[j] - x1[j], w2, r2, q)
                d1 = product_by(x2[j] - x3[j], w3, r3, q)
                x0[j] = reduce(s0 + s1, q, inverse)
                x1[j] = d0 + d1
                x2[j] = product_by(s0 - s1, w1, r1, q)
                x3[j] = product_by(d0 - d1, w1, r1, q)


@njit(nogil=True, error_model="numpy", cache=True)
def _pair_back(x, head, constant, q, inverse):  # type: ignore[no-untyped-def]
    half = x.shape[0] // 2
    w = product(head[1], constant, q, inverse)
    ratio, other = w * inverse, constant * inverse
    x0, x1 = x[:half], x[half:]
    for j in range(half):
        u, v = x0[j], x1[j]
        x0[j] = product_by(u + v, constant, other, q)
        x1[j] = product_by(u - v, w, ratio, q)


@njit(nogil=True, error_model="numpy", cache=True)
def backward(x, head, tail, buffer, constant, q, inverse):  # type: ignore[no-untyped-def]
    """Values in evaluation order, |x| < q, to reduced coefficients times ``constant`` * n, in place.

    head, tail: of the inverse roots. constant: not zero, |constant| <= q/2.
    """
    n = x.shape[0]
    rows, columns = buffer.shape[0], tail.shape[2]
    chunk = rows * columns
    ends = n // rows
    stages = 0
    while (1 << stages) < ends:
        stages += 1
    first = 1 + stages % 2
    top = first
    while n // top > chunk:
        top *= 4
    for c in range(n // chunk):
        start = c * chunk
        part = x[start : start + chunk]
        for r in range(rows):
            source, target = _row(part, r, columns), buffer[r]
            for b in range(columns):
                target[b] = source[b]
        quarter = np.int64(1)
        while quarter < rows:
            _row_quads_back(buffer, tail[c], quarter, q, inverse)
            quarter *= 4
        _turn_back(buffer, part, columns)
        local = ends // 4
        while local >= top:
            _quads_back(x, start, start + chunk, local, head, constant if local == 1 else 0.0, q, inverse)
            local //= 4
    local = top // 4
    while local >= first:
        _quads_back(x, np.int64(0), n, local, head, constant if local == 1 else 0.0, q, inverse)
        local //= 4
    if first == 2:
        _pair_back(x, head, constant, q, inverse)


@njit(nogil=True, error_model="numpy", cache=True)
def forward_rows(first, last, x, rows, which, head, tail, moduli, inverses):  # type: ignore[no-untyped-def]
    """:func:`forward` of the rows of x with the numbers rows[first:last]; which: index of each one's prime."""
    buffer = scratch(tail)
    for i in range(first, last):
        p = which[i]
        forward(x[rows[i]], head[p], tail[p], buffer, moduli[p], inverses[p])


@njit(nogil=True, error_model="numpy", cache=True)
def backward_rows(first, last, x, rows, out, which, head, tail, constants, moduli, inverses):  # type: ignore[no-untyped-def]
    """:func:`backward` of the rows of x with the numbers rows[first:last] into out[first:last]."""
    buffer = scratch(tail)
    for i in range(first, last):
        p = which[i]
        source, target = x[rows[i]], out[i]
        for j in range(source.shape[0]):
            target[j] = source[j]
        backward(target, head[p], tail[p], buffer, constants[i], moduli[p], inverses[p])
