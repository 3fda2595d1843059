"""Encryption for a training run under its public key: what data owners need. No secret, and nothing that decrypts.

The public key is an encryption (b, a) of zero. OpenFHE encrypts as (v b + e0, v a + e1) with a fresh ternary v, so the
error is e0 + v e + e1 s: larger than that of an encryption under the secret key, and both halves have to travel.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from glyphc.ir.parameters import Parameters

from .bridge import BridgeError, Mould
from .ckks_contexts import encrypted_in, make_linear_contexts, with_message
from .library import fhe
from .randomness import require_own
from .residues import Uniform, pack, unpack_towers

F64 = np.ndarray[Any, np.dtype[np.float64]]
# Of the residues that the public key's half a comes from.
PUBLIC_STREAM = "training/public-key"


class PublicEncryptor:
    """Encrypts under the public key b (see ``training_fresh``), whose other half comes from ``seed``.

    ResidueError for bytes that are none; BackendError when OpenFHE refuses the parameters.
    """

    def __init__(self, parameters: Parameters, key: bytes, seed: bytes) -> None:
        self._contexts = make_linear_contexts(parameters)
        self._ring = parameters.ring
        linear, moduli = self._contexts.linear, tuple(r.q for r in self._contexts.linear_rings)
        stream = Uniform(seed, PUBLIC_STREAM)
        halves = [*unpack_towers(key, self._ring, moduli), *(stream.draw(self._ring, q) for q in moduli)]
        mould = Mould.of(linear.KeyGen().publicKey, self._ring, moduli)
        if mould.moduli != moduli * 2:
            raise BridgeError(f"a public key on {len(moduli)} limbs has {len(mould.towers)} towers")
        self._key = fhe.DeserializePublicKeyString(mould.with_residues(halves), fhe.BINARY)

    def encrypt(self, message: F64, limbs: int) -> Any:
        """As ``TrainingClient.encrypt``."""
        return encrypted_in(self._contexts, self._zero(limbs), message, limbs)

    def write(self, message: F64, limbs: int) -> bytes:
        """A ciphertext as ``TrainingWire.write`` writes it."""
        mould, towers = with_message(self._contexts, self._zero(limbs), message, limbs)
        return b"".join(pack(c, q) for c, q in zip(towers, mould.moduli, strict=True))

    def _zero(self, limbs: int) -> Any:
        require_own()
        p, linear = self._contexts.parameters, self._contexts.linear
        plain = linear.MakeCKKSPackedPlaintext([0.0], 1, p.linear_limbs - limbs, None, p.ring // 2)
        return linear.Encrypt(self._key, plain)
