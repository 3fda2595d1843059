"""Strategies as policies: what replaces nonlinearities, retraining, and the comparison of several on one network."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import glyphc
from glyphc import comparison_run
from glyphc.analysis.cost_file import current
from glyphc.cli import main
from glyphc.commands.strategies import load_retraining
from glyphc.comparison import Choice, Comparison, Measured, Outcome, Predicted, Result, held_out, parse_choices
from glyphc.comparison_report import markdown, page, table
from glyphc.errors import ArtifactError, CalibrationError, DataError, GlyphcError, ModelError
from glyphc.frontends.to_onnx import to_onnx
from glyphc.ir.encodings import Labels
from glyphc.ir.evaluate import evaluate
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph
from glyphc.ir.ops import Apply, ArgMax, Max, Output, Polynomial
from glyphc.runtime import run
from glyphc.substitution import substituted
from glyphc.train.retraining import Data, distilled, retrain
from glyphc.ways.registry import ways
from glyphc.ways.strategies import STRATEGIES, Replacement
from tests.pass_networks import SAMPLES, Network, mlp

RING = 1024


def functions(graph: Graph) -> list[Function]:
    return [f for _, op in graph.of(Apply) for f in op.functions]


def classifier(function: str = "relu") -> Graph:
    """Three classes, by the largest of the output's values."""
    n = Network(6)
    n.output(n.dense(n.apply(n.dense(n.x, 8, "fc1"), function), 3, "fc2"), "logits")
    return n.graph


def labelled(count: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Three clouds of points and which one each is of."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    centres = np.random.default_rng(0).normal(size=(3, 6)) * 1.5
    return centres[labels] + rng.normal(size=(count, 6)) / 2, labels


# -- policies --


def test_strategies_allow_ways_that_exist_and_name_papers() -> None:
    known = {way.name for way in ways()}
    for each in STRATEGIES.values():
        assert each.names is None or each.names <= known
        assert each.names is None or each.names
        assert each.paper or each.name in ("auto", "slots", "integers")


def test_all_strategies_are_listed() -> None:
    text = CliRunner().invoke(main, ["strategies"]).output
    assert all(f"\n{name}: " in "\n" + text for name in STRATEGIES)
    assert "Encrypted Deep Learning as a Service" in text
    assert "of 8 bits (--word-bits)" in text


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 7])
def test_onoufriou_takes_polynomials_of_the_degree_that_is_asked_for(degree: int) -> None:
    program = glyphc.compile(mlp("relu"), SAMPLES, 8, strategy="onoufriou", degree=degree, insecure_ring=RING)
    (op,) = [op for _, op in program.graph.of(Polynomial)]
    assert np.flatnonzero(op.fit.coefficients)[-1] == degree


def test_a_function_at_the_end_keeps_the_degree_too() -> None:
    """There is no layer behind it that its leading factor could be left to."""
    n = Network(4)
    n.output(n.apply(n.dense(n.x, 2, "fc"), "sigmoid"))
    x = np.random.default_rng(2).normal(size=(60, 4))
    program = glyphc.compile(n.graph, x, 8, strategy="onoufriou", degree=4, insecure_ring=RING)
    (op,) = [op for _, op in program.graph.of(Polynomial)]
    clear, simulated = (run(program, x[:8], mode).outputs["y"] for mode in ("clear", "simulate"))
    # of an odd function; even ones keep all five coefficients
    assert np.flatnonzero(op.fit.coefficients)[-1] in (3, 4)
    assert program.graph.parameters.depth == 4  # a level for the layer, three for degree 4 with its factor
    np.testing.assert_allclose(simulated, clear, atol=1e-3)
    assert np.abs(clear - evaluate(n.graph, {"x": x[:8]})["y"]).max() < 0.05


@pytest.mark.parametrize(("name", "degree"), [("glyph", 3), ("auto", 3), ("onoufriou", 0), ("onoufriou", 33)])
def test_degrees_that_are_none(name: str, degree: int) -> None:
    with pytest.raises(GlyphcError, match="degree"):
        glyphc.compile(mlp(), SAMPLES, 4, strategy=name, degree=degree, insecure_ring=RING)


# -- other networks --


def test_polynomials_are_fitted_to_the_range_of_the_calibration_samples() -> None:
    changed = substituted(mlp("tanh"), Replacement.POLYNOMIAL, 7, {"x": SAMPLES})
    (function,) = functions(changed)
    lo, hi, *coefficients = function.parameters
    assert len(coefficients) == 8
    x = np.linspace(lo, hi, 1000)
    middle = np.abs(x - (lo + hi) / 2) < (hi - lo) / 6
    assert np.abs(function(x) - np.tanh(x))[middle].max() < 0.05
    with pytest.raises(CalibrationError, match="--calibration"):
        substituted(mlp("tanh"), Replacement.POLYNOMIAL, 7, {})


