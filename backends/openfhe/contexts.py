"""OpenFHE contexts from a program's parameters: one for BGV, one for bootstraps, for one shared secret.

OpenFHE itself checks the 128-bit security of both when it generates them; an insecure ring is used only when the
parameters say so by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from glyphc.ir.parameters import Parameters
from glyphc.ir.series import OUTPUT_BITS

from ..errors import BackendError
from .bridge import rings_of
from .library import fhe
from .ring import Ring

# OpenFHE wants the input precision of a look-up table; any value above 4 selects the general series evaluation.
DIGIT_BITS = 8
_ORDER = 1


@dataclass(frozen=True, eq=False)
class Contexts:
    """Both contexts and their rings; no keys. torus is None for programs without a bootstrap."""

    parameters: Parameters
    bgv: Any
    bgv_ring: Ring
    torus: Any | None
    torus_rings: tuple[Ring, ...]

    @property
    def torus_ring(self) -> Ring:
        """The ring of the lowest modulus, where bootstraps begin and end."""
        return self.torus_rings[0]


def make_contexts(parameters: Parameters, bootstraps: bool = True) -> Contexts:
    """Generate the contexts; BackendError when OpenFHE refuses the parameters.

    bootstraps: False leaves the bootstrapping context out: encryption and decryption do without.
    """
    try:
        bgv = _bgv(parameters)
        torus = torus_context(parameters) if parameters.slots and bootstraps else None
    except RuntimeError as e:
        raise BackendError(f"OpenFHE refuses the parameters {parameters}: {e}") from None
    (bgv_ring,) = rings_of(bgv)
    if (bgv_ring.q - 1) % parameters.plaintext_modulus:
        raise BackendError("the BGV modulus is not 1 modulo t; scheme switches would scale messages")
    return Contexts(parameters, bgv, bgv_ring, torus, rings_of(torus) if torus is not None else ())


def placeholder_series(degree: int) -> list[complex]:
    """Coefficients whose number tells OpenFHE a series' degree. None is zero: it would skip powers that others need."""
    return [1 + 1j] * (degree + 1)


def setup_bootstrap(contexts: Contexts, public_key: Any) -> None:
    """Precompute the transforms of the bootstrap (OpenFHE's ``EvalFBTSetup``). Needs no secret; once per context."""
    setup_bootstrap_in(contexts.torus, contexts.parameters, 1 << OUTPUT_BITS, public_key)


def setup_bootstrap_in(context: Any, p: Parameters, output: int, public_key: Any) -> None:
    """As :func:`setup_bootstrap`, in any context of such parameters: a value v comes out at v/output of the modulus."""
    context.EvalFBTSetup(
        placeholder_series(p.degree),
        p.slots,
        1 << DIGIT_BITS,
        output,
        1 << p.scaling_bits,
        public_key,
        [0, 0],
        list(p.level_budget),
        p.levels_kept,
        p.slot_levels,
        _ORDER,
    )


@lru_cache(maxsize=4)
def bootstrap_automorphisms(parameters: Parameters) -> tuple[int, ...]:
    """Indices of the automorphism keys that a bootstrap needs, in ascending order; the last three are OpenFHE's own.

    These are 2N-4 and 2N-2 (into the sparse secret of the modulus raise and back) and 2N-1 (conjugation). OpenFHE lists
    indices only by making keys, so keys are made in a context with the same ring and almost no levels. The first time,
    this empties OpenFHE's table of automorphism keys.
    """
    if not parameters.slots:
        return ()
    p = fhe.CCParamsCKKSRNS()
    p.SetSecretKeyDist(fhe.SPARSE_ENCAPSULATED)
    p.SetSecurityLevel(fhe.HEStd_NotSet)  # nothing is ever encrypted in it
    p.SetRingDim(parameters.ring)
    p.SetBatchSize(parameters.ring // 2)
    p.SetScalingTechnique(fhe.FIXEDMANUAL)
    p.SetScalingModSize(30)
    p.SetFirstModSize(40)
    p.SetKeySwitchTechnique(fhe.HYBRID)
    p.SetNumLargeDigits(1)
    p.SetMultiplicativeDepth(1)
    context = fhe.GenCryptoContext(p)
    _enable(context)
    list_rotations(context, parameters)
    pair = context.KeyGen()
    context.EvalBootstrapKeyGen(pair.secretKey, parameters.slots)
    indices = tuple(sorted(context.GetExistingEvalAutomorphismKeyIndices(pair.publicKey.GetKeyTag())))
    context.ClearEvalAutomorphismKeys()
    return indices


def list_rotations(context: Any, parameters: Parameters) -> None:
    """Tell a context how bootstraps cut their transforms, without precomputing these (for key generation)."""
    context.EvalBootstrapSetup(list(parameters.level_budget), [0, 0], parameters.slots, 0, False)


def _enable(context: Any) -> None:
    for feature in (fhe.PKE, fhe.KEYSWITCH, fhe.LEVELEDSHE, fhe.ADVANCEDSHE, fhe.FHE):
        context.Enable(feature)


def security_level(parameters: Parameters) -> Any:
    """OpenFHE's name for it."""
    return getattr(fhe, parameters.security) if parameters.secure else fhe.HEStd_NotSet


def _bgv(parameters: Parameters) -> Any:
    """A BGV context on one limb, Q = 1 (mod t), of at least the wanted size.

    OpenFHE sizes the limb by the additions it is told to expect, so that number is raised until the limb is large
    enough.
    """
    for doublings in range(40):
        p = fhe.CCParamsBGVRNS()
        p.SetPlaintextModulus(parameters.plaintext_modulus)
        p.SetMultiplicativeDepth(0)
        p.SetScalingTechnique(fhe.FIXEDAUTO)  # the technique that makes Q = 1 (mod t)
        p.SetRingDim(parameters.ring)
        p.SetSecurityLevel(security_level(parameters))
        p.SetEvalAddCount(1 << doublings)
        context = fhe.GenCryptoContext(p)
        if context.GetModulus() >= 2.0**parameters.bgv_bits:
            break
    for feature in (fhe.PKE, fhe.KEYSWITCH, fhe.LEVELEDSHE):
        context.Enable(feature)
    return context


def torus_context(parameters: Parameters) -> Any:
    """The bootstrapping context; RuntimeError (of OpenFHE) or BackendError when the parameters do not go."""
    p = fhe.CCParamsCKKSRNS()
    p.SetSecretKeyDist(fhe.SPARSE_ENCAPSULATED)
    p.SetSecurityLevel(security_level(parameters))
    p.SetRingDim(parameters.ring)
    p.SetBatchSize(parameters.ring // 2)
    p.SetScalingTechnique(fhe.FIXEDMANUAL)
    p.SetScalingModSize(parameters.scaling_bits)
    p.SetFirstModSize(parameters.scaling_bits)
    p.SetKeySwitchTechnique(fhe.HYBRID)
    p.SetNumLargeDigits(parameters.large_digits)
    depth = fhe.CryptoContext.GetFBTDepth(
        list(parameters.level_budget),
        placeholder_series(parameters.degree),
        1 << DIGIT_BITS,
        _ORDER,
        fhe.SPARSE_ENCAPSULATED,
    )
    depth += parameters.levels_kept + parameters.slot_levels
    if depth != parameters.depth:
        raise BackendError(
            f"this OpenFHE needs {depth} levels for degree {parameters.degree}, planned {parameters.depth}"
        )
    p.SetMultiplicativeDepth(depth)
    context = fhe.GenCryptoContext(p)
    _enable(context)
    return context
