"""A program with all that inspection shows of it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from click.testing import CliRunner, Result
from onnx_models import MODELS

import glyphc
from glyphc.cli import main
from glyphc.program import Program

RING = 4096
FAST = (
    "fold,calibrate,quantize,assign-scheme{strategy=glyph},insert-switches,assign-layout,"
    "select-parameters{max_error=3.0,rms_error=3.0},validate-security"
)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


class Inspected:
    """The digits network on a small ring, with the record of a simulated run and the page beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def artifact(self) -> Path:
        x = np.load(MODELS / "data" / "digits-train.npy")
        program = glyphc.compile(MODELS / "digits-mlp.onnx", x, batch=8, insecure_ring=RING)
        path = self.folder / "digits.glyphc"
        program.save(path)
        np.save(self.folder / "x.npy", x[:16])
        files = ("--input", self.folder / "x.npy", "--output", self.folder / "y.npy")
        result = run("run", path, *files, "--mode", "simulate", "--record", self.folder / "run.json")
        assert result.exit_code == 0, result.output
        return path

    @cached_property
    def program(self) -> Program:
        return Program.load(self.artifact)

    @cached_property
    def page(self) -> Path:
        output, record = self.folder / "digits.html", self.folder / "run.json"
        result = run("inspect", self.artifact, "--format", "html", "--run", record, "-o", output)
        assert result.exit_code == 0, result.output
        return output
