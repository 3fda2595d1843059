"""Where accuracy is lost: values of every node, errors of every stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from onnx_models import MODELS
from strategies import examples

import glyphc
from glyphc.accuracy import _gains, accuracy, accuracy_text
from glyphc.backends.cleartext import CleartextMachine
from glyphc.backends.recording import record
from glyphc.cli import main
from glyphc.codec import encode
from glyphc.errors import DataError, GlyphcError
from glyphc.frontends.from_dsl import parse_glyph
from glyphc.ir.evaluate import evaluate_all
from glyphc.ir.ops import Bootstrap, Linear, Switch
from glyphc.passes.pipeline import DEFAULT
from glyphc.passes.schedule import chunk_order
from glyphc.program import Program
from tests.schedule_cases import Case, cases

DATA = MODELS / "data"


@pytest.fixture(scope="module")
def digits() -> Program:
    """At 128-bit: simulated only."""
    return glyphc.compile(MODELS / "digits-mlp.onnx", np.load(DATA / "digits-train.npy"), 64, strategy="glyph")


@pytest.fixture(scope="module")
def samples() -> tuple[np.ndarray, np.ndarray]:
    return np.load(DATA / "digits-test.npy")[:100], np.load(DATA / "digits-test-labels.npy")[:100]


@examples(25)
@given(cases())
def test_recorded_ciphertexts_hold_every_nodes_values(case: Case) -> None:
    """On exact polynomials, what is recorded of a node decodes to its value in the graph, whatever its layout."""
    program = case.compile()
    samples = {name: x[: program.client.batch] for name, x in case.samples.items()}
    count = len(next(iter(samples.values())))
    machine = CleartextMachine(program.schedule)
    inputs = {p.name: [machine.encrypt(c) for c in encode(p, samples[p.name])] for p in program.client.inputs}
    computed = {n.id for n in program.graph if isinstance(n.op, Linear | Bootstrap | Switch)}
    _, nodes = record(program.schedule, machine, inputs, computed, chunk_order(program.graph))
    values, gains = evaluate_all(program.graph, samples), _gains(program.graph)
    assert computed & program.graph.live() <= set(nodes)
    for id, ciphertexts in nodes.items():
        node = program.graph.node(id)
        assert node.type.layout is not None
        got = node.type.layout.unpack(np.rint(np.array(ciphertexts) * gains[id]).astype(np.int64), count)
        np.testing.assert_array_equal(got, values[id].reshape(count, -1), err_msg=str(node))


def test_stages_get_worse_by_what_they_add(digits: Program, samples: tuple[np.ndarray, np.ndarray]) -> None:
    x, labels = samples
    found = accuracy(digits, x, labels)
    assert [s.stage for s in found.stages] == ["float", "quantized", "series", "simulated"]
    float_, quantized, series, simulated = found.stages
    assert float_.rms is None
    assert 0 < quantized.rms < series.rms
    assert simulated.rms == pytest.approx(series.rms, rel=0.3)
    assert simulated.largest >= simulated.rms
    assert float_.correct is not None
    assert float_.correct > 0.9
    # the simulated stage is what 'run --mode simulate' computes
    y = digits.run(x, "simulate")
    source = digits.stages["source"]
    exact = evaluate_all(source, {"pixels": x})[len(source) - 1]
    assert simulated.rms == pytest.approx(float(np.sqrt(np.mean((y - exact) ** 2))), rel=0.05)
    assert simulated.same_class == np.mean(np.argmax(y, 1) == np.argmax(exact, 1))
    clear = digits.run(x, "clear")
    assert quantized.rms == pytest.approx(float(np.sqrt(np.mean((clear - exact) ** 2))))


def test_every_node_of_the_float_network_is_compared(digits: Program, samples: tuple[np.ndarray, np.ndarray]) -> None:
    found = accuracy(digits, *samples)
    assert [n.location for n in found.nodes] == ["pixels", "scale+fc1", "relu1", "fc2", "relu2", "fc3"]
    by_name = {n.location: n for n in found.nodes}
    for name in ("relu1", "relu2"):
        assert by_name[name].series > 3 * by_name[name].quantized  # series of degree 13 are coarser than 12 bits
        assert 0 < by_name[name].contributes <= 1.05
    assert by_name["scale+fc1"].contributes is None
    parts = sum(n.contributes or 0 for n in found.nodes)
    assert parts == pytest.approx(1, abs=0.25)


def test_the_node_with_the_coarse_series_is_named() -> None:
    """Two branches: the one that the output hangs on most, by weight, contributes nearly all."""
    text = (
        "weights he_normal(seed=4)\ninput x: [6]\na = x -> dense(8) as fa -> tanh as ta -> dense(3, bias=none) as ga\n"
        "b = x -> dense(8) as fb -> tanh as tb -> dense(3, bias=none) as gb\ny = a * 0.01 + b\noutput y"
    )
    x = np.random.default_rng(5).normal(size=(200, 6))
    # merged branches would have no counterpart in the float network
    passes = DEFAULT.replace("merge,", "")
    program = glyphc.compile(parse_glyph(text).graph, x, batch=8, passes=passes, insecure_ring=4096)
    found = accuracy(program, x[:40], np.zeros((40, 3)))
    parts = {n.location: n.contributes for n in found.nodes if n.contributes is not None}
    assert parts["tb"] > 10 * abs(parts["ta"])
    assert "by the series of" in accuracy_text(found)
    assert "(@tb)" in accuracy_text(found)
    assert found.stages[-1].error is not None
    assert found.stages[-1].correct is None


def test_merged_bootstraps_have_a_row() -> None:
    text = (
        "weights he_normal(seed=4)\ninput x: [6]\na = x -> dense(8) as fa -> tanh as ta -> dense(3, bias=none) as ga\n"
        "b = x -> dense(8) as fb -> tanh as tb -> dense(3, bias=none) as gb\ny = a * 0.01 + b\noutput y"
    )
    x = np.random.default_rng(5).normal(size=(200, 6))
    program = glyphc.compile(parse_glyph(text).graph, x, batch=8, insecure_ring=4096)
    found = accuracy(program, x[:40], np.zeros((40, 3)))
    rows = {n.location: n for n in found.nodes if n.node in {b.id for b, _ in program.graph.of(Bootstrap)}}
    assert set(rows) == {"ta", "tb"}
    for row in rows.values():
        assert (row.lo, row.hi, row.quantized, row.series, row.simulated) == (None,) * 5
    assert rows["tb"].contributes > 0.5
    assert rows["tb"].contributes > 10 * abs(rows["ta"].contributes)
    assert f"by the series of %{rows['tb'].node} (@tb)" in accuracy_text(found)


def test_targets_have_no_classes(digits: Program, samples: tuple[np.ndarray, np.ndarray]) -> None:
    x, labels = samples
    found = accuracy(digits, x[:10], np.eye(10)[labels[:10]])
    assert all(s.same_class is None and s.correct is None and s.error is not None for s in found.stages)
    assert "same class" not in accuracy_text(found)


@pytest.mark.parametrize(("end", "threshold"), [("", 0.0), (" -> sigmoid as s", 0.5)])
def test_labels_of_single_outputs(end: str, threshold: float) -> None:
    text = f"weights he_normal(seed=4)\ninput x: [6]\ny = x -> dense(8) -> tanh as t -> dense(1) as d{end}\noutput y"
    x = np.random.default_rng(5).normal(size=(200, 6))
    graph = parse_glyph(text).graph
    exact = np.asarray(evaluate_all(graph, {"x": x})[len(graph) - 1]).reshape(-1)
    program = glyphc.compile(graph, x, batch=8, insecure_ring=4096)
    found = accuracy(program, x, exact > threshold)
    assert 0 < np.mean(exact > threshold) < 1
    assert found.stages[0].correct == 1
    assert all(s.same_class > 0.9 for s in found.stages[1:])
    assert all(s.error is None for s in found.stages)
    found = accuracy(program, x, exact.reshape(-1, 1))
    assert all(s.error is not None and s.correct is None for s in found.stages)


def test_encrypted_results_are_one_more_stage(
    digits: Program, samples: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    x, labels = samples
    y = digits.run(x, "simulate")
    found = accuracy(digits, x, labels, y + 1.0)
    assert found.stages[-1].stage == "encrypted"
    assert found.stages[-1].rms == pytest.approx(1.0, abs=0.1)
    digits.save(tmp_path / "p.glyphc")
    for name, array in (("x", x), ("labels", labels), ("y", y)):
        np.save(tmp_path / f"{name}.npy", array)
    arguments = ["inspect", "p.glyphc", "--accuracy", "x.npy", "labels.npy", "--encrypted", "y.npy"]
    result = CliRunner().invoke(main, [str(tmp_path / a) if "." in a else a for a in arguments])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert [line.split()[0] for line in lines[4:9]] == ["float", "quantized", "series", "simulated", "encrypted"]
    assert any("= bootstrap relu" in line and "@relu1" in line for line in lines)
    assert "most is lost by the series of" in lines[-1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, y: (x, y[:5], None), "as many labels"),
        (lambda x, y: (x, np.array(["a"] * len(x)), None), "as many labels"),
        (lambda x, y: (x, np.zeros((len(x), 4)), None), "targets have shape"),
        (lambda x, y: (x, y + 0.5, None), "targets have shape"),
        (lambda x, y: (x[:, :5], y, None), "has shape"),
        (lambda x, y: (x, y, np.zeros((3, 10))), "results of the encrypted run"),
    ],
)
def test_data_that_does_not_fit(
    change: Any, words: str, digits: Program, samples: tuple[np.ndarray, np.ndarray]
) -> None:
    with pytest.raises(DataError, match=words):
        accuracy(digits, *change(*samples))


def test_programs_without_a_float_network(digits: Program, samples: tuple[np.ndarray, np.ndarray]) -> None:
    program = glyphc.compile(digits.stages["insert-switches"])
    with pytest.raises(GlyphcError, match="no float network"):
        accuracy(program, *samples)