def test_a_square_is_the_multiple_nearest_to_the_function_and_the_identity_is_not_folded_away() -> None:
    (square,) = functions(substituted(mlp("relu"), Replacement.SQUARE, 2, {"x": SAMPLES}))
    factor = square(np.array([1.0]))[0]
    np.testing.assert_allclose(square(np.array([-2.0, 0.0, 3.0])), factor * np.array([4.0, 0.0, 9.0]), atol=1e-12)
    assert 0.05 < factor < 2
    same = substituted(mlp("relu"), Replacement.IDENTITY, 1, {"x": SAMPLES})
    (identity,) = functions(same)
    np.testing.assert_allclose(identity(np.array([-2.0, 0.5])), [-2.0, 0.5])
    program = glyphc.compile(same, SAMPLES, 4, strategy="slots", insecure_ring=RING)
    assert len(list(program.graph.of(Polynomial))) == 1


def test_what_cannot_be_replaced_is_named() -> None:
    n = Network(4)
    a, b = n.dense(n.x, 2, "a"), n.dense(n.x, 2, "b")
    n.output(n.graph.add(Max(), (a, b), location="larger"))
    with pytest.raises(ModelError, match="larger"):
        substituted(n.graph, Replacement.SQUARE, 2, {"x": np.ones((3, 4))})
    n = Network(4)
    n.output(n.apply(n.dense(n.x, 2, "fc"), "sigmoid"))
    with pytest.raises(ModelError, match="ends with a function"):
        substituted(n.graph, Replacement.SQUARE, 2, {"x": np.ones((3, 4))})
    kept = substituted(n.graph, Replacement.POLYNOMIAL, 3, {"x": np.ones((3, 4))})
    assert functions(kept) == [Function("sigmoid")]


# -- retraining --


def test_retraining_brings_back_what_the_identity_loses() -> None:
    x, labels = labelled(90)
    fresh, answers = labelled(90, seed=2)
    changed = substituted(classifier(), Replacement.IDENTITY, 1, {"x": x})
    before, after = (
        np.mean(evaluate(g, {"x": fresh})["logits"].argmax(axis=1) == answers)
        for g in (changed, retrain(changed, Data(x, labels)).network)
    )
    assert after > 0.95 > before


def test_compiled_retrained_networks_compute_the_trained_polynomials() -> None:
    x, labels = labelled(90)
    program = glyphc.compile(classifier(), x, 16, strategy="onoufriou", retrain=Data(x, labels), insecure_ring=RING)
    trained = program.stages["substitute"]
    fresh, answers = labelled(48, seed=3)
    clear = run(program, fresh, "clear").outputs["logits"]
    wanted = evaluate(trained, {"x": fresh})["logits"]
    assert np.abs(clear - wanted).max() < 2e-3 * np.ptp(wanted)
    assert np.mean(clear.argmax(axis=1) == answers) > 0.95
    assert any("retrained in the clear on 90 samples" in note for note in program.notes)


def test_classifiers_learn_what_the_given_network_knows() -> None:
    """A linear network learns of a teacher that knows the samples, and is right about others; none of a bad one."""
    x, labels = labelled(120)
    teacher = retrain(classifier(), Data(x, labels)).network
    z = evaluate(teacher, {"x": x})["logits"]
    assert np.mean(z.argmax(axis=1) == labels) > 0.95
    soft = distilled(teacher, Data(x, labels))
    assert soft is not None
    wrong = z.argmax(axis=1) != labels
    np.testing.assert_allclose(soft.labels[wrong], np.eye(3)[labels[wrong]])
    exact = np.exp(z / 4) / np.exp(z / 4).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(soft.labels[~wrong], exact[~wrong], atol=1e-9)
    linear = substituted(teacher, Replacement.IDENTITY, 1, {"x": x})
    found = retrain(linear, Data(x, labels), teacher=teacher)
    assert "the given network's probabilities" in found.note
    fresh, answers = labelled(300, seed=2)
    said = evaluate(found.network, {"x": fresh})["logits"]
    assert np.mean(said.argmax(axis=1) == answers) > 0.95
    # logits, not only decisions
    assert np.corrcoef(said.ravel(), evaluate(teacher, {"x": fresh})["logits"].ravel())[0, 1] > 0.9
    assert distilled(teacher, Data(x, (labels + 1) % 3)) is None
    n = Network(6)
    n.output(n.dense(n.x, 1, "fc"))
    assert distilled(n.graph, Data(x, labels.astype(np.float64))) is None


