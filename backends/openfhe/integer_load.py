"""The server's side of the stored keys of a program on integers. No secret, and no way to decrypt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from glyphc.ir.integer_parameters import IntegerParameters

from .bridge import Mould
from .integer_contexts import IntegerContexts, make_integer_contexts
from .integer_wire import (
    IntegerMoulds,
    automorphism_part,
    multiplication_part,
    public_part,
    uniform_towers,
    unpack_towers,
)
from .keymoulds import automorphism_mould, cast_map, key_shape, reindexed
from .library import fhe
from .load import insert_multiplication, multiplication_mould
from .residues import Uniform


@dataclass(frozen=True, eq=False)
class IntegerKeys:
    """Contexts whose evaluation keys lie in OpenFHE's tables. ciphertexts: any, one of each context; publics: the
    client's public keys."""

    contexts: IntegerContexts
    ciphertexts: tuple[Any, ...]
    publics: tuple[Any, ...]

    @cached_property
    def moulds(self) -> IntegerMoulds:
        """What makes ciphertexts of bytes."""
        return IntegerMoulds(self.contexts, self.ciphertexts)


def load_integer_keys(
    parameters: IntegerParameters,
    seed: bytes,
    read: Callable[[str], bytes],
    observe: Callable[[str], None] = lambda name: None,
) -> IntegerKeys:
    """Evaluation keys from the parts of ``integer_wire.part_names``. ResidueError where one is wrong.

    The key pairs made here are thrown away: they give OpenFHE's objects their form, and their tags name the client's.
    """
    made = make_integer_contexts(parameters)
    ciphertexts, publics = [], []
    for at, (context, rings) in enumerate(zip(made.contexts, made.rings, strict=True)):
        pair = context.KeyGen()
        tag = pair.publicKey.GetKeyTag()
        ciphertexts.append(context.Encrypt(pair.publicKey, context.MakePackedPlaintext([0])))
        name = public_part(at)
        form = Mould.of(pair.publicKey, parameters.ring, tuple(ring.q for ring in rings))
        towers = [*unpack_towers(read(name), rings), *uniform_towers(rings, Uniform(seed, name))]
        publics.append(fhe.DeserializePublicKeyString(form.with_residues(towers), fhe.BINARY))
        observe(name)
        if parameters.products:
            name = multiplication_part(at)
            key = multiplication_mould(context, parameters.ring)
            elements = key_shape(key.moduli).decode(name, read(name), parameters.ring, seed)
            insert_multiplication(context, key, elements, tag)
            observe(name)
        if not parameters.key_automorphisms:
            continue
        ordinary = automorphism_mould(context, pair.secretKey, parameters.key_automorphisms[0])
        shape = key_shape(ordinary.moduli)
        for index in parameters.key_automorphisms:
            name = automorphism_part(at, index)
            elements = shape.decode(name, read(name), parameters.ring, seed)
            context.InsertEvalAutomorphismKey(cast_map(reindexed(ordinary, index), elements), tag)
            observe(name)
    return IntegerKeys(made, tuple(ciphertexts), tuple(publics))
