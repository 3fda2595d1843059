"""The commands of docs/training.md up to those that need files of one's own, one after another (insecure ring)."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from test_docs_commands import ROOT

from glyphc.cli import main

# The same with few steps, on a small ring.
SMALL = ("--insecure-ring", "2048", "--steps", "1", "--batch", "32")
ADDED = {"train": (*SMALL, "--mode", "clear"), "prepare": SMALL, "continue": ("--steps", "1")}


def commands() -> list[list[str]]:
    """Those of code blocks that are no outlines, and need no service."""
    text = (ROOT / "docs" / "training.md").read_text().partition("\n## Frozen layers on the server")[0]
    lines = (line.strip() for line in text.replace("\\\n", " ").splitlines() if line.startswith("    "))
    words = (shlex.split(line, comments=True) for line in lines if line.startswith(("glyphc ", "cp ")))
    apart = ("...", "token", "serve", "submit", "watch")
    return [w for w in words if not any(word in apart for word in w)]


def test_they_run_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("models").symlink_to(ROOT / "models")
    done = []
    for name, *arguments in commands():
        if name == "cp":
            flag, source, target = arguments
            assert flag == "-r"
            shutil.copytree(source, target, dirs_exist_ok=True)
            continue
        step = arguments[arguments[0] == "training"]
        result = CliRunner().invoke(main, [*arguments, *ADDED.get(step, ())])
        assert result.exit_code == 0, f"{arguments}: {result.output}"
        done.append(step)
    assert done == ["train", "prepare", "run", "finish", "request", "infer", "predict", "continue", "run"]
    assert np.load("predictions.npy").shape == (171, 2)
    assert Path("trained.onnx").is_file()