def test_retraining_that_makes_no_sense() -> None:
    x, labels = labelled(30)
    with pytest.raises(GlyphcError, match="keeps the network as it is"):
        glyphc.compile(classifier(), x, 4, strategy="glyph", retrain=Data(x, labels), insecure_ring=RING)
    with pytest.raises(GlyphcError, match="--degree"):
        glyphc.compile(classifier(), x, 4, strategy="slots", retrain=Data(x, labels), insecure_ring=RING)
    with pytest.raises(DataError, match="as many labels"):
        Data(x, labels[:-1])
    with pytest.raises(DataError, match="at least 14"):
        retrain(classifier("sigmoid"), Data(x[:9], labels[:9]))
    with pytest.raises(GlyphcError, match="--retrain-labels"):
        load_retraining("x.npy", None)


# -- comparisons --


def test_rows_are_named_and_read() -> None:
    read = parse_choices("onoufriou:7, glyph,onoufriou+retrained,glyph", retraining=True)
    assert read == (Choice("onoufriou", 7), Choice("glyph"), Choice("onoufriou", None, True))
    assert [str(c) for c in read] == ["onoufriou:7", "glyph", "onoufriou+retrained"]
    everything = parse_choices("all", retraining=False)
    assert {c.strategy for c in everything} == set(STRATEGIES)
    assert Choice("onoufriou", None, True) in parse_choices("all", retraining=True)
    for text, problem in (
        ("magic", "no strategy"),
        ("onoufriou:x", "onoufriou:7"),
        ("", "names no"),
        (",", "names no"),
    ):
        with pytest.raises(GlyphcError, match=problem):
            parse_choices(text, retraining=False)
    with pytest.raises(GlyphcError, match="--retrain-data"):
        parse_choices("onoufriou+retrained", retraining=False)


def test_samples_to_compare_on_are_never_trained_on() -> None:
    x, _ = labelled(30)
    held_out(x[:10], x[10:])
    with pytest.raises(GlyphcError, match=r"3 of the 10 samples .* first sample 7"):
        held_out(x[:10], x[7:])
    zeros = np.zeros((1, 6))
    with pytest.raises(GlyphcError, match="2 of the 2 samples"):
        held_out(np.concatenate([x[:1], zeros]), np.concatenate([x[:1], -zeros]).astype(np.float32))


def test_a_comparison_itself_refuses_samples_that_are_trained_on() -> None:
    x, labels = labelled(12)
    task = comparison_run.Task(classifier(), x, x, labels, current(), Data(x[:3].astype(np.float32), labels[:3]))
    with pytest.raises(GlyphcError, match="3 of the 12 samples"):
        comparison_run.compare(task, (), Comparison("0", "m", 12, (), "machine"))


def test_whole_targets_of_one_output_are_no_classes() -> None:
    n = Network(6)
    n.output(n.dense(n.x, 1, "fc"))
    x, _ = labelled(12)
    scorer = comparison_run.Scorer(n.graph, x, np.arange(12))
    assert [name for name, _ in scorer.scores(scorer.truth)] == [comparison_run.RMS]
    classes = comparison_run.Scorer(n.graph, x, (scorer.truth.ravel() > 0).astype(np.int64))
    assert classes.scores(classes.truth) == ((comparison_run.ACCURACY, 1.0),)


@pytest.mark.parametrize("names", [Labels(integers=(3, 5, 7)), Labels(texts=("a", "b", "c"))])
@pytest.mark.parametrize("by_name", [True, False])
def test_labels_of_outputs_score_as_their_indices(names: Labels, by_name: bool) -> None:
    """Labels are given as the run gives them, or by index; the float network and a run of it score alike."""
    n = Network(6)
    index = n.graph.add(ArgMax(False), (n.dense(n.x, 3, "fc"),), location="argmax")
    n.graph.add(Output("label", names), (index,), location="label")
    x, _ = labelled(24)
    truth = evaluate(n.graph, {"x": x})["label"]
    scorer = comparison_run.Scorer(n.graph, x, names.of(truth) if by_name else truth.astype(np.int64))
    assert scorer.scores(scorer.truth) == ((comparison_run.ACCURACY, 1.0),)
    assert scorer.scores(scorer.indices(names.of(truth))) == ((comparison_run.ACCURACY, 1.0),)
    other = names.of((truth + (np.arange(24) < 6)) % 3)
    assert scorer.scores(scorer.indices(other)) == ((comparison_run.ACCURACY, 0.75),)


