"""The client's side of stored keys: a fresh secret and its evaluation keys in parts. Never imported by the server.

Keys are made, written and forgotten one after another, so this takes a fraction of the memory of an evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.parameters import Parameters

from ..errors import BackendError
from ..gaussian import gaussian
from .bridge import BridgeError, Mould, ring_in
from .client import ClientKeys, keys_from_secret, ternary_secret
from .contexts import Contexts, bootstrap_automorphisms, make_contexts
from .keymoulds import (
    MULTIPLICATION,
    PUBLIC,
    KeyShape,
    automorphism_mould,
    bgv_automorphisms,
    bgv_mould,
    bgv_part,
    key_shape,
    shapes_of,
    special_mould,
    special_shapes,
    torus_part,
)
from .randomness import require_own
from .residues import Uniform, pack
from .ring import U64, Factor, Ring

I64 = npt.NDArray[np.int64]


@dataclass
class Once:
    """One secret has one set of evaluation keys.

    OpenFHE keeps a secret's key for products: a second set would show its error under another uniform half.
    """

    used: bool = False

    def use(self) -> None:
        """BackendError the second time."""
        if self.used:
            raise BackendError("the evaluation keys of this secret have been made; make a new secret for new ones")
        self.used = True


class KeyMaker:
    """A fresh secret and everything that follows from it."""

    def __init__(self, parameters: Parameters) -> None:
        require_own()
        self._once = Once()
        self._parameters = parameters
        self._contexts: Contexts = make_contexts(parameters)
        torus = self._contexts.torus
        self._torus_secret: Any = None
        if torus is not None:
            self._torus_secret = torus.KeyGen().secretKey
            self.ternary: I64 = ternary_secret(self._torus_secret, self._contexts.torus_rings)
        else:
            pair = self._contexts.bgv.KeyGen()
            self.ternary = ternary_secret(pair.secretKey, (self._contexts.bgv_ring,))
        self.client: ClientKeys = keys_from_secret(parameters, self.ternary)

    def parts(self, seed: bytes) -> Iterator[tuple[str, bytes]]:
        """(name, bytes) of all evaluation keys, in the order of :func:`.keymoulds.part_names`.

        seed: 32 fresh random bytes, which the server is told. BackendError the second time.
        """
        self._once.use()
        n = self._parameters.ring
        yield PUBLIC, fresh_ciphertext(self.client, np.zeros(n, dtype=np.int64), Uniform(seed, PUBLIC))
        yield from self._bgv_parts(seed)
        if self._torus_secret is not None:
            context, moduli = self._contexts.torus, tuple(r.q for r in self._contexts.torus_rings)
            yield from torus_parts(context, self._torus_secret, self.ternary, moduli, self._parameters, seed)

    def _bgv_parts(self, seed: bytes) -> Iterator[tuple[str, bytes]]:
        indices = bgv_automorphisms(self._parameters)
        if not indices:
            return
        require_own()
        mould = bgv_mould(self.client.contexts, self.client.secret_key)
        packer = KeyPacker(self.ternary, mould, (self._contexts.bgv_ring.q,), seed)
        elements = mould.residues()
        for index, shape in zip(indices, shapes_of(mould, len(indices)), strict=True):
            yield bgv_part(index), packer.pack(bgv_part(index), shape, elements, index)


def torus_parts(
    context: Any, secret: Any, ternary: I64, moduli: tuple[int, ...], parameters: Parameters, seed: bytes
) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of a bootstrapping context's keys. ternary: the secret's coefficients; moduli: of the context."""
    require_own()
    context.EvalMultKeyGen(secret)
    mould = Mould.of(context.GetEvalMultKeyVector(secret.GetKeyTag())[0], parameters.ring)
    packer = KeyPacker(ternary, mould, moduli, seed)
    yield MULTIPLICATION, packer.pack(MULTIPLICATION, key_shape(mould.moduli), mould.residues(), 1)
    *rotations, _, _, _ = bootstrap_automorphisms(parameters)
    for index in rotations:
        mould = automorphism_mould(context, secret, index)
        yield torus_part(index), packer.pack(torus_part(index), key_shape(mould.moduli), mould.residues(), index)
    ordinary = len(mould.towers)
    mould = special_mould(context, secret, parameters)
    elements = mould.residues()
    for index, shape in special_shapes(mould, ordinary):
        # 2N-2 leads back to the secret itself
        target = 1 if index == 2 * parameters.ring - 2 else index
        yield torus_part(index), packer.pack(torus_part(index), shape, elements, target)


class KeyPacker:
    """Writes evaluation keys under one secret, with their uniform elements replaced by those of the seed.

    b = -a*s' + e + P*s, s' the secret after an automorphism. b + (a - a')*s' is the b of a' with the same error, so the
    key stays exactly as random as OpenFHE made it.
    """

    def __init__(self, ternary: I64, example: Mould, chain: tuple[int, ...], seed: bytes) -> None:
        self._seed = seed
        self._chain = chain
        self._factors: dict[int, Factor] = {}
        for q in dict.fromkeys(example.moduli):
            ring = ring_in(example.blob, example.n, q)
            self._factors[q] = Factor.of(ring, ring.to_evaluation(ring.reduce(ternary)))

    def pack(self, name: str, shape: KeyShape, elements: Iterator[U64], index: int) -> bytes:
        """The part of the key for the automorphism ``index``; takes as many elements as it has."""
        a = [next(elements) for _ in shape.half]
        b = [next(elements) for _ in shape.half]
        if not shape.seeded:
            return _packed([*a, *b], shape.moduli)
        inverse = pow(index, -1, 2 * len(a[0]))
        secrets = {q: self._factors[q].automorphism(inverse) for q in set(shape.half)}
        stream = Uniform(self._seed, name)
        for j, q in enumerate(shape.half):
            secret = secrets[q]
            ring = secret.ring
            if q not in self._chain:
                _check_error(ring, ring.add(b[j], secret.times(a[j])), name)
            b[j] = ring.add(b[j], secret.times(ring.subtract(a[j], stream.draw(ring.n, q))))
        return _packed(b, shape.half)


def _check_error(ring: Ring, noise: U64, name: str) -> None:
    """P*s vanishes modulo the primes of P, so b + a*s' must be a small error: else s' is not the key's secret."""
    if int(np.abs(ring.centre(ring.to_coefficients(noise))).max()) > ring.q >> 8:
        raise BridgeError(f"{name} is not under the secret that it should be under")


def _packed(elements: Sequence[U64], moduli: Sequence[int]) -> bytes:
    return b"".join(pack(e, q) for e, q in zip(elements, moduli, strict=True))


def fresh_ciphertext(keys: ClientKeys, message: I64, stream: Uniform) -> bytes:
    """A fresh encryption of message integers, shape (N,), centred modulo t: c0 alone; c1 are the next residues of the
    stream.

    As OpenFHE's, c0 + c1*s = m + t*e; the error e is that of :mod:`..gaussian`.
    """
    ring = keys.contexts.bgv_ring
    t = keys.contexts.parameters.plaintext_modulus
    phase = ring.to_evaluation(ring.reduce(message + t * gaussian(ring.n)))
    return pack(ring.subtract(phase, keys.factor.times(stream.draw(ring.n, ring.q))), ring.q)
