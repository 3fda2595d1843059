"""What people read: tables as text, and numbers of things."""

from __future__ import annotations

from collections.abc import Sequence


def counted(number: int, noun: str) -> str:
    """``1 level``, ``2 levels``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def align(rows: Sequence[Sequence[str]]) -> str:
    """Rows as text with aligned columns; the first row is the heading. Empty columns are left out."""
    keep = [c for c in range(len(rows[0])) if any(r[c] for r in rows[1:])]
    widths = [max(len(r[c]) for r in rows) for c in keep]
    lines = ["  ".join(r[c].ljust(w) for c, w in zip(keep, widths, strict=True)).rstrip() for r in rows]
    return "\n".join(lines)
