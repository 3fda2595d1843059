"""The client's side: the secret key, encryption, decryption. Never imported by the server's modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.parameters import Parameters

from .bridge import BridgeError, CiphertextMould, Mould, residues
from .contexts import Contexts, make_contexts, setup_bootstrap
from .keys import EvaluationKeys, unpack_automorphism
from .library import fhe

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ClientKeys:
    """The secret key in the BGV context, for encryption and decryption."""

    contexts: Contexts
    _secret: Any

    def encrypt(self, coefficients: I64) -> Any:
        """A BGV ciphertext of message integers, shape (N,), centred modulo t."""
        context = self.contexts.bgv
        return context.Encrypt(self._secret, context.MakeCoefPackedPlaintext(np.ascontiguousarray(coefficients)))

    def decrypt(self, ciphertext: Any) -> I64:
        """The message of a BGV ciphertext: integers centred modulo t, shape (N,)."""
        plain = self.contexts.bgv.Decrypt(self._secret, ciphertext)
        plain.SetLength(self.contexts.parameters.ring)
        return np.array(plain.GetCoefPackedValueArray(), dtype=np.int64)


def generate_keys(parameters: Parameters) -> tuple[ClientKeys, EvaluationKeys]:
    """Fresh keys: the secret for the client, everything else for the server.

    Both contexts share one secret: the sparse ternary key of the bootstrapping context is written into the BGV
    context, so a
    scheme switch needs no key.
    """
    contexts = make_contexts(parameters)
    pair = contexts.bgv.KeyGen()
    secret, public_key = pair.secretKey, None
    if contexts.torus is not None:
        torus_pair = contexts.torus.KeyGen()
        public_key = torus_pair.publicKey
        secret = _transplant(torus_pair.secretKey, secret, contexts)
        setup_bootstrap(contexts, public_key)
        contexts.torus.EvalBootstrapKeyGen(torus_pair.secretKey, parameters.slots)
        contexts.torus.EvalMultKeyGen(torus_pair.secretKey)
    indices = [unpack_automorphism(parameters.ring, s) for s in parameters.unpack_strides]
    automorphisms = contexts.bgv.EvalAutomorphismKeyGen(secret, indices) if indices else None
    client = ClientKeys(contexts, secret)
    zero = client.encrypt(np.zeros(parameters.ring, dtype=np.int64))
    mould = CiphertextMould.of(zero, contexts.bgv_ring)
    return client, EvaluationKeys(contexts, public_key, automorphisms, mould)


def _transplant(torus_secret: Any, bgv_secret: Any, contexts: Contexts) -> Any:
    """A BGV private key with the ternary secret of the bootstrapping context."""
    moduli = tuple(r.q for r in contexts.torus_rings)
    lowest = contexts.torus_ring
    towers = residues(torus_secret, lowest.n, moduli, len(moduli))
    ternary = lowest.centre(lowest.to_coefficients(towers[0]))
    ring = contexts.bgv_ring
    tower = ring.to_evaluation(ring.reduce(ternary))
    mould = Mould.of(bgv_secret, ring.n, (ring.q,))
    if len(mould.towers) != 1:
        raise BridgeError(f"a BGV secret on one limb has one tower, found {len(mould.towers)}")
    return fhe.DeserializePrivateKeyString(mould.with_residues([tower]), fhe.BINARY)
