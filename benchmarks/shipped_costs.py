"""Print the tables of ``glyphc/analysis/cost.py`` and ``slot_figures.py`` from a file that ``glyphc measure`` wrote.

    python benchmarks/shipped_costs.py FILE.json

For maintainers: the primitives and rows to ship with glyphc after a full calibration on an idle machine.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from glyphc.analysis.cost import FIGURES, BootstrapCost, Configuration
from glyphc.analysis.cost_file import load
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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    model = load(parser.parse_args().file)
    print("\n".join(["CONFIGURATIONS = (", *map(configuration_text, model.configurations), ")"]))
    print("\n".join(["SLOT_ROWS = (", *map(slot_row_text, model.slots), ")"]))
    print(f"SHIPPED_MACHINE = {model.machine}")
    print(f"product {model.product:.3g}, automorphism {model.automorphism:.3g}, switch {model.switch:.3g}")


if __name__ == "__main__":
    main()
