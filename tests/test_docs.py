"""The pages of docs/ say what is true: examples can be read, tables are complete."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from glyphc.frontends.dsl_layers import LAYERS
from glyphc.frontends.dsl_weights import INITIALISERS
from glyphc.frontends.from_dsl import parse_glyph
from glyphc.ir.ops import OPS
from glyphc.ir.text import parse
from glyphc.ir.types import Level

DOCS = Path(__file__).resolve().parents[1] / "docs"


def ops_table() -> str:
    """A row for each op, from its class."""
    rows = ["| op | attributes | levels | computes |", "| --- | --- | --- | --- |"]
    for name, op in OPS.items():
        levels = [level.value for level in Level if level in op.levels]
        where = "all" if len(levels) == len(Level) else " to ".join(dict.fromkeys((levels[0], levels[-1])))
        purpose = " ".join((op.__doc__ or "").split("\n\n")[0].split()).replace("|", "\\|")
        rows.append(f"| `{name}` | {', '.join(f'`{f.name}`' for f in fields(op))} | {where} | {purpose} |")
    return "\n".join(rows)


def test_the_table_of_ops_is_complete(request: pytest.FixtureRequest) -> None:
    """After a change of ops: pytest tests/test_docs.py --update-golden."""
    path = DOCS / "ir.md"
    text = path.read_text()
    if request.config.getoption("--update-golden"):
        text = re.sub(r"\| op \| attributes .*?\n\n", lambda _: ops_table() + "\n\n", text, flags=re.DOTALL)
        path.write_text(text)
    assert ops_table() in text


def test_the_example_of_the_ir() -> None:
    page = (DOCS / "ir.md").read_text()
    example = re.search(r"(?m)^    glyph-ir 1 .*?\n\n", page, re.DOTALL)
    assert example is not None
    graph = parse("\n".join(line[4:] for line in example[0].splitlines()))
    assert [n.op.mnemonic for n in graph] == ["input", "dense", "apply", "output"]
    np.testing.assert_array_equal(graph.constant("w"), [[0, 0.5, 1], [1.5, 2, 2.5]])


def test_the_example_of_the_dsl(tmp_path: Path) -> None:
    page = (DOCS / "dsl.md").read_text()
    example = re.search(r"```glyph\n(.*?)```", page, re.DOTALL)
    assert example is not None
    sizes = {"fc1": (32, 64), "fc2": (16, 32), "fc3": (10, 16)}
    tensors = {f"{n}.weight": np.zeros(s) for n, s in sizes.items()} | {
        f"{n}.bias": np.zeros(s[0]) for n, s in sizes.items()
    }
    np.savez(tmp_path / "digits.npz", **tensors)
    network = parse_glyph(example[1], folder=tmp_path)
    assert network.batch == 512
    assert network.training is not None
    assert network.training.frozen == ("fc1",)


def test_the_page_of_the_dsl_has_every_layer_and_initialiser() -> None:
    page = (DOCS / "dsl.md").read_text()
    assert [name for name in LAYERS if f"`{name}(" not in page] == []
    assert [name for name in INITIALISERS if f"`{name}(" not in page] == []


def test_every_file_that_the_design_names_is_there() -> None:
    page = (DOCS / "design.md").read_text()
    named = set(re.findall(r"`((?:ir|backends|glyphc|tests)/[\w/]+\.py)`", page))
    assert len(named) > 70, "the walks name a file for each step"
    assert [path for path in sorted(named) if not (DOCS.parent / path).is_file()] == []
