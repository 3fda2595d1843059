"""Print the tables of ``glyphc/analysis/cost.py``, ``slot_figures.py`` and ``training_figures.py``, or those of
``kernels_cost.py``, from a file that ``glyphc measure`` wrote.

    python benchmarks/shipped_costs.py FILE.json [--engine kernels]

For maintainers: all that ships with glyphc, to be pasted after a full calibration on an idle machine. ``glyphc
measure`` does not measure integers in slots: ``integer_costs.py`` does.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
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
    more = [f"        baby_steps={c.baby_steps},"] if c.baby_steps else []
    return "\n".join(["    Configuration(", *head, *map(row_text, c.costs), "        ),", *more, "    ),"])


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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--engine", choices=MODELLED, default="openfhe")
    arguments = parser.parse_args()
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
