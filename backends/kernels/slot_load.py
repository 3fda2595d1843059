"""The server's side of stored keys for numbers in slots on the kernels. No secret, and no way to decrypt."""

from __future__ import annotations

from collections.abc import Callable

from glyphc.ir.slot_parameters import SlotParameters

from ..openfhe.slot_load import load_public
from ..openfhe.slot_wire import PUBLIC
from .keyfiles import key_part, load_key
from .slot_machine import KernelsSlotKeys
from .slot_shape import slot_specs


def slot_part_names(parameters: SlotParameters) -> tuple[str, ...]:
    """All parts of a program's evaluation keys, in the order in which they are written and read."""
    return (PUBLIC, *map(key_part, slot_specs(parameters)))


def load_slot_keys(
    parameters: SlotParameters,
    seed: bytes,
    read: Callable[[str], bytes],
    observe: Callable[[str], None] = lambda name: None,
) -> KernelsSlotKeys:
    """Evaluation keys from the parts of :func:`slot_part_names`. ResidueError when one does not hold what it should."""
    context, public, mould, _ = load_public(parameters, seed, read, observe)
    shape, basis = KernelsSlotKeys.basis_of(context)
    switching = {s.name: load_key(basis, s, key_part(s), seed, read, observe) for s in slot_specs(parameters)}
    return KernelsSlotKeys(context, shape, basis, switching, mould, public)
