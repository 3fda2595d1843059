"""Time, keys and memory of one packed functional bootstrap under different configurations, at 128-bit security.

    python benchmarks/sweep.py [--slots 64 32768] [--output FILE.md]
    python benchmarks/sweep.py --only 32768:3+3:3:31 32768:5+5:4:27 --rounds 2

For every combination of level budget, digits and degree below that OpenFHE accepts, or only those named as
slots:transforms:digits:degree: key generation, one bootstrap with one function (the second of two in the process), size
of the evaluation keys, peak memory. Each in a process of its own; about a minute each. More rounds go over all of them
again and keep the best of each. The compiler's table (``glyphc/analysis/cost.py``) was filled from such a run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

BUDGETS = ((2, 2), (3, 3), (4, 4), (5, 4), (5, 5))
DIGITS = (2, 3)
RING = 65536
DEGREES = (27, 59)


def measure(slots: int, budget: tuple[int, int], digits: int, degree: int, ring: int = RING) -> dict[str, Any]:
    """One configuration, in this process. ring: one that is smaller is insecure."""
    import resource

    import numpy as np

    from glyphc.analysis.series import fit
    from glyphc.backends.openfhe.bootstrap import Bootstrapper
    from glyphc.backends.openfhe.client import generate_keys
    from glyphc.backends.openfhe.keys import bootstrap_key_bytes
    from glyphc.backends.openfhe.switch import Switcher
    from glyphc.ir.parameters import INSECURE, SECURE, Parameters

    parameters = Parameters(
        ring=ring,
        plaintext_bits=27,
        bgv_bits=55,
        slots=slots,
        degree=degree,
        level_budget=budget,
        large_digits=digits,
        security=SECURE if ring == RING else INSECURE,
    )
    start = time.perf_counter()
    client, keys = generate_keys(parameters)
    made = time.perf_counter()
    message = np.random.default_rng(0).integers(-(1 << 25), 1 << 25, parameters.ring)
    torus = Switcher(keys).to_torus(client.encrypt(message), slots)
    series = fit(lambda x: np.tanh(8 * x) / 4, degree)
    contexts = keys.contexts
    bootstrapper = Bootstrapper(contexts.torus, contexts.torus_ring, parameters)
    laps = []
    for _ in range(2):
        before = time.perf_counter()
        bootstrapper.evaluate(bootstrapper.powers(torus, degree), series)
        laps.append(time.perf_counter() - before)
    return {
        "depth": parameters.depth,
        "key bytes": bootstrap_key_bytes(keys),
        "key seconds": made - start,
        "seconds": min(laps),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def configurations(arguments: argparse.Namespace) -> list[tuple[int, tuple[int, int], int, int]]:
    """(slots, level budget, digits, degree) of all that is to be measured."""
    if not arguments.only:
        return [(s, b, d, g) for s in arguments.slots for b in BUDGETS for d in DIGITS for g in DEGREES]
    found = []
    for text in arguments.only:
        slots, transforms, digits, degree = text.split(":")
        encode, decode = map(int, transforms.split("+"))
        found.append((int(slots), (encode, decode), int(digits), int(degree)))
    return found


def best(first: dict[str, Any] | None, second: dict[str, Any] | None) -> dict[str, Any] | None:
    """Of two measurements of one configuration, the faster; None is one that failed."""
    known = [r for r in (first, second) if r is not None]
    return min(known, key=lambda r: r["seconds"], default=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--slots", type=int, nargs="+", default=[64, 1024, 8192, 32768])
    parser.add_argument("--only", nargs="+", metavar="SLOTS:E+D:DIGITS:DEGREE", help="measure just these")
    parser.add_argument("--ring", type=int, default=RING, help="a smaller ring, to try the script. NOT SECURE")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        slots, budget, digits, degree = json.loads(arguments.child)
        print(json.dumps(measure(slots, tuple(budget), digits, degree, arguments.ring)))
        return
    results: dict[tuple[int, tuple[int, int], int, int], dict[str, Any] | None] = {}
    for _ in range(arguments.rounds):
        for configuration in configurations(arguments):
            command = [sys.executable, __file__, "--ring", str(arguments.ring), "--child", json.dumps(configuration)]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            result = None if done.returncode else json.loads(done.stdout.splitlines()[-1])
            results[configuration] = best(results.get(configuration), result)
            print(row(configuration, result), file=sys.stderr, flush=True)
    heading = "| slots | transforms | digits | degree | depth | keys s | keys GB | bootstrap s | peak GB |"
    lines = [heading, "|" + " --- |" * 9, *(row(c, r) for c, r in results.items())]
    print("\n".join(lines))
    if arguments.output:
        arguments.output.write_text("\n".join(lines) + "\n")


def row(configuration: tuple[int, tuple[int, int], int, int], r: dict[str, Any] | None) -> str:
    """A line of the table."""
    slots, budget, digits, degree = configuration
    head = f"| {slots} | {budget[0]}+{budget[1]} | {digits} | {degree} |"
    if r is None:
        return f"{head} refused or out of memory | | | | |"
    times = f"{r['depth']} | {r['key seconds']:.1f} | {r['key bytes'] / 1e9:.2f} | {r['seconds']:.2f} |"
    return f"{head} {times} {r['peak'] / 1e9:.2f} |"


if __name__ == "__main__":
    main()
