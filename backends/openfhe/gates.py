"""Gates on encrypted bits by OpenFHE's BinFHE (FHEW with GINX bootstrapping): every gate is one bootstrap.

The server's part, :class:`GateEvaluator`, has the context with its bootstrapping keys; the client has the secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.instructions import Gate, GateKind

from ..coredumps import no_core_dumps
from .library import fhe
from .randomness import require_own

_TWO = {GateKind.AND: fhe.AND, GateKind.XOR: fhe.XOR}


@dataclass(frozen=True, eq=False)
class GateEvaluator:
    """Executes a program on bits. Registers are LWE ciphertexts. context: with bootstrapping keys."""

    context: Any

    def gate(self, sources: Sequence[Any], instruction: Gate) -> Any:
        """One bootstrap. OpenFHE refuses one ciphertext twice, which folded circuits never ask for."""
        bits = [self.opposite(s) if no else s for s, no in zip(sources, instruction.negated, strict=True)]
        if instruction.kind is GateKind.MAJORITY:
            return self.context.EvalBinGate(fhe.MAJORITY, bits)
        return self.context.EvalBinGate(_TWO[instruction.kind], *bits)

    def opposite(self, source: Any) -> Any:
        """Free."""
        return self.context.EvalNOT(source)

    def constant_bit(self, value: bool) -> Any:
        """A ciphertext without noise: whoever sees it sees the bit."""
        return self.context.EvalConstant(value)


@dataclass(frozen=True, eq=False)
class GateClient:
    """The secret key."""

    context: Any
    secret: Any = field(repr=False)

    def __post_init__(self) -> None:
        no_core_dumps()

    def encrypt(self, message: npt.NDArray[Any]) -> Any:
        """A fresh ciphertext of a bit, shape (1,)."""
        require_own()
        return self.context.Encrypt(self.secret, int(message[0]))

    def decrypt(self, ciphertext: Any) -> npt.NDArray[np.int64]:
        """The bit, shape (1,)."""
        return np.array([self.context.Decrypt(self.secret, ciphertext)], dtype=np.int64)


def generate_gate_keys(secure: bool = True) -> tuple[GateClient, GateEvaluator]:
    """Fresh keys: of OpenFHE's parameters for 128 bits, or of its toy ones, which protect nothing."""
    require_own()
    context = fhe.BinFHEContext()
    context.GenerateBinFHEContext(fhe.STD128 if secure else fhe.TOY, fhe.GINX)
    secret = context.KeyGen()
    context.BTKeyGen(secret)
    return GateClient(context, secret), GateEvaluator(context)
