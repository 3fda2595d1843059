"""Residues as bytes: what goes into files and over networks instead of OpenFHE's own serialised objects.

An element of Z_q[X]/(X^N + 1) is written as its N residues, little-endian, each in as many whole bytes as q needs.
Uniform elements need not be written at all: they are expanded from a public seed of 32 bytes (the usual compression of
keys and fresh ciphertexts), by AES-256 in counter mode as the pseudorandom generator.

Readers check that every residue lies below q, so nothing that a stranger sends reaches OpenFHE but numbers in range.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numba import njit

from .ring import U64, _mulhi

SEED_BYTES = 32


class ResidueError(ValueError):
    """Bytes that are not residues of the expected number and range."""


def width(q: int) -> int:
    """Bytes of one residue modulo q."""
    return ((q - 1).bit_length() + 7) // 8


@njit(nogil=True, cache=True)
def _write(residues, size, out):  # type: ignore[no-untyped-def]
    """Little-endian numbers of ``size`` bytes."""
    for i in range(residues.shape[0]):
        for k in range(size):
            out[i * size + k] = np.uint8((residues[i] >> np.uint64(8 * k)) & np.uint64(255))


@njit(nogil=True, cache=True)
def _read(data, size, out):  # type: ignore[no-untyped-def]
    """The inverse; returns the largest."""
    largest = np.uint64(0)
    for i in range(out.shape[0]):
        value = np.uint64(0)
        for k in range(size):
            value |= np.uint64(data[i * size + k]) << np.uint64(8 * k)
        out[i] = value
        largest = max(largest, value)
    return largest


@njit(nogil=True, cache=True)
def _accept(words, limit, q, ratio, out, at):  # type: ignore[no-untyped-def]
    """Words up to the limit modulo q, into out[at:]; how many places are filled then. ratio: floor(2^64 / q)."""
    for i in range(words.shape[0]):
        if words[i] <= limit:
            # the quotient is at most one too small
            r = words[i] - _mulhi(words[i], ratio) * q
            out[at] = min(r, r - q)
            at += 1
    return at


def pack(residues: U64, q: int) -> bytes:
    """Residues below q as ``len(residues) * width(q)`` bytes."""
    out = np.empty(len(residues) * width(q), dtype=np.uint8)
    _write(residues, width(q), out)
    return out.tobytes()


def unpack(data: bytes | memoryview, n: int, q: int) -> U64:
    """The inverse of :func:`pack`; ResidueError for another length, or a residue that is not below q."""
    if len(data) != n * width(q):
        raise ResidueError(f"{len(data)} bytes where {n} residues take {n * width(q)}")
    residues = np.empty(n, dtype=np.uint64)
    if int(_read(np.frombuffer(data, dtype=np.uint8), width(q), residues)) >= q:
        raise ResidueError("a residue is not below its modulus")
    return residues


def unpack_towers(data: bytes, n: int, moduli: tuple[int, ...]) -> Iterator[U64]:
    """Elements that were packed one after another."""
    view, at = memoryview(data), 0
    expected = n * sum(map(width, moduli))
    if len(data) != expected:
        raise ResidueError(f"{len(data)} bytes where {len(moduli)} elements take {expected}")
    for q in moduli:
        end = at + n * width(q)
        yield unpack(view[at:end], n, q)
        at = end


class Uniform:
    """A stream of uniform residues from a public seed. Streams of different names are independent."""

    def __init__(self, seed: bytes, name: str) -> None:
        if len(seed) != SEED_BYTES:
            raise ResidueError(f"a seed has {SEED_BYTES} bytes, not {len(seed)}")
        key = hashlib.sha256(seed + name.encode()).digest()
        self._stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()

    def draw(self, n: int, q: int) -> U64:
        """The next n residues modulo q, by rejection: words beyond the largest multiple of q are skipped."""
        ratio = (1 << 64) // q
        limit, at, out = np.uint64(ratio * q - 1), 0, np.empty(n, dtype=np.uint64)
        while at < n:
            words = np.frombuffer(self._stream.update(bytes(8 * (n - at))), dtype="<u8")
            at = _accept(words, limit, np.uint64(q), np.uint64(ratio), out, at)
        return out
