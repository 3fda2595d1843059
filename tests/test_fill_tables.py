"""Tables in README and docs are those that benchmarks wrote."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "fill_tables.py"


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fill_tables", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_show_today_s_tables(tables: ModuleType) -> None:
    stale = [page.name for page in tables.PAGES if tables.filled(page.read_text()) != page.read_text()]
    assert stale == [], "python scripts/fill_tables.py fills them"


def test_what_stands_between_the_marks_is_replaced(tables: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "benchmarks" / "results"
    folder.mkdir(parents=True)
    (folder / "networks.md").write_text("| new |\n\n2 cores\n")
    page = "a\n<!-- benchmarks/results/networks.md -->\n| old |\n<!-- end -->\nb\n"
    filled = tables.filled(page, tmp_path)
    assert filled == "a\n<!-- benchmarks/results/networks.md -->\n| new |\n\n2 cores\n<!-- end -->\nb\n"
    assert tables.filled(filled, tmp_path) == filled


def test_a_table_that_nobody_wrote_is_an_error(tables: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        tables.filled("<!-- benchmarks/results/none.md -->\n<!-- end -->", tmp_path)
