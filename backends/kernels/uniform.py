"""Uniform residues from a public seed, as doubles: AES-256 in counter mode, by rejection."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numba import njit

from .basis import F64, Basis
from .keyswitch import KeyShape


@njit(nogil=True, error_model="numpy", cache=True)
def _take(words, mask, q, highest, out):  # type: ignore[no-untyped-def]
    """Masked words as residues, minus q above ``highest``; whether all of them are below q. No branches: vectorised."""
    beyond = False
    for i in range(out.shape[0]):
        word = np.int64(words[i] & mask)
        beyond |= word >= q
        residue = np.float64(word)
        out[i] = residue - np.float64(q) if residue > highest else residue
    return not beyond


@njit(nogil=True, error_model="numpy", cache=True)
def _accept(words, mask, q, highest, out, at):  # type: ignore[no-untyped-def]
    """Masked words below q, one after another, into out[at:]; how many places are filled then."""
    for i in range(words.shape[0]):
        if at == out.shape[0]:
            break
        word = np.int64(words[i] & mask)
        if word < q:
            residue = np.float64(word)
            out[at] = residue - np.float64(q) if residue > highest else residue
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
        mask = np.uint64((1 << q.bit_length()) - 1)
        words = self._words(len(out))
        # primes are just below powers of two, so nearly always all words are
        if _take(words, mask, np.int64(q), highest, out):
            return
        at = _accept(words, mask, np.int64(q), highest, out, 0)
        while at < len(out):
            at = _accept(self._words(len(out) - at), mask, np.int64(q), highest, out, at)

    def _words(self, count: int) -> npt.NDArray[np.uint64]:
        return np.frombuffer(self._stream.update(bytes(8 * count)), dtype="<u8")

    def fill(self, basis: Basis, shape: KeyShape, out: F64) -> None:
        """The a of a key, centred: (digits, primes, n)."""
        for digit in out:
            for row, p in zip(digit, shape.primes, strict=True):
                self._draw(basis.primes[p], basis.moduli[p] / 2, row)
