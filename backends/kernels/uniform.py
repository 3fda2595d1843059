"""Uniform residues from a public seed, as doubles: AES-256 in counter mode, by rejection."""

from __future__ import annotations

import hashlib

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numba import njit

from .basis import F64, Basis
from .keyswitch import KeyShape

_BLOCK = 512


@njit(nogil=True, error_model="numpy", cache=True)
def _accept(words, mask, q, highest, out, at):  # type: ignore[no-untyped-def]
    """Masked words below q, one after another, into out[at:]; how many places are filled then.

    Nearly all words are below q: blocks in which all are take no branches. Residues above ``highest`` lose q.
    """
    whole = np.float64(q)
    for start in range(0, words.shape[0], _BLOCK):
        size = min(_BLOCK, words.shape[0] - start)
        w = words[start : start + size]
        beyond = False
        for i in range(size):
            beyond |= np.int64(w[i] & mask) >= q
        if not beyond and at + size <= out.shape[0]:
            o = out[at : at + size]
            for i in range(size):
                residue = np.float64(np.int64(w[i] & mask))
                o[i] = residue - whole if residue > highest else residue
            at += size
            continue
        for i in range(size):
            if at == out.shape[0]:
                break
            word = np.int64(w[i] & mask)
            if word < q:
                residue = np.float64(word)
                out[at] = residue - whole if residue > highest else residue
                at += 1
    return at


class UniformRows:
    """A stream of uniform elements. Streams of different names are independent."""

    def __init__(self, seed: bytes, name: str) -> None:
        key = hashlib.sha256(b"kernels" + seed + name.encode()).digest()
        self._stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()

    def row(self, n: int, q: int) -> F64:
        """The next n residues modulo q, canonical."""
        out = np.empty(n)
        self._draw(q, float(q), out)
        return out

    def _draw(self, q: int, highest: float, out: F64) -> None:
        """Residues above ``highest`` are taken minus q."""
        mask, at = np.uint64((1 << q.bit_length()) - 1), 0
        while at < len(out):
            words = np.frombuffer(self._stream.update(bytes(8 * (len(out) - at))), dtype="<u8")
            at = _accept(words, mask, np.int64(q), highest, out, at)

    def fill(self, basis: Basis, shape: KeyShape, out: F64) -> None:
        """The a of a key, centred: (digits, primes, n)."""
        for digit in out:
            for row, p in zip(digit, shape.primes, strict=True):
                self._draw(basis.primes[p], basis.moduli[p] / 2, row)
