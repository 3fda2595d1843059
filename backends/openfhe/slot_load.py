"""The server's side of a slot program's stored keys. No secret, and no way to decrypt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from glyphc.ir.slot_parameters import SlotParameters

from .bridge import Mould
from .keymoulds import key_shape
from .library import fhe
from .load import insert_multiplication, multiplication_mould
from .residues import Uniform
from .slot_contexts import SlotContext, make_slot_context
from .slot_evaluator import SlotKeys
from .slot_wire import MULTIPLICATION, PUBLIC, uniform_towers, unpack_towers


def load_slot_keys(
    parameters: SlotParameters,
    seed: bytes,
    read: Callable[[str], bytes],
    observe: Callable[[str], None] = lambda name: None,
) -> SlotKeys:
    """Evaluation keys from the parts of ``slot_wire.PARTS``. ResidueError when one does not hold what it should."""
    context, public, mould, tag = load_public(parameters, seed, read, observe)
    key = multiplication_mould(context.context, parameters.ring)
    elements = key_shape(key.moduli).decode(MULTIPLICATION, read(MULTIPLICATION), parameters.ring, seed)
    insert_multiplication(context.context, key, elements, tag)
    observe(MULTIPLICATION)
    return SlotKeys(context, tag, mould, public)


def load_public(
    parameters: SlotParameters, seed: bytes, read: Callable[[str], bytes], observe: Callable[[str], None]
) -> tuple[SlotContext, Any, Any, str]:
    """A context, the client's public key in it, a fresh ciphertext of nothing, and a tag for more of the client's keys.

    The key pair made here is thrown away: it gives OpenFHE's objects their form, and its tag names the client's keys.
    """
    context = make_slot_context(parameters)
    pair = context.context.KeyGen()
    tag = pair.publicKey.GetKeyTag()
    zero = context.context.MakeCKKSPackedPlaintext(np.zeros(parameters.slots), 1, 0, None, parameters.slots)
    mould = context.context.Encrypt(pair.publicKey, zero)
    towers = unpack_towers(context, read(PUBLIC), parameters.limbs)
    form = Mould.of(pair.publicKey, parameters.ring, context.moduli)
    blob = form.with_residues([*towers, *uniform_towers(context, Uniform(seed, PUBLIC))])
    public: Any = fhe.DeserializePublicKeyString(blob, fhe.BINARY)
    observe(PUBLIC)
    return context, public, mould, tag
