"""Nodes that cannot be converted, told in as few lines as say it all."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

# More names of nodes than these, and more kinds of reasons, help nobody.
_MOST_NAMES = 3
_MOST_KINDS = 12


@dataclass(frozen=True)
class Problem:
    """A node that is not supported, by its location, and why. combines: because it combines samples."""

    location: str
    op_type: str
    reason: str
    combines: bool = False

    @property
    def kind(self) -> tuple[str, str]:
        """What nodes of the same kind have in common: all but names and numbers."""
        return self.op_type, re.sub(r"'[^']*'|\[[^\]]*\]|\d+", "*", self.reason)


def grouped(problems: Sequence[Problem]) -> list[str]:
    """A line for each operator and reason, with the names of a few nodes."""
    groups: dict[tuple[str, str], list[Problem]] = defaultdict(list)
    for problem in problems:
        groups[problem.kind].append(problem)
    lines = []
    for found in list(groups.values())[:_MOST_KINDS]:
        names = ", ".join(repr(p.location) for p in found[:_MOST_NAMES])
        more = f" and {len(found) - _MOST_NAMES} more" if len(found) > _MOST_NAMES else ""
        lines.append(f"  {names}{more} ({found[0].op_type}): {found[0].reason}")
    if len(groups) > _MOST_KINDS:
        lines.append(f"  ... and {len(groups) - _MOST_KINDS} other kinds of nodes")
    return lines
