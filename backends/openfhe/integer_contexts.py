"""The BFV contexts of a program on integers in slots, one for each plaintext prime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from glyphc.ir.integer_parameters import PRIME_BITS, IntegerParameters

from ..errors import BackendError
from .bridge import rings_of
from .library import fhe
from .ring import Ring

# Multiplications that OpenFHE's parameter generation is asked for, one after another: how many primes it makes of one
# follows from its own bound, which knows nothing of ours.
_DEPTHS = range(24)


@dataclass(frozen=True, eq=False)
class IntegerContexts:
    """parameters, and a context for each of their plaintext primes, with the rings of its modulus chain; no keys."""

    parameters: IntegerParameters
    contexts: tuple[Any, ...]
    rings: tuple[tuple[Ring, ...], ...]


def make_integer_contexts(parameters: IntegerParameters) -> IntegerContexts:
    """Generate them; OpenFHE checks their security. BackendError when it refuses, or has other moduli."""
    contexts = tuple(_context(parameters, t) for t in parameters.moduli)
    return IntegerContexts(parameters, contexts, tuple(map(rings_of, contexts)))


def _context(parameters: IntegerParameters, plaintext_modulus: int) -> Any:
    found = 0
    for depth in _DEPTHS:
        context = _made(parameters, plaintext_modulus, depth)
        found = len(rings_of(context))
        if found == parameters.limbs:
            for feature in (fhe.PKE, fhe.KEYSWITCH, fhe.LEVELEDSHE):
                context.Enable(feature)
            return context
        if found > parameters.limbs:
            break
    raise BackendError(f"this OpenFHE makes {found} primes where {parameters.limbs} were planned for")


def _made(parameters: IntegerParameters, plaintext_modulus: int, depth: int) -> Any:
    p = fhe.CCParamsBFVRNS()
    p.SetSecretKeyDist(fhe.UNIFORM_TERNARY)
    p.SetSecurityLevel(getattr(fhe, parameters.security) if parameters.secure else fhe.HEStd_NotSet)
    p.SetRingDim(parameters.ring)
    p.SetPlaintextModulus(plaintext_modulus)
    p.SetScalingModSize(PRIME_BITS)
    p.SetMultiplicativeDepth(depth)
    # digits of a prime each, no auxiliary modulus
    p.SetKeySwitchTechnique(fhe.BV)
    # the leveled variant drops limbs that its own bound takes for noise: products by constants are not in it
    p.SetMultiplicationTechnique(fhe.HPSPOVERQ)
    try:
        return fhe.GenCryptoContext(p)
    except RuntimeError as e:
        raise BackendError(f"OpenFHE refuses the parameters {parameters}: {e}") from None
