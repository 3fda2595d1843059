"""Memory that a run may still take on this machine; what is predicted to take more is refused before it begins."""

from __future__ import annotations

import re
from pathlib import Path

import psutil

from glyphc.analysis.cost import CostModel
from glyphc.analysis.estimate import estimate
from glyphc.errors import EnvironmentSetupError
from glyphc.ir.instructions import Schedule

_CGROUP = Path("/sys/fs/cgroup")


def available_bytes() -> float:
    """Free on this machine, and no more than what is left of this container's limit."""
    free, limit = float(psutil.virtual_memory().available), container_limit()
    return free if limit is None else min(free, max(0.0, float(limit - _taken())))


def container_limit() -> int | None:
    """Bytes that this container may take (cgroups, version 2 or 1); None without a limit."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (_CGROUP / name).read_text().strip()
        except OSError:
            continue
        # version 1 says "none" by a number beyond any memory
        if text.isdecimal() and int(text) < psutil.virtual_memory().total:
            return int(text)
    return None


def _taken() -> int:
    """Bytes that this container has taken, without files that the system can drop (cgroups, version 2 or 1)."""
    for used, files in (("memory.current", "memory.stat"), ("memory/memory.usage_in_bytes", "memory/memory.stat")):
        try:
            taken, text = int((_CGROUP / used).read_text()), (_CGROUP / files).read_text()
        except (OSError, ValueError):
            continue
        found = re.search(r"^(?:total_)?inactive_file (\d+)$", text, re.MULTILINE)
        return taken - (int(found[1]) if found else 0)
    return 0


def require(needed: float, remedy: str, most: float | None = None, where: str = "available") -> None:
    """EnvironmentSetupError for a run that is predicted to take more than ``most`` bytes.

    remedy: what to do then. most: by default what is available; where: whose limit it is, behind "GB are".
    """
    most = available_bytes() if most is None else most
    if needed > most:
        raise EnvironmentSetupError(
            f"this run needs about {needed / 1e9:.2f} GB of memory, {most / 1e9:.2f} GB are {where}; {remedy}"
        )


def require_for(schedule: Schedule, cost: CostModel) -> None:
    """:func:`require` what a pass of a program takes in this process, by the model of the engine that executes it."""
    needed = estimate(schedule, cost).memory_bytes
    require(needed, "use a larger machine, stop other programs, or compile with a smaller --batch")
