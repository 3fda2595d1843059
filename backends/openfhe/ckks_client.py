"""The training client's side: the secret key, encryption, decryption. Never imported by the server's modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from glyphc.ir.parameters import Parameters

from ..errors import BackendError
from .bridge import BridgeError, Mould, residues
from .ckks_server import TrainingKeys, automorphisms_of
from .contexts import Contexts, make_contexts, setup_bootstrap
from .library import fhe
from .ring import U64

F64 = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, eq=False)
class TrainingClient:
    """The secret key, for CKKS ciphertexts with messages in the coefficients."""

    contexts: Contexts
    secret: Any = field(repr=False)

    def encrypt(self, message: F64, limbs: int) -> Any:
        """A ciphertext of N real numbers on ``limbs`` limbs; |message| < 2^15 (and what the limbs hold)."""
        p = self.contexts.parameters
        context = self.contexts.torus
        assert context is not None
        zero = context.MakeCKKSPackedPlaintext([0.0], 1, p.depth + 1 - limbs, None, p.slots)
        rings = {r.q: r for r in self.contexts.torus_rings[:limbs]}
        mould = Mould.of(context.Encrypt(self.secret, zero), p.ring, tuple(rings))
        if len(mould.towers) != 2 * limbs:
            raise BridgeError(f"an encryption of zero on {limbs} limbs has {len(mould.towers)} towers")
        integers = np.rint(np.asarray(message, dtype=np.float64) * 2.0**p.scaling_bits)
        if np.abs(integers).max() >= 2.0**62:
            raise ValueError("a message is too large for its scale")
        arrays: list[U64] = []
        for at, (offset, q) in enumerate(mould.towers):
            tower = np.frombuffer(mould.blob, dtype="<u8", count=p.ring, offset=offset).astype(np.uint64)
            if at < limbs:  # c0 + m
                element = rings[q].to_evaluation(rings[q].reduce(integers.astype(np.int64)))
                tower = (tower + element) % np.uint64(q)
            arrays.append(tower)
        return fhe.DeserializeCiphertextString(mould.with_residues(arrays), fhe.BINARY)

    def decrypt(self, ciphertext: Any) -> F64:
        """The message of a ciphertext, from its two lowest limbs: |m| < 2^(scaling_bits-1), or 1/2 if it has one."""
        p = self.contexts.parameters
        rings = self.contexts.torus_rings
        moduli = tuple(r.q for r in rings)
        secret = residues(self.secret, p.ring, moduli, len(moduli))
        mould = Mould.of(ciphertext, p.ring, moduli)
        limbs = len(mould.towers) // 2
        value, modulus = np.zeros(p.ring, dtype=object), 1
        for at, ring in enumerate(rings[: min(2, limbs)]):
            c0, c1 = (
                np.frombuffer(mould.blob, dtype="<u8", count=p.ring, offset=o).astype(object)
                for o, q in mould.towers
                if q == ring.q
            )
            phase = ring.to_coefficients(((c0 + c1 * secret[at].astype(object)) % ring.q).astype(np.uint64))
            # Garner: extend the value to one more prime
            step = (phase.astype(object) - value) * pow(modulus, -1, ring.q) % ring.q
            value, modulus = value + modulus * step, modulus * ring.q
        centred = np.where(value > modulus // 2, value - modulus, value)
        return np.asarray(centred.astype(np.float64) / 2.0**p.scaling_bits)

    def secret_bytes(self) -> bytes:
        """The secret key as bytes: whoever has them reads everything."""
        return bytes(fhe.Serialize(self.secret, fhe.BINARY))


def client_from_bytes(contexts: Contexts, secret: bytes) -> TrainingClient:
    """The inverse of ``TrainingClient.secret_bytes``, in contexts of the same parameters."""
    try:
        return TrainingClient(contexts, fhe.DeserializePrivateKeyString(secret, fhe.BINARY))
    except RuntimeError as e:
        raise BackendError(f"the file of the secret key is damaged: {e}") from None


def generate_training_keys(parameters: Parameters, periods: Sequence[int]) -> tuple[TrainingClient, TrainingKeys]:
    """Fresh keys for code whose ``Pack`` and ``Unpack`` instructions have these stride * parts."""
    contexts = make_contexts(parameters)
    context = contexts.torus
    assert context is not None
    pair = context.KeyGen()
    setup_bootstrap(contexts, pair.publicKey)
    context.EvalBootstrapKeyGen(pair.secretKey, parameters.slots)
    context.EvalMultKeyGen(pair.secretKey)
    indices = list(automorphisms_of(parameters.ring, periods))
    if indices:
        context.EvalAutomorphismKeyGen(pair.secretKey, indices)  # filed beside the bootstrap's keys
    return TrainingClient(contexts, pair.secretKey), TrainingKeys(contexts, pair.publicKey)
