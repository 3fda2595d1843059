"""What every pass makes of small networks, as in ``golden/passes/*.gir`` (pytest --update-golden writes them).

A file begins with comments: what it shows, the network as in a ``.glyph`` or ``.gir`` file, ``samples:``, numpy that
gives the calibration samples, and ``run:``, passes as for ``glyphc opt``. ``edit: OLD => NEW`` changes the text of the
graph between two runs. Below them is what the last pass gives: its graph, or its error.

Graphs are shortened for people: constants by their values, numbers rounded, ranges where the pass is about them and
without histograms, the decisions of the last pass alone, no seconds, which follow from measurements.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from glyphc.cli import main
from glyphc.ir.text import parse
from glyphc.passes.pipeline import PASSES

FOLDER = Path(__file__).parent / "golden" / "passes"
CASES = sorted(path.stem for path in FOLDER.glob("*.gir"))
_NUMBER = re.compile(r"(?<![\w.%$])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.])")
_FLOAT = re.compile(r"(?<![\w.])-?\d+(?:\.\d+(?:e[+-]?\d+)?|e[+-]?\d+)(?![\w.])")
# Constants with more elements are shown by their shape.
_SHOWN = 24


@dataclass
class Case:
    """The head of a file. steps: passes to run, or texts to replace before the next ones."""

    head: str
    network: str = ""
    samples: str = ""
    steps: list[tuple[str, str]] = field(default_factory=list)

    @staticmethod
    def read(text: str) -> Case:
        lines = text.splitlines()
        count = next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))
        case = Case("\n".join(lines[:count]))
        for line in (line[2:] for line in lines[:count]):
            key, _, value = line.partition(": ")
            if key in ("run", "edit"):
                case.steps.append((key, value))
            elif key == "samples":
                case.samples = value
            elif line.startswith("  "):
                case.network += line[2:] + "\n"
        return case

    def result(self, folder: Path) -> str:
        """What the last pass gives, shortened."""
        graph = folder / ("network.gir" if self.network.startswith("glyph-ir") else "network.glyph")
        graph.write_text(self.network)
        options = []
        if self.samples:
            samples = eval(self.samples, {"np": np})
            np.savez(folder / "samples.npz", **(samples if isinstance(samples, dict) else {"x": samples}))
            options = ["--calibration", str(folder / "samples.npz")]
        for number, (kind, what) in enumerate(self.steps):
            output = folder / f"{number}.gir"
            if kind == "edit":
                old, new = what.split(" => ")
                text = graph.read_text()
                assert old in text, f"there is no {old!r} in\n{text}"
                output.write_text(text.replace(old, new))
            else:
                arguments = ["opt", str(graph), "--passes", what, "--engine", "kernels", *options, "-o", str(output)]
                run = CliRunner().invoke(main, arguments)
                if run.exit_code:
                    assert number == len(self.steps) - 1, run.output
                    return _without_seconds(run.stderr.replace(str(folder), "FOLDER"))
            graph = output
        return shortened(graph.read_text(), self.last_pass)

    @property
    def last_pass(self) -> str:
        """Its name."""
        return re.sub(r"\{[^}]*\}", "", self.steps[-1][1]).rpartition(",")[2].strip()


def shortened(text: str, last: str) -> str:
    """A graph's text for people."""
    graph, lines = parse(text), []
    for line in text.splitlines():
        if line.startswith("const "):
            name = line.split('"')[1]
            value = graph.constant(name)
            shown = str(value.tolist()) if value.size <= _SHOWN else "..."
            line = f'const "{name}" {value.dtype.name} {list(value.shape)} {shown}'
        elif line.startswith("    decided") and f'made_by="{last}"' not in line:
            continue
        line = re.sub(r", (histogram|reach)=\[[^\]]*\]", "", line)
        if last not in ("calibrate", "quantize", "assign-budget"):
            line = re.sub(r", calibration=Calibration\((?:[^()]|\([^()]*\))*\)", "", line)
        lines.append(_without_seconds(_FLOAT.sub(lambda m: f"{float(m[0]):.5g}", line)))
    return "\n".join(lines) + "\n"


def _without_seconds(line: str) -> str:
    line = re.sub(r"seconds=-?[\d.e+-]+", "seconds=_", line)
    return re.sub(r"\b[\d.]+ s\b", "_ s", line)


def same(found: str, wanted: str) -> bool:
    """Whether texts are equal but for what rounding makes of numbers on another processor."""
    if _NUMBER.sub("#", found) != _NUMBER.sub("#", wanted):
        return False
    pairs = zip(_NUMBER.findall(found), _NUMBER.findall(wanted), strict=True)
    return all(np.isclose(float(a), float(b), rtol=1e-3, atol=1e-9) for a, b in pairs)


@pytest.mark.parametrize("case", CASES)
def test_pass(case: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    golden = FOLDER / f"{case}.gir"
    read = Case.read(golden.read_text(encoding="utf-8"))
    found = f"{read.head}\n\n{read.result(tmp_path)}"
    if request.config.getoption("--update-golden"):
        golden.write_text(found, encoding="utf-8")
    wanted = golden.read_text(encoding="utf-8")
    if not same(found, wanted):
        assert found == wanted


def test_every_pass_has_a_case() -> None:
    shown = {Case.read((FOLDER / f"{case}.gir").read_text(encoding="utf-8")).last_pass for case in CASES}
    assert shown == set(PASSES)
