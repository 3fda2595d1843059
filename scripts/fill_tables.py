"""Puts the tables that benchmarks wrote into the pages that show them.

    python scripts/fill_tables.py [--check]

A page says where: between ``<!-- benchmarks/results/NAME.md -->`` and ``<!-- end -->`` stands that file. With --check,
nothing is written; the exit status is 1 and pages are named where a table is not that of its file.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_PLACE = re.compile(r"<!-- (benchmarks/results/[\w-]+\.md) -->\n.*?<!-- end -->", re.DOTALL)


def filled(page: str, root: Path = ROOT) -> str:
    """The page with today's tables; FileNotFoundError where it names a file that is not there."""

    def place(match: re.Match[str]) -> str:
        return f"<!-- {match[1]} -->\n{(root / match[1]).read_text().strip()}\n<!-- end -->"

    return _PLACE.sub(place, page)


def main() -> int:
    """Exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, say what would change")
    check = parser.parse_args().check
    stale = [page for page in PAGES if filled(page.read_text()) != page.read_text()]
    for page in stale:
        print(f"{page.relative_to(ROOT)}: " + ("not the tables of benchmarks/results/" if check else "filled"))
        if not check:
            page.write_text(filled(page.read_text()))
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
