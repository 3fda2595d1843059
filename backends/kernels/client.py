"""The client's side for a run in one process: a fresh secret from OpenFHE, and keys of the kernels' shapes from it.

Never imported by the server's modules.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.instructions import EncryptedMap, Polynomials
from glyphc.ir.parameters import Parameters

from ..gaussian import gaussian
from ..openfhe.bridge import CiphertextMould, rings_of
from ..openfhe.client import ClientKeys, keys_from_secret, ternary_secret
from ..openfhe.contexts import make_contexts
from ..openfhe.keygen import Once, fresh_ciphertext
from ..openfhe.keymoulds import BIAS, PUBLIC, weight_part
from ..openfhe.library import fhe
from ..openfhe.randomness import require_own
from ..openfhe.residues import Uniform
from .exchange import Exchange
from .fresh import Encryptor
from .keyfiles import key_part, pack_key, part_names, weight_specs
from .keygen import KeyMaker
from .keys import ServerKeys, WeightKeys, make_basis
from .linear import Sum
from .shape import EngineShape, check_shape

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Party:
    """One client's keys: encrypt makes a sum of message integers, shape (N,); client decrypts; maker makes more keys;
    server is for the other side."""

    encrypt: Encryptor
    client: ClientKeys
    maker: KeyMaker
    server: ServerKeys
    exchange: Exchange
    seed: bytes

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
        for number, each in enumerate(encrypted):
            products = []
            for row in range(each.products):
                specs = weight_specs(self.server.shape, number, row)
                products.append(self.maker.weight_keys(specs, secret[each.name].dense(row, n), self.seed))
                observe(each.name)
            bias = self.encrypt(secret[each.name].dense(each.products, n)) if each.bias else None
            found[each.name] = WeightKeys(tuple(products), bias)
        return replace(self, server=replace(self.server, weights=found))


def generate_keys(parameters: Parameters) -> Party:
    """Fresh keys: the secret for the client, everything else for the server."""
    shape = EngineShape(parameters)
    check_shape(shape)
    ternary = fresh_secret(parameters)
    client = keys_from_secret(parameters, ternary)
    basis = make_basis(shape)
    seed = os.urandom(32)
    maker = KeyMaker(basis, ternary, lambda: gaussian(shape.n))
    switching = dict(maker.keys(shape, seed))
    zero = client.encrypt(np.zeros(parameters.ring, dtype=np.int64))
    mould = CiphertextMould.of(zero, client.contexts.bgv_ring)
    exchange = Exchange(shape, basis, mould)
    return Party(Encryptor(shape, basis, ternary), client, maker, ServerKeys(shape, basis, switching), exchange, seed)


class FileMaker:
    """A fresh secret, shape (N,), and the evaluation keys that follow from it, as parts of a file."""

    def __init__(
        self, parameters: Parameters, encrypted: Sequence[EncryptedMap], weights: Mapping[str, Polynomials]
    ) -> None:
        """weights: those that are encrypted along with the keys (``Schedule.secret``). BackendError for a shape that
        128 bits of security do not allow."""
        require_own()
        self._shape = EngineShape(parameters)
        check_shape(self._shape)
        self._once = Once()
        self._encrypted, self._weights = encrypted, weights
        self.ternary: I64 = fresh_secret(parameters)
        self._client = keys_from_secret(parameters, self.ternary)

    @property
    def modulus(self) -> int:
        return self._client.contexts.bgv_ring.q

    def names(self) -> Sequence[str]:
        """Of all parts."""
        return part_names(self._shape.parameters, self._encrypted)

    def parts(self, seed: bytes) -> Iterator[tuple[str, bytes]]:
        """(name, bytes) of all parts, one key after another; seed: 32 fresh random bytes, public.

        BackendError the second time.
        """
        self._once.use()
        n = self._shape.n
        yield PUBLIC, fresh_ciphertext(self._client, np.zeros(n, dtype=np.int64), Uniform(seed, PUBLIC))
        basis = make_basis(self._shape)
        maker = KeyMaker(basis, self.ternary, lambda: gaussian(n))
        for spec in self._shape.specs():
            yield key_part(spec), pack_key(basis, maker.make(spec, seed))
        for number, each in enumerate(self._encrypted):
            rows = self._weights[each.name]
            for row in range(each.products):
                specs = weight_specs(self._shape, number, row)
                for spec, key in zip(specs, maker.weight_keys(specs, rows.dense(row, n), seed), strict=True):
                    yield spec.name, pack_key(basis, key)
            if each.bias:
                name = weight_part(number, each.products, BIAS)
                yield name, fresh_ciphertext(self._client, rows.dense(each.products, n), Uniform(seed, name))


def fresh_secret(parameters: Parameters) -> I64:
    """A ternary secret of OpenFHE's, shape (N,): the sparse one of bootstraps, or without any a uniform one.

    Sparse ones come from a context of the same ring with one level.
    """
    require_own()
    if not parameters.slots:
        contexts = make_contexts(parameters, bootstraps=False)
        return ternary_secret(contexts.bgv.KeyGen().secretKey, (contexts.bgv_ring,))
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
