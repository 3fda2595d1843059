"""The scripts of docs/tutorials/ run as a reader would run them, simulated."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

TUTORIALS = Path(__file__).resolve().parent.parent / "docs" / "tutorials"
CASES = {
    "hospital": ("% of 171 patients", ()),
    "images": ("% of 64 right", ()),
    "training": ("of held-out patients right after 1 steps", ("--steps", "1")),
}


def test_each_has_a_case() -> None:
    assert {path.stem for path in TUTORIALS.glob("*.py")} == set(CASES)


# One of them in the usual run.
@pytest.mark.parametrize(
    "name", ["hospital", *(pytest.param(n, marks=pytest.mark.slow) for n in ("images", "training"))]
)
def test_a_tutorial(name: str, tmp_path: Path) -> None:
    said, options = CASES[name]
    picture = tmp_path / "picture.png"
    command = [sys.executable, str(TUTORIALS / f"{name}.py"), "--mode", "simulate", "--output", str(picture), *options]
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    with Image.open(picture) as image:
        assert image.width > 500
