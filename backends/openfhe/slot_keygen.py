"""The client's side of a slot program's stored keys: a fresh secret, its keys in parts. Never imported by servers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.slot_parameters import SlotParameters

from .bridge import BridgeError, Mould
from .client import ternary_secret
from .keygen import KeyPacker, Once
from .keymoulds import key_shape
from .library import fhe
from .randomness import require_own
from .residues import Uniform
from .ring import Factor
from .slot_client import F64, SlotClient
from .slot_contexts import SlotContext, make_slot_context
from .slot_wire import MULTIPLICATION, PUBLIC, SlotMoulds, pack_towers, uniform_towers

I64 = npt.NDArray[np.int64]


class SlotKeyMaker:
    """A fresh secret and everything that follows from it."""

    def __init__(self, parameters: SlotParameters) -> None:
        require_own()
        self._once = Once()
        context = make_slot_context(parameters)
        secret = context.context.KeyGen().secretKey
        self.ternary: I64 = ternary_secret(secret, context.rings)
        self.account = SlotAccount(SlotClient(context, secret), self.ternary)

    @property
    def modulus(self) -> int:
        """What tells installations apart that choose other primes."""
        return self.account.client.context.rings[-1].q

    def public(self, seed: bytes) -> bytes:
        """The part ``slot_wire.PUBLIC``. seed: 32 fresh random bytes, public. BackendError the second time."""
        require_own()
        self._once.use()
        return self.account.fresh(np.zeros(self.account.client.context.parameters.slots), Uniform(seed, PUBLIC))

    def parts(self, seed: bytes) -> Iterator[tuple[str, bytes]]:
        """(name, bytes) of all keys, in the order of ``slot_wire.PARTS``. seed: as of :meth:`public`."""
        client = self.account.client
        context, p = client.context, client.context.parameters
        yield PUBLIC, self.public(seed)
        context.context.EvalMultKeyGen(client.secret)
        mould = Mould.of(context.context.GetEvalMultKeyVector(client.secret.GetKeyTag())[0], p.ring)
        packer = KeyPacker(self.ternary, mould, context.moduli, seed)
        yield MULTIPLICATION, packer.pack(MULTIPLICATION, key_shape(mould.moduli), mould.residues(), 1)


class SlotAccount:
    """A client that writes fresh ciphertexts with a seed and reads outputs."""

    def __init__(self, client: SlotClient, ternary: I64) -> None:
        self.client = client
        self._ternary = ternary

    @cached_property
    def moulds(self) -> SlotMoulds:
        return SlotMoulds(self.client.context, self.client.encrypt(np.zeros(self.client.context.parameters.slots)))

    @cached_property
    def _factors(self) -> tuple[Factor, ...]:
        rings = self.client.context.rings
        return tuple(Factor.of(r, r.to_evaluation(r.reduce(self._ternary))) for r in rings)

    def fresh(self, message: F64, stream: Uniform) -> bytes:
        """A fresh encryption of numbers, shape (slots,): its first element; the other one are the stream's residues.

        OpenFHE encrypts; c0 + (c1 - c1')s keeps message and error.
        """
        context = self.client.context
        towers = self.moulds.towers(self.client.encrypt(message))
        limbs = len(context.rings)
        moved = []
        for factor, c0, c1, other in zip(
            self._factors, towers[:limbs], towers[limbs:], uniform_towers(context, stream), strict=True
        ):
            moved.append(factor.ring.add(c0, factor.times(factor.ring.subtract(c1, other))))
        return pack_towers(context, moved)

    def output(self, data: bytes) -> F64:
        """The numbers of an output, shape (slots,); ResidueError when the bytes are none."""
        return self.client.decrypt(self.moulds.read(data, 1))


def account_from_secret(parameters: SlotParameters, ternary: I64) -> SlotAccount:
    """A client from a secret that was stored."""
    context = make_slot_context(parameters)
    return SlotAccount(SlotClient(context, _secret(context, ternary)), ternary)


def _secret(context: SlotContext, ternary: I64) -> Any:
    mould = Mould.of(context.context.KeyGen().secretKey, context.parameters.ring, context.moduli)
    if mould.moduli != context.moduli:
        raise BridgeError(f"a secret on {len(context.rings)} limbs has {len(mould.towers)} towers")
    towers = [ring.to_evaluation(ring.reduce(ternary)) for ring in context.rings]
    return fhe.DeserializePrivateKeyString(mould.with_residues(towers), fhe.BINARY)
