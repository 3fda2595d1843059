"""Schemes and switches."""

from __future__ import annotations

import pytest
from pass_networks import SAMPLES, Network, mlp, run, upto

import glyphc
from glyphc.errors import ParameterError
from glyphc.ir.functions import Function
from glyphc.ir.ops import (
    Apply,
    ArgMax,
    Bootstrap,
    Input,
    Linear,
    Output,
    Reshape,
    Softmax,
    Switch,
)
from glyphc.ir.types import Encoding, Scheme
from glyphc.passes.base import Context
from glyphc.passes.pipeline import parse_pipeline, run_pipeline

# -- schemes --


def test_every_value_gets_a_scheme_with_its_encoding() -> None:
    n = Network(2, 3)
    x = n.dense(n.apply(n.dense(n.x, 8, "fc1"), "relu"), 4, "fc2")
    x = n.graph.add(Reshape((2, 2)), (x,))
    x = n.graph.add(ArgMax(False), (n.graph.add(Softmax(), (x,)),))
    n.output(x)
    graph, _ = run(n.graph, upto("assign-scheme"))
    wanted = {
        Input: Scheme.BGV,
        Linear: Scheme.BGV,
        Apply: Scheme.TORUS,
        Softmax: Scheme.CLIENT,
        ArgMax: Scheme.CLIENT,
        Output: Scheme.CLIENT,
    }
    encodings = {Scheme.BGV: Encoding.LSB, Scheme.TORUS: Encoding.MSB, Scheme.CLIENT: None}
    for node in graph:
        assert node.type.scheme is not None
        if not isinstance(node.op, Reshape):
            assert node.type.scheme is wanted[type(node.op)]
        assert node.type.encoding is encodings[node.type.scheme]


def test_decisions_keep_the_losers_with_their_reasons() -> None:
    graph, _ = run(mlp(), upto("assign-scheme"))
    decided = [n for n in graph if isinstance(n.op, Linear | Apply)]
    assert len(decided) == 3
    for node in decided:
        (decision,) = [d for d in node.decisions if d.made_by == "assign-scheme"]
        names = [c.name for c in decision.candidates]
        assert len(names) == len(set(names)) >= 3
        assert decision.chosen in names
        assert all(len(c.reason) > 10 for c in decision.candidates)
        winner = next(c for c in decision.candidates if c.name == decision.chosen)
        assert winner.seconds is not None
        assert winner.seconds > 0
        assert all(c.seconds is None or c.seconds >= winner.seconds for c in decision.candidates)


def test_decisions_reach_the_final_graph() -> None:
    program = glyphc.compile(mlp(), SAMPLES, insecure_ring=1024, strategy="glyph")
    (bootstrap,) = [n for n, _ in program.graph.of(Bootstrap)]
    assert [d.made_by for d in bootstrap.decisions] == [
        "assign-scheme",
        "assign-layout",
        "assign-budget",
        "select-parameters",
    ]
    assert [d.made_by for d in program.graph.inputs[0].decisions] == ["quantize"]


def test_predicted_seconds_grow_with_the_batch() -> None:
    def seconds(batch: int) -> float:
        graph, _ = run(mlp(), upto("assign-scheme"), batch)
        (node,) = [n for n, _ in graph.of(Apply)]
        return next(c.seconds for d in node.decisions for c in d.candidates if c.name == d.chosen) or 0.0

    assert seconds(1) < seconds(1000) < seconds(100_000)


# -- switches --


def test_switches_stand_where_schemes_change() -> None:
    graph, _ = run(mlp(), upto("insert-switches"))
    kinds = [type(n.op) for n in graph]
    assert kinds == [Input, Reshape, Linear, Switch, Apply, Switch, Linear, Output]
    there, back = (op for _, op in graph.of(Switch))
    assert (there.source, there.target, there.encoding) == (Scheme.BGV, Scheme.TORUS, Encoding.MSB)
    assert (back.source, back.target, back.encoding) == (Scheme.TORUS, Scheme.BGV, Encoding.LSB)
    for node, _ in graph.of(Switch):
        assert node.type.fixed == graph.operands(node)[0].type.fixed
        assert node.location == graph.operands(node)[0].location


def test_one_switch_serves_several_users() -> None:
    n = Network(6)
    hidden = n.dense(n.x, 5, "fc")
    first, second = n.apply(hidden, "relu"), n.apply(hidden, "tanh")
    n.output(first, "y1")
    n.output(n.dense(first, 2, "head"), "y2")
    n.output(n.graph.add(Softmax(), (first,)), "y3")
    n.output(second, "y4")
    n.output(hidden, "y5")
    context = Context({"x": SAMPLES.reshape(100, 6)})
    graph = run_pipeline(n.graph, parse_pipeline(upto("insert-switches")), context)
    assert [type(node.op) for node in graph].count(Switch) == 3
    (to_torus,) = [node for node, op in graph.of(Switch) if op.target is Scheme.TORUS]
    assert {type(u.op) for u in graph.users(to_torus)} == {Apply}
    assert len(graph.users(to_torus)) == 2
    (relu,) = [node for node, op in graph.of(Apply) if op.functions == (Function("relu"),)]
    (back,) = graph.users(relu)
    assert sorted(u.op.mnemonic for u in graph.users(back)) == ["linear", "output", "softmax"]


def test_switches_need_schemes() -> None:
    with pytest.raises(ParameterError, match="assign-scheme"):
        run(mlp(), "fold,calibrate,quantize,insert-switches")


def test_without_nonlinearity_nothing_is_switched() -> None:
    n = Network(6)
    n.output(n.dense(n.x, 3, "fc"))
    program = glyphc.compile(n.graph, SAMPLES.reshape(100, 6), 4, insecure_ring=1024)
    assert not any(program.graph.of(Switch))
    assert (program.client.parameters.slots, program.client.parameters.degree) == (0, 0)
