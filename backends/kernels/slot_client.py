"""A client's keys for numbers in slots on the kernels. Holds the secret; never imported by the server's modules."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from glyphc.ir.slot_parameters import SlotParameters

from ..gaussian import gaussian
from ..openfhe.slot_client import SlotClient
from ..openfhe.slot_keygen import SlotKeyMaker
from ..openfhe.slot_wire import PUBLIC
from .basis import Basis
from .keyfiles import key_part, pack_key
from .keygen import KeyMaker
from .slot_load import slot_part_names
from .slot_machine import KernelsSlotKeys
from .slot_shape import slot_specs

I64 = npt.NDArray[np.int64]


class KernelsSlotKeyMaker:
    """A fresh secret and everything that follows from it. BackendError for what the kernels refuse."""

    def __init__(self, parameters: SlotParameters) -> None:
        self._maker = SlotKeyMaker(parameters)
        self._parameters = parameters
        _, self._basis = KernelsSlotKeys.basis_of(self._maker.account.client.context)

    @property
    def ternary(self) -> I64:
        return self._maker.ternary

    @property
    def modulus(self) -> int:
        return self._maker.modulus

    def names(self) -> Sequence[str]:
        """Of all parts."""
        return slot_part_names(self._parameters)

    def parts(self, seed: bytes) -> Iterator[tuple[str, bytes]]:
        """(name, bytes) of all keys. seed: 32 fresh random bytes, public. BackendError the second time."""
        yield PUBLIC, self._maker.public(seed)
        maker = _maker(self._basis, self.ternary)
        for spec in slot_specs(self._parameters):
            yield key_part(spec), pack_key(self._basis, maker.make(spec, seed))


def generate_slot_keys(parameters: SlotParameters) -> tuple[SlotClient, KernelsSlotKeys]:
    """Fresh keys: the secret for the client, the rest for the server. BackendError when OpenFHE refuses, or the
    kernels do."""
    own = SlotKeyMaker(parameters)
    client = own.account.client
    shape, basis = KernelsSlotKeys.basis_of(client.context)
    maker, seed = _maker(basis, own.ternary), os.urandom(32)
    switching = {spec.name: maker.make(spec, seed) for spec in slot_specs(parameters)}
    zero = client.encrypt(np.zeros(parameters.slots))
    return client, KernelsSlotKeys(client.context, shape, basis, switching, zero)


def _maker(basis: Basis, ternary: I64) -> KeyMaker:
    return KeyMaker(basis, ternary, lambda: gaussian(basis.n))
