"""The client's side: the secret key, encryption, decryption. Never imported by the server's modules."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.parameters import Parameters

from ..coredumps import no_core_dumps
from .bridge import BridgeError, CiphertextMould, Mould, residues
from .contexts import Contexts, make_contexts, setup_bootstrap
from .keymoulds import bgv_automorphisms
from .keys import EvaluationKeys
from .library import fhe
from .randomness import require_own
from .ring import Factor, Ring

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ClientKeys:
    """The secret key in the BGV context, for encryption and decryption."""

    contexts: Contexts
    _secret: Any = field(repr=False)

    def __post_init__(self) -> None:
        no_core_dumps()

    @property
    def secret_key(self) -> Any:
        """OpenFHE's private key in the BGV context."""
        return self._secret

    @cached_property
    def factor(self) -> Factor:
        """The secret as a factor of ring elements."""
        ring = self.contexts.bgv_ring
        (tower,) = residues(self._secret, ring.n, (ring.q,), 1)
        return Factor.of(ring, tower)

    def encrypt(self, coefficients: I64) -> Any:
        """A BGV ciphertext of message integers, shape (N,), centred modulo t."""
        require_own()
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
    require_own()
    contexts = make_contexts(parameters)
    pair = contexts.bgv.KeyGen()
    secret, public_key = pair.secretKey, None
    if contexts.torus is not None:
        torus_pair = contexts.torus.KeyGen()
        public_key = torus_pair.publicKey
        secret = _bgv_secret(contexts, ternary_secret(torus_pair.secretKey, contexts.torus_rings), secret)
        setup_bootstrap(contexts, public_key)
        contexts.torus.EvalBootstrapKeyGen(torus_pair.secretKey, parameters.slots)
        contexts.torus.EvalMultKeyGen(torus_pair.secretKey)
    indices = bgv_automorphisms(parameters)
    automorphisms = contexts.bgv.EvalAutomorphismKeyGen(secret, list(indices)) if indices else None
    client = ClientKeys(contexts, secret)
    zero = client.encrypt(np.zeros(parameters.ring, dtype=np.int64))
    mould = CiphertextMould.of(zero, contexts.bgv_ring)
    return client, EvaluationKeys(contexts, public_key, automorphisms, mould)


def ternary_secret(secret: Any, rings: tuple[Ring, ...]) -> I64:
    """The coefficients of a private key, -1, 0 or 1, shape (N,). ``rings``: of its context's modulus chain."""
    lowest = rings[0]
    towers = residues(secret, lowest.n, tuple(r.q for r in rings), len(rings))
    return lowest.centre(lowest.to_coefficients(towers[0]))


def keys_from_secret(parameters: Parameters, ternary: I64) -> ClientKeys:
    """Keys for encryption and decryption from a secret that was stored; the bootstrapping context is not made."""
    contexts = make_contexts(parameters, bootstraps=False)
    return ClientKeys(contexts, _bgv_secret(contexts, ternary, contexts.bgv.KeyGen().secretKey))


def _bgv_secret(contexts: Contexts, ternary: I64, mould_key: Any) -> Any:
    """A BGV private key with this ternary secret, e.g. that of the bootstrapping context."""
    ring = contexts.bgv_ring
    tower = ring.to_evaluation(ring.reduce(ternary))
    mould = Mould.of(mould_key, ring.n, (ring.q,))
    if len(mould.towers) != 1:
        raise BridgeError(f"a BGV secret on one limb has one tower, found {len(mould.towers)}")
    return fhe.DeserializePrivateKeyString(mould.with_residues([tower]), fhe.BINARY)
