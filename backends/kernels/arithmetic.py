"""Exact modular arithmetic on doubles.

A residue modulo a prime q < 2^48 is an integer that a float64 holds exactly. With a fused multiply-add, products are
exact too: h = a*w (rounded), k = the integer nearest to h/q, and a*w - k*q = (h - k*q) + (a*w - h), where both
brackets are computed without error. LLVM vectorises this for whatever the processor offers (AVX2, AVX-512).

Bounds, with which every kernel is stated. *Reduced*: |r| < q. *Canonical*: 0 <= r < q.

- ``product(a, w)``: |a*w| < q * 2^51 gives a reduced result, which is at most 0.75 q where |a*w| < q * 2^50.
- ``reduce(x)``: |x| < 2^53 gives |r| <= 0.51 q.
- sums of residues are exact up to 2^53.
- sums of up to 15 products with |a| < 2^48 and |w| <= q/2: ``anchor``, ``high`` and ``low`` for each, ``collapse``.

A sum of products need not be reduced at each of them. A number S so large that its last place is u takes a*w as
t = S + a*w, rounded to a multiple of u; t - S is what it took, a*w - (t - S) what it left, at most u/2, and both are
computed without error. So two sums, of what was taken and of what was left, are exact, in four operations a product
instead of seven; in the end one division by q takes both together.

No fast-math anywhere: LLVM must not reorder these operations.
"""

from __future__ import annotations

from math import frexp, ldexp
from typing import Any

from numba import njit, types
from numba.extending import intrinsic

PRIME_BITS = 48

# Adding and subtracting it rounds to the nearest integer, for |x| < 2^51.
ROUND = 1.5 * 2.0**52


def _fma(context: Any, a: Any, b: Any, c: Any) -> Any:
    """a*b + c with one rounding."""
    if not (a == b == c == types.float64):
        return None

    def generate(_: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return types.float64(types.float64, types.float64, types.float64), generate


fma: Any = intrinsic(_fma)


@njit(inline="always")
def product(a, w, q, inverse):  # type: ignore[no-untyped-def]
    """a*w modulo q, reduced. inverse: 1/q."""
    h = a * w
    k = fma(h, inverse, ROUND) - ROUND
    return fma(-k, q, h) + fma(a, w, -h)


@njit(inline="always")
def product_by(a, w, ratio, q):  # type: ignore[no-untyped-def]
    """a*w modulo q, reduced, where ratio = w/q is known."""
    h = a * w
    k = fma(a, ratio, ROUND) - ROUND
    return fma(-k, q, h) + fma(a, w, -h)


@njit(inline="always")
def reduce(x, q, inverse):  # type: ignore[no-untyped-def]
    """x modulo q, |r| <= 0.51 q."""
    k = fma(x, inverse, ROUND) - ROUND
    return fma(-k, q, x)


@njit(inline="always")
def canonical(r, q):  # type: ignore[no-untyped-def]
    """The representative in [0, q) of a reduced residue."""
    return r + q if r < 0.0 else r


@njit(inline="always")
def anchor(bound):  # type: ignore[no-untyped-def]
    """Where a sum of products starts, all of whose partial sums are at most ``bound`` in size.

    1.5 * 2^52 * u with the smallest u >= 1 for which bound < 2^51 * u. What is left of each product is at most u/2,
    bound * 2^-51.
    """
    return ldexp(1.5, max(52, frexp(bound)[1] + 1))


@njit(inline="always")
def low(total, a, w, following):  # type: ignore[no-untyped-def]
    """What is left of a*w when it takes the sum from ``total`` to ``following`` = fma(a, w, total). Exact."""
    return fma(a, w, total - following)


@njit(inline="always")
def collapse(total, rest, start, q, inverse):  # type: ignore[no-untyped-def]
    """The sum of what was taken and of what was left, modulo q, |r| <= 0.51 q. |total - start| < q * 2^51."""
    h = total - start
    k = fma(h, inverse, ROUND) - ROUND
    return reduce(fma(-k, q, h) + rest, q, inverse)
