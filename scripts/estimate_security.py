"""Security of the shapes in use, by the lattice-estimator: attacks on the LWE instances that a server sees.

Needs Sage and the estimator, which are no part of glyphc:

    python3.11 -m venv sage                                     # 3.11 or later, apart from glyphc's environment
    sage/bin/pip install passagemath-standard-no-symbolics passagemath-symbolics     # or Debian's package sagemath
    git clone https://github.com/malb/lattice-estimator && git -C lattice-estimator checkout 27a581b
    PYTHONPATH=lattice-estimator sage/bin/python scripts/estimate_security.py        # all shapes: an hour or so
    PYTHONPATH=lattice-estimator sage/bin/python scripts/estimate_security.py 65536,1462,192

A shape is N, log2(QP), and the Hamming weight of a ternary secret, 0 for a uniform ternary one. Errors have deviation
3.19; the attacker may use 2N samples. Printed are log2 of the operations of each attack, with the estimator's defaults
(lattice reduction by MATZOV's model), and the parameters of the attack.

Two of the estimator's functions are replaced by ones with vectors, which compute the same and make dimension 65536
feasible: the Gram-Schmidt lengths of a reduced basis (as logarithms) and the probabilities that follow from them.
"""

from __future__ import annotations

import functools
import sys
import time
from math import log2, pi, sqrt
from typing import SupportsFloat

import numpy as np
import numpy.typing as npt
from estimator import LWE, ND, lwe_primal
from estimator.reduction import delta
from sage.all import log
from scipy.special import betainc, erf

F64 = npt.NDArray[np.float64]
Real = SupportsFloat  # Sage's numbers as well as Python's

# What docs/security.md shows. Attacks on what is not listed are harder: they only gain by a larger modulus, a smaller
# dimension or a sparser secret.
SHAPES = (
    (65536, 1416, 192),  # bootstrapping, inference at degree 27
    (65536, 1462, 192),  # bootstrapping, inference and training: the largest that is allowed
    (65536, 1553, 192),  # what the literature allows
    (65536, 113, 32),  # the encapsulated secret
    (65536, 800, 192),  # weaker than what has no bootstraps, which the estimator cannot see the end of:
    (65536, 500, 192),  # training's linear algebra has at most 264, BGV beside bootstraps 115
    (65536, 115, 0),  # BGV alone: programs without nonlinearities
    (16384, 115, 0),  # the same in a smaller dimension, as the estimator does not go further
    (32768, 881, 0),  # slots, the standard's bounds and ours
    (32768, 864, 0),
    (16384, 438, 0),
    (16384, 430, 0),
)


def lengths(d: int, n: int, q: int, beta: int, xi: Real = 1, tau: Real = 1, dual: bool = False) -> F64:
    """``estimator.simulator.GSA``, as log2 of the squared lengths."""
    volume = float(log(q, 2)) * (d - n - bool(tau)) + float(log(xi, 2)) * n + (float(log(tau, 2)) if tau else 0.0)
    return 2 * ((d - 1 - 2.0 * np.arange(d)) * log2(float(delta(beta))) + volume / d)


def babai(r: F64, norm: Real) -> float:
    """``estimator.prob.babai`` of :func:`lengths`."""
    ratio = 2.0 ** np.minimum(r - 2 * log2(2 * float(norm)), 0.0)
    return float(np.prod(1 - betainc((len(r) - 1) / 2, 0.5, 1 - ratio)))


def mitm(r: F64, stddev: Real, fast: bool = False) -> float:
    """``estimator.prob.mitm_babai_probability`` of :func:`lengths`."""
    x = 2.0 ** np.minimum((r - 1) / 2 - log2(float(stddev)), 100.0)
    return float(np.prod(erf(x) - (1 - np.exp(-(np.minimum(x, 30.0) ** 2))) / (x * sqrt(pi))))


def hasten() -> None:
    lwe_primal.GSA = lengths
    lwe_primal.simulator_normalize = lambda name: lengths
    lwe_primal.prob_babai = babai
    lwe_primal.mitm_babai_probability = mitm
    lwe_primal.PrimalHybrid.beta_params = functools.cache(lwe_primal.PrimalHybrid.beta_params)


ATTACKS = {
    "uSVP": LWE.primal_usvp,
    "hybrid, meet in the middle": functools.partial(LWE.primal_hybrid, mitm=True, babai=True),
    "hybrid": functools.partial(LWE.primal_hybrid, mitm=False, babai=False),
    "dual": LWE.dual,
    "dual hybrid": LWE.dual_hybrid,
}


def instance(n: int, bits: int, weight: int) -> LWE.Parameters:
    secret = ND.SparseTernary(weight // 2, weight - weight // 2, n) if weight else ND.Uniform(-1, 1)
    return LWE.Parameters(n=n, q=2**bits, Xs=secret, Xe=ND.DiscreteGaussian(3.19), m=2 * n)


def main(arguments: list[str]) -> None:
    attacks = [a for a in arguments if a in ATTACKS] or list(ATTACKS)
    given = [tuple(map(int, a.split(","))) for a in arguments if a not in ATTACKS]
    hasten()
    for n, bits, weight in given or SHAPES:
        for name in attacks:
            start = time.process_time()
            try:
                cost = ATTACKS[name](instance(n, bits, weight))
                text = f"2^{float(log(cost['rop'], 2)):.1f} | {cost!r}"
            except (ArithmeticError, ValueError, RuntimeError) as e:
                text = f"not estimated: {e}"
            seconds = time.process_time() - start
            print(f"| {n} | {bits} | {weight or 'uniform'} | {name} | {text} | {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
