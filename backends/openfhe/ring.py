"""Arithmetic in Z_q[X]/(X^N + 1) on raw coefficient arrays.

OpenFHE keeps ring elements opaque in Python, so the scheme switches reach their coefficients through
serialisation (see :mod:`.bridge`) and transform them here. Only what a switch needs is present: the
negacyclic number-theoretic transform in OpenFHE's own ordering and products with constants.

Elements are ``uint64`` arrays of shape ``(N,)`` with entries in ``[0, q)``; ``q`` is a prime below 2^61
with ``q = 1 (mod 2N)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]


def _high_product(context: Any, a: Any, b: Any) -> Any:
    """High 64 bits of the 128-bit product: one instruction, which numba's own integers do not reach."""
    if not (a == b == types.uint64):
        return None

    def generate(_: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(*(builder.zext(x, wide) for x in arguments))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), generate


_mulhi: Any = intrinsic(_high_product)


@njit(inline="always")
def _mul_shoup(a, w, w_shoup, q):  # type: ignore[no-untyped-def]
    """``a * w mod q`` with the precomputed quotient ``w_shoup = floor(w * 2^64 / q)`` (Shoup's trick)."""
    r = a * w - _mulhi(a, w_shoup) * q
    return min(r, r - q)  # which wraps around where it is negative: no branches that nobody can predict


@njit(nogil=True, cache=True)
def _ntt(a, roots, roots_shoup, q):  # type: ignore[no-untyped-def]
    """In-place Cooley-Tukey transform: natural order in, bit-reversed order out."""
    n = a.shape[0]
    length = n >> 1
    blocks = 1
    while length >= 1:
        for i in range(blocks):
            w, ws = roots[blocks + i], roots_shoup[blocks + i]
            start = 2 * i * length
            for j in range(start, start + length):
                u = a[j]
                v = _mul_shoup(a[j + length], w, ws, q)
                s, d = u + v, u - v
                a[j] = min(s, s - q)
                a[j + length] = min(d, d + q)
        blocks <<= 1
        length >>= 1


@njit(nogil=True, cache=True)
def _intt(a, inv_roots, inv_roots_shoup, n_inv, n_inv_shoup, q):  # type: ignore[no-untyped-def]
    """In-place Gentleman-Sande transform, the inverse of :func:`_ntt`."""
    n = a.shape[0]
    length = 1
    blocks = n >> 1
    while blocks >= 1:
        for i in range(blocks):
            w, ws = inv_roots[blocks + i], inv_roots_shoup[blocks + i]
            start = 2 * i * length
            for j in range(start, start + length):
                u, v = a[j], a[j + length]
                s, d = u + v, u - v
                a[j] = min(s, s - q)
                a[j + length] = _mul_shoup(min(d, d + q), w, ws, q)
        blocks >>= 1
        length <<= 1
    for j in range(n):
        a[j] = _mul_shoup(a[j], n_inv, n_inv_shoup, q)


@njit(nogil=True, cache=True)
def _scale(a, c, c_shoup, q):  # type: ignore[no-untyped-def]
    for j in range(a.shape[0]):
        a[j] = _mul_shoup(a[j], c, c_shoup, q)


@njit(nogil=True, cache=True)
def _multiply(a, w, w_shoup, q):  # type: ignore[no-untyped-def]
    for j in range(a.shape[0]):
        a[j] = _mul_shoup(a[j], w[j], w_shoup[j], q)


@njit(nogil=True, cache=True)
def _shoup(values, q):  # type: ignore[no-untyped-def]
    """floor(v * 2^64 / q) of residues below q, bit by bit."""
    out = np.empty_like(values)
    for j in range(values.shape[0]):
        rest, quotient = values[j], np.uint64(0)
        for _ in range(64):
            rest += rest
            quotient += quotient + np.uint64(rest >= q)
            rest = min(rest, rest - q)
        out[j] = quotient
    return out


@njit(nogil=True, cache=True)
def _bit_reversed_powers(base, base_shoup, bits, q):  # type: ignore[no-untyped-def]
    """base^rev(i) for i < 2^bits, where rev reverses so many bits."""
    out = np.empty(1 << bits, dtype=np.uint64)
    power = np.uint64(1)
    for i in range(1 << bits):
        reverse = 0
        for bit in range(bits):
            reverse |= (i >> bit & 1) << (bits - 1 - bit)
        out[reverse] = power
        power = _mul_shoup(power, base, base_shoup, q)
    return out


