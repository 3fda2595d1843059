"""The documentation's site: every page has a place, links lead somewhere, and README is its first page."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

ROOT = Path(__file__).resolve().parent.parent


def site(folder: Path, pages: Path) -> None:
    build(load_config(str(ROOT / "mkdocs.yml"), docs_dir=str(pages), site_dir=str(folder)))


def test_all_pages_are_linked(tmp_path: Path) -> None:
    site(tmp_path, ROOT / "docs")
    menu = (tmp_path / "security" / "index.html").read_text()
    assert [p.stem for p in (ROOT / "docs").glob("*.md") if not re.search(rf'href="(\.\./{p.stem}/|\./)"', menu)] == []
    assert "make demo" in (tmp_path / "index.html").read_text()
    # the scripts stand in the page, not what includes them
    tutorials = html.unescape(re.sub("<[^>]+>", "", (tmp_path / "tutorials" / "index.html").read_text()))
    scripts = (ROOT / "docs" / "tutorials").glob("*.py")
    assert [p.name for p in scripts if p.read_text().splitlines()[0] not in tutorials] == []
    assert "--8" not in tutorials


def test_a_link_that_leads_nowhere_stops_it(tmp_path: Path) -> None:
    pages = tmp_path / "docs"
    pages.mkdir()
    for page in (ROOT / "docs").glob("*.md"):
        (pages / page.name).write_text(
            page.read_text().replace("(security.md#encrypted-weights)", "(security.md#no-such)")
        )
    with pytest.raises(Abort):
        site(tmp_path / "site", pages)
