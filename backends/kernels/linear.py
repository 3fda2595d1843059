"""Linear algebra on sums modulo q0, or q0 times one more prime: products with plaintext polynomials, and unpacking.

Messages stand in the most significant bits: a message m modulo t is the phase m/t of the modulus Q, whatever Q is. All
maps by integer polynomials are linear over Z_Q, so this does not differ from BGV's own form but by a constant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
from numba import njit

from glyphc.ir.instructions import ConjugateDot, Conjugates, Polynomials

from .arithmetic import canonical, product, product_by, reduce
from .basis import F64, I64, centred
from .conversion import Division
from .evaluator import Evaluator
from .images import Images
from .keys import WeightKeys
from .plaintexts import encoded, values
from .threads import each, run
from .unpacking import Unpacking

# A sum: (2, limbs, n), canonical values of both elements modulo each of its primes.
Sum = F64
# Of polynomials: rows, exponents, values.
Terms = tuple[I64, I64, I64]

_AT_ONCE = 4


@njit(nogil=True, error_model="numpy", cache=True)
def _dot_columns(first, last, a, b, c, d, weights, at, out, which, moduli, inverses):  # type: ignore[no-untyped-def]
    """out[k] += a*w[k, at] + b*w[k, at + 1] + c*w[k, at + 2] + d*w[k, at + 3] on some columns, canonical.

    weights: (sums, sources, limbs, n), |w| <= q/2; out: (sums, 2, limbs, n).
    """
    for k in range(out.shape[0]):
        for h in range(2):
            for p in range(out.shape[2]):
                q, inverse = moduli[which[p]], inverses[which[p]]
                x0, x1, x2, x3 = a[h, p, first:last], b[h, p, first:last], c[h, p, first:last], d[h, p, first:last]
                w0, w1 = weights[k, at, p, first:last], weights[k, at + 1, p, first:last]
                w2, w3 = weights[k, at + 2, p, first:last], weights[k, at + 3, p, first:last]
                o = out[k, h, p, first:last]
                for j in range(last - first):
                    s = product(x0[j], w0[j], q, inverse) + product(x1[j], w1[j], q, inverse)
                    t = product(x2[j], w2[j], q, inverse) + product(x3[j], w3[j], q, inverse)
                    o[j] = canonical(reduce(o[j] + (s + t), q, inverse), q)


@njit(nogil=True, error_model="numpy", cache=True)
def _product_columns(first, last, a, weights, at, out, which, moduli, inverses):  # type: ignore[no-untyped-def]
    """out[k] += a*w[k, at] on some columns, canonical; as :func:`_dot_columns`."""
    for k in range(out.shape[0]):
        for h in range(2):
            for p in range(out.shape[2]):
                q, inverse = moduli[which[p]], inverses[which[p]]
                x, w, o = a[h, p, first:last], weights[k, at, p, first:last], out[k, h, p, first:last]
                for j in range(last - first):
                    o[j] = canonical(reduce(o[j] + product(x[j], w[j], q, inverse), q, inverse), q)


@njit(nogil=True, error_model="numpy", cache=True)
def add_rows(first, last, a, b, sign, out, which, moduli, inverses):  # type: ignore[no-untyped-def]
    """out = a + sign*b, canonical; rows of primes."""
    for i in range(first, last):
        q, inverse = moduli[which[i]], inverses[which[i]]
        x, y, o = a[i], b[i], out[i]
        for j in range(x.shape[0]):
            o[j] = canonical(reduce(x[j] + sign * y[j], q, inverse), q)


@njit(nogil=True, error_model="numpy", cache=True)
def scale_rows(first, last, x, factors, out, which, moduli, inverses):  # type: ignore[no-untyped-def]
    """out = x * factors, centred: |v| <= q/2; rows of primes."""
    for i in range(first, last):
        q, inverse = moduli[which[i]], inverses[which[i]]
        w = factors[i]
        ratio = w * inverse
        a, o = x[i], out[i]
        for j in range(a.shape[0]):
            r = reduce(product_by(a[j], w, ratio, q), q, inverse)
            r = r - q if r > 0.5 * q else r
            o[j] = r + q if r < -0.5 * q else r


@njit(nogil=True, error_model="numpy", cache=True)
def _external_rows(first, last, digits, by_first, by_second, out, which, moduli, inverses):  # type: ignore[no-untyped-def]
    """out[h] += digits[0] * by_first[h] + digits[1] * by_second[h], canonical; rows of primes."""
    for i in range(first, last):
        q, inverse = moduli[which[i]], inverses[which[i]]
        x0, x1 = digits[0, i], digits[1, i]
        for h in range(2):
            k0, k1, o = by_first[h, i], by_second[h, i], out[h, i]
            for j in range(x0.shape[0]):
                s = product(x0[j], k0[j], q, inverse) + product(x1[j], k1[j], q, inverse)
                o[j] = canonical(reduce(o[j] + s, q, inverse), q)


class LinearAlgebra:
    """Encodes weight polynomials once and multiplies sums with them; unpacks."""

    def __init__(
        self, evaluator: Evaluator, polynomials: dict[str, Polynomials], held: Mapping[str, WeightKeys]
    ) -> None:
        """held: encrypted weights."""
        self._evaluator, self._polynomials, self._held = evaluator, polynomials, held
        self._decomposed: tuple[tuple[Sum, ...], list[F64]] = ((), [])
        shape, basis = evaluator.shape, evaluator.basis
        self._which: I64 = np.array(shape.linear, dtype=np.int64)
        self._both: I64 = np.tile(self._which, 2)
        self._primes = [basis.primes[p] for p in shape.linear]
        self._modulus = shape.parameters.plaintext_modulus
        self._encoded: dict[str, F64] = {}
        self._biases: dict[str, F64] = {}
        self._images = Images(evaluator)
        self._unpacking = Unpacking(self._images)
        self._down = Division.of(basis, shape.linear[1:], shape.linear[:1]) if shape.linear[1:] else None

    # -- plaintexts --

    def prepare(self, weights: str, products: int) -> None:
        """Encode the polynomials of one linear map: so many factors, then perhaps a bias."""
        if weights in self._encoded:
            return
        rows = self._polynomials[weights]
        factors = Polynomials(rows.offsets[: products + 1], rows.exponents, rows.values)
        self._encoded[weights] = encoded(self._evaluator.basis, factors, self._which, [1] * len(self._which))[None]
        self._keep_bias(weights, products)

    def prepare_conjugates(self, instruction: ConjugateDot) -> None:
        """Encode those of one sum over conjugates, (giant steps, sources and baby steps, limbs, n), and perhaps a
        bias."""
        if instruction.weights in self._encoded:
            return
        basis, rows, count = self._evaluator.basis, self._polynomials[instruction.weights], instruction.count
        steps = instruction.steps(basis.n)
        made = np.empty((steps.giants, count * steps.babies, len(self._which), basis.n))
        for source in range(count):
            terms = rows.terms(source * steps.parts, steps.parts)
            turns = steps.turns(len(terms[0]))

            def encode(turn: int, source: int = source, terms: Terms = terms, turns: int = turns) -> None:
                for giant, baby, weight in steps.weights_of_turn(turn, turns, *terms):
                    made[giant, source * steps.babies + baby] = values(basis, weight, self._which)

            for _ in each(encode, range(turns)):
                pass
        self._encoded[instruction.weights] = made
        self._keep_bias(instruction.weights, count * steps.parts)

    def _keep_bias(self, weights: str, products: int) -> None:
        rows = self._polynomials[weights]
        if len(rows) > products:
            self._biases[weights] = self._message(rows.dense(products, self._evaluator.basis.n))

    def _message(self, integers: I64) -> F64:
        """round(m*Q/t), the phases of messages m: (m*Q - r)/t with r = m*Q mod t, so -r/t modulo each prime."""
        t = self._modulus
        rest = np.mod(np.mod(integers, t) * (prod(self._primes) % t), t)
        rest = np.where(rest > t // 2, rest - t, rest)
        return values(self._evaluator.basis, rest, self._which, [-pow(t, -1, q) for q in self._primes])

    # -- instructions --

    def dot(self, sources: Sequence[Sum], weights: str, total: Sum | None) -> Sum:
        """total + sum_j sources[j] * weights[j] + bias."""
        self.prepare(weights, len(sources))
        out = self._zeros(1)
        if total is not None:
            out[0] = total
        self._add_products(sources, weights, out)
        return self._with_bias(out[0], weights)

    def transient_dot(self, sources: Sequence[Sum], weights: str, total: Sum | None) -> Sum:
        """The same with weights that are encoded for this once."""
        try:
            return self.dot(sources, weights, total)
        finally:
            self._encoded.pop(weights, None)
            self._biases.pop(weights, None)

    def conjugate_dot(self, sources: Sequence[Sum], instruction: ConjugateDot, total: Sum | None) -> Sum:
        """total + a sum over conjugates + bias: products with baby steps, then an automorphism for each giant step."""
        self.prepare_conjugates(instruction)
        steps = instruction.steps(self._evaluator.basis.n)
        out = self._zeros(steps.giants)
        if total is not None:
            out[0] = total
        self._add_products(sources, instruction.weights, out)
        result = out[0]
        if steps.giants > 1:
            result = self._add(result, self._images.total(list(out[1:]), steps.giant_elements), 1.0)
        return self._with_bias(result, instruction.weights)

    def conjugates(self, source: Sum, instruction: Conjugates) -> list[Sum]:
        """Its images, see ``glyphc.ir.instructions.Conjugates``."""
        return self._images.of(source, instruction.steps(self._evaluator.basis.n).baby_elements)

    def _zeros(self, sums: int) -> F64:
        return np.zeros((sums, 2, len(self._which), self._evaluator.basis.n))

    def _add_products(self, sources: Sequence[Sum], weights: str, out: F64) -> None:
        """out[k] += sum_j sources[j] * w[k, j]; out: (sums, 2, limbs, n)."""
        basis, encoded = self._evaluator.basis, self._encoded[weights]
        fixed = out, self._which, basis.moduli, basis.inverses
        whole = len(sources) - len(sources) % _AT_ONCE

        def work(first: int, last: int) -> None:
            # some columns of all sums at a time, which stay in the cache, so that weights alone are read from memory
            for start in range(first, last, grain):
                stop = min(start + grain, last)
                for at in range(0, whole, _AT_ONCE):
                    a, b, c, d = sources[at : at + _AT_ONCE]
                    _dot_columns(start, stop, a, b, c, d, encoded, at, *fixed)
                for j in range(whole, len(sources)):
                    _product_columns(start, stop, sources[j], encoded, j, *fixed)

        grain = min(basis.n, max(1024, 8192 // len(out)))
        run(work, basis.n, grain=grain)

    def _with_bias(self, out: Sum, weights: str) -> Sum:
        """The same array."""
        basis, bias = self._evaluator.basis, self._biases.get(weights)
        if bias is not None:
            run(add_rows, len(bias), out[0], bias, 1.0, out[0], self._which, basis.moduli, basis.inverses)
        return out

    def encrypted_dot(self, sources: Sequence[Sum], weights: str, total: Sum | None) -> Sum:
        """total + sum_j sources[j] * weights[j] + bias, with weights and bias encrypted: external products.

        (c0 + c1*s) * w = c0*w + c1*(w*s). What is switched is summed before it is divided by the auxiliary modulus.
        """
        held = self._held[weights]
        if len(held.products) != len(sources):
            raise ValueError(f"{len(sources)} ciphertexts for the {len(held.products)} polynomials of {weights}")
        evaluator, basis = self._evaluator, self._evaluator.basis
        plan = evaluator.plan(evaluator.shape.linear_shape, len(self._which))
        sums = evaluator.scratch("sums", 2, plan.rows, basis.n)
        sums[:] = 0
        fixed = sums, plan.which, basis.moduli, basis.inverses
        for digits, (by_first, by_second) in zip(self._digits(sources), held.products, strict=True):
            run(_external_rows, plan.rows, digits, by_first.values[:, 0], by_second.values[:, 0], *fixed)
        out = evaluator.divided(sums, plan, 0)
        for addend in (held.bias, total):
            if addend is not None:
                out = self._add(out, addend, 1.0)
        return out

    def _digits(self, sources: Sequence[Sum]) -> list[F64]:
        """Both elements of each, decomposed; those of the last call are kept, as the next one mostly has the same."""
        last, digits = self._decomposed
        if len(last) != len(sources) or any(a is not b for a, b in zip(last, sources, strict=True)):
            evaluator = self._evaluator
            plan = evaluator.plan(evaluator.shape.linear_shape, len(self._which))
            digits = [np.stack([evaluator.decomposed(c, plan)[0].copy() for c in source]) for source in sources]
            self._decomposed = (tuple(sources), digits)
        return digits

    def split(self, source: Sum, parts: int, stride: int, count: int) -> list[Sum]:
        """The first ``count`` residue classes of exponents modulo parts*stride, see ``glyphc.ir.instructions.Split``.

        As in OpenFHE's engine: each level halves the classes by one automorphism g, c + g(c) and c - g(c).
        """
        pieces, step = [source], 1
        while step < parts:
            pieces = self._unpacking.halved(pieces, stride * step, min(step, count - step))
            step *= 2
        return pieces

    def divided(self, source: Sum, factor: int) -> Sum:
        """Divided modulo each prime: exact, as all are odd."""
        basis = self._evaluator.basis
        inverses = [float(centred(pow(factor, -1, q), q)) for q in self._primes]
        return self._scaled(source.reshape(-1, basis.n), np.array(2 * inverses), self._both).reshape(source.shape)

    def _scaled(self, rows: F64, factors: F64, which: I64) -> F64:
        """Rows times a centred factor each, canonical."""
        basis = self._evaluator.basis
        out = np.empty_like(rows)
        run(scale_rows, len(rows), rows, factors, out, which, basis.moduli, basis.inverses)
        out += np.where(out < 0, basis.moduli[which][:, None], 0.0)
        return out

    def to_torus(self, source: Sum) -> F64:
        """Divided by the second prime, if there is one: the same phases modulo q0, (2, 1, n)."""
        if self._down is None:
            return source
        evaluator = self._evaluator
        out = np.empty((2, 1, evaluator.basis.n))
        scratch = evaluator.scratch("y", 2, evaluator.basis.n), evaluator.scratch("lifted", 2, evaluator.basis.n)
        self._down(source, np.array([1]), np.array([0]), out, scratch)
        return out

    def from_torus(self, source: F64) -> Sum:
        """Times the second prime, if there is one: exact."""
        if self._down is None:
            return source
        basis = self._evaluator.basis
        out = np.zeros((2, 2, basis.n))
        factor = np.full(2, float(centred(self._primes[1], self._primes[0])))
        out[:, 0] = self._scaled(source[:, 0], factor, np.zeros(2, dtype=np.int64))
        return out

    def _add(self, a: Sum, b: Sum, sign: float) -> Sum:
        basis = self._evaluator.basis
        out = np.empty_like(a)
        x, y, total = (rows.reshape(-1, basis.n) for rows in (a, b, out))
        run(add_rows, len(total), x, y, sign, total, self._both, basis.moduli, basis.inverses)
        return out
