"""One configuration of bootstraps on the engine ``kernels``, for ``sweep.py --engine kernels``."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

# Of ``backends/kernels/shape.py``, as they ship and what else to try: baby steps of a level, images that one
# decomposition serves in a trace, and the size up to which a key has one digit.
CHOICES = {"_BABIES": (8, 4, 15), "_TRACE_RADIX": (4, 8), "_LARGEST_DIGIT": (480, 0)}
# Other transforms than those of OpenFHE's sweep: bootstraps of few values have few stages.
BUDGETS = {64: ((2, 2), (1, 1), (3, 3), (2, 1), (3, 2)), 32768: ((5, 5), (4, 4), (4, 5), (3, 3), (4, 3), (5, 4))}
BOOTSTRAPS = 3


def alternatives(slots: int, degree: int) -> list[tuple[int, tuple[int, int], int, int, dict[str, int]]]:
    """What to try for so many slots: other transforms as the rest ships, and other choices one at a time."""
    budgets = BUDGETS.get(slots) or tuple((level, level) for level in (2, 3, 4, 5) if level < slots.bit_length() - 1)
    found = [(slots, budget, 1, degree, {}) for budget in budgets]
    for name, values in CHOICES.items():
        # full packing has no trace
        if slots < 32768 or name != "_TRACE_RADIX":
            found += [(slots, budgets[0], 1, degree, {name: value}) for value in values[1:]]
    return found


def measure(
    slots: int, budget: tuple[int, int], degree: int, choices: Mapping[str, int], ring: int, secure: int
) -> dict[str, Any]:
    """In this process, which must be fresh. Wall and CPU seconds of the fastest of some bootstraps."""
    from glyphc.backends.kernels import shape as shapes

    for name, value in choices.items():
        if not hasattr(shapes, name):
            raise SystemExit(f"backends/kernels/shape.py has no {name}")
        setattr(shapes, name, value)
    from glyphc.analysis.series import fit
    from glyphc.backends.kernels.bootstrap import Bootstrapper
    from glyphc.backends.kernels.client import generate_keys
    from glyphc.backends.kernels.evaluator import Ciphertext, Evaluator
    from glyphc.backends.kernels.keyfiles import key_bytes
    from glyphc.backends.kernels.linear import LinearAlgebra
    from glyphc.backends.kernels.warm import exercise
    from glyphc.ir.parameters import INSECURE, SECURE, Parameters
    from glyphc.ir.series import OUTPUT_BITS, evaluate_series

    parameters = Parameters(
        ring=ring,
        plaintext_bits=27,
        bgv_bits=55,
        slots=slots,
        degree=degree,
        level_budget=budget,
        security=SECURE if ring == secure else INSECURE,
    )
    exercise()
    start = time.perf_counter()
    party = generate_keys(parameters)
    shape = party.server.shape
    evaluator = Evaluator(shape, party.server.basis, party.server.switching)
    bootstrapper = Bootstrapper(evaluator)
    made = time.perf_counter()
    message = np.random.default_rng(0).integers(-(1 << 25), 1 << 25, ring)
    torus = Ciphertext(LinearAlgebra(evaluator, {}, {}).to_torus(party.encrypt(message)), 1.0)
    series = fit(lambda x: np.tanh(8 * x) / 4, degree)
    laps = []
    for _ in range(BOOTSTRAPS):
        wall, cpu = time.perf_counter(), time.process_time()
        powers = bootstrapper.powers(torus, degree)
        middle = time.perf_counter(), time.process_time()
        out = bootstrapper.evaluate(powers, series)
        end = time.perf_counter(), time.process_time()
        laps.append((middle[0] - wall, end[0] - middle[0], middle[1] - cpu, end[1] - middle[1]))
    best = min(laps, key=lambda lap: lap[2] + lap[3])
    grid = ring // (2 * slots)
    values = _phases(party, out.elements)[::grid] * 2.0**OUTPUT_BITS
    errors = values - evaluate_series(series, message[::grid] / parameters.plaintext_modulus)
    return {
        "depth": shape.limbs - 1,
        "modulus": shape.modulus_bits,
        "digits": shape.key_shape(shape.limbs).digits,
        "key bytes": key_bytes(shape),
        "key seconds": made - start,
        "seconds": min(a + b for a, b, _, _ in laps),
        "cpu": best[2] + best[3],
        "halves": best[2:],
        "error": float(np.sqrt(np.mean(errors**2))),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _phases(party: Any, elements: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Decrypted, modulo q0, as parts of it: shape (N,)."""
    from glyphc.backends.kernels.keygen import ternary_values

    basis, lowest = party.server.basis, np.zeros(1, dtype=np.int64)
    secret = ternary_values(basis, party.maker._ternary, lowest)[0]
    q = basis.primes[0]
    products = [int(a) * int(s) for a, s in zip(elements[1, 0], secret, strict=True)]
    x = np.array([[(int(c) + p) % q for c, p in zip(elements[0, 0], products, strict=True)]], dtype=np.float64)
    basis.backward(x, lowest, basis.scaling([0]), x)
    part = x[0] / q
    return np.asarray(part - np.rint(part))
