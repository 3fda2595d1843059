"""What integers in slots (BFV) cost on this machine: the rows of ``glyphc/analysis/integer_cost.py``.

    python benchmarks/integer_costs.py [--limbs LIMBS ...] [--ring RING]

For maintainers, on an idle machine. Wall seconds of the middle one of several laps, on as many operands as a program
has: the fastest one finds memory and caches as no program does.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from statistics import median

import numpy as np

from glyphc.analysis.integer_cost import REFERENCE_RING, ROWS, IntegerRow
from glyphc.backends.openfhe.integer_client import generate_integer_keys
from glyphc.backends.openfhe.integer_evaluator import IntegerOpenFHE
from glyphc.ir.instructions import IntegerBlocks, IntegerDot, Register
from glyphc.ir.integer_parameters import IntegerParameters
from glyphc.ir.parameters import INSECURE, SECURE
from glyphc.measuring import clock

LAPS = 8
OPERANDS = 48
# Constants of the measured sums are multiples of it, so that no two are the same.
STEP = 3


def measured(ring: int, limbs: int) -> IntegerRow:
    """In this process."""
    secure = SECURE if ring >= REFERENCE_RING else INSECURE
    block = ring // 16
    parameters = IntegerParameters(ring, (65537,), limbs, products=True, security=secure, block=block)
    client = generate_integer_keys(parameters)
    message = np.random.default_rng(0).integers(0, 1 << 15, ring)
    operands = [client.encrypt(message) for _ in range(OPERANDS)]
    ones, sizes = (1,) * OPERANDS, tuple(STEP * n + 2 for n in range(OPERANDS))
    weights = (tuple(range(ring // block)),)

    kept = []

    def dot(weights: tuple[int, ...], known: IntegerOpenFHE | None = None) -> Callable[[], object]:
        instruction = IntegerDot(Register(0), tuple(map(Register, range(OPERANDS))), weights, 0, 0)

        def work() -> None:
            # constants are kept as they are in a program, in memory that nobody had before
            kept.append(known or IntegerOpenFHE(client.contexts))
            kept[-1].integer_dot(operands, instruction)

        return work

    def blocks(bias: int = 0) -> Callable[[], object]:
        instruction = IntegerBlocks(Register(0), (Register(0),), weights, block, bias, 0)
        return lambda: server.integer_blocks(operands[:1], instruction)

    server = IntegerOpenFHE(client.contexts)
    a, b = operands[:2]
    added = typical(dot(ones))
    scaled, fresh = typical(dot(sizes, known=server)), typical(dot(sizes))
    total = typical(lambda: server.integer_total(a, False))
    context, plain = client.contexts.contexts[0], np.repeat(weights[0], block).tolist()
    return IntegerRow(
        limbs,
        scaled=(scaled - added) / OPERANDS,
        added=added / OPERANDS,
        product=typical(lambda: server.integer_product(a, b)),
        automorphism=total / len(parameters.automorphisms) - added / OPERANDS,
        encrypt=typical(lambda: client.encrypt(message)),
        decrypt=typical(lambda: client.decrypt(a)),
        constant=(fresh - scaled) / OPERANDS,
        packed=typical(lambda: context.MakePackedPlaintext(plain)),
        shifted=typical(blocks(5)) - typical(blocks()),
    )


def typical(work: Callable[[], object]) -> float:
    """Wall seconds: the median of the laps."""
    found = []
    for _ in range(LAPS):
        with clock() as lap:
            work()
        found.append(lap.seconds)
    return median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ring", type=int, default=REFERENCE_RING, help="a smaller one is to try the script")
    parser.add_argument("--limbs", type=int, nargs="*", default=[row.limbs for row in ROWS])
    arguments = parser.parse_args()
    for limbs in arguments.limbs:
        found = measured(arguments.ring, limbs)
        figures = [f"{getattr(found, f.name):.3g}" for f in fields(found) if f.name != "limbs"]
        print(f"    IntegerRow({limbs}, {', '.join(figures)}),", flush=True)


if __name__ == "__main__":
    main()