def files(folder: Path, count: int = 24) -> list[str]:
    x, _ = labelled(90)
    fresh, _ = labelled(count, seed=4)
    answers = evaluate(classifier(), {"x": fresh})["logits"].argmax(axis=1)
    (folder / "net.onnx").write_bytes(to_onnx(classifier()).SerializeToString())
    for name, array in (("train", x), ("x", fresh), ("y", answers)):
        np.save(folder / f"{name}.npy", array)
    names = ("net.onnx", "--calibration", "train.npy", "--input", "x.npy", "--labels", "y.npy")
    return ["compare", *(n if n.startswith("-") else str(folder / n) for n in names), "--insecure-ring", str(RING)]


def test_a_comparison_runs_what_fits_and_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "cmp.json"
    given = [*files(tmp_path), "--record", str(record)]
    first = CliRunner().invoke(main, [*given, "--strategies", "onoufriou:2,tbmpnet:3", "--seconds", "4"])
    assert first.exit_code == 0, first.output
    found = Comparison.load(record)
    ran, slow = found.results
    assert (ran.outcome, slow.outcome) == (Outcome.RUN, Outcome.NOT_RUN)
    assert slow.predicted is not None
    assert slow.predicted.evaluate_seconds > 4
    assert "predicted to take" in slow.reason
    assert ran.measured is not None
    assert ran.predicted is not None
    assert ran.measured.error < 2**-10
    assert ran.measured.stage("evaluate") > 0
    assert ran.measured.cpu_seconds > 0
    assert ran.scores == ran.simulated
    assert ran.scores[0][1] > 0.75
    assert found.floats == (("accuracy", 1.0),)
    assert ran.learns.startswith("client: inputs, results; server: weights")

    def must_not(*given: object) -> None:
        raise AssertionError("this row is known")

    with monkeypatch.context() as patched:
        patched.setattr(comparison_run, "apart", must_not)
        again = CliRunner().invoke(main, [*given, "--strategies", "onoufriou:2,glyph", "--seconds", "0.001"])
    assert again.exit_code == 0, again.output
    assert "known, run" in again.output
    late = Comparison.load(record).of(Choice("glyph"))
    assert late is not None
    assert (late.outcome, late.measured) == (Outcome.NOT_RUN, None)
    assert "more than the 0.0 s" in late.reason
    assert late.simulated
    np.save(tmp_path / "y.npy", np.zeros(24, dtype=np.int64))
    other = CliRunner().invoke(main, [*given, "--strategies", "tbmpnet"])
    assert other.exit_code == 2
    assert "other data" in other.output
    record.write_text(record.read_text()[:-30])
    damaged = CliRunner().invoke(main, [*given, "--strategies", "tbmpnet"])
    assert damaged.exit_code == ArtifactError.exit_code


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows = self.dots = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.rows += tag == "tr"
        self.dots += tag == "circle"
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        assert tag == "line"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_tables_and_pages_show_every_row_and_escape_names() -> None:
    predicted = Predicted(3.0, 1.0, 5e8, 1e6, 2e7, 1e5, 0)
    measured = Measured((("encrypt", 1.0), ("evaluate", 4.0)), 6.5, 450_000_000, 2.0**-12, False, (("accuracy", 0.97),))
    ran = Result(
        Choice("onoufriou", 3), Outcome.RUN, "", "f", "s", predicted, (("accuracy", 0.96),), measured, "client: x"
    )
    results = (
        ran,
        replace(ran, choice=Choice("glyph"), outcome=Outcome.NOT_RUN, reason="too <large>", measured=None),
        Result(Choice("tbmpnet"), Outcome.REFUSED, "too many gates"),
    )
    found = Comparison("0", "a<b>.onnx", 12, (("accuracy", 0.98),), "a machine", results)
    heading, rule, *lines = markdown(found).split("\n\n")[0].splitlines()
    assert len(lines) == 3
    assert {line.count("|") for line in (heading, rule, *lines)} == {11}
    assert "97.00% (96.00%) | 2^-12.0 | 4.0 (3.0) / 6.5 | 1.0 (1.0) | 0 | 0.45 (0.50)" in lines[0]
    assert "not run" in lines[1]
    text = table(found)
    for part in ("97.00%", "96.00%", "2^-12.0", "4.0 s", "6.5 s", "450.0 MB", "refused", "too <large>", "onoufriou:3"):
        assert part in text
    html = _Page()
    html.feed(page(found))
    assert html.open == []
    assert html.rows == 4
    assert html.dots == 4  # two plots of what was predicted
    assert "<b>.onnx" not in page(found)
