"""The server's side of stored keys: evaluation keys from their parts. No secret, and no way to decrypt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from glyphc.ir.instructions import EncryptedMap
from glyphc.ir.parameters import Parameters

from .bridge import CiphertextMould, Mould
from .contexts import Contexts, bootstrap_automorphisms, make_contexts, setup_bootstrap
from .keymoulds import (
    BIAS,
    MULTIPLICATION,
    PUBLIC,
    WEIGHT_KEYS,
    automorphism_mould,
    bgv_automorphisms,
    bgv_mould,
    bgv_part,
    cast_map,
    key_shape,
    reindexed,
    shapes_of,
    special_mould,
    special_shapes,
    torus_part,
    weight_part,
)
from .keys import EvaluationKeys, WeightKeys
from .library import fhe
from .residues import Uniform, unpack
from .ring import U64
from .wire import read_fresh

Read = Callable[[str], bytes]


def load_keys(
    parameters: Parameters,
    seed: bytes,
    read: Read,
    observe: Callable[[str], None] = lambda name: None,
    encrypted: Sequence[EncryptedMap] = (),
) -> EvaluationKeys:
    """Evaluation keys from the parts of :func:`.keymoulds.part_names`, which ``read`` returns one after another.

    The key pairs made here are thrown away: they give OpenFHE's objects their form, and their tags a name for the
    client's keys in OpenFHE's tables. ResidueError when a part does not hold what it should; ``observe`` is told each
    part when it is done.
    """
    contexts = make_contexts(parameters)
    n = parameters.ring
    bgv, mould, rerandomizer = _bgv_forms(contexts, seed, read, observe)
    automorphisms = None
    indices = bgv_automorphisms(parameters)
    if indices:
        keys = bgv_mould(contexts, bgv.secretKey)
        towers = []
        for index, shape in zip(indices, shapes_of(keys, len(indices)), strict=True):
            towers += shape.decode(bgv_part(index), read(bgv_part(index)), n, seed)
            observe(bgv_part(index))
        automorphisms = cast_map(keys, towers)
    public_key = None
    if contexts.torus is not None:
        public_key = load_torus(
            contexts.torus, parameters, lambda key: setup_bootstrap(contexts, key), seed, read, observe
        )
    weights = _load_weights(contexts, bgv.secretKey, mould, encrypted, seed, read, observe)
    return EvaluationKeys(contexts, public_key, automorphisms, mould, rerandomizer, weights)


def load_bgv(
    parameters: Parameters, seed: bytes, read: Read, observe: Callable[[str], None] = lambda name: None
) -> EvaluationKeys:
    """The BGV context alone, with the client's public key: what reading inputs and writing outputs takes.

    ResidueError when the part of the public key does not hold what it should.
    """
    contexts = make_contexts(parameters, bootstraps=False)
    _, mould, rerandomizer = _bgv_forms(contexts, seed, read, observe)
    return EvaluationKeys(contexts, None, None, mould, rerandomizer)


def _bgv_forms(
    contexts: Contexts, seed: bytes, read: Read, observe: Callable[[str], None]
) -> tuple[Any, CiphertextMould, bytes]:
    """A throw-away key pair, the mould of ciphertexts, and the client's public key."""
    n, q = contexts.bgv_ring.n, contexts.bgv_ring.q
    bgv = contexts.bgv.KeyGen()
    mould = CiphertextMould.of(contexts.bgv.Encrypt(bgv.publicKey, _zero(contexts.bgv, n)), contexts.bgv_ring)
    public = Mould.of(bgv.publicKey, n, (q,)).with_residues(
        [unpack(read(PUBLIC), n, q), Uniform(seed, PUBLIC).draw(n, q)]
    )
    observe(PUBLIC)
    return bgv, mould, public


def _load_weights(
    contexts: Contexts,
    throwaway: Any,
    mould: CiphertextMould,
    encrypted: Sequence[EncryptedMap],
    seed: bytes,
    read: Read,
    observe: Callable[[str], None],
) -> dict[str, WeightKeys]:
    """Encrypted weights from their parts. throwaway: a private key, to make the mould of a key-switching key."""
    if not encrypted:
        return {}
    n = mould.ring.n
    form = Mould.of(contexts.bgv.KeySwitchGen(throwaway, throwaway), n)
    shape = key_shape(form.moduli)

    def key(name: str) -> Any:
        towers = shape.decode(name, read(name), n, seed)
        observe(name)
        return fhe.DeserializeEvalKeyString(form.with_residues(towers), fhe.BINARY)

    found = {}
    for number, each in enumerate(encrypted):
        products = []
        for row in range(each.products):
            first, second = (key(weight_part(number, row, what)) for what in WEIGHT_KEYS)
            products.append((first, second))
        bias = None
        if each.bias:
            name = weight_part(number, each.products, BIAS)
            bias = read_fresh(mould, read(name), Uniform(seed, name))
            observe(name)
        found[each.name] = WeightKeys(tuple(products), bias)
    return found


def load_torus(
    context: Any,
    parameters: Parameters,
    setup: Callable[[Any], None],
    seed: bytes,
    read: Read,
    observe: Callable[[str], None],
) -> Any:
    """Load a bootstrapping context's keys into OpenFHE's tables; returns the public key that they are filed under.

    setup: precomputes the transforms. This first empties OpenFHE's table of automorphism keys.
    """
    pair = context.KeyGen()
    public_key, tag = pair.publicKey, pair.publicKey.GetKeyTag()
    # moulds first: making one empties OpenFHE's tables
    special = special_mould(context, pair.secretKey, parameters)
    *rotations, _, _, _ = bootstrap_automorphisms(parameters)
    ordinary = automorphism_mould(context, pair.secretKey, rotations[0])
    multiplication = multiplication_mould(context, parameters.ring)
    setup(public_key)
    shape = key_shape(multiplication.moduli)
    towers = shape.decode(MULTIPLICATION, read(MULTIPLICATION), parameters.ring, seed)
    insert_multiplication(context, multiplication, towers, tag)
    observe(MULTIPLICATION)
    shape = key_shape(ordinary.moduli)
    for index in rotations:
        towers = shape.decode(torus_part(index), read(torus_part(index)), parameters.ring, seed)
        context.InsertEvalAutomorphismKey(cast_map(reindexed(ordinary, index), towers), tag)
        observe(torus_part(index))
    towers = []
    for index, shape in special_shapes(special, len(ordinary.towers)):
        towers += shape.decode(torus_part(index), read(torus_part(index)), parameters.ring, seed)
        observe(torus_part(index))
    context.InsertEvalAutomorphismKey(cast_map(special, towers), tag)
    return public_key


def multiplication_mould(context: Any, n: int) -> Mould:
    """A key for products of ciphertexts.

    Of a key pair of its own: OpenFHE keeps this key for good, and refuses a second one of the same tag.
    """
    other = context.KeyGen()
    context.EvalMultKeyGen(other.secretKey)
    return Mould.of(context.GetEvalMultKeyVector(other.publicKey.GetKeyTag())[0], n)


def insert_multiplication(context: Any, mould: Mould, towers: list[U64], tag: str) -> None:
    """File a key for products with these elements under a tag."""
    context.InsertEvalMultKey([fhe.DeserializeEvalKeyString(mould.with_residues(towers), fhe.BINARY)], tag)


def _zero(context: object, n: int) -> object:
    return context.MakeCoefPackedPlaintext(np.zeros(n, dtype=np.int64))  # type: ignore[attr-defined]
