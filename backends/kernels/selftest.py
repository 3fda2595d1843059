"""Whether the kernels can be trusted on this processor: decided in milliseconds, before they compute anything."""

from __future__ import annotations

import llvmlite.binding as llvm
import numpy as np
from numba import njit

from .arithmetic import product, reduce

# The largest prime that is used and one of another size.
_PRIMES = (281474976317441, 1099510054913)


@njit(error_model="numpy", cache=True)
def _products(a, w, q, inverse, out):  # type: ignore[no-untyped-def]
    for i in range(a.shape[0]):
        out[i] = reduce(product(a[i], w[i], q, inverse), q, inverse)


def processor_problem() -> str | None:
    """What the processor lacks, in a sentence; None when it has all. Compiles nothing."""
    features = llvm.get_host_cpu_features()
    if not (features.get("fma") and features.get("avx2")) and not features.get("neon"):
        return "the kernels need a processor with fused multiply-add and AVX2; use --engine openfhe"
    return None


def problem() -> str | None:
    """Why the kernels cannot be used here, in a sentence; None when they can."""
    lacking = processor_problem()
    if lacking is not None:
        return lacking
    for q in _PRIMES:
        a = np.array([0, 1, q - 1, q - 1, q // 2, q // 2 + 1, 3, q - 2], dtype=np.float64)
        w = np.array([q - 1, q - 1, q - 1, 2, q // 2, q // 2, q // 3, q - 2], dtype=np.float64)
        out = np.empty_like(a)
        _products(a, w, float(q), 1.0 / q, out)
        wanted = [int(x) * int(y) % q for x, y in zip(a, w, strict=True)]
        if [int(r) % q for r in out] != wanted:
            return "products of the kernels are not exact on this machine; use --engine openfhe"
    return None
