"""Bounds on the noise of BFV ciphertexts, and the modulus that has room for it.

A ciphertext of m holds Q/t m + e; it decrypts rightly as long as |t e / Q| < 1/2. Bounds hold but with negligible
probability: of products of polynomials that are independent of each other, six deviations and more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2, sqrt

from glyphc.backends.base import execute
from glyphc.ir.client_requests import Request
from glyphc.ir.instructions import Instruction, IntegerBlocks, IntegerDot, IntegerProduct, Load
from glyphc.ir.integer_parameters import PRIME_BITS, IntegerParameters

# Of OpenFHE's errors.
_DEVIATION = 3.19
_DEVIATIONS = 6.0
# Bits that are kept free.
_RESERVE = 4.0


class NoiseBounds:
    """A machine whose registers are bounds on noise, as numbers. block: slots of the blocks of ``IntegerTotal``."""

    def __init__(self, ring: int, plaintext_modulus: int, limbs: int, block: int = 1) -> None:
        self._ring = ring
        self._block = block
        self._modulus = float(plaintext_modulus)
        # of each digit, which is as large as a prime, and an error polynomial
        digits = 2.0**PRIME_BITS * sqrt(ring * limbs / 12) * _DEVIATION
        self._key_switch = _DEVIATIONS * digits
        # the worst of what the client has to decrypt on the way, trip by trip
        self.shown: list[float] = []

    def fresh(self) -> float:
        """Of an encryption under the secret key."""
        return _DEVIATIONS * _DEVIATION + 1.0

    def integer_dot(self, sources: Sequence[float], instruction: IntegerDot) -> float:
        return sum(abs(w) * e for w, e in zip(instruction.weights, sources, strict=True)) + 1.0

    def integer_product(self, a: float, b: float) -> float:
        """Each noise times t k, where k, about sqrt(N/18) in size, counts by how often the other operand overflows Q:
        t N/4.2 on average; and the key switch."""
        return self._modulus * self._ring / 2 * (a + b) + self._key_switch

    def integer_blocks(self, sources: Sequence[float], instruction: IntegerBlocks) -> float:
        """Weights that differ from slot to slot are a polynomial with coefficients of all sizes below t / 2."""
        weighted = sum(sources) * sqrt(self._ring / 12) * self._modulus
        blocks = self._ring // instruction.block
        return blocks * (weighted + self._key_switch) + 1.0

    def integer_total(self, source: float, inner: bool) -> float:
        """As many terms as a block has slots, or as there are blocks: each image doubles the noise."""
        terms = self._block if inner else self._ring // self._block
        return terms * (source + self._key_switch)

    def client_request(self, sources: Sequence[float], request: Request) -> list[float]:
        self.shown.append(max(sources))
        return [self.fresh()] * request.results(self._ring)


def limbs_for(code: Sequence[Instruction], ring: int, plaintext_modulus: int, most: int, block: int = 1) -> int:
    """The fewest limbs at which every output decrypts rightly; ``most`` + 1 where that many are not enough.

    code: without its ``Free``. block: as of ``NoiseBounds``.
    """
    for limbs in range(1, most + 1):
        machine = NoiseBounds(ring, plaintext_modulus, limbs, block)
        outputs = execute(code, machine, _inputs(code, machine))
        worst = max(0.0, *machine.shown, *(noise for parts in outputs.values() for noise in parts))
        if log2(worst) + log2(plaintext_modulus) + 1 + _RESERVE <= limbs * PRIME_BITS:
            return limbs
    return most + 1


@dataclass(frozen=True)
class IntegerNoise:
    """Deviations at decryption, in units of messages, at most: of each output by name, of what each request shows."""

    outputs: dict[str, float]
    shown: tuple[float, ...]


def integer_noise(code: Sequence[Instruction], parameters: IntegerParameters) -> IntegerNoise:
    """Of a program with its parameters. Exact results do not show it, but who has the secret can see it."""
    t = max(parameters.moduli)
    machine = NoiseBounds(parameters.ring, t, parameters.limbs)
    outputs = execute(code, machine, _inputs(code, machine))
    unit = t * 2.0**-parameters.modulus_bits / _DEVIATIONS
    found = {name: max(parts) * unit for name, parts in outputs.items()}
    return IntegerNoise(found, tuple(noise * unit for noise in machine.shown))


def _inputs(code: Sequence[Instruction], machine: NoiseBounds) -> dict[str, _Fresh]:
    return {i.name: _Fresh(machine.fresh()) for i in code if isinstance(i, Load)}


def multiplies(code: Sequence[Instruction]) -> bool:
    """Whether ciphertexts are multiplied with each other."""
    return any(isinstance(i, IntegerProduct) for i in code)


class _Fresh(Sequence[float]):
    """As many fresh ciphertexts as are asked for."""

    def __init__(self, noise: float) -> None:
        self._noise = noise

    def __len__(self) -> int:
        return 1 << 62

    def __getitem__(self, number: object) -> float:  # type: ignore[override]
        return self._noise
