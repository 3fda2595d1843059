"""Files that the documentation names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "CHANGELOG.md"], ids=lambda p: p.name)
def test_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`((?:glyphc|benchmarks|scripts|tests)/[\w/]+\.py)`", page.read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []
