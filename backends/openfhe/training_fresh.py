"""The training client's keys, fresh ciphertexts and stored secret. Never imported by the server's modules.

Keys are made, written and forgotten one after another, so this takes a fraction of the memory of training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from glyphc.ir.parameters import Parameters

from .bridge import Mould, ring_in
from .ckks_client import TrainingClient, client_from_bytes, client_of
from .ckks_contexts import make_linear_contexts, make_training_contexts, with_message
from .ckks_linear import automorphisms_of
from .client import ternary_secret
from .keygen import KeyPacker, Once, torus_parts
from .keymoulds import automorphism_mould, key_shape
from .randomness import require_own
from .residues import Uniform, pack
from .ring import Factor
from .training_load import LINEAR_MULTIPLICATION, linear_part, training_part_names

F64 = np.ndarray[Any, np.dtype[np.float64]]
I64 = np.ndarray[Any, np.dtype[np.int64]]


class TrainingKeyMaker:
    """A fresh secret and the evaluation keys that follow from it, for bootstraps on OpenFHE."""

    def __init__(self, parameters: Parameters, periods: Sequence[int]) -> None:
        require_own()
        contexts = make_training_contexts(parameters)
        self._once = Once()
        self._contexts = contexts
        self._periods = tuple(periods)
        self._torus_secret = contexts.torus.KeyGen().secretKey
        self._ternary = ternary_secret(self._torus_secret, contexts.torus_rings)
        self.client = client_of(contexts, self._ternary)

    def names(self) -> tuple[str, ...]:
        """Of all parts."""
        return training_part_names(self._contexts.parameters, self._periods)

    def parts(self, seed: bytes) -> Iterator[tuple[str, bytes]]:
        """(name, bytes) of all keys, in the order of :meth:`names`.

        seed: 32 fresh random bytes, public. BackendError the second time.
        """
        self._once.use()
        contexts = self._contexts
        moduli = tuple(r.q for r in contexts.torus_rings)
        yield from torus_parts(contexts.torus, self._torus_secret, self._ternary, moduli, contexts.parameters, seed)
        yield from linear_parts(self.client, self._ternary, self._periods, seed)


def linear_parts(
    client: TrainingClient, ternary: I64, periods: Sequence[int], seed: bytes
) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of the linear context's keys. ternary: the client's secret, shape (N,)."""
    contexts, ring = client.contexts, client.contexts.parameters.ring
    linear, secret = contexts.linear, client.secret
    linear.EvalMultKeyGen(secret)
    mould = Mould.of(linear.GetEvalMultKeyVector(secret.GetKeyTag())[0], ring)
    packer = KeyPacker(ternary, mould, tuple(r.q for r in contexts.linear_rings), seed)
    name = LINEAR_MULTIPLICATION
    yield name, packer.pack(name, key_shape(mould.moduli), mould.residues(), 1)
    for index in automorphisms_of(ring, periods):
        mould, name = automorphism_mould(linear, secret, index), linear_part(index)
        yield name, packer.pack(name, key_shape(mould.moduli), mould.residues(), index)


class FreshCiphertexts:
    """Encrypts to bytes: c0 alone, c1 being the next residues of a stream from a public seed."""

    def __init__(self, client: TrainingClient, ring: int) -> None:
        self._client = client
        self._ring = ring

    def write(self, message: F64, limbs: int, stream: Uniform) -> bytes:
        """An encryption of N real numbers; ValueError when they are too large.

        OpenFHE encrypts; moving from its uniform c1 to the stream's by c0 + (c1 - c1')*s keeps message and error.
        """
        mould, towers = with_message(self._client.contexts, self._client.zero(limbs), message, limbs)
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
    return client_from_bytes(make_linear_contexts(parameters), secret)
