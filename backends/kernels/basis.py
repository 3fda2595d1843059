"""Primes of the kernels, and the tables of their transforms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from numba import njit

from .arithmetic import PRIME_BITS, product
from .threads import run
from .transforms import backward_rows, forward_rows

F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

# Enough for all n < 3.3e24 (Sorenson, Webster 2015).
_WITNESSES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41)
# Transforms of more than 16 stages would leave the range where products are exact.
SMALLEST_RING, LARGEST_RING = 256, 65536


def is_prime(n: int) -> bool:
    """Miller-Rabin with fixed bases: exact for the sizes used here."""
    if n < 2 or any(n % w == 0 for w in _WITNESSES):
        return n in _WITNESSES
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for w in _WITNESSES:
        x = pow(w, odd, n)
        if x in (1, n - 1):
            continue
        for _ in range(twos - 1):
            x = x * x % n
            if x == n - 1:
                break
        else:
            return False
    return True


def primes_below(bits: int, n: int) -> Iterator[int]:
    """Primes q = 1 (mod 2n) below 2^bits, largest first."""
    q = (1 << bits) - 2 * n + 1
    while q > 2 * n:
        if is_prime(q):
            yield q
        q -= 2 * n


def centred(value: int, q: int) -> int:
    """The representative in (-q/2, q/2]."""
    value %= q
    return value - q if value > q // 2 else value


def root_of_unity(q: int, n: int) -> int:
    """A primitive 2n-th root of unity modulo q: that of the smallest base."""
    for base in range(2, q):
        root = pow(base, (q - 1) // (2 * n), q)
        if pow(root, n, q) == q - 1:
            return root
    raise ValueError(f"no primitive {2 * n}-th root of unity modulo {q}")


@njit(nogil=True, error_model="numpy", cache=True)
def _powers(table, steps, q, inverse):  # type: ignore[no-untyped-def]
    """psi^rev(i) for all i, from psi^(n/2), psi^(n/4), ..."""
    table[0] = 1.0
    size = 1
    for k in range(steps.shape[0]):
        for i in range(size):
            r = product(table[i], steps[k], q, inverse)
            table[size + i] = r - q if r > 0.5 * q else (r + q if r < -0.5 * q else r)
        size *= 2


@dataclass(frozen=True, eq=False)
class Basis:
    """Some primes q = 1 (mod 2n) below 2^48 and their tables; kernels name primes by their index.

    moduli, inverses: q and 1/q. rows, columns: how the last stages of transforms are arranged.
    """

    n: int
    primes: tuple[int, ...]
    moduli: F64
    inverses: F64
    rows: int
    columns: int
    head: F64
    tail: F64
    head_back: F64
    tail_back: F64

    @staticmethod
    def of(n: int, primes: Sequence[int]) -> Basis:
        if not SMALLEST_RING <= n <= LARGEST_RING or n & (n - 1):
            raise ValueError(
                f"the kernels' ring dimension is a power of two from {SMALLEST_RING} to {LARGEST_RING}, not {n}"
            )
        for q in primes:
            if q % (2 * n) != 1 or q >> PRIME_BITS or not is_prime(q):
                raise ValueError(f"{q} is no prime below 2^{PRIME_BITS} that is 1 modulo {2 * n}")
        rows = 64 if n >= 4096 else 16
        columns = min(64, n // (2 * rows))
        count = len(primes)
        moduli = np.array(primes, dtype=np.float64)
        inverses = 1.0 / moduli
        tables: list[F64] = []
        for back in (False, True):
            full = np.empty((count, n))
            for row, q in enumerate(primes):
                psi = root_of_unity(q, n)
                psi = pow(psi, -1, q) if back else psi
                steps = [centred(pow(psi, n >> (k + 1), q), q) for k in range(n.bit_length() - 1)]
                _powers(full[row], np.array(steps, dtype=np.float64), float(q), 1.0 / q)
            tables += _arranged(full, rows, columns)
        return Basis(n, tuple(primes), moduli, inverses, rows, columns, *tables)

    def forward(self, x: F64, which: I64, rows: I64 | None = None) -> None:
        """Coefficients, |x| < q, to canonical values, in place. which: the prime of each row that ``rows`` names."""
        rows = np.arange(len(which)) if rows is None else rows
        run(forward_rows, len(which), x, rows, which, self.head, self.tail, self.moduli, self.inverses)

    def backward(self, x: F64, which: I64, constants: F64, out: F64, rows: I64 | None = None) -> None:
        """Rows of values to reduced coefficients times ``constants`` * n; out: (len(which), n), may be x."""
        rows = np.arange(len(which)) if rows is None else rows
        tables = self.head_back, self.tail_back
        run(backward_rows, len(which), x, rows, out, which, *tables, constants, self.moduli, self.inverses)

    def scaling(self, which: Sequence[int], factors: Sequence[int] | None = None) -> F64:
        """Constants for :meth:`backward`: factor / n modulo each prime (factors: 1 by default)."""
        factors = [1] * len(which) if factors is None else factors
        values = [
            centred(f * pow(self.n, -1, self.primes[p]), self.primes[p]) for p, f in zip(which, factors, strict=True)
        ]
        return np.array(values, dtype=np.float64)

    def residues(self, integers: I64 | F64, which: I64) -> F64:
        """Integers, (n,), below 2^53 in size, as reduced residues modulo some primes: (rows, n)."""
        x = np.asarray(integers, dtype=np.float64)
        q = self.moduli[which][:, None]
        if np.abs(x).max() < q.min() / 2:
            return np.repeat(x[None], len(which), axis=0)
        return np.asarray(x - q * np.rint(x / q))


def _arranged(full: F64, rows: int, columns: int) -> tuple[F64, F64]:
    """Tables as the stages read them: one root for a block first, then vectors of roots across blocks."""
    count, n = full.shape
    ends, chunks = n // rows, n // (rows * columns)
    parts = []
    blocks = ends
    while blocks < n:
        # the roots of block B and its descendants; blocks of a chunk lie side by side
        each = full[:, blocks : 2 * blocks].reshape(count, chunks, columns, blocks // ends)
        parts.append(each.transpose(0, 1, 3, 2))
        blocks *= 2
    return np.ascontiguousarray(full[:, : 2 * ends]), np.ascontiguousarray(np.concatenate(parts, axis=2))


@lru_cache(maxsize=8)
def bit_reversal(bits: int) -> I64:
    """The reversal of ``bits`` bits, as an array of 2^bits indices."""
    out: I64 = np.zeros(1, dtype=np.int64)
    for _ in range(bits):
        out = np.concatenate([2 * out, 2 * out + 1])
    return out


@lru_cache(maxsize=16)
def _exponents(n: int, rows: int, columns: int) -> tuple[I64, I64]:
    """The exponent at each position, and the position of each odd exponent (index (e - 1)/2)."""
    order = np.arange(n).reshape(n // (rows * columns), columns, rows).transpose(0, 2, 1).reshape(-1)
    half = bit_reversal(n.bit_length() - 1)[order]
    positions = np.empty(n, dtype=np.int64)
    positions[half] = np.arange(n)
    return 2 * half + 1, positions


def subring_positions(basis: Basis, small: Basis) -> I64:
    """For polynomials in X^(n/m): where each value in ``basis`` stands among those in the ring of dimension m."""
    exponents, _ = _exponents(basis.n, basis.rows, basis.columns)
    _, positions = _exponents(small.n, small.rows, small.columns)
    return np.asarray(positions[exponents % (2 * small.n) // 2])


def automorphism(basis: Basis, index: int) -> I32:
    """Where values of a(X^index) stand among those of a(X): image[p] = values[result[p]]."""
    exponents, positions = _exponents(basis.n, basis.rows, basis.columns)
    # exponents are odd and modulo 2n, a power of two
    found: I32 = positions[(exponents * index & (2 * basis.n - 1)) >> 1].astype(np.int32)
    return found
