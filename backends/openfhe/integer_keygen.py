"""The client's side of the stored keys of a program on integers: one secret for all contexts.

Never imported by the server's modules.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.integer_parameters import IntegerParameters

from .bridge import BridgeError, Mould
from .client import ternary_secret
from .integer_client import IntegerClient
from .integer_contexts import IntegerContexts, make_integer_contexts
from .integer_wire import (
    IntegerMoulds,
    automorphism_part,
    multiplication_part,
    pack_towers,
    part_names,
    public_part,
    uniform_towers,
)
from .keygen import KeyPacker, Once
from .keymoulds import automorphism_mould, key_shape
from .library import fhe
from .randomness import require_own
from .residues import Uniform
from .ring import Factor

I64 = npt.NDArray[np.int64]


class IntegerKeyMaker:
    """A fresh secret and everything that follows from it."""

    def __init__(self, parameters: IntegerParameters) -> None:
        require_own()
        self._once = Once()
        contexts = make_integer_contexts(parameters)
        self.ternary: I64 = ternary_secret(contexts.contexts[0].KeyGen().secretKey, contexts.rings[0])
        self.account = IntegerAccount(_client(contexts, self.ternary), self.ternary)

    @property
    def modulus(self) -> int:
        """What tells installations apart that choose other primes."""
        return self.account.client.contexts.rings[-1][-1].q

    def names(self) -> tuple[str, ...]:
        """Of all parts."""
        return part_names(self.account.client.contexts.parameters)

    def parts(self, seed: bytes) -> Iterator[tuple[str, bytes]]:
        """(name, bytes) of all keys, as ``integer_wire.part_names`` has them. seed: 32 fresh random bytes, public."""
        require_own()
        self._once.use()
        client = self.account.client
        p = client.contexts.parameters
        zero = np.zeros(p.slots, dtype=np.int64)
        for at, (context, rings) in enumerate(zip(client.contexts.contexts, client.contexts.rings, strict=True)):
            name = public_part(at)
            yield name, self.account.first_elements(zero, at, Uniform(seed, name))
            moduli, secret = tuple(ring.q for ring in rings), client.secrets[at]
            if p.products:
                context.EvalMultKeyGen(secret)
                mould = Mould.of(context.GetEvalMultKeyVector(secret.GetKeyTag())[0], p.ring)
                packer = KeyPacker(self.ternary, mould, moduli, seed)
                name = multiplication_part(at)
                yield name, packer.pack(name, key_shape(mould.moduli), mould.residues(), 1)
            for index in p.key_automorphisms:
                mould = automorphism_mould(context, secret, index)
                packer = KeyPacker(self.ternary, mould, moduli, seed)
                name = automorphism_part(at, index)
                yield name, packer.pack(name, key_shape(mould.moduli), mould.residues(), index)


class IntegerAccount:
    """A client that writes fresh ciphertexts with a seed and reads others."""

    def __init__(self, client: IntegerClient, ternary: I64) -> None:
        self.client = client
        self._ternary = ternary

    @cached_property
    def moulds(self) -> IntegerMoulds:
        zero = np.zeros(self.client.contexts.parameters.slots, dtype=np.int64)
        return IntegerMoulds(self.client.contexts, self.client.encrypt(zero))

    @cached_property
    def _factors(self) -> tuple[tuple[Factor, ...], ...]:
        return tuple(
            tuple(Factor.of(r, r.to_evaluation(r.reduce(self._ternary))) for r in rings)
            for rings in self.client.contexts.rings
        )

    def fresh(self, message: I64, stream: Uniform) -> bytes:
        """Fresh encryptions of integers, shape (slots,): first elements; the others are the stream's residues.

        OpenFHE encrypts; c0 + (c1 - c1')s keeps message and error.
        """
        ciphertexts = self.client.encrypt(message)
        return b"".join(self._moved(ciphertexts[at], at, stream) for at in range(len(ciphertexts)))

    def first_elements(self, message: I64, at: int, stream: Uniform) -> bytes:
        """The same in one context."""
        return self._moved(self.client.encrypt(message)[at], at, stream)

    def _moved(self, ciphertext: Any, at: int, stream: Uniform) -> bytes:
        rings = self.client.contexts.rings[at]
        towers = self.moulds.towers(at, ciphertext)
        moved = []
        for factor, c0, c1, other in zip(
            self._factors[at], towers[: len(rings)], towers[len(rings) :], uniform_towers(rings, stream), strict=True
        ):
            moved.append(factor.ring.add(c0, factor.times(factor.ring.subtract(c1, other))))
        return pack_towers(moved)

    def integers(self, data: bytes) -> I64:
        """What ciphertexts hold, shape (slots,); ResidueError when the bytes are none."""
        return self.client.decrypt(self.moulds.read(data))


def account_from_secret(parameters: IntegerParameters, ternary: I64) -> IntegerAccount:
    """A client from a secret that was stored."""
    return IntegerAccount(_client(make_integer_contexts(parameters), ternary), ternary)


def _client(contexts: IntegerContexts, ternary: I64) -> IntegerClient:
    """One secret in every context."""
    secrets = []
    for context, rings in zip(contexts.contexts, contexts.rings, strict=True):
        mould = Mould.of(context.KeyGen().secretKey, contexts.parameters.ring, tuple(ring.q for ring in rings))
        if len(mould.towers) != len(rings):
            raise BridgeError(f"a secret on {len(rings)} limbs has {len(mould.towers)} towers")
        towers = [ring.to_evaluation(ring.reduce(ternary)) for ring in rings]
        secrets.append(fhe.DeserializePrivateKeyString(mould.with_residues(towers), fhe.BINARY))
    return IntegerClient(contexts, tuple(secrets))
