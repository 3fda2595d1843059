"""Where a packed bootstrap's time goes on the engine ``kernels``: seconds by phase, and by kernel.

    python benchmarks/kernel_profile.py [--slots 32768] [--degree 13] [--mask] [--transforms 5+5] [--laps 3]

Wall seconds of the fastest lap and CPU seconds of that lap, threads together. A small ring is NOT SECURE.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from glyphc.analysis.series import fit
from glyphc.backends.kernels.bootstrap import Bootstrapper
from glyphc.backends.kernels.client import generate_keys
from glyphc.backends.kernels.evaluator import Ciphertext, Evaluator
from glyphc.backends.kernels.linear import LinearAlgebra
from glyphc.backends.kernels.linear_transform import LevelTransform
from glyphc.backends.kernels.polynomials import Powers
from glyphc.backends.kernels.warm import exercise
from glyphc.ir.masks import Mask
from glyphc.ir.parameters import INSECURE, SECURE, Parameters

# Modules that run kernels over threads, under the name that they import.
MODULES = ("basis", "conversion", "evaluator", "keyswitch", "linear", "linear_transform", "masks")
# Phases: class, method, and what it is.
PHASES = (
    (Bootstrapper, "raised", "modulus raise"),
    (Evaluator, "rotated_sum", "trace"),
    (LevelTransform, "__call__", "transforms"),
    (Powers, "__init__", "powers"),
    (Powers, "evaluate", "series and exponential"),
    (Powers, "masked", "masked series"),
    (Evaluator, "automorphism", "conjugations"),
)
Times = dict[str, tuple[float, float, int]]


def timed(function: Callable[..., Any], name: Callable[..., str], found: Times) -> Callable[..., Any]:
    """The function, which adds its wall and CPU seconds to those of its name."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        result = function(*arguments, **options)
        key = name(*arguments)
        seconds = found[key]
        found[key] = (seconds[0] + time.perf_counter() - wall, seconds[1] + time.process_time() - cpu, seconds[2] + 1)
        return result

    return wrapped


def instrumented() -> tuple[Times, Times]:
    """Tables that fill while bootstraps run: by kernel and by phase."""
    kernels: Times = defaultdict(lambda: (0.0, 0.0, 0))
    phases: Times = defaultdict(lambda: (0.0, 0.0, 0))
    for each in MODULES:
        module: Any = importlib.import_module(f"glyphc.backends.kernels.{each}")
        module.run = timed(module.run, lambda kernel, *rest: kernel.py_func.__name__, kernels)
    for owner, method, name in PHASES:
        setattr(owner, method, timed(getattr(owner, method), lambda *rest, name=name: name, phases))
    return kernels, phases


def table(title: str, found: Times, wall: float, cpu: float) -> str:
    rows = sorted(found.items(), key=lambda item: -item[1][1])
    lines = [f"| {title} | calls | wall s | CPU s |", "| --- | --- | --- | --- |"]
    lines += [f"| {name} | {count} | {w:.3f} | {c:.3f} |" for name, (w, c, count) in rows]
    return "\n".join([*lines, f"| whole bootstrap | 1 | {wall:.3f} | {cpu:.3f} |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--slots", type=int, default=32768)
    parser.add_argument("--degree", type=int, default=13)
    parser.add_argument("--transforms", default="5+5", metavar="E+D")
    parser.add_argument("--ring", type=int, default=65536, help="a smaller ring, to try the script. NOT SECURE")
    parser.add_argument("--laps", type=int, default=3)
    parser.add_argument("--mask", action="store_true", help="keep every second coefficient and clear the others")
    arguments = parser.parse_args()
    encode, decode = map(int, arguments.transforms.split("+"))
    parameters = Parameters(
        ring=arguments.ring,
        plaintext_bits=27,
        bgv_bits=55,
        slots=arguments.slots,
        degree=arguments.degree,
        level_budget=(encode, decode),
        slot_levels=int(arguments.mask),
        folded_levels=int(arguments.mask),
        security=SECURE if arguments.ring == 65536 else INSECURE,
    )
    exercise()
    kernels, phases = instrumented()
    party = generate_keys(parameters)
    evaluator = Evaluator(party.server.shape, party.server.basis, party.server.switching)
    bootstrapper = Bootstrapper(evaluator)
    message = np.random.default_rng(0).integers(-(1 << 25), 1 << 25, parameters.ring)
    torus = Ciphertext(LinearAlgebra(evaluator, {}, {}).to_torus(party.encrypt(message)), 1.0)
    series = fit(lambda x: np.tanh(8 * x) / 4, parameters.degree)
    step = parameters.ring // arguments.slots
    mask = Mask(0, ((arguments.slots, step),)) if arguments.mask else None
    bootstrapper.prepare([] if mask is None else [mask])
    best: tuple[float, float, Times, Times] | None = None
    for _ in range(arguments.laps):
        kernels.clear()
        phases.clear()
        wall, cpu = time.perf_counter(), time.process_time()
        bootstrapper.evaluate(bootstrapper.powers(torus, parameters.degree), series, mask)
        lap = (time.perf_counter() - wall, time.process_time() - cpu, dict(kernels), dict(phases))
        if best is None or lap[1] < best[1]:
            best = lap
    assert best is not None
    wall, cpu, by_kernel, by_phase = best
    print(table("phase", by_phase, wall, cpu))
    print()
    print(table("kernel", by_kernel, wall, cpu))


if __name__ == "__main__":
    main()
