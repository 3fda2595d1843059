"""Every output is judged by its own measure, and every column of it keeps to its own spread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from pass_networks import Network

import glyphc
from glyphc.accuracy import accuracy, accuracy_text
from glyphc.cli import main
from glyphc.diagnostics import summary
from glyphc.errors import DataError, GlyphcError
from glyphc.ir.accuracy import Loss, MeasureKind
from glyphc.ir.evaluate import evaluate
from glyphc.ir.graph import Graph
from glyphc.ir.ops import ArgMax, Const, Dense, Linear, Output, Softmax
from glyphc.ir.text import parse, to_text
from glyphc.measures import Judge, Limits, kinds_text, parse_kinds, text
from glyphc.program import Program

F64 = npt.NDArray[np.float64]
SAMPLES = np.random.default_rng(8).normal(size=(300, 6))
# Spreads of the targets of a regression, as people have them: a price, a number of rooms, a share.
SIZES = np.array([200.0, 2.0, 0.1])


def regression(name: str = "y") -> Graph:
    """Three targets of different size and offset, which have nothing to do with each other."""
    n = Network(6)
    hidden = n.apply(n.dense(n.x, 12, "fc1"), "tanh")
    rng = np.random.default_rng(3)
    w = Const(n.graph.add_constant("w", rng.normal(size=(3, 12)) * SIZES[:, None]))
    b = Const(n.graph.add_constant("b", np.array([5000.0, 20.0, 0.5])))
    n.output(n.graph.add(Dense((w,), b), (hidden,), location="targets"), name)
    return n.graph


def classifier(end: str = "", name: str = "y", hidden: str = "tanh") -> Graph:
    """Logits that compete, as those of a trained network: each class has a direction of its own."""
    n = Network(6)
    centres = np.random.default_rng(5).normal(size=(4, 6))
    w = Const(n.graph.add_constant("w", centres - centres.mean(axis=0)))
    b = Const(n.graph.add_constant("b", np.zeros(4)))
    first = n.apply(n.graph.add(Dense((w,), b), (n.x,), location="fc1"), hidden)
    mix = np.eye(4) - 0.25
    w2, b2 = Const(n.graph.add_constant("w2", mix)), Const(n.graph.add_constant("b2", np.zeros(4)))
    last = n.graph.add(Dense((w2,), b2), (first,), location="logits")
    if end:
        last = n.graph.add({"softmax": Softmax(), "argmax": ArgMax(False)}[end], (last,), location=end)
    n.output(last, name)
    return n.graph


def losses(program: Program) -> tuple[Loss, ...]:
    return next(d.losses for n in program.graph for d in n.decisions if d.losses)


@pytest.mark.parametrize(
    ("graph", "kind", "why"),
    [
        (classifier("softmax"), "classes", "softmax"),
        (classifier("argmax"), "classes", "index of the largest"),
        (classifier(), "classes", "compete"),
        (regression(), "relative", "nothing says"),
        (regression("class_scores"), "classes", "called"),
    ],
)
def test_the_measure_follows_from_the_model(graph: Graph, kind: str, why: str) -> None:
    (measure,) = Judge.of(graph, {"x": SAMPLES}, Limits(0.5)).measures
    assert measure.kind.value == kind
    assert why in measure.reason


def test_targets_of_one_size_are_no_classes() -> None:
    n = Network(6)
    n.output(n.dense(n.apply(n.dense(n.x, 30, "fc1"), "tanh"), 3, "targets"))
    (measure,) = Judge.of(n.graph, {"x": SAMPLES}, Limits(0.5)).measures
    assert measure.kind is MeasureKind.RELATIVE


@pytest.mark.parametrize("mode", ["clear", "simulate", "encrypted"])
def test_every_target_keeps_to_its_own_spread(mode: str) -> None:
    graph = regression()
    program = glyphc.compile(graph, SAMPLES, 64, insecure_ring=1024)
    x = np.random.default_rng(9).normal(size=(64, 6))
    wanted = evaluate(graph, {"x": x})["y"]
    off = np.sqrt(np.mean((np.asarray(program.run(x, mode)) - wanted) ** 2, axis=0)) / wanted.std(axis=0)
    assert off.max() < 0.01
    # only because each has a scale of its own
    (fixed,) = {n.type.fixed for n, _ in program.graph.of(Linear) if n.location == "targets"}
    assert fixed is not None
    assert fixed.scale[0] > 100 * fixed.scale[2]
    (loss,) = losses(program)
    assert loss.kind is MeasureKind.RELATIVE
    assert loss.kept
    assert loss.columns == 3


def test_several_outputs_have_a_line_each() -> None:
    n = Network(6)
    hidden = n.apply(n.dense(n.x, 12, "fc1"), "tanh")
    n.output(n.graph.add(Softmax(), (n.dense(hidden, 4, "fc2"),), location="softmax"), "kind")
    n.output(n.dense(hidden, 1, "fc3"), "price")
    program = glyphc.compile(n.graph, SAMPLES, 16, insecure_ring=1024)
    assert [(loss.output, loss.kind.value) for loss in losses(program)] == [("kind", "classes"), ("price", "relative")]
    lines = [line for line in summary(program).splitlines() if line.startswith("accuracy")]
    assert [line.split()[2] for line in lines] == ["kind:", "price:"]
    labels = evaluate(n.graph, {"x": SAMPLES})["kind"].argmax(axis=1)
    found = accuracy(program, SAMPLES, {"kind": labels})
    assert [s.output for s in found.stages if s.stage == "simulated"] == ["kind", "price"]
    kind, price = (next(s for s in found.stages if (s.output, s.stage) == (o, "simulated")) for o in ("kind", "price"))
    assert kind.correct is not None
    assert kind.correct > 0.97
    assert price.correct is None
    assert price.loss is not None
    assert price.loss.kind is MeasureKind.RELATIVE
    shown = accuracy_text(found)
    assert "output kind, measure classes" in shown
    assert "output price, measure relative" in shown
    with pytest.raises(DataError, match="unknown output 'colour'"):
        accuracy(program, SAMPLES, {"colour": labels})


def test_losses_are_data_that_survives_the_text() -> None:
    program = glyphc.compile(regression(), SAMPLES, 4, insecure_ring=1024)
    again = parse(to_text(program.graph))
    assert next(d.losses for n in again for d in n.decisions if d.losses) == losses(program)


# -- what users say --


def test_users_may_say_otherwise() -> None:
    program = glyphc.compile(classifier(), SAMPLES, 4, insecure_ring=1024, measure={"y": "relative"})
    assert losses(program)[0].kind is MeasureKind.RELATIVE
    program = glyphc.compile(
        classifier(), SAMPLES, 4, insecure_ring=1024, measure={"y": "absolute"}, logit_tolerance=0.05
    )
    assert (losses(program)[0].kind, losses(program)[0].limit) == (MeasureKind.ABSOLUTE, 0.05)


@pytest.mark.parametrize(
    ("measure", "words"),
    [
        ({"z": "classes"}, "no output 'z'"),
        ({"y": "guess"}, "cannot be measured by 'guess'"),
        ({"y": "absolute"}, "say how much it may err"),
        ({"a;b": "classes"}, "cannot be set"),
    ],
)
def test_measures_that_cannot_be(measure: dict[str, str], words: str) -> None:
    with pytest.raises(GlyphcError, match=words):
        glyphc.compile(classifier(), SAMPLES, 4, insecure_ring=1024, measure=measure)


def test_the_command_line_takes_measures(tmp_path: Path) -> None:
    (tmp_path / "m.gir").write_text(to_text(classifier()))
    np.save(tmp_path / "x.npy", SAMPLES)
    arguments = ["compile", str(tmp_path / "m.gir"), "--calibration", str(tmp_path / "x.npy"), "--insecure-ring=1024"]
    result = CliRunner().invoke(main, [*arguments, "--measure", "y=relative"])
    assert result.exit_code == 0, result.output
    assert "measure relative, as asked for" in result.output
    for wrong, words in (("y", "is not NAME=MEASURE"), ("y=x", "cannot be measured")):
        result = CliRunner().invoke(main, [*arguments, "--measure", wrong])
        assert result.exit_code == 2
        assert words in result.output


KINDS = st.dictionaries(st.text("abc./:=% ", min_size=1), st.sampled_from(MeasureKind), max_size=4)


@given(KINDS)
def test_kinds_survive_their_text(kinds: dict[str, MeasureKind]) -> None:
    assert parse_kinds(filter(None, kinds_text(kinds).split(";"))) == kinds


# -- judging --


def judged(got: F64, wanted: F64, **limits: Any) -> Loss:
    n = Network(3)
    w, b = Const(n.graph.add_constant("w", np.eye(3))), Const(n.graph.add_constant("b", np.zeros(3)))
    n.output(n.graph.add(Dense((w,), b), (n.x,), location="same"), "logits")
    judge = Judge.of(n.graph, {"x": wanted}, Limits(**({"percent": 0.5} | limits)))
    (loss,) = judge.losses({"logits": got})
    return loss


def test_near_ties_of_few_samples_are_told_but_do_not_count() -> None:
    wanted = np.tile([3.0, 1.0, 0.0], (20, 1))
    wanted[4] = [1.001, 1.0, 0.0]
    got = wanted.copy()
    got[4, 1] += 0.01
    loss = judged(got, wanted)
    assert (loss.value, loss.near_ties) == (0.0, 1)
    assert "1 near-tie not counted" in text(loss)
    # one that was decided clearly counts
    got[5] = [1.0, 3.0, 0.0]
    loss = judged(got, wanted)
    assert (loss.value, loss.near_ties) == (5.0, 1)
    # and of many samples, every one
    many = judged(np.tile(got, (20, 1)), np.tile(wanted, (20, 1)))
    assert (many.value, many.near_ties) == (10.0, 0)


def test_the_worst_column_counts() -> None:
    rng = np.random.default_rng(1)
    wanted = rng.normal(size=(100, 3)) * SIZES
    got = wanted + np.array([0.0, 0.0, 0.05]) * rng.choice([-1.0, 1.0], size=(100, 1))
    graph = regression()
    measure = Judge.of(graph, {"x": SAMPLES}, Limits(0.5)).measures[0]
    judge = Judge(graph, (measure,), Limits(0.5), {})
    assert judge.limits.spread == 0.75
    errors = measure.errors(got, wanted)
    assert np.argmax(errors) == 2
    assert errors[2] == pytest.approx(0.05 / measure.spreads[2])


def test_a_decision_inside_the_network_is_a_label() -> None:
    n = Network(6)
    n.graph.add(Output("fraud"), (n.graph.add(ArgMax(False), (n.dense(n.x, 3, "fc"),)),))
    judge = Judge.of(n.graph, {"x": SAMPLES}, Limits(0.5))
    truth = judge.truth["fraud"].values
    (loss,) = judge.losses({"fraud": np.where(np.arange(300) < 30, (truth + 1) % 3, truth)})
    assert loss.value == pytest.approx(10.0)
