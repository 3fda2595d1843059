"""The training client's fresh ciphertexts and stored secret. Never imported by the server's modules."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from glyphc.ir.parameters import Parameters

from .bridge import Mould, ring_in
from .ckks_client import TrainingClient, client_from_bytes
from .ckks_contexts import make_training_contexts
from .residues import Uniform, pack
from .ring import Factor
from .training_wire import mould_of

F64 = np.ndarray[Any, np.dtype[np.float64]]


class FreshCiphertexts:
    """Encrypts to bytes: c0 alone, c1 being the next residues of a stream from a public seed."""

    def __init__(self, client: TrainingClient, ring: int) -> None:
        self._client = client
        self._ring = ring

    def write(self, message: F64, limbs: int, stream: Uniform) -> bytes:
        """An encryption of N real numbers; ValueError when they are too large.

        OpenFHE encrypts; moving from its uniform c1 to the stream's by c0 + (c1 - c1')*s keeps message and error.
        """
        mould = mould_of(self._client.encrypt(message, limbs), self._ring, limbs)
        towers = list(mould.residues())
        out = []
        for c0, c1, q in zip(towers[:limbs], towers[limbs:], mould.moduli[:limbs], strict=True):
            secret = self._factors[q]
            ring = secret.ring
            out.append(pack(ring.add(c0, secret.times(ring.subtract(c1, stream.draw(ring.n, q)))), q))
        return b"".join(out)

    @cached_property
    def _factors(self) -> dict[int, Factor]:
        """The secret modulo each prime."""
        mould = Mould.of(self._client.secret, self._ring)
        both = zip(mould.residues(), mould.moduli, strict=True)
        return {q: Factor.of(ring_in(mould.blob, self._ring, q), tower) for tower, q in both}


def stored_client(parameters: Parameters, secret: bytes) -> TrainingClient:
    """The client of a stored secret (``TrainingClient.secret_bytes``): it encrypts and decrypts, without keys.

    BackendError when the secret is not one of these parameters, or OpenFHE refuses them.
    """
    return client_from_bytes(make_training_contexts(parameters), secret)
