"""Settings for all tests, made before OpenFHE is loaded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Small rings gain nothing from threads. Tests at 128-bit run in processes of their own, with all cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Tests read the cost model that ships with glyphc, never the developer's own.
os.environ["GLYPHC_COST_MODEL"] = ""

# CI must say whether a change breaks something, and nothing else: the same examples every time. Elsewhere new ones are
# tried.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files of the tests that run")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory of its own, and no variable that names a cost model."""
    monkeypatch.delenv("GLYPHC_COST_MODEL")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path
