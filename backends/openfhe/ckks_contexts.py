"""Contexts of a training run: a small one for linear algebra, and the bootstrapping one, under one secret.

Products, sums and automorphisms need a few limbs only. In a context of their own, whose primes are as small as the
precision allows, a key switch takes half the time and its key a tenth of the memory that they take in the bootstrapping
context. A bootstrap's result is brought over by switching its modulus (``rescaling``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod, sqrt
from typing import Any

import numpy as np

from glyphc.ir.parameters import LINEAR_DIGITS, Parameters

from ..errors import BackendError
from .bridge import BridgeError, Mould, rings_of
from .contexts import security_level, setup_bootstrap_in, torus_context
from .library import fhe
from .ring import U64, Ring

F64 = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, eq=False)
class LinearContexts:
    """The context of products and its rings, bottom prime first; no keys."""

    parameters: Parameters
    linear: Any
    linear_rings: tuple[Ring, ...]

    @cached_property
    def scales(self) -> tuple[float, ...]:
        """Of a message on 1, 2, ... limbs: about 2^linear_bits, and such that everything is exact.

        On one limb it is the prime, so that phases are messages; a product of two messages on one limb more has it
        after rescaling.
        """
        found = [float(self.linear_rings[0].q)]
        for ring in self.linear_rings[1:]:
            found.append(sqrt(found[-1] * ring.q))
        return tuple(found)

    @property
    def output(self) -> float:
        """A value v leaves a bootstrap as the phase v / output: then it has this context's scale on its limbs."""
        limbs = self.parameters.decoded_limbs
        return prod(r.q for r in self.linear_rings[:limbs]) / self.scales[limbs - 1]


@dataclass(frozen=True, eq=False)
class TrainingContexts(LinearContexts):
    """Both contexts and their rings, bottom prime first; no keys."""

    torus: Any
    torus_rings: tuple[Ring, ...]


def make_training_contexts(parameters: Parameters) -> TrainingContexts:
    """Generate the contexts; BackendError when OpenFHE refuses the parameters."""
    linear = make_linear_contexts(parameters)
    try:
        torus = torus_context(parameters)
    except RuntimeError as e:
        raise _refused(parameters, e) from None
    return TrainingContexts(parameters, linear.linear, linear.linear_rings, torus, rings_of(torus))


def make_linear_contexts(parameters: Parameters) -> LinearContexts:
    """The context of products alone: what encrypts, decrypts, and multiplies; BackendError as above."""
    try:
        linear = _linear(parameters)
    except RuntimeError as e:
        raise _refused(parameters, e) from None
    return LinearContexts(parameters, linear, rings_of(linear))


def _refused(parameters: Parameters, error: RuntimeError) -> BackendError:
    return BackendError(f"OpenFHE refuses the parameters {parameters}: {error}")


def encrypted_in(contexts: LinearContexts, zero: Any, message: F64, limbs: int) -> Any:
    """An encryption of zero on ``limbs`` limbs with N real numbers added; ValueError as below."""
    mould, towers = with_message(contexts, zero, message, limbs)
    return fhe.DeserializeCiphertextString(mould.with_residues(towers), fhe.BINARY)


def with_message(contexts: LinearContexts, zero: Any, message: F64, limbs: int) -> tuple[Mould, list[U64]]:
    """A ciphertext as a mould, and its towers with N real numbers added.

    ValueError for what the limbs, or 62 bits, do not hold.
    """
    rings = contexts.linear_rings[:limbs]
    mould = Mould.of(zero, contexts.parameters.ring, tuple(r.q for r in rings))
    if len(mould.towers) != 2 * limbs:
        raise BridgeError(f"an encryption of zero on {limbs} limbs has {len(mould.towers)} towers")
    integers = np.rint(np.asarray(message, dtype=np.float64) * contexts.scales[limbs - 1])
    if np.abs(integers).max() >= min(2.0**62, prod(r.q for r in rings) / 2):
        raise ValueError(f"a message of magnitude {np.abs(message).max():.3g} is too large for {limbs} limbs")
    towers = list(mould.residues())
    for at, ring in enumerate(rings):  # c0 + m
        towers[at] = ring.add(towers[at], ring.to_evaluation(ring.reduce(integers.astype(np.int64))))
    return mould, towers


def setup_training_bootstrap(contexts: TrainingContexts, public_key: Any) -> None:
    """Precompute the transforms; values come out so that they have the linear context's scale on its limbs."""
    setup_bootstrap_in(contexts.torus, contexts.parameters, int(contexts.output), public_key)


def _linear(parameters: Parameters) -> Any:
    p = fhe.CCParamsCKKSRNS()
    p.SetSecretKeyDist(fhe.SPARSE_TERNARY)
    p.SetSecurityLevel(security_level(parameters))
    p.SetRingDim(parameters.ring)
    p.SetBatchSize(parameters.ring // 2)
    p.SetScalingTechnique(fhe.FIXEDMANUAL)
    p.SetScalingModSize(parameters.linear_bits)
    p.SetFirstModSize(parameters.linear_bits)
    p.SetKeySwitchTechnique(fhe.HYBRID)
    p.SetNumLargeDigits(LINEAR_DIGITS)
    p.SetMultiplicativeDepth(parameters.linear_limbs - 1)
    context = fhe.GenCryptoContext(p)
    for feature in (fhe.PKE, fhe.KEYSWITCH, fhe.LEVELEDSHE):
        context.Enable(feature)
    return context
