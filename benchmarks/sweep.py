"""Time, keys and memory of one packed functional bootstrap under different configurations, at 128-bit security.

    python benchmarks/sweep.py [--slots 64 32768] [--output FILE.md]
    python benchmarks/sweep.py --only 32768:3+3:3:31 32768:5+5:4:27 --rounds 2
    python benchmarks/sweep.py --engine kernels [--slots 64] [--only 64:2+2:1:13:_BABIES=15,_TRACE_RADIX=8]

For every combination of level budget, digits and degree below that OpenFHE accepts, or only those named as
slots:transforms:digits:degree: key generation, one bootstrap with one function (the second of two in the process), size
of the evaluation keys, peak memory. Each in a process of its own; about a minute each. More rounds go over all of them
again and keep the best of each. The compiler's table (``glyphc/analysis/cost.py``) was filled from such a run.

The engine ``kernels`` chooses the digits of each key; there, the digits above mean nothing, and choices of its own
(``sweep_kernels.py``) are tried one at a time, with CPU seconds, log QP and the error of the result. Transforms that
win go into ``glyphc/analysis/kernels_cost.py``, other choices into ``backends/kernels/shape.py``; then ``glyphc measure
--engine kernels`` fills in the costs and ``shipped_costs.py`` prints the table. A table may also hold several of one
size, among which programs choose: ``glyphc measure --configurations`` adds neighbours of those that ship to a user's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import sweep_kernels

BUDGETS = ((2, 2), (3, 3), (4, 4), (5, 4), (5, 5))
DIGITS = (2, 3)
RING = 65536
DEGREES = (27, 59)


@dataclass(frozen=True)
class Configuration:
    """choices: of the kernels (``sweep_kernels.CHOICES``), where they are not those that ship."""

    slots: int
    budget: tuple[int, int]
    digits: int
    degree: int
    choices: dict[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        others = "".join(f", {name.lstrip('_')}={value}" for name, value in self.choices.items())
        return f"| {self.slots} | {self.budget[0]}+{self.budget[1]}{others} | {self.digits} | {self.degree} |"


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


def configurations(arguments: argparse.Namespace) -> list[Configuration]:
    """All that is to be measured."""
    if not arguments.only and arguments.engine == "kernels":
        return [Configuration(*c) for s in arguments.slots for c in sweep_kernels.alternatives(s, arguments.degree)]
    if not arguments.only:
        return [Configuration(s, b, d, g) for s in arguments.slots for b in BUDGETS for d in DIGITS for g in DEGREES]
    return [parsed(text) for text in arguments.only]


def parsed(text: str) -> Configuration:
    """Of slots:transforms:digits:degree, perhaps with :NAME=VALUE,... behind it."""
    slots, transforms, digits, degree, *rest = text.split(":")
    encode, decode = map(int, transforms.split("+"))
    pairs = (pair.split("=") for pair in rest[0].split(",")) if rest else ()
    return Configuration(
        int(slots), (encode, decode), int(digits), int(degree), {name: int(value) for name, value in pairs}
    )


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
    parser.add_argument("--engine", choices=("openfhe", "kernels"), default="openfhe")
    parser.add_argument("--degree", type=int, default=13, help="of the kernels' sweep")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        c = json.loads(arguments.child)
        budget = tuple(c["budget"])
        if arguments.engine == "kernels":
            found = sweep_kernels.measure(c["slots"], budget, c["degree"], c["choices"], arguments.ring, RING)
        else:
            found = measure(c["slots"], budget, c["digits"], c["degree"], arguments.ring)
        print(json.dumps(found))
        return
    results: dict[str, dict[str, Any] | None] = {}
    for _ in range(arguments.rounds):
        for configuration in configurations(arguments):
            command = [sys.executable, __file__, "--ring", str(arguments.ring), "--engine", arguments.engine]
            command += ["--child", json.dumps(asdict(configuration))]
            done = subprocess.run(command, capture_output=True, text=True)
            result = None if done.returncode else json.loads(done.stdout.splitlines()[-1])
            results[configuration.name] = best(results.get(configuration.name), result)
            print(row(configuration.name, result), *done.stderr.splitlines()[-1:], file=sys.stderr, flush=True)
    heading = "| slots | transforms | digits | degree | depth | keys s | keys GB | bootstrap s | peak GB |"
    if arguments.engine == "kernels":
        heading += " CPU s | log QP | digits at the top | rms error |"
    lines = [heading, "|" + " --- |" * (heading.count("|") - 1), *(row(name, r) for name, r in results.items())]
    print("\n".join(lines))
    if arguments.output:
        arguments.output.write_text("\n".join(lines) + "\n")


def row(name: str, r: dict[str, Any] | None) -> str:
    """A line of the table."""
    if r is None:
        return f"{name} refused or out of memory | | | | |"
    times = f"{r['depth']} | {r['key seconds']:.1f} | {r['key bytes'] / 1e9:.2f} | {r['seconds']:.2f} |"
    line = f"{name} {times} {r['peak'] / 1e9:.2f} |"
    if "cpu" in r:
        first, second = r["halves"]
        line += f" {first:.2f} + {second:.2f} | {r['modulus']:.0f} | {r['digits']} | {r['error']:.1e} |"
    return line


if __name__ == "__main__":
    main()
