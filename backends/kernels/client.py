"""The client's side for a run in one process: a fresh secret from OpenFHE, and keys of the kernels' shapes from it.

Never imported by the server's modules.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.parameters import Parameters

from ..openfhe.bridge import CiphertextMould, residues, rings_of
from ..openfhe.client import ClientKeys, keys_from_secret, ternary_secret
from ..openfhe.library import fhe
from .keygen import KeyMaker
from .keys import ServerKeys, make_basis
from .shape import EngineShape, check_security

I64 = npt.NDArray[np.int64]


def generate_keys(parameters: Parameters) -> tuple[ClientKeys, ServerKeys, CiphertextMould]:
    """Fresh keys: the secret for the client, everything else for the server; and the form of BGV ciphertexts."""
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
    return client, ServerKeys(shape, basis, switching), mould


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