@dataclass(frozen=True)
class Ring:
    """The ring Z_q[X]/(X^n + 1) with the 2n-th root of unity ``psi`` that OpenFHE uses for ``q``."""

    n: int
    q: int
    psi: int

    def __post_init__(self) -> None:
        if pow(self.psi, self.n, self.q) != self.q - 1:
            raise ValueError(f"psi={self.psi} is not a primitive {2 * self.n}-th root of unity modulo {self.q}")

    def to_coefficients(self, evaluation: U64) -> U64:
        """Inverse transform of an element in OpenFHE's EVALUATION format; returns a new array."""
        t = _tables(self)
        out = evaluation.copy()
        _intt(out, t.inverse, t.inverse_shoup, t.n_inv, t.n_inv_shoup, np.uint64(self.q))
        return out

    def to_evaluation(self, coefficients: U64) -> U64:
        """Forward transform into OpenFHE's EVALUATION format; returns a new array."""
        t = _tables(self)
        out = coefficients.copy()
        _ntt(out, t.forward, t.forward_shoup, np.uint64(self.q))
        return out

    def scale(self, a: U64, constant: int) -> U64:
        """``constant * a mod q`` as a new array."""
        c = constant % self.q
        out = a.copy()
        _scale(out, np.uint64(c), np.uint64((c << 64) // self.q), np.uint64(self.q))
        return out

    def add(self, a: U64, b: U64) -> U64:
        """``a + b mod q`` as a new array."""
        total = a + b
        return np.where(total >= self.q, total - np.uint64(self.q), total)

    def subtract(self, a: U64, b: U64) -> U64:
        """``a - b mod q`` as a new array."""
        return np.where(a >= b, a - b, a + np.uint64(self.q) - b)

    def reduce(self, signed: I64) -> U64:
        """Representatives in ``[0, q)`` of signed integers."""
        return np.mod(signed, np.int64(self.q)).astype(np.uint64)

    def centre(self, a: U64) -> I64:
        """Representatives in ``(-q/2, q/2]`` of an element."""
        signed = a.astype(np.int64)
        return np.where(signed > self.q // 2, signed - self.q, signed)


@dataclass(frozen=True, eq=False)
class Factor:
    """An element in EVALUATION format that many others are multiplied with: its values and their Shoup quotients."""

    ring: Ring
    values: U64
    quotients: U64

    @staticmethod
    def of(ring: Ring, values: U64) -> Factor:
        return Factor(ring, values, _shoup(values, np.uint64(ring.q)))

    def times(self, a: U64) -> U64:
        """The product with ``a`` (EVALUATION format) as a new array."""
        out = a.copy()
        _multiply(out, self.values, self.quotients, np.uint64(self.ring.q))
        return out

    def automorphism(self, index: int) -> Factor:
        """The image under X -> X^index."""
        order = _automorphism_order(self.ring.n, index)
        return Factor(self.ring, self.values[order], self.quotients[order])


@lru_cache(maxsize=4)
def _automorphism_order(n: int, index: int) -> I64:
    """Where the values of a(X^index) stand among those of a(X), both in EVALUATION format.

    Position i holds the value at psi^(2*rev(i) + 1), rev: the reversal of log2(n) bits.
    """
    bits = n.bit_length() - 1
    positions = np.arange(n, dtype=np.int64)
    reverse = np.zeros(n, dtype=np.int64)
    for bit in range(bits):
        reverse |= (positions >> bit & 1) << (bits - 1 - bit)
    exponents = (2 * reverse + 1) * index % (2 * n)
    return reverse[(exponents - 1) // 2]


@dataclass(frozen=True)
class _Tables:
    forward: U64
    forward_shoup: U64
    inverse: U64
    inverse_shoup: U64
    n_inv: np.uint64
    n_inv_shoup: np.uint64


@lru_cache(maxsize=8)
def _tables(ring: Ring) -> _Tables:
    n, q = ring.n, ring.q
    forward, inverse = (_powers(base, n, q) for base in (ring.psi, pow(ring.psi, -1, q)))
    n_inv = pow(n, -1, q)
    modulus = np.uint64(q)
    return _Tables(
        forward,
        _shoup(forward, modulus),
        inverse,
        _shoup(inverse, modulus),
        np.uint64(n_inv),
        np.uint64((n_inv << 64) // q),
    )


def _powers(base: int, n: int, q: int) -> U64:
    bits = n.bit_length() - 1
    out: U64 = _bit_reversed_powers(np.uint64(base), np.uint64((base << 64) // q), bits, np.uint64(q))
    return out


def rescale(a: U64, source: Ring, target: Ring) -> U64:
    """Modulus switch ``round(a * target.q / source.q)``, coefficient-wise on centred representatives.

    Computed in double precision: the relative rounding error of 2^-52 is at most a few units of the
    target's last place, far below the noise that any ciphertext carries.
    """
    scaled = np.rint(source.centre(a).astype(np.float64) * (target.q / source.q)).astype(np.int64)
    return target.reduce(scaled)
