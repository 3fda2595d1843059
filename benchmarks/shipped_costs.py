"""Print the tables of ``glyphc/analysis/cost.py``, ``slot_figures.py`` or ``kernels_cost.py`` from a file that ``glyphc
measure`` wrote.

    python benchmarks/shipped_costs.py FILE.json [--engine kernels]

For maintainers: the primitives and rows to ship with glyphc after a full calibration on an idle machine.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from glyphc.analysis.cost import FIGURES, BootstrapCost, Configuration, CostModel
from glyphc.analysis.cost_file import load
from glyphc.analysis.kernels_cost import MODELLED
from glyphc.analysis.slot_figures import FIGURES as SLOT_FIGURES
from glyphc.analysis.slot_figures import SlotRow


def row_text(row: BootstrapCost) -> str:
    figures = ", ".join(f"{getattr(row, name):.3g}".replace("e+0", "e") for name in FIGURES)
    scaled = "" if row.measured else ", measured=False"
    return f"            BootstrapCost({row.degree}, {figures}{scaled}),"


def slot_row_text(row: SlotRow) -> str:
    return f"    SlotRow({row.ring}, {row.limbs}, {', '.join(f'{getattr(row, name):.3g}' for name in SLOT_FIGURES)}),"


def configuration_text(c: Configuration) -> str:
    head = [f"        {c.slots},", f"        {c.level_budget},", f"        {c.large_digits},", "        ("]
    return "\n".join(["    Configuration(", *head, *map(row_text, c.costs), "        ),", "    ),"])


def configurations_text(name: str, model: CostModel) -> str:
    return "\n".join([f"{name} = (", *map(configuration_text, model.configurations), ")"])


def primitives_text(model: CostModel) -> str:
    names = ("product", "automorphism", "switch", "external", "fresh")
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
        print(f"machine {model.kernels.machine}\n{primitives_text(model.kernels)}")
        return
    print(configurations_text("CONFIGURATIONS", model))
    print("\n".join(["SLOT_ROWS = (", *map(slot_row_text, model.slots), ")"]))
    print(f"SHIPPED_MACHINE = {model.machine}\n{primitives_text(model)}")


if __name__ == "__main__":
    main()
