"""The client's side of programs on integers: secret keys, encryption, decryption. Never imported by the server's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.integer_parameters import IntegerParameters
from glyphc.ir.rescaling import rescaled

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

    def refresh(self, ciphertext: tuple[Any, ...], ratio: float) -> tuple[Any, ...]:
        """A fresh ciphertext of the integers times ratio, rounded: this side sees them."""
        return self.encrypt(rescaled(self.decrypt(ciphertext), ratio))


def generate_integer_keys(parameters: IntegerParameters) -> IntegerClient:
    """Fresh keys; those for relinearisation, where there are products, lie in OpenFHE's table. BackendError when it
    refuses."""
    require_own()
    contexts = make_integer_contexts(parameters)
    secrets = []
    for context in contexts.contexts:
        secret = context.KeyGen().secretKey
        if parameters.products:
            context.EvalMultKeyGen(secret)
        secrets.append(secret)
    return IntegerClient(contexts, tuple(secrets))
