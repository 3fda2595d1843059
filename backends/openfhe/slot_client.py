"""The client's side of slot programs: secret key, encryption, decryption. Never imported by the server's modules."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.slot_parameters import SlotParameters

from ..coredumps import no_core_dumps
from .randomness import require_own
from .slot_contexts import SlotContext, make_slot_context
from .slot_evaluator import SlotKeys

F64 = npt.NDArray[np.floating[Any]]

# What OpenFHE says then.
_NOISE = "approximation error is too high"


@dataclass(frozen=True, eq=False)
class SlotClient:
    """The secret key in a slot program's context."""

    context: SlotContext
    secret: Any = field(repr=False)

    def __post_init__(self) -> None:
        no_core_dumps()

    def encrypt(self, message: F64, dropped: int = 0) -> Any:
        """A fresh ciphertext of numbers, shape (slots,). dropped: limbs that it is made without, as where the context
        has no more."""
        require_own()
        context, slots = self.context.context, self.context.parameters.slots
        numbers = np.ascontiguousarray(message, dtype=np.float64)
        plain = context.MakeCKKSPackedPlaintext(numbers, 1, dropped, None, slots)
        return context.Encrypt(self.secret, plain)

    def decrypt(self, ciphertext: Any) -> F64:
        """The numbers, shape (slots,); all NaN where nothing but noise is left of them.

        OpenFHE measures the noise by the imaginary parts, and refuses to decode less than five bits.
        """
        try:
            plain = self.context.context.Decrypt(self.secret, ciphertext)
        except RuntimeError as e:
            if _NOISE not in str(e):
                raise
            return np.full(self.context.parameters.slots, np.nan)
        plain.SetLength(self.context.parameters.slots)
        return np.array(plain.GetRealPackedValueArray(), dtype=np.float64)


def generate_slot_keys(parameters: SlotParameters) -> tuple[SlotClient, SlotKeys]:
    """Fresh keys: the secret for the client, the rest for the server. BackendError when OpenFHE refuses."""
    require_own()
    context = make_slot_context(parameters)
    pair = context.context.KeyGen()
    context.context.EvalMultKeyGen(pair.secretKey)
    client = SlotClient(context, pair.secretKey)
    zero = client.encrypt(np.zeros(parameters.slots))
    return client, SlotKeys(context, pair.publicKey.GetKeyTag(), zero)
