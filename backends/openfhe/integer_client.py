"""The client's side of programs on integers: secret keys, encryption, decryption. Never imported by the server's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.client_requests import Request
from glyphc.ir.integer_parameters import IntegerParameters

from ..coredumps import no_core_dumps
from ..integers_clear import join, split
from .integer_contexts import IntegerContexts, make_integer_contexts
from .randomness import require_own

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class IntegerClient:
    """The secret keys, one for each plaintext prime's context."""

    contexts: IntegerContexts
    secrets: tuple[Any, ...] = field(repr=False)

    def __post_init__(self) -> None:
        no_core_dumps()

    def encrypt(self, message: I64) -> tuple[Any, ...]:
        """Fresh ciphertexts of integers, shape (slots,): one for each prime."""
        require_own()
        moduli = self.contexts.parameters.moduli
        out = []
        for context, secret, t, residues in zip(
            self.contexts.contexts, self.secrets, moduli, split(message, moduli), strict=True
        ):
            centred = np.where(residues > t // 2, residues - t, residues)
            out.append(context.Encrypt(secret, context.MakePackedPlaintext(centred.tolist())))
        return tuple(out)

    def decrypt(self, ciphertext: tuple[Any, ...]) -> I64:
        """The integers, shape (slots,), from a ciphertext for each prime."""
        found = []
        for context, secret, each in zip(self.contexts.contexts, self.secrets, ciphertext, strict=True):
            plain = context.Decrypt(secret, each)
            plain.SetLength(self.contexts.parameters.slots)
            found.append(np.array(plain.GetPackedValue(), dtype=np.int64))
        return join(found, self.contexts.parameters.moduli)

    def answer(self, ciphertexts: Sequence[tuple[Any, ...]], request: Request) -> list[tuple[Any, ...]]:
        """Fresh ciphertexts of what a request asks for: this side sees the integers."""
        found = request.answer(np.array([self.decrypt(ciphertext) for ciphertext in ciphertexts]))
        return [self.encrypt(integers) for integers in found]


def generate_integer_keys(parameters: IntegerParameters) -> IntegerClient:
    """Fresh keys; those for relinearisation and automorphisms, where there are any, lie in OpenFHE's tables.

    BackendError when it refuses."""
    require_own()
    contexts = make_integer_contexts(parameters)
    secrets = []
    for context in contexts.contexts:
        secret = context.KeyGen().secretKey
        if parameters.products:
            context.EvalMultKeyGen(secret)
        if parameters.key_automorphisms:
            context.EvalAutomorphismKeyGen(secret, list(parameters.key_automorphisms))
        secrets.append(secret)
    return IntegerClient(contexts, tuple(secrets))
