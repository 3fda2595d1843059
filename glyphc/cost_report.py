"""The cost model as text: what ``glyphc measure`` prints."""

from __future__ import annotations

from glyphc.analysis.cost import BootstrapCost, Configuration, CostModel
from glyphc.analysis.slot_figures import FIGURES
from glyphc.text_tables import align


def cost_text(cost: CostModel, origin: str) -> str:
    """The cost model: where it comes from, the primitives, a line for each configuration and degree."""
    machine = cost.machine
    heading = (
        "slots", "transforms", "digits", "baby steps", "degree", "shared s", "function s", "keys s", "keys GB",
        "idle GB", "peak GB", "shared MB", "",
    )  # fmt: skip
    rows = [heading, *(_cost_row(c, row, _note(cost, c, row)) for c in cost.configurations for row in c.costs)]
    slots = [
        ("ring", "limbs", *FIGURES),
        *((str(r.ring), str(r.limbs), *(f"{1e3 * getattr(r, name):.3g}" for name in FIGURES)) for r in cost.slots),
    ]
    return "\n".join(
        [
            f"cost model  {origin}",
            f"measured    engine {cost.engine}, {machine.date} on {machine.text}, OpenFHE {machine.openfhe}; "
            "seconds and bytes at N = 65536",
            f"BGV         product {cost.product * 1e3:.2f} ms, automorphism {cost.automorphism * 1e3:.1f} ms, "
            f"scheme switch {cost.switch * 1e3:.0f} ms; of an automorphism, a baby step takes {cost.baby:.0%}, "
            f"a giant step {cost.giant:.0%}",
            "bootstraps  shared: the half that all functions of a value share; idle: a process with keys and no work",
            "",
            align(rows),
            "",
            "numbers in slots, milliseconds at their own N",
            align(slots),
        ]
    )


def _note(cost: CostModel, configuration: Configuration, row: BootstrapCost) -> str:
    """Whether a row was measured, and where there are several of its size and degree, whether it is the fastest."""
    others = [r for c in cost.alternatives(configuration.slots) for r in c.costs if r.degree == row.degree]
    fastest = len(others) > 1 and row is min(others, key=lambda r: r.powers + r.evaluate)
    return ", ".join([*(["fastest"] if fastest else []), *([] if row.measured else ["scaled"])])


def _cost_row(configuration: Configuration, row: BootstrapCost, note: str) -> tuple[str, ...]:
    encode, decode = configuration.level_budget
    return (
        str(configuration.slots),
        f"{encode}+{decode}",
        str(configuration.large_digits),
        str(configuration.baby_steps or ""),
        str(row.degree),
        f"{row.powers:.2f}",
        f"{row.evaluate:.2f}",
        f"{row.key_seconds:.1f}",
        f"{row.key_bytes / 1e9:.2f}",
        f"{row.idle_bytes / 1e9:.2f}",
        f"{(row.idle_bytes + row.work_bytes) / 1e9:.2f}",
        f"{row.powers_bytes / 1e6:.0f}",
        note,
    )
