"""CKKS on the kernels: ciphertexts, products, rotations, and sums that are rescaled once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from threading import get_ident

import numpy as np
from numba import njit

from .arithmetic import anchor, canonical, collapse, fma, low, product, product_by, reduce
from .basis import F64, I32, Basis, automorphism, centred
from .conversion import Division
from .keyswitch import KeyShape, Plan, SwitchingKey
from .shape import EngineShape
from .threads import run

# Multiples of ciphertexts that are summed in one pass.
_AT_ONCE = 4


@dataclass(frozen=True, eq=False)
class Ciphertext:
    """c0 + c1*s = scale * message; elements: (2, limbs, n), canonical values."""

    elements: F64
    scale: float

    @property
    def limbs(self) -> int:
        return int(self.elements.shape[1])


@njit(nogil=True, error_model="numpy", cache=True)
def _tensor_rows(first, last, a, b, factor, out, fresh, moduli, inverses):  # type: ignore[no-untyped-def]
    """out (3, rows, n) += factor times the product of (a0, a1) and (b0, b1), canonical. factor: 1 or 2. fresh: out
    holds nothing yet."""
    n = a.shape[2]
    for i in range(first, last):
        q, inverse = moduli[i], inverses[i]
        a0, a1, b0, b1 = a[0, i], a[1, i], b[0, i], b[1, i]
        o0, o1, o2 = out[0, i], out[1, i], out[2, i]
        if fresh:
            for j in range(n):
                c0, c1 = factor * a0[j], factor * a1[j]
                o0[j] = canonical(product(c0, b0[j], q, inverse), q)
                s = product(c0, b1[j], q, inverse) + product(c1, b0[j], q, inverse)
                o1[j] = canonical(reduce(s, q, inverse), q)
                o2[j] = canonical(product(c1, b1[j], q, inverse), q)
        else:
            for j in range(n):
                c0, c1 = factor * a0[j], factor * a1[j]
                o0[j] = canonical(reduce(o0[j] + product(c0, b0[j], q, inverse), q, inverse), q)
                s = product(c0, b1[j], q, inverse) + product(c1, b0[j], q, inverse)
                o1[j] = canonical(reduce(o1[j] + s, q, inverse), q)
                o2[j] = canonical(reduce(o2[j] + product(c1, b1[j], q, inverse), q, inverse), q)


@njit(nogil=True, error_model="numpy", cache=True)
def _combine_rows(first, last, x, low, high, constant_low, constant_high, out, fresh, moduli, inverses):  # type: ignore[no-untyped-def]
    """out (2, rows, n) += x * (low on the first half of the positions, high on the second), canonical; to out[0] the
    constants are added."""
    n = x.shape[2]
    half = n // 2
    for i in range(first, last):
        q, inverse = moduli[i], inverses[i]
        for h in range(2):
            for part in range(2):
                w = low[i] if part == 0 else high[i]
                c = 0.0
                if h == 0:
                    c = constant_low[i] if part == 0 else constant_high[i]
                ratio = w * inverse
                a = x[h, i, part * half : (part + 1) * half]
                o = out[h, i, part * half : (part + 1) * half]
                if fresh:
                    for j in range(half):
                        o[j] = canonical(reduce(product_by(a[j], w, ratio, q) + c, q, inverse), q)
                else:
                    for j in range(half):
                        o[j] = canonical(reduce(o[j] + product_by(a[j], w, ratio, q) + c, q, inverse), q)


@njit(nogil=True, error_model="numpy", cache=True)
def _constant_rows(first, last, low, high, out, moduli):  # type: ignore[no-untyped-def]
    """out (rows, n) += low on the first half of the positions, high on the second, canonical."""
    half = out.shape[1] // 2
    for i in range(first, last):
        q = moduli[i]
        for part in range(2):
            c = canonical(low[i] if part == 0 else high[i], q)
            o = out[i, part * half : (part + 1) * half]
            for j in range(half):
                s = o[j] + c
                o[j] = s - q if s >= q else s


@njit(nogil=True, error_model="numpy", cache=True)
def combine_four_rows(first, last, a, b, c, d, low_factors, high_factors, out, fresh, moduli, inverses):  # type: ignore[no-untyped-def]
    """As :func:`_combine_rows` for four ciphertexts at once, without constants; factors: (4, rows)."""
    n = a.shape[2]
    half = n // 2
    for i in range(first, last):
        q, inverse = moduli[i], inverses[i]
        start = anchor(2.0 * q * q)
        for h in range(2):
            for part in range(2):
                w = low_factors if part == 0 else high_factors
                w0, w1, w2, w3 = w[0, i], w[1, i], w[2, i], w[3, i]
                at, end = part * half, (part + 1) * half
                x0, x1, x2, x3 = a[h, i, at:end], b[h, i, at:end], c[h, i, at:end], d[h, i, at:end]
                o = out[h, i, at:end]
                for j in range(half):
                    t0 = fma(x0[j], w0, start)
                    t1 = fma(x1[j], w1, t0)
                    t2 = fma(x2[j], w2, t1)
                    t3 = fma(x3[j], w3, t2)
                    s = low(start, x0[j], w0, t0) + low(t0, x1[j], w1, t1)
                    s += low(t1, x2[j], w2, t2) + low(t2, x3[j], w3, t3)
                    if not fresh:
                        s += o[j]
                    o[j] = canonical(collapse(t3, s, start, q, inverse), q)


@njit(nogil=True, error_model="numpy", cache=True)
def _permute_rows(first, last, x, order, addend, out, moduli):  # type: ignore[no-untyped-def]
    """out[h, i] = the permuted (x + addend)[h, i], canonical; addend: (any h, rows, n)."""
    n = x.shape[2]
    for i in range(first, last):
        q = moduli[i]
        for h in range(2):
            a, o = x[h, i], out[h, i]
            if h < addend.shape[0]:
                b = addend[h, i]
                for j in range(n):
                    s = a[order[j]] + b[order[j]]
                    o[j] = s - q if s >= q else s
            else:
                for j in range(n):
                    o[j] = a[order[j]]


@njit(nogil=True, error_model="numpy", cache=True)
def collect_rows(first, last, x, order, out, which, moduli):  # type: ignore[no-untyped-def]
    """out += the permuted x, canonical; (2, rows, n)."""
    n = x.shape[2]
    for i in range(first, last):
        q = moduli[which[i]]
        for h in range(2):
            a, o = x[h, i], out[h, i]
            for j in range(n):
                s = o[j] + a[order[j]]
                o[j] = s - q if s >= q else s


def permute(x: F64, order: I32, addend: F64, moduli: F64) -> F64:
    """The permuted x + addend, canonical: (2, rows, n), with addends for as many elements as there are."""
    out = np.empty_like(x)
    run(_permute_rows, x.shape[1], x, order, addend, out, moduli)
    return out


class Arithmetic(ABC):
    """Computes with the keys of one client. Each thread has memory of its own for intermediate results.

    basis: the primes of ciphertexts first, bottom first.
    """

    def __init__(self, basis: Basis, keys: dict[str, SwitchingKey]) -> None:
        self.basis, self.keys = basis, keys
        self._plans: dict[tuple[KeyShape, int], Plan] = {}
        self._orders: dict[int, I32] = {}
        self._rescalings: dict[int, Division] = {}
        self._subrings: dict[int, Basis] = {}
        self._memory: dict[tuple[int, str], F64] = {}

    @abstractmethod
    def automorphism_name(self, index: int, shape: KeyShape) -> str:
        """Of the key for X -> X^index that has this shape."""

    @abstractmethod
    def product_name(self, limbs: int) -> str:
        """Of the key for products on so many limbs."""

    # -- memory, plans --

    def scratch(self, name: str, *sizes: int) -> F64:
        """An array for intermediate results of this thread, of any content, kept from call to call."""
        length, key = prod(sizes), (get_ident(), name)
        held = self._memory.get(key)
        if held is None or len(held) < length:
            held = self._memory[key] = np.empty(length)
        return held[:length].reshape(sizes)

    @cached_property
    def imaginary(self) -> tuple[int, ...]:
        """X^(n/2) at the first positions, for each prime: a square root of -1; its negative at the last half."""
        which = np.arange(len(self.basis.primes))
        monomial = np.zeros((len(which), self.basis.n))
        monomial[:, self.basis.n // 2] = 1
        self.basis.forward(monomial, which)
        return tuple(int(v) for v in monomial[:, 0])

    def subring(self, n: int) -> Basis:
        """The same primes for a smaller ring."""
        if n == self.basis.n:
            return self.basis
        if n not in self._subrings:
            self._subrings[n] = Basis.of(n, self.basis.primes)
        return self._subrings[n]

    def plan(self, shape: KeyShape, limbs: int) -> Plan:
        key = shape, limbs
        if key not in self._plans:
            self._plans[key] = Plan(self.basis, shape, limbs)
        return self._plans[key]

    def order(self, index: int) -> I32:
        """The permutation of an automorphism."""
        if index not in self._orders:
            self._orders[index] = automorphism(self.basis, index)
        return self._orders[index]

    def decomposed(self, element: F64, plan: Plan) -> F64:
        digits = self.scratch("digits", plan.digits, plan.rows, self.basis.n)
        plan.decompose(element, digits, self.scratch("y", plan.limbs, self.basis.n))
        return digits

    def divided(self, x: F64, plan: Plan, dropped: int) -> F64:
        """Both elements, (2, rows, n), divided by P and the last ``dropped`` primes: a new array."""
        n = self.basis.n
        out = np.empty((2, plan.limbs - dropped, n))
        plan.divide(x, out, dropped, (self.scratch("y", 2 * plan.rows, n), self.scratch("lifted", 2 * plan.limbs, n)))
        return out

    # -- operations --

    def rescale(self, elements: F64) -> F64:
        """Divided by the last prime."""
        limbs = elements.shape[1]
        if limbs not in self._rescalings:
            self._rescalings[limbs] = Division.of(self.basis, [limbs - 1], list(range(limbs - 1)))
        out = np.empty((2, limbs - 1, self.basis.n))
        scratch = self.scratch("y", 2, self.basis.n), self.scratch("lifted", 2 * limbs, self.basis.n)
        self._rescalings[limbs](elements, np.array([limbs - 1]), np.arange(limbs - 1), out, scratch)
        return out

    def automorphism(self, x: Ciphertext, index: int, shape: KeyShape) -> Ciphertext:
        """The message's image under X -> X^index."""
        plan = self.plan(shape, x.limbs)
        key = self.keys[self.automorphism_name(index, shape)]
        digits = self.decomposed(x.elements[1], plan)
        sums = self.scratch("sums", 2, plan.rows, self.basis.n)
        plan.inner(digits, key, sums)
        switched = self.divided(sums, plan, 0)
        return Ciphertext(permute(switched, self.order(index), x.elements[:1], self.basis.moduli), x.scale)

    def rotated_sum(self, x: Ciphertext, indices: Sequence[int], shape: KeyShape) -> Ciphertext:
        """x and its images under X -> X^index, added: one decomposition for all, and one division."""
        plan, n = self.plan(shape, x.limbs), self.basis.n
        digits = self.decomposed(x.elements[1], plan)
        total, sums = self.scratch("total", 2, plan.rows, n), self.scratch("sums", 2, plan.rows, n)
        keys = [self.keys[self.automorphism_name(index, shape)] for index in indices]
        plan.inner(digits[:0], keys[0], total, x.elements)
        own = np.zeros_like(x.elements)
        own[0] = x.elements[0]
        for index, key in zip(indices, keys, strict=True):
            plan.inner(digits, key, sums, own)
            run(collect_rows, plan.rows, sums, self.order(index), total, plan.which, self.basis.moduli)
        return Ciphertext(self.divided(total, plan, 0), x.scale)

    def switch(self, x: Ciphertext, name: str) -> Ciphertext:
        """Under another secret, by the key of this name."""
        key = self.keys[name]
        plan = self.plan(key.shape, x.limbs)
        digits = self.decomposed(x.elements[1], plan)
        sums = self.scratch("sums", 2, plan.rows, self.basis.n)
        addend = np.zeros_like(x.elements)
        addend[0] = x.elements[0]
        plan.inner(digits, key, sums, addend)
        return Ciphertext(self.divided(sums, plan, 0), x.scale)

    def combine(
        self,
        products: Sequence[tuple[Ciphertext, Ciphertext]],
        linear: Sequence[tuple[Ciphertext, complex]],
        constant: complex,
        limbs: int,
        scale: float,
        doubled: bool = False,
    ) -> Ciphertext:
        """Sum of products (twice them if ``doubled``), of multiples, and a constant, rescaled: on limbs - 1 limbs, with
        this scale.

        ``limbs``: at most those of any operand. Products of scales must all be ``scale`` times the last prime.
        """
        n = self.basis.n
        moduli = self.basis.moduli, self.basis.inverses
        whole = scale * self.basis.primes[limbs - 1]
        total = self.scratch("tensor", 3, limbs, n)
        fresh = True
        for a, b in products:
            if abs(a.scale * b.scale / whole - 1) > 1e-9:
                raise ValueError("the scale of a product is not that of the sum it goes into")
            run(_tensor_rows, limbs, a.elements, b.elements, 2.0 if doubled else 1.0, total, fresh, *moduli)
            fresh = False
        added = self._constants(constant, whole, limbs)
        none = np.zeros(limbs), np.zeros(limbs)
        if constant and not linear:
            run(_constant_rows, limbs, *added, total[0], self.basis.moduli)
        # the constant goes with the last of them
        while len(linear) > _AT_ONCE or (len(linear) == _AT_ONCE and not constant):
            four, linear = linear[:_AT_ONCE], linear[_AT_ONCE:]
            by_part = zip(*(self._constants(f, whole / x.scale, limbs) for x, f in four), strict=True)
            elements = (x.elements for x, _ in four)
            run(combine_four_rows, limbs, *elements, *map(np.stack, by_part), total[:2], fresh, *moduli)
            fresh = False
        for number, (x, factor) in enumerate(linear):
            factors = self._constants(factor, whole / x.scale, limbs)
            constants = none if number else added
            run(_combine_rows, limbs, x.elements, *factors, *constants, total[:2], fresh, *moduli)
            fresh = False
        if not products:
            return Ciphertext(self.rescale(total[:2]), scale)
        key = self.keys[self.product_name(limbs)]
        plan = self.plan(key.shape, limbs)
        digits = self.decomposed(total[2], plan)
        sums = self.scratch("sums", 2, plan.rows, n)
        plan.inner(digits, key, sums, total[:2])
        return Ciphertext(self.divided(sums, plan, 1), scale)

    def add(self, x: Ciphertext, y: Ciphertext, factor: complex = 1) -> Ciphertext:
        """x + factor*y, of equal scale and limbs; factor: of whole numbers."""
        if x.limbs != y.limbs or abs(x.scale / y.scale - 1) > 1e-9:
            raise ValueError("ciphertexts to be added must have one scale and as many limbs")
        out = x.elements.copy()
        none = np.zeros(x.limbs), np.zeros(x.limbs)
        factors = self._constants(factor, 1.0, x.limbs)
        moduli = self.basis.moduli, self.basis.inverses
        run(_combine_rows, x.limbs, y.elements, *factors, *none, out, False, *moduli)
        return Ciphertext(out, x.scale)

    def _constants(self, value: complex, scale: float, limbs: int) -> tuple[F64, F64]:
        """value * scale, rounded, modulo each prime: at the first half of the positions and at the second."""
        real, imaginary = round(complex(value).real * scale), round(complex(value).imag * scale)
        low, high = [], []
        for i in range(limbs):
            q, root = self.basis.primes[i], self.imaginary[i]
            low.append(centred(real + imaginary * root, q))
            high.append(centred(real - imaginary * root, q))
        return np.array(low, dtype=np.float64), np.array(high, dtype=np.float64)


class Evaluator(Arithmetic):
    """With the keys of a program, on its chain."""

    def __init__(self, shape: EngineShape, basis: Basis, keys: dict[str, SwitchingKey]) -> None:
        super().__init__(basis, keys)
        self.shape = shape

    def automorphism_name(self, index: int, shape: KeyShape) -> str:
        return self.shape.automorphism_key(index, shape).name

    def product_name(self, limbs: int) -> str:
        return f"multiplication-{self.shape.relinearisation(limbs)}"
