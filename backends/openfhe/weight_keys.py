"""The client's side of encrypted weights. Holds the secret; never imported by the server's modules.

A weight polynomial w is encrypted the way of GSW, with the gadget of hybrid key switching (one digit, and the auxiliary
modulus P): as the key-switching keys from w to the secret s, and from w*s to s. These are encryptions of P*w and P*w*s
modulo Q*P. A product with them is an external product: what it makes of its operand is what a product with the
plaintext w would, so it is right for bootstrapped operands too, whose error is no multiple of t; and it adds the noise
of two key switches. That P*w*s is encrypted under s assumes nothing circular: (b, a) is an encryption of it exactly if
(b, a - P*w) is one of zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.instructions import EncryptedMap, Polynomials

from .bridge import Mould
from .client import ClientKeys
from .keygen import KeyPacker, fresh_ciphertext
from .keymoulds import BIAS, WEIGHT_KEYS, key_shape, weight_part
from .keys import WeightKeys
from .library import fhe
from .randomness import require_own
from .residues import Uniform

I64 = npt.NDArray[np.int64]


def encrypt_weights(
    keys: ClientKeys,
    encrypted: Sequence[EncryptedMap],
    secret: Mapping[str, Polynomials],
    observe: Callable[[str], None] = lambda name: None,
) -> dict[str, WeightKeys]:
    """All encrypted weights as OpenFHE's objects; ``observe`` is told the map's name for each polynomial."""
    maker = _Maker(keys)
    found = {}
    for each in encrypted:
        products = []
        for row in range(each.products):
            first, second = maker.keys(_row(each, secret, row, keys))
            products.append((first, second))
            observe(each.name)
        bias = keys.encrypt(_row(each, secret, each.products, keys)) if each.bias else None
        found[each.name] = WeightKeys(tuple(products), bias)
    return found


def weight_parts(
    keys: ClientKeys,
    ternary: I64,
    encrypted: Sequence[EncryptedMap],
    secret: Mapping[str, Polynomials],
    seed: bytes,
) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of all encrypted weights, in the order of :func:`.keymoulds.part_names`.

    ternary: the secret, shape (N,); seed: that of the evaluation keys.
    """
    maker = _Maker(keys)
    packer = None
    for number, each in enumerate(encrypted):
        for row in range(each.products):
            for what, key in zip(WEIGHT_KEYS, maker.keys(_row(each, secret, row, keys)), strict=True):
                mould = Mould.of(key, keys.contexts.bgv_ring.n)
                packer = packer or KeyPacker(ternary, mould, (keys.contexts.bgv_ring.q,), seed)
                name = weight_part(number, row, what)
                yield name, packer.pack(name, key_shape(mould.moduli), mould.residues(), 1)
        if each.bias:
            name = weight_part(number, each.products, BIAS)
            yield name, fresh_ciphertext(keys, _row(each, secret, each.products, keys), Uniform(seed, name))


def _row(each: EncryptedMap, secret: Mapping[str, Polynomials], row: int, keys: ClientKeys) -> I64:
    polynomials = secret[each.name]
    if len(polynomials) != each.products + each.bias:
        raise ValueError(f"{len(polynomials)} polynomials where {each.name} has {each.products + each.bias}")
    return polynomials.dense(row, keys.contexts.bgv_ring.n)


class _Maker:
    """Makes OpenFHE's key-switching keys "from" a polynomial, which it takes for an old secret."""

    def __init__(self, keys: ClientKeys) -> None:
        self._keys = keys
        ring = keys.contexts.bgv_ring
        self._mould = Mould.of(keys.secret_key, ring.n, (ring.q,))

    def keys(self, weight: I64) -> Iterator[Any]:
        """The two keys of a weight polynomial of signed integers, shape (N,)."""
        require_own()
        ring = self._keys.contexts.bgv_ring
        tower = ring.to_evaluation(ring.reduce(weight))
        for element in (tower, self._keys.factor.times(tower)):
            old = fhe.DeserializePrivateKeyString(self._mould.with_residues([element]), fhe.BINARY)
            yield self._keys.contexts.bgv.KeySwitchGen(old, self._keys.secret_key)
