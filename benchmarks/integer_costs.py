"""What integers in slots (BFV) cost on this machine: the rows of ``glyphc/analysis/integer_cost.py``.

    python benchmarks/integer_costs.py [--limbs LIMBS ...] [--ring RING]

For maintainers, on an idle machine. Wall seconds of the fastest of several laps, on as many operands as a program has.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields

import numpy as np

from glyphc.analysis.integer_cost import REFERENCE_RING, ROWS, IntegerRow
from glyphc.backends.openfhe.integer_client import generate_integer_keys
from glyphc.backends.openfhe.integer_evaluator import IntegerOpenFHE
from glyphc.ir.instructions import IntegerBlocks, IntegerDot, Register
from glyphc.ir.integer_parameters import IntegerParameters
from glyphc.ir.parameters import INSECURE, SECURE
from glyphc.measuring import fastest

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

    def dot(weights: tuple[int, ...], known: IntegerOpenFHE | None = None) -> Callable[[], object]:
        instruction = IntegerDot(Register(0), tuple(map(Register, range(OPERANDS))), weights, 0, 0)
        return lambda: (known or IntegerOpenFHE(client.contexts)).integer_dot(operands, instruction)

    def blocks(bias: int = 0) -> Callable[[], object]:
        instruction = IntegerBlocks(Register(0), (Register(0),), weights, block, bias, 0)
        return lambda: server.integer_blocks(operands[:1], instruction)

    server = IntegerOpenFHE(client.contexts)
    a, b = operands[:2]
    added = quickest(dot(ones))
    scaled, fresh = quickest(dot(sizes, known=server)), quickest(dot(sizes))
    total = quickest(lambda: server.integer_total(a, False))
    context, plain = client.contexts.contexts[0], np.repeat(weights[0], block).tolist()
    return IntegerRow(
        limbs,
        scaled=(scaled - added) / OPERANDS,
        added=added / OPERANDS,
        product=quickest(lambda: server.integer_product(a, b)),
        automorphism=total / len(parameters.automorphisms) - added / OPERANDS,
        encrypt=quickest(lambda: client.encrypt(message)),
        decrypt=quickest(lambda: client.decrypt(a)),
        constant=(fresh - scaled) / OPERANDS,
        packed=quickest(lambda: context.MakePackedPlaintext(plain)),
        shifted=quickest(blocks(5)) - quickest(blocks()),
    )


def quickest(work: Callable[[], object]) -> float:
    return fastest(work, LAPS)


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
