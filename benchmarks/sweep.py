"""Time, keys and memory of one packed functional bootstrap under different configurations, at 128-bit security.

    python benchmarks/sweep.py [--slots 64 32768] [--output FILE.md]

For every combination of level budget, digits and degree below that OpenFHE accepts: key generation, one bootstrap
with one
function (the second of two in the process), number of keys, peak memory. Each in a process of its own; about a minute
each.
The compiler's table (``glyphc/approx/cost.py``) was filled from such a run.
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
DEGREES = (27, 59)


def measure(slots: int, budget: tuple[int, int], digits: int, degree: int) -> dict[str, Any]:
    """One configuration, in this process."""
    import resource

    import numpy as np

    from glyphc.approx.series import fit
    from glyphc.backends.openfhe.bootstrap import Bootstrapper
    from glyphc.backends.openfhe.client import generate_keys
    from glyphc.backends.openfhe.switch import Switcher
    from glyphc.ir.parameters import Parameters

    parameters = Parameters(
        ring=65536,
        plaintext_bits=27,
        bgv_bits=55,
        slots=slots,
        degree=degree,
        level_budget=budget,
        large_digits=digits,
    )
    start = time.perf_counter()
    client, keys = generate_keys(parameters)
    made = time.perf_counter()
    message = np.random.default_rng(0).integers(-(1 << 25), 1 << 25, parameters.ring)
    torus = Switcher(keys).to_torus(client.encrypt(message), slots)
    series = fit(lambda x: np.tanh(8 * x) / 4, degree)
    bootstrapper = Bootstrapper(keys.contexts)
    laps = []
    for _ in range(2):
        before = time.perf_counter()
        bootstrapper.evaluate(bootstrapper.powers(torus, degree), series)
        laps.append(time.perf_counter() - before)
    return {
        "depth": parameters.depth,
        "key seconds": made - start,
        "seconds": min(laps),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--slots", type=int, nargs="+", default=[64, 1024, 8192, 32768])
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(*json.loads(arguments.child))))
        return
    lines = ["| slots | transforms | digits | degree | depth | keys s | bootstrap s | peak GB |", "|" + " --- |" * 8]
    for configuration in [(s, b, d, g) for s in arguments.slots for b in BUDGETS for d in DIGITS for g in DEGREES]:
        slots, budget, digits, degree = configuration
        command = [sys.executable, __file__, "--child", json.dumps(configuration)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        head = f"| {slots} | {budget[0]}+{budget[1]} | {digits} | {degree} |"
        if done.returncode:
            lines.append(f"{head} refused or out of memory | | | |")
        else:
            r = json.loads(done.stdout.splitlines()[-1])
            measured = f"{r['depth']} | {r['key seconds']:.1f} | {r['seconds']:.2f} | {r['peak'] / 1e9:.2f} |"
            lines.append(f"{head} {measured}")
        print(lines[-1], file=sys.stderr, flush=True)
    print("\n".join(lines))
    if arguments.output:
        arguments.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
