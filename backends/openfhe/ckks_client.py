"""The training client's side: the secret key, encryption, decryption. Never imported by the server's modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.parameters import Parameters

from ..coredumps import no_core_dumps
from ..errors import BackendError
from .bridge import BridgeError, Mould, residues
from .ckks_contexts import LinearContexts, encrypted_in, make_training_contexts, setup_training_bootstrap
from .ckks_evaluator import TrainingKeys
from .ckks_linear import LinearKeys, automorphisms_of
from .client import ternary_secret
from .library import fhe
from .randomness import require_own

F64 = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, eq=False)
class TrainingClient:
    """The secret key in the linear context, for CKKS ciphertexts with messages in the coefficients."""

    contexts: LinearContexts
    secret: Any = field(repr=False)

    def __post_init__(self) -> None:
        no_core_dumps()

    def encrypt(self, message: F64, limbs: int) -> Any:
        """A ciphertext of N real numbers on ``limbs`` limbs; ValueError for what the limbs, or 62 bits, do not hold."""
        return encrypted_in(self.contexts, self.zero(limbs), message, limbs)

    def zero(self, limbs: int) -> Any:
        """A fresh encryption of zero."""
        require_own()
        p, context = self.contexts.parameters, self.contexts.linear
        plain = context.MakeCKKSPackedPlaintext([0.0], 1, p.linear_limbs - limbs, None, p.ring // 2)
        return context.Encrypt(self.secret, plain)

    def decrypt(self, ciphertext: Any) -> F64:
        """The message, shape (N,): magnitudes below half of what the ciphertext's limbs hold, and 2^53 exactly."""
        p, rings = self.contexts.parameters, self.contexts.linear_rings
        secret = residues(self.secret, p.ring, tuple(r.q for r in rings), len(rings))
        mould = Mould.of(ciphertext, p.ring, tuple(r.q for r in rings))
        limbs = len(mould.towers) // 2
        towers = [t.astype(object) for t in mould.residues()]
        modulus = prod(r.q for r in rings[:limbs])
        value = np.zeros(p.ring, dtype=object)
        for at, ring in enumerate(rings[:limbs]):
            phase = ((towers[at] + towers[limbs + at] * secret[at].astype(object)) % ring.q).astype(np.uint64)
            rest = modulus // ring.q
            value += ring.to_coefficients(phase).astype(object) * (rest * pow(rest, -1, ring.q))
        value %= modulus
        centred = np.where(value > modulus // 2, value - modulus, value)
        return np.asarray(centred.astype(np.float64) / self.contexts.scales[limbs - 1])

    def secret_bytes(self) -> bytes:
        """The secret key as bytes: whoever has them reads everything."""
        return bytes(fhe.Serialize(self.secret, fhe.BINARY))


def client_from_bytes(contexts: LinearContexts, secret: bytes) -> TrainingClient:
    """The inverse of ``TrainingClient.secret_bytes``, in contexts of the same parameters."""
    try:
        return TrainingClient(contexts, fhe.DeserializePrivateKeyString(secret, fhe.BINARY))
    except RuntimeError as e:
        raise BackendError(f"the file of the secret key is damaged: {e}") from None


def generate_training_keys(parameters: Parameters, periods: Sequence[int]) -> tuple[TrainingClient, TrainingKeys]:
    """Fresh keys for code whose ``Pack`` and ``Unpack`` instructions have these stride * parts.

    The sparse ternary secret of the bootstrapping context is written into the linear context: with one secret, what
    goes from one to the other needs no key.
    """
    require_own()
    contexts = make_training_contexts(parameters)
    torus = contexts.torus
    pair = torus.KeyGen()
    setup_training_bootstrap(contexts, pair.publicKey)
    torus.EvalBootstrapKeyGen(pair.secretKey, parameters.slots)
    torus.EvalMultKeyGen(pair.secretKey)
    client, linear_keys = generate_linear_keys(contexts, ternary_secret(pair.secretKey, contexts.torus_rings), periods)
    return client, TrainingKeys(contexts, linear_keys.zero, pair.publicKey)


def generate_linear_keys(
    contexts: LinearContexts, ternary: npt.NDArray[np.int64], periods: Sequence[int]
) -> tuple[TrainingClient, LinearKeys]:
    """The linear context's keys under a secret, shape (N,)."""
    linear, parameters = contexts.linear, contexts.parameters
    client = client_of(contexts, ternary)
    linear.EvalMultKeyGen(client.secret)
    linear.EvalAutomorphismKeyGen(client.secret, list(automorphisms_of(parameters.ring, periods)))
    return client, LinearKeys(contexts, client.zero(parameters.linear_limbs))


def client_of(contexts: LinearContexts, ternary: npt.NDArray[np.int64]) -> TrainingClient:
    """With a secret, shape (N,), written into the linear context."""
    rings = contexts.linear_rings
    mould = Mould.of(contexts.linear.KeyGen().secretKey, contexts.parameters.ring, tuple(r.q for r in rings))
    if len(mould.towers) != len(rings):
        raise BridgeError(f"a secret on {len(rings)} limbs has {len(mould.towers)} towers")
    towers = [r.to_evaluation(r.reduce(ternary)) for r in rings]
    return TrainingClient(contexts, fhe.DeserializePrivateKeyString(mould.with_residues(towers), fhe.BINARY))
