"""Errors of keys and ciphertexts: the discrete Gaussian distribution, from the operating system's randomness.

Each polynomial takes 32 fresh bytes of the system's, which AES-256 in counter mode expands: nothing is kept that forks
or threads could share. Numbers are found by inversion (Peikert 2010, section 4.1): every word is compared with all
thresholds of a table that is exact to 2^-63, so time and memory access do not depend on what is drawn.

Client-only: whoever knows an error knows the secret.
"""

from __future__ import annotations

import os
from decimal import Decimal, localcontext
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numba import njit

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

# The standard deviation of the Homomorphic Encryption Standard, and of OpenFHE: 8/sqrt(2 pi), rounded.
DEVIATION = Decimal("3.19")
# One bit of a word is the sign, the others decide on the size.
SIZE_BITS = 63
_BLOCK = 1024


@lru_cache(maxsize=1)
def thresholds() -> I64:
    """2^63 P(|e| <= k), rounded, for k = 0, 1, ... as long as that is below 2^63."""
    with localcontext() as context:
        context.prec = 60
        weights = [(-Decimal(k * k) / (2 * DEVIATION * DEVIATION)).exp() * (2 if k else 1) for k in range(64)]
        whole, total, found = sum(weights), Decimal(0), []
        for weight in weights:
            total += weight
            found.append(int((total / whole * (1 << SIZE_BITS)).to_integral_value()))
    return np.array([t for t in found if t < 1 << SIZE_BITS], dtype=np.int64)


@njit(nogil=True, error_model="numpy", cache=True)
def _invert(words, thresholds, out):  # type: ignore[no-untyped-def]
    """out = as many thresholds as a word's upper bits reach, with the sign of its lowest bit."""
    upper, count = np.empty(_BLOCK, dtype=np.int64), np.empty(_BLOCK, dtype=np.int64)
    for start in range(0, out.shape[0], _BLOCK):
        size = min(_BLOCK, out.shape[0] - start)
        w, o = words[start : start + size], out[start : start + size]
        for i in range(size):
            upper[i] = np.int64(w[i] >> np.uint64(1))
            count[i] = 0
        for k in range(thresholds.shape[0]):
            t = thresholds[k]
            for i in range(size):
                count[i] += np.int64(upper[i] >= t)
        for i in range(size):
            o[i] = count[i] * (1 - 2 * np.int64(w[i] & np.uint64(1)))


def gaussian(n: int) -> I64:
    """A fresh error polynomial, shape (n,)."""
    stream = Cipher(algorithms.AES256(os.urandom(32)), modes.CTR(bytes(16))).encryptor()
    out = np.empty(n, dtype=np.int64)
    _invert(np.frombuffer(stream.update(bytes(8 * n)), dtype=np.uint64), thresholds(), out)
    return out
