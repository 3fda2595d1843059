"""Bounds on moduli for 128-bit security, and parameters that keep to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import inf

from glyphc.errors import GlyphcError
from glyphc.ir.integer_parameters import ProgramParameters
from glyphc.ir.parameters import MAX_LOG_QP_SPARSE as LARGEST_SPARSE
from glyphc.ir.parameters import MAX_LOG_QP_UNIFORM, Parameters
from glyphc.ir.word_parameters import WordParameters

# Largest log2(QP) for 128-bit classical security by ring dimension, for the sparse secret that bootstraps use.
MAX_LOG_QP_SPARSE = {65536: LARGEST_SPARSE}

# Of programs in slots, with uniform ternary secrets.
MAX_LOG_QP_SLOTS = MAX_LOG_QP_UNIFORM

# Small rings that tests may ask for by name.
INSECURE_RINGS = (1024, 2048, 4096, 8192, 16384)

# Of the ring that gates are bootstrapped in (Albrecht and others, "Homomorphic Encryption Standard", 2018, table 1).
MAX_LOG_Q_GATES = {1024: 27}

# Digits of key switching: more need a smaller auxiliary modulus, but larger keys and more time.
MOST_DIGITS = 15
# Evaluation keys of bootstraps may take this much, so that a run stays below 16 GB.
_MOST_KEY_BYTES = 12.5e9
# How many there are, by levels of both transforms: the most over all numbers of slots from 64 to 32768. They are
# OpenFHE's rotations and four more (``backends.openfhe.contexts.bootstrap_automorphisms``); a test counts them again.
MOST_KEYS = {(5, 5): 49, (5, 4): 62, (4, 5): 62, (4, 4): 81, (3, 3): 67, (3, 4): 72, (2, 2): 132}


def check_insecure_ring(ring: int | None, name: str = "insecure_ring") -> None:
    """GlyphcError for a ring that is none of those that may be asked for; name: of the option."""
    if ring is not None and ring not in INSECURE_RINGS:
        raise GlyphcError(f"{name} must be one of {', '.join(map(str, INSECURE_RINGS))}, not {ring}")


def largest_modulus(ring: int) -> int:
    """The bound in bits for the secret of bootstraps; 0 for rings that 128-bit security is not known for."""
    return MAX_LOG_QP_SPARSE.get(ring, 0)


def modulus_limit(parameters: ProgramParameters) -> int:
    """The bound for these parameters' ring and secret; 0 for rings without an estimate.

    The secret that bootstraps use is sparse, all others are uniform ternary, that of a program without nonlinearities
    included: at N = 65536 it gets the bound of the sparse one, which is the harder one to keep.
    """
    if isinstance(parameters, WordParameters):
        return MAX_LOG_Q_GATES.get(parameters.ring, 0)
    if isinstance(parameters, Parameters) and parameters.slots:
        return largest_modulus(parameters.ring)
    return (MAX_LOG_QP_SLOTS | MAX_LOG_QP_SPARSE).get(parameters.ring, 0)


def modulus_bits(parameters: ProgramParameters) -> float:
    """log2 of the largest modulus of a key: where bootstraps look tables up, of the kernels, which alone do that, and
    infinite where they do not take the parameters."""
    if isinstance(parameters, Parameters) and parameters.table_bits:
        from glyphc.backends.kernels.shape import EngineShape, levels_problem  # loads compiled code

        shape = EngineShape(parameters)
        return shape.modulus_bits if levels_problem(shape) is None else inf
    return parameters.modulus_bits


def is_secure(parameters: Parameters) -> bool:
    """Whether the moduli keep to the bound."""
    return modulus_bits(parameters) <= modulus_limit(parameters)


def more_digits(parameters: Parameters) -> Iterator[Parameters]:
    """These parameters with as many digits as they have, and more, whose keys fit into memory."""
    if parameters.table_bits:
        yield parameters  # the kernels choose the digits of each key
        return
    keys = MOST_KEYS.get(parameters.level_budget, max(MOST_KEYS.values()))
    for digits in range(parameters.large_digits, MOST_DIGITS + 1):
        found = replace(parameters, large_digits=digits)
        if found.digits_divide and keys * found.torus_key_bytes <= _MOST_KEY_BYTES:
            yield found


def secured(parameters: Parameters) -> Parameters:
    """Parameters with as many digits in key switching, and as few levels of transforms, as 128-bit security asks for.

    Where no number of digits is enough, or their keys would be too large, the transforms get fewer levels, which makes
    them slower. When nothing is enough, or the ring is an insecure one that was asked for, they are returned as they
    are.
    """
    if not parameters.secure:
        return parameters
    encode, decode = parameters.level_budget
    smaller = [b for b in MOST_KEYS if b[0] <= encode and b[1] <= decode and b != parameters.level_budget]
    for budget in (parameters.level_budget, *smaller):
        for found in more_digits(replace(parameters, level_budget=budget)):
            if is_secure(found):
                return found
    return parameters
