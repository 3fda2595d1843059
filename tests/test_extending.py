"""The examples of docs/extending.md, each executed as a module of another package."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from pass_networks import SAMPLES, Network, mlp

import glyphc
from glyphc.backends import engine as engines
from glyphc.backends.base import execute
from glyphc.ir.instructions import Dot
from glyphc.ir.ops import OPS, Linear
from glyphc.ir.text import parse, to_text
from glyphc.passes import expand
from glyphc.ways import registry

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
MOST_LINES = 60


def source(name: str) -> str:
    found = re.search(rf"```python {name}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None, name
    return found[1]


def loaded(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An example as a module that can be imported by its name."""
    text = source(name)
    assert text.count("\n") < MOST_LINES
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, name, raising=False)
    return __import__(name)


@pytest.fixture
def distance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    module = loaded("add_an_op", tmp_path, monkeypatch)
    yield module
    del OPS["distance"], expand._LOWERINGS[module.Distance]


def test_an_op(distance: ModuleType) -> None:
    n = Network(2, 3)
    x = n.graph.add(distance.Distance(0.25), (n.dense(n.x, 5, "fc1"),), location="far")
    n.output(n.dense(x, 2, "fc2"))
    assert parse(to_text(n.graph)) == n.graph
    program = glyphc.compile(n.graph, SAMPLES, 4, insecure_ring=1024)
    w = {name: n.graph.constant(name) for name in n.graph.constants}
    (w1, b1, w2, b2) = w.values()
    expected = ((SAMPLES[:4].reshape(4, 6) @ w1.T + b1 - 0.25) ** 2) @ w2.T + b2
    spread = np.ptp(expected)
    np.testing.assert_allclose(program.run(SAMPLES[:4], "clear"), expected, atol=0.01 * spread)
    np.testing.assert_allclose(program.run(SAMPLES[:4], "simulate"), expected, atol=0.05 * spread)


def test_a_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded("add_a_way", tmp_path, monkeypatch)
    point = EntryPoint("additions", "add_a_way:Additions", registry.WAYS_GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == registry.WAYS_GROUP else [])
    n = Network(2)
    n.output(n.dense(n.apply(n.dense(n.x, 8, "fc1"), "relu"), 4, "fc2"))
    program = glyphc.compile(n.graph, SAMPLES.reshape(300, 2), 4, insecure_ring=1024, strategy="auto")
    decisions = [d for node, _ in program.graph.of(Linear) for d in node.decisions if d.made_by == "assign-scheme"]
    assert sorted(d.chosen for d in decisions) == ["additions", "bgv"]
    assert np.isfinite(program.run(SAMPLES.reshape(300, 2)[:4], "simulate")).all()  # type: ignore[arg-type]


def test_an_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = loaded("add_an_engine", tmp_path, monkeypatch)
    point = EntryPoint("counting", "add_an_engine:ENGINE", engines.GROUP)
    monkeypatch.setattr(engines, "entry_points", lambda group: [point] if group == engines.GROUP else [])
    assert "counting" in engines.engine_names()
    found = engines.engine("counting")
    schedule = glyphc.compile(mlp(), SAMPLES, 4, insecure_ring=1024).schedule
    assert found.unsupported(schedule.instructions) == set()
    zeros = {p.name: [np.zeros(schedule.parameters.ring)] * 99 for p in schedule.client.inputs}
    with found.session(schedule, None) as session:  # type: ignore[arg-type]
        execute(schedule.instructions, session.machine, zeros)
    products = sum(len(i.sources) for i in schedule.instructions if isinstance(i, Dot))
    assert module.COUNTS["products"] == products > 0
