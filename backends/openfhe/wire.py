"""Ciphertexts as bytes: fresh ones with a seed, outputs reduced to what the client needs, live ones as they are.

No secret here; both sides use it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import ceil, log2, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.noise import ROUNDING

from .bridge import CiphertextMould, residues
from .keys import EvaluationKeys
from .library import fhe
from .randomness import require_own
from .residues import ResidueError, Uniform, pack, unpack, unpack_towers, width
from .ring import U64, Ring

I64 = npt.NDArray[np.int64]

# Rounding an output may add this share of the noise that it carries, or of one unit if it carries less.
_ROUNDING_SHARE = 1 / 4
_EXACT_SHARE = 1 / 16


def read_fresh(mould: CiphertextMould, data: bytes, stream: Uniform) -> Any:
    """A fresh ciphertext from its c0 (see :func:`.keygen.fresh_ciphertext`) and the next residues of the stream."""
    n, q = mould.ring.n, mould.ring.q
    elements = [unpack(data, n, q), stream.draw(n, q)]
    return fhe.DeserializeCiphertextString(mould.mould.with_residues(elements), fhe.BINARY)


def fresh_size(ring: Ring) -> int:
    """Bytes of a fresh ciphertext."""
    return ring.n * width(ring.q)


def write_live(mould: CiphertextMould, ciphertext: Any) -> bytes:
    """A BGV ciphertext in the middle of an evaluation, both elements, exactly."""
    q = mould.ring.q
    return b"".join(pack(c, q) for c in residues(ciphertext, mould.ring.n, (q,), 2))


def read_live(mould: CiphertextMould, data: bytes) -> Any:
    """The inverse of :func:`write_live`."""
    elements = list(unpack_towers(data, mould.ring.n, (mould.ring.q,) * 2))
    return fhe.DeserializeCiphertextString(mould.mould.with_residues(elements), fhe.BINARY)


def output_bits(plaintext_bits: int, noise: float) -> int:
    """log2 of the modulus of an output whose message carries noise of this deviation: whole bytes, as few as possible.

    Rounding both elements to the modulus adds noise of its own, which stays a fraction of what is there.
    """
    share = max(noise * _ROUNDING_SHARE, _EXACT_SHARE)
    return 8 * ceil((plaintext_bits + log2(ROUNDING / share)) / 8)


@dataclass(frozen=True)
class Flood:
    """Noise to hide noise: encryptions of zero under the client's public key, and uniform noise on the output.

    deviation: of the added noise, in units of the message.
    """

    deviation: float


def write_output(keys: EvaluationKeys, ciphertext: Any, positions: I64, bits: int, flood: Flood | None = None) -> bytes:
    """An output: c1 modulo 2^bits, and c0 modulo 2^bits at ``positions`` alone; the other messages are unreadable.

    The message moves to the most significant bits on the way, as for a bootstrap (see ``switch``).
    """
    ring = keys.contexts.bgv_ring
    t = keys.contexts.parameters.plaintext_modulus
    if flood is not None:
        ciphertext = _rerandomized(keys, ciphertext)
    c0, c1 = (ring.scale(c, -pow(t, -1, ring.q)) for c in keys.bgv_mould.coefficients(ciphertext))
    c0 = c0[positions]
    if flood is not None:
        bound = max(1, round(flood.deviation * sqrt(3) * ring.q / t))
        noise = Uniform(os.urandom(32), "flood").draw(len(c0), 2 * bound + 1).astype(np.int64) - bound
        c0 = ring.add(c0, ring.reduce(noise))
    return b"".join(pack(_to_power(c, ring, bits), 1 << bits) for c in (c1, c0))


def output_size(ring: Ring, positions: int, bits: int) -> int:
    """Bytes of :func:`write_output`."""
    return (ring.n + positions) * width(1 << bits)


def read_output(mould: CiphertextMould, plaintext_modulus: int, data: bytes, positions: I64, bits: int) -> Any:
    """The BGV ciphertext of an output, zero in c0 where nothing was sent."""
    ring, size = mould.ring, mould.ring.n * width(1 << bits)
    if len(data) != output_size(ring, len(positions), bits):
        raise ResidueError(f"{len(data)} bytes in an output of {len(positions)} values")
    c0 = np.zeros(ring.n, dtype=np.uint64)
    c0[positions] = _from_power(unpack(data[size:], len(positions), 1 << bits), ring, bits)
    c1 = _from_power(unpack(data[:size], ring.n, 1 << bits), ring, bits)
    return mould.cast(*(ring.scale(c, -plaintext_modulus) for c in (c0, c1)))


def _to_power(a: U64, ring: Ring, bits: int) -> U64:
    """round(a * 2^bits / q) modulo 2^bits. Doubles are exact enough: bits is far below their 53."""
    scaled = np.rint(ring.centre(a).astype(np.float64) * (2.0**bits / ring.q)).astype(np.int64)
    return scaled.astype(np.uint64) & np.uint64((1 << bits) - 1)


def _from_power(a: U64, ring: Ring, bits: int) -> U64:
    """round(a * q / 2^bits) modulo q, of centred representatives. Off by a few units of q's last place at most."""
    signed = a.astype(np.int64)
    centred = np.where(signed >> (bits - 1), signed - (1 << bits), signed)
    return ring.reduce(np.rint(centred.astype(np.float64) * (ring.q / 2.0**bits)).astype(np.int64))


def _rerandomized(keys: EvaluationKeys, ciphertext: Any) -> Any:
    """The same message with an encryption of zero under the client's public key added."""
    if keys.bgv_public is None:
        raise ValueError("these keys hold no public key")
    require_own()
    context = keys.contexts.bgv
    public = fhe.DeserializePublicKeyString(keys.bgv_public, fhe.BINARY)
    zero = context.MakeCoefPackedPlaintext(np.zeros(keys.contexts.bgv_ring.n, dtype=np.int64))
    return context.EvalAdd(ciphertext, context.Encrypt(public, zero))
