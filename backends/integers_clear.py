"""The definition of the instructions on integers: exact, modulo each plaintext prime. No encryption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.client_requests import Request
from glyphc.ir.instructions import IntegerBlocks, IntegerDot
from glyphc.ir.integer_parameters import IntegerParameters

I64 = npt.NDArray[np.int64]
Residues = tuple[I64, ...]


def split(message: npt.NDArray[Any], moduli: Sequence[int]) -> Residues:
    """Integers modulo each prime, in [0, t)."""
    integers = np.asarray(message).astype(np.int64)
    return tuple(np.asarray(integers % t) for t in moduli)


def join(residues: Sequence[npt.NDArray[Any]], moduli: Sequence[int]) -> I64:
    """The inverse: integers modulo the product of one prime or two, the smallest in magnitude (Garner's method)."""
    first = np.asarray(residues[0]).astype(np.int64) % moduli[0]
    if len(moduli) == 1:
        value, product = first, moduli[0]
    else:
        inverse = pow(moduli[0], -1, moduli[1])
        value = first + moduli[0] * (
            (np.asarray(residues[1]).astype(np.int64) - first) % moduli[1] * inverse % moduli[1]
        )
        product = moduli[0] * moduli[1]
    return np.asarray(np.where(value > product // 2, value - product, value))


class ClearIntegers:
    """Registers are residues modulo each prime, arrays of shape (slots,). Products stay below 2^60."""

    def __init__(self, parameters: IntegerParameters) -> None:
        self._parameters = parameters
        self._moduli = parameters.moduli

    def encrypt(self, message: npt.NDArray[Any]) -> Residues:
        """Integers, shape (slots,), as this backend's ciphertext."""
        return split(message, self._moduli)

    def decrypt(self, ciphertext: Residues) -> I64:
        """The integers, shape (slots,)."""
        return join(ciphertext, self._moduli)

    def integer_dot(self, sources: Sequence[Residues], instruction: IntegerDot) -> Residues:
        totals = []
        for at, t in enumerate(self._moduli):
            total = np.full(sources[0][at].shape, instruction.bias % t, dtype=np.int64)
            for source, weight in zip(sources, instruction.weights, strict=True):
                total = (total + source[at] * (weight % t)) % t
            totals.append(total)
        return tuple(totals)

    def integer_blocks(self, sources: Sequence[Residues], instruction: IntegerBlocks) -> Residues:
        totals = []
        for at, t in enumerate(self._moduli):
            total: I64 = np.full(instruction.block, instruction.bias % t, dtype=np.int64)
            for source, weights in zip(sources, instruction.weights, strict=True):
                for block, weight in zip(source[at].reshape(-1, instruction.block), weights, strict=True):
                    total = (total + block * (weight % t)) % t
            totals.append(np.tile(total, len(sources[0][at]) // instruction.block))
        return tuple(totals)

    def integer_total(self, source: Residues, inner: bool) -> Residues:
        p = self._parameters
        exponents = p.inner_automorphisms if inner else p.automorphisms
        totals = []
        for residues, t in zip(source, self._moduli, strict=True):
            for exponent in exponents:
                residues = (residues + _moved(residues, exponent, p.ring)) % t
            totals.append(residues)
        return tuple(totals)

    def client_request(self, sources: Sequence[Residues], request: Request) -> list[Residues]:
        found = request.answer(np.array([self.decrypt(source) for source in sources]))
        return [self.encrypt(integers) for integers in found]

    def integer_product(self, a: Residues, b: Residues) -> Residues:
        return tuple(x * y % t for x, y, t in zip(a, b, self._moduli, strict=True))


def _moved(values: I64, exponent: int, ring: int) -> I64:
    """Slots after X -> X^exponent, a power of 5 that rotates both rows to the left, or -1, which exchanges them."""
    rows = values.reshape(2, ring // 2)
    if exponent == 2 * ring - 1:
        return np.ascontiguousarray(rows[::-1]).reshape(-1)
    power, steps = 1, 0
    while power != exponent:
        power, steps = power * 5 % (2 * ring), steps + 1
    return np.roll(rows, -steps, axis=1).reshape(-1)
