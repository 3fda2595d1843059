"""Circuits of gates by OpenFHE's BinFHE (FHEW with GINX bootstrapping): every gate is one bootstrap.

The server's part, :class:`GateEvaluator`, has the context with its bootstrapping keys; the client has the secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..coredumps import no_core_dumps
from .library import fhe
from .randomness import require_own

Bools = npt.NDArray[np.bool_]


class GateLike(Protocol):
    """A gate of ``glyphc.gates.circuit``: kind.value names it."""

    @property
    def kind(self) -> Any: ...

    @property
    def operands(self) -> Sequence[Any]: ...


@dataclass(frozen=True, eq=False)
class GateEvaluator:
    """context: with bootstrapping keys."""

    context: Any

    def gate(self, kind: str, operands: Sequence[Any]) -> Any:
        """One bootstrap. OpenFHE refuses one ciphertext twice, which folded circuits never ask for."""
        if kind == "majority":
            return self.context.EvalBinGate(fhe.MAJORITY, list(operands))
        a, b = operands
        return self.context.EvalBinGate(fhe.AND if kind == "and" else fhe.XOR, a, b)

    def negated(self, ciphertext: Any) -> Any:
        """Free."""
        return self.context.EvalNOT(ciphertext)

    def run(
        self, inputs: Sequence[Any], gates: Sequence[GateLike], numbers: Sequence[int], outputs: Sequence[Any]
    ) -> list[Any]:
        """Ciphertexts of the outputs, which are signals. numbers: of the gates that are needed, in order."""
        wires: dict[int, Any] = dict(enumerate(inputs))

        def value(signal: Any) -> Any:
            found = wires[signal.wire]
            return self.negated(found) if signal.negated else found

        for number in numbers:
            gate = gates[number]
            wires[len(inputs) + number] = self.gate(gate.kind.value, [value(operand) for operand in gate.operands])
        return [value(signal) for signal in outputs]


@dataclass(frozen=True, eq=False)
class GateClient:
    """The secret key."""

    context: Any
    secret: Any = field(repr=False)

    def __post_init__(self) -> None:
        no_core_dumps()

    def encrypt(self, bits: Bools) -> list[Any]:
        """A ciphertext for each bit."""
        require_own()
        return [self.context.Encrypt(self.secret, int(bit)) for bit in bits]

    def decrypt(self, ciphertexts: Sequence[Any]) -> Bools:
        """The bits."""
        return np.array([bool(self.context.Decrypt(self.secret, c)) for c in ciphertexts])


def generate_gate_keys(secure: bool = True) -> tuple[GateClient, GateEvaluator]:
    """Fresh keys: of OpenFHE's parameters for 128 bits, or of its toy ones, which protect nothing."""
    require_own()
    context = fhe.BinFHEContext()
    context.GenerateBinFHEContext(fhe.STD128 if secure else fhe.TOY, fhe.GINX)
    secret = context.KeyGen()
    context.BTKeyGen(secret)
    return GateClient(context, secret), GateEvaluator(context)
