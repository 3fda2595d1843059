"""Gates on encrypted bits by OpenFHE's BinFHE (FHEW with GINX bootstrapping): every gate is one bootstrap.

The server's part, :class:`GateEvaluator`, has the context with its bootstrapping keys; the client has the secret.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.instructions import Gate, GateKind

from ..coredumps import no_core_dumps
from ..processors import thread_count
from .gate_workers import GateWorkers, Operand
from .library import fhe
from .randomness import require_own

_TWO = {GateKind.AND: fhe.AND, GateKind.XOR: fhe.XOR}


class GateEvaluator:
    """Executes a program on bits. Registers are LWE ciphertexts, or operands of processes that compute gates."""

    def __init__(self, context: Any, processes: int = 1) -> None:
        """context: with bootstrapping keys."""
        self.context = context
        self._count = processes
        self._workers: GateWorkers | None = None

    def gate(self, sources: Sequence[Any], instruction: Gate) -> Any:
        """One bootstrap. OpenFHE refuses one ciphertext twice, which folded circuits never ask for."""
        if self._count == 1:
            return self._compute(instruction.kind, sources, instruction.negated)
        if self._workers is None:
            self._workers = GateWorkers(self._compute, self._count)
        put = self._workers.put
        bits = [s if isinstance(s, Operand) else put(s) for s in sources]
        negated = [no != bit.negated for bit, no in zip(bits, instruction.negated, strict=True)]
        operands = tuple(Operand(bit.bit, no) for bit, no in zip(bits, negated, strict=True))
        return self._workers.gate(instruction.kind, operands)

    def opposite(self, source: Any) -> Any:
        """Free."""
        if isinstance(source, Operand):
            return Operand(source.bit, not source.negated)
        return self.context.EvalNOT(source)

    def constant_bit(self, value: bool) -> Any:
        """A ciphertext without noise: whoever sees it sees the bit."""
        return self.context.EvalConstant(value)

    def settle(self) -> None:
        """Wait for the gates that are being computed."""
        if self._workers is not None:
            self._workers.settle()

    def ciphertext(self, source: Any) -> Any:
        """Of a register."""
        if not isinstance(source, Operand):
            return source
        assert self._workers is not None
        return self._workers.get(source, self.context.EvalNOT)

    def close(self) -> None:
        """End the processes."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def _compute(self, kind: GateKind, sources: Sequence[Any], negated: Sequence[bool]) -> Any:
        bits = [self.context.EvalNOT(s) if no else s for s, no in zip(sources, negated, strict=True)]
        if kind is GateKind.MAJORITY:
            return self.context.EvalBinGate(fhe.MAJORITY, bits)
        return self.context.EvalBinGate(_TWO[kind], *bits)


@dataclass(frozen=True, eq=False)
class GateClient:
    """The secret key. evaluator: what knows the ciphertexts of registers."""

    context: Any
    secret: Any = field(repr=False)
    evaluator: GateEvaluator

    def __post_init__(self) -> None:
        no_core_dumps()

    def encrypt(self, message: npt.NDArray[Any]) -> Any:
        """A fresh ciphertext of a bit, shape (1,)."""
        require_own()
        return self.context.Encrypt(self.secret, int(message[0]))

    def decrypt(self, ciphertext: Any) -> npt.NDArray[np.int64]:
        """The bit, shape (1,)."""
        return np.array([self.context.Decrypt(self.secret, self.evaluator.ciphertext(ciphertext))], dtype=np.int64)


@contextmanager
def gate_session(secure: bool = True) -> Iterator[tuple[GateClient, GateEvaluator]]:
    """Fresh keys: of OpenFHE's parameters for 128 bits, or of its toy ones, which protect nothing.

    Gates are computed by as many processes as OpenFHE may have threads, until the block is left."""
    require_own()
    context = fhe.BinFHEContext()
    context.GenerateBinFHEContext(fhe.STD128 if secure else fhe.TOY, fhe.GINX)
    secret = context.KeyGen()
    context.BTKeyGen(secret)
    evaluator = GateEvaluator(context, thread_count())
    try:
        yield GateClient(context, secret, evaluator), evaluator
    finally:
        evaluator.close()
