"""Every univariate function on 65,536 encrypted values at 128-bit security: its error, beside the predicted one.

    python benchmarks/functions.py [--degree 59] [--output docs/functions.md]

One ciphertext holds evenly spaced phases over the whole usable range; its powers are computed once and shared by all
functions.
Errors are shares of a function's range over the given interval. For functions with jumps, values inside the dead
zones do not count.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np

from glyphc.analysis.cost import CostModel
from glyphc.analysis.security import secured
from glyphc.analysis.series import HALF_RANGE, find_jumps, fit
from glyphc.backends.openfhe.bootstrap import Bootstrapper
from glyphc.backends.openfhe.client import generate_keys
from glyphc.backends.openfhe.linear import LinearEngine
from glyphc.backends.openfhe.switch import Switcher
from glyphc.ir.functions import Function
from glyphc.ir.instructions import Polynomials
from glyphc.ir.noise import bootstrap
from glyphc.ir.parameters import Parameters
from glyphc.ir.series import OUTPUT_BITS, evaluate_series, rms_slope

CASES: list[tuple[str, tuple[float, ...], float, float]] = [
    ("relu", (), -4, 4),
    ("leaky_relu", (0.01,), -4, 4),
    ("elu", (1.0,), -4, 4),
    ("selu", (1.67326324, 1.05070099), -4, 4),
    ("celu", (1.0,), -4, 4),
    ("hard_sigmoid", (0.2, 0.5), -4, 4),
    ("hard_swish", (), -6, 6),
    ("sigmoid", (), -8, 8),
    ("tanh", (), -4, 4),
    ("gelu", (), -5, 5),
    ("gelu_tanh", (), -5, 5),
    ("silu", (), -8, 8),
    ("mish", (), -6, 6),
    ("softplus", (), -6, 6),
    ("softsign", (), -6, 6),
    ("erf", (), -3, 3),
    ("exp", (), -4, 2),
    ("log", (), 0.1, 4),
    ("sqrt", (), 0.05, 4),
    ("reciprocal", (), 0.25, 4),
    ("pow", (3.0,), -2, 2),
    ("sin", (), -math.pi, math.pi),
    ("cos", (), -math.pi, math.pi),
    ("abs", (), -4, 4),
    ("clip", (-1.0, 1.0), -4, 4),
    ("maximum", (0.5,), -4, 4),
    ("thresholded_relu", (1.0,), -4, 4),
    ("sign", (), -4, 4),
    ("greater", (0.5,), -4, 4),
    ("floor", (1.0,), -3.5, 3.5),
    ("round", (1.0,), -3, 3),
]


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--degree", type=int, default=59)
    parser.add_argument("--ring", type=int, default=65536, help="a smaller ring is insecure; for trying the script")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args(given)
    n, secure = arguments.ring, arguments.ring == 65536
    configuration = CostModel().configuration(n // 2)
    parameters = Parameters(
        ring=n,
        plaintext_bits=28,
        bgv_bits=55,
        slots=n // 2,
        degree=arguments.degree,
        level_budget=configuration.level_budget,
        large_digits=configuration.large_digits,
        security="HEStd_128_classic" if secure else "insecure",
    )
    parameters = secured(parameters)
    client, keys = generate_keys(parameters)
    t = parameters.plaintext_modulus
    message = np.rint(np.random.default_rng(0).permutation(np.linspace(-HALF_RANGE, HALF_RANGE, n)) * t).astype(
        np.int64
    )
    phase = message / t
    switcher, bootstrapper = Switcher(keys), Bootstrapper(keys.contexts.torus, keys.contexts.torus_ring, parameters)
    up = Polynomials(np.array([0, 1, 1]), np.zeros(1, dtype=np.int32), np.array([1 << OUTPUT_BITS]))
    linear = LinearEngine(keys, {"up": up})
    start = time.perf_counter()
    powers = bootstrapper.powers(switcher.to_torus(client.encrypt(message), n // 2), parameters.degree)
    shared = time.perf_counter() - start
    head = ("function", "interval", "fit max", "fit rms", "encrypted max", "encrypted rms", "noise", "predicted noise")
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    seconds = []
    for name, values, lo, hi in CASES:
        function = Function(name, values)
        middle, half = (lo + hi) / 2, (hi - lo) / 2
        low, high = (
            float(v)
            for v in np.array([function(np.linspace(lo, hi, 9999)).min(), function(np.linspace(lo, hi, 9999)).max()])
        )

        def scaled(
            x: np.ndarray, f: Function = function, m: float = middle, h: float = half, a: float = low, b: float = high
        ) -> np.ndarray:
            """Phase to phase: the interval onto the usable torus, the function's range onto [-1/4, 1/4]."""
            return (f(m + x / HALF_RANGE * h) - (a + b) / 2) / (b - a) / 2

        series = fit(scaled, parameters.degree)
        start = time.perf_counter()
        result = switcher.from_torus(bootstrapper.evaluate(powers, series))
        seconds.append(time.perf_counter() - start)
        # scaled up again before decryption, which rounds to integers
        got = client.decrypt(linear.dot([result], "up")) / t
        keep = np.ones(n, dtype=bool)
        for jump in find_jumps(scaled, HALF_RANGE):
            keep &= np.abs(phase - jump) >= series.dead_zone
        error = 2 * np.abs(got - scaled(phase))[keep]
        noise = 2 * float((got - evaluate_series(series, phase)).std())
        predicted = 2 * bootstrap(n, rms_slope(series))
        zone = f" (dead zone ±{series.dead_zone / HALF_RANGE * half:.2g})" if series.dead_zone else ""
        figures = (series.max_error, series.rms_error, error.max(), np.sqrt(np.mean(error**2)), noise, predicted)
        cells = [str(function) + zone, f"[{lo:.3g}, {hi:.3g}]", *(f"2^{np.log2(v):.1f}" for v in figures)]
        lines.append("| " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    note = (
        f"{n:,} encrypted values, degree {parameters.degree}, security {parameters.security}. Powers, shared by "
        f"all functions: {shared:.1f} s; "
        f"each function: {np.mean(seconds):.1f} s (2 cores)."
    )
    text = "# Functions\n\nMade by `python benchmarks/functions.py`. Errors are shares of a function's range.\n\n"
    text += note + "\n\n" + "\n".join(lines) + "\n"
    if arguments.output:
        arguments.output.write_text(text)
    print(note)


if __name__ == "__main__":
    main()
