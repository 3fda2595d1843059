"""The client's side for a run in one process: a fresh secret from OpenFHE, and keys of the kernels' shapes from it.

Never imported by the server's modules.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.instructions import EncryptedMap, Polynomials
from glyphc.ir.parameters import Parameters

from ..openfhe.bridge import CiphertextMould, residues, rings_of
from ..openfhe.client import ClientKeys, keys_from_secret, ternary_secret
from ..openfhe.library import fhe
from .exchange import Exchange
from .keygen import KeyMaker
from .keys import ServerKeys, WeightKeys, make_basis
from .linear import Sum
from .shape import EngineShape, check_security

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Party:
    """One client's keys: client for encryption and decryption; maker for more keys; server for the other side."""

    client: ClientKeys
    maker: KeyMaker
    server: ServerKeys
    exchange: Exchange
    seed: bytes

    def encrypt(self, message: I64) -> Sum:
        """A sum of message integers, shape (N,)."""
        return self.exchange.received(self.client.encrypt(message))

    def decrypt(self, x: Sum) -> I64:
        """The message of a sum."""
        return self.client.decrypt(self.exchange.sent(x))

    def with_weights(
        self,
        encrypted: Sequence[EncryptedMap],
        secret: Mapping[str, Polynomials],
        observe: Callable[[str], None] = lambda name: None,
    ) -> Party:
        """With encrypted weights for the server; ``observe`` is told the map's name for each polynomial."""
        n, found = self.server.basis.n, {}
        for each in encrypted:
            products = []
            for row in range(each.products):
                name = f"weights/{each.name}/{row}"
                products.append(self.maker.weight_keys(name, secret[each.name].dense(row, n), self.seed))
                observe(each.name)
            bias = self.encrypt(secret[each.name].dense(each.products, n)) if each.bias else None
            found[each.name] = WeightKeys(tuple(products), bias)
        return replace(self, server=replace(self.server, weights=found))


def generate_keys(parameters: Parameters) -> Party:
    """Fresh keys: the secret for the client, everything else for the server."""
    shape = EngineShape(parameters)
    check_security(shape)
    ternary = fresh_secret(parameters)
    client = keys_from_secret(parameters, ternary)
    basis = make_basis(shape)
    seed = os.urandom(32)
    maker = KeyMaker(shape, basis, ternary, lambda: fresh_error(client, ternary))
    switching = dict(maker.keys(seed))
    zero = client.encrypt(np.zeros(parameters.ring, dtype=np.int64))
    mould = CiphertextMould.of(zero, client.contexts.bgv_ring)
    exchange = Exchange(shape, basis, mould)
    return Party(client, maker, ServerKeys(shape, basis, switching), exchange, seed)


def fresh_secret(parameters: Parameters) -> I64:
    """A sparse ternary secret of OpenFHE's, shape (N,): from a context of the same ring with one level."""
    p = fhe.CCParamsCKKSRNS()
    p.SetSecretKeyDist(fhe.SPARSE_ENCAPSULATED)
    p.SetSecurityLevel(fhe.HEStd_NotSet)  # nothing is ever encrypted in it
    p.SetRingDim(parameters.ring)
    p.SetScalingTechnique(fhe.FIXEDMANUAL)
    p.SetScalingModSize(40)
    p.SetFirstModSize(50)
    p.SetMultiplicativeDepth(1)
    context: Any = fhe.GenCryptoContext(p)
    context.Enable(fhe.PKE)
    return ternary_secret(context.KeyGen().secretKey, rings_of(context))


def fresh_error(client: ClientKeys, ternary: I64) -> I64:
    """An error polynomial of OpenFHE's: an encryption of zero is t*e under the secret."""
    ring = client.contexts.bgv_ring
    zero = client.encrypt(np.zeros(ring.n, dtype=np.int64))
    c0, c1 = residues(zero, ring.n, (ring.q,), 2)
    phase = ring.to_coefficients(ring.add(c0, client.factor.times(c1)))
    t = client.contexts.parameters.plaintext_modulus
    error = ring.centre(ring.scale(phase, pow(t, -1, ring.q)))
    if int(np.abs(error).max()) > 64:
        raise ValueError("an encryption of zero carries no small error: the secret is not the context's")
    return error
