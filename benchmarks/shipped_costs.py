"""Print the tables of ``glyphc/analysis/cost.py``, ``slot_figures.py`` and ``training_figures.py``, or those of
``kernels_cost.py``, from a file that ``glyphc measure`` wrote; and measure that of ``integer_cost.py``.

    python benchmarks/shipped_costs.py FILE.json [--engine kernels]
    python benchmarks/shipped_costs.py --integers [--laps 12]

For maintainers: all that ships with glyphc, to be pasted after a full calibration on an idle machine. ``glyphc
measure`` does not measure integers in slots, whose prices are those of the shipped table on every machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from glyphc.analysis.cost import FIGURES, BootstrapCost, Configuration, CostModel
from glyphc.analysis.cost_file import load
from glyphc.analysis.kernels_cost import MODELLED
from glyphc.analysis.slot_figures import FIGURES as SLOT_FIGURES
from glyphc.analysis.slot_figures import SlotRow
from glyphc.analysis.training_figures import ROW_FIGURES, TORUS_FIGURES, TrainingFigures


def row_text(row: BootstrapCost) -> str:
    figures = ", ".join(f"{getattr(row, name):.3g}".replace("e+0", "e").replace("e+", "e") for name in FIGURES)
    scaled = "" if row.measured else ", measured=False"
    return f"            BootstrapCost({row.degree}, {figures}{scaled}),"


def slot_row_text(row: SlotRow) -> str:
    return f"    SlotRow({row.ring}, {row.limbs}, {numbers(row, SLOT_FIGURES)}),"


def configuration_text(c: Configuration) -> str:
    head = [f"        {c.slots},", f"        {c.level_budget},", f"        {c.large_digits},", "        ("]
    return "\n".join(["    Configuration(", *head, *map(row_text, c.costs), "        ),", "    ),"])


def configurations_text(name: str, model: CostModel) -> str:
    return "\n".join([f"{name} = (", *map(configuration_text, model.configurations), ")"])


def training_text(found: TrainingFigures) -> str:
    rows = [f"        TrainingRow({r.limbs}, {numbers(r, ROW_FIGURES)})," for r in found.rows]
    others = [f"    {name}={getattr(found, name):.3g}," for name in TORUS_FIGURES]
    return "\n".join(["TRAINING_FIGURES = TrainingFigures(", "    rows=(", *rows, "    ),", *others, ")"])


def numbers(row: object, names: Iterable[str]) -> str:
    return ", ".join(f"{getattr(row, name):.3g}" for name in names)


def primitives_text(model: CostModel) -> str:
    names = ("product", "automorphism", "switch", "fresh")
    return ", ".join(f"{name} {getattr(model, name):.3g}" for name in names)


# Limbs of the rows of ``integer_cost``; its ring; operands of a sum, too many for most caches.
INTEGER_LIMBS = (2, 3, 4, 7)
_TERMS = 24


def integer_row(limbs: int, laps: int) -> str:
    """Wall seconds of the fastest of so many laps, as ``integer_cost.IntegerRow`` counts them."""
    import numpy as np

    from glyphc.analysis.integer_cost import REFERENCE_RING, IntegerRow
    from glyphc.backends.openfhe.integer_client import generate_integer_keys
    from glyphc.ir.integer_parameters import INSECURE, IntegerParameters, is_prime
    from glyphc.measuring import fastest

    # a prime of some 29 bits; seven limbs are too many for 128-bit in this ring, whose figures are scaled from
    t = next(t for t in range((1 << 29) + 1, 1 << 30, 2 * REFERENCE_RING) if is_prime(t))
    p = IntegerParameters(REFERENCE_RING, (t,), limbs, True, INSECURE, block=REFERENCE_RING // 4)
    client = generate_integer_keys(p)
    context = client.contexts.contexts[0]
    message = np.random.default_rng(0).integers(-1000, 1000, p.slots)
    operands = [client.encrypt(message)[0] for _ in range(_TERMS)]
    plain = context.MakePackedPlaintext([37] * p.slots)
    keys = context.GetEvalAutomorphismKeyMap(operands[0].GetKeyTag())
    exponent = p.automorphisms[0]

    def added() -> None:
        total = operands[0]
        for other in operands[1:]:
            total = context.EvalAdd(total, other)

    row = IntegerRow(
        limbs,
        scaled=fastest(lambda: [context.EvalMult(x, plain) for x in operands], laps) / _TERMS,
        added=fastest(added, laps) / (_TERMS - 1),
        product=fastest(lambda: context.EvalMult(operands[0], operands[1]), laps),
        automorphism=fastest(lambda: context.EvalAutomorphism(operands[0], exponent, keys), laps),
        encrypt=fastest(lambda: client.encrypt(message), laps),
        decrypt=fastest(lambda: client.decrypt((operands[0],)), laps),
        constant=fastest(lambda: context.MakePackedPlaintext([37] * p.slots), laps),
    )
    names = [f.name for f in fields(row) if f.name != "limbs"]
    return f"    IntegerRow({limbs}, {numbers(row, names)}),"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--engine", choices=MODELLED, default="openfhe")
    parser.add_argument("--integers", action="store_true", help="measure integers in slots, here and now")
    parser.add_argument("--laps", type=int, default=12)
    arguments = parser.parse_args()
    if arguments.integers:
        rows = [integer_row(limbs, arguments.laps) for limbs in INTEGER_LIMBS]
        print("\n".join(["ROWS: tuple[IntegerRow, ...] = (", *rows, ")"]))
        return
    if arguments.file is None:
        parser.error("a file is needed, or --integers")
    model = load(arguments.file)
    if arguments.engine == "kernels":
        if model.kernels is None:
            parser.error(f"{arguments.file} has no part for the engine 'kernels'")
        print(configurations_text("KERNELS_CONFIGURATIONS", model.kernels))
        found = model.kernels
        print(f"machine {found.machine}\n{primitives_text(found)}, external {found.external:.3g}")
        print(f"training: {', '.join(f'{n}={getattr(found.training, n):.3g}' for n in TORUS_FIGURES)}")
        return
    print(configurations_text("CONFIGURATIONS", model))
    print("\n".join(["SLOT_ROWS = (", *map(slot_row_text, model.slots), ")"]))
    print(training_text(model.training))
    print(f"SHIPPED_MACHINE = {model.machine}\n{primitives_text(model)}")


if __name__ == "__main__":
    main()
