"""Bootstraps that share a ciphertext: same results, fewer bootstraps, and only where that pays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from strategies import examples
from test_passes_layout import assigned, mlp

import glyphc
from glyphc.analysis.cost import CostModel
from glyphc.diagnostics import summary
from glyphc.errors import GlyphcError
from glyphc.ir.evaluate import evaluate, evaluate_all
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph, Node
from glyphc.ir.instructions import Evaluate, Powers
from glyphc.ir.ops import Apply, Const, Dense, Input, Linear, Output, Switch
from glyphc.ir.types import Level
from glyphc.ir.verify import verify
from glyphc.passes.base import Context
from glyphc.passes.merge import Merge
from glyphc.passes.pipeline import DEFAULT
from glyphc.reasons import why

RING = 2048
NAMES = ("tanh", "relu", "sigmoid", "exp", "abs")


class Network:
    """Builds source graphs of dense layers and functions."""

    def __init__(self, inputs: int = 4) -> None:
        self.graph = Graph(Level.SOURCE, 1)
        self.rng = np.random.default_rng(7)
        self.x = self.graph.add(Input("x", (inputs,)), location="x")

    def dense(self, operands: list[Node], size: int, name: str) -> Node:
        weights = tuple(
            Const(self.graph.add_constant(f"{name}.w", self.rng.normal(size=(size, o.type.size)) / o.type.size))
            for o in operands
        )
        bias = Const(self.graph.add_constant(f"{name}.b", self.rng.normal(size=size) / 4))
        return self.graph.add(Dense(weights, bias), tuple(operands), location=name)

    def layer(self, operands: list[Node], size: int, function: str, name: str) -> Node:
        hidden = self.dense(operands, size, name)
        return self.graph.add(Apply((Function(function),)), (hidden,), location=f"{function} {name}")

    def done(self, *operands: Node) -> Graph:
        self.graph.add(Output("y"), (self.dense(list(operands), 3, "last"),), location="y")
        return self.graph


def branches(*sizes: int, functions: tuple[str, ...] = NAMES) -> Graph:
    """Parallel layers of one input, summed up by the last."""
    net = Network()
    return net.done(*(net.layer([net.x], n, functions[i % len(functions)], f"b{i}") for i, n in enumerate(sizes)))


def bootstrapped(graph: Graph) -> list[Node]:
    return [n for n, _ in graph.of(Linear) if any(isinstance(u.op, Switch) for u in graph.users(n))]


def merged(source: Graph, batch: int = 1, ring: int = RING) -> tuple[Graph, Graph, Context]:
    """The graph before and after the pass."""
    before, context = assigned(source, batch)
    after = Merge(ring=ring).run(before, context)
    verify(after)
    return before, after, context


@st.composite
def networks(draw: st.DrawFn) -> Graph:
    """Layers that read any one or two of the values before them."""
    net = Network()
    values = [net.x]
    for i in range(draw(st.integers(2, 6))):
        chosen = draw(st.lists(st.sampled_from(values), min_size=1, max_size=2, unique_by=lambda n: n.id))
        values.append(net.layer(chosen, draw(st.integers(1, 12)), draw(st.sampled_from(NAMES)), f"h{i}"))
    return net.done(*draw(st.lists(st.sampled_from(values[1:]), min_size=1, max_size=4, unique_by=lambda n: n.id)))


@given(networks(), st.sampled_from([1, 3, 16, 200]))
@examples(60)
def test_results_stay_the_same(source: Graph, batch: int) -> None:
    """To the last bit of every integer, since the rows are the same."""
    before, after, context = merged(source, batch)
    fewer = len(bootstrapped(before)) - len(bootstrapped(after))
    event(f"{fewer} bootstraps fewer")
    assert fewer >= 0
    x = {"x": np.random.default_rng(1).normal(size=(50, 4))}
    assert set(evaluate(before, x)) == set(evaluate(after, x)) == {"y"}
    np.testing.assert_allclose(evaluate(after, x)["y"], evaluate(before, x)["y"], rtol=0, atol=1e-12)
    # what functions make of rows that are not theirs stays in their format
    for node, value in ((after.node(i), v) for i, v in evaluate_all(after, context.samples).items()):
        if isinstance(node.op, Apply):
            assert node.type.fixed is not None
            assert node.type.fixed.lo <= value.min() <= value.max() <= node.type.fixed.hi


@pytest.mark.parametrize("sizes", [(6, 6), (1, 20), (3, 4, 5), (5, 5, 5, 5, 5)])
def test_parallel_branches_share_one_bootstrap(sizes: tuple[int, ...]) -> None:
    before, after, _ = merged(branches(*sizes), 4)
    assert len(bootstrapped(before)) == len(sizes)
    (only,) = bootstrapped(after)
    assert only.type.size == sum(sizes)
    # all functions read the one value, so they share the powers too
    assert len({n.operands for n, _ in after.of(Apply)}) == 1


def test_a_chain_stays_as_it_is() -> None:
    before, after, _ = merged(mlp(4, 8, 8, 3))
    assert after == before


def test_full_ciphertexts_gain_nothing() -> None:
    """Two branches that fill their ciphertexts would need two for both, and each function on either."""
    before, after, _ = merged(branches(16, 16), RING // 16)
    assert len(bootstrapped(after)) == len(bootstrapped(before)) == 2


def test_no_cycles() -> None:
    """a -> c and d -> b: (a, b) and (c, d) are pairs of independent maps, but not both."""
    net = Network()
    a, d = net.layer([net.x], 3, "tanh", "a"), net.layer([net.x], 4, "relu", "d")
    c, b = net.layer([a], 3, "sigmoid", "c"), net.layer([d], 4, "exp", "b")
    before, after, _ = merged(net.done(a, b, c, d), 2)
    assert len(bootstrapped(before)) == 4
    assert len(bootstrapped(after)) == 2


def test_a_short_branch_goes_along_with_the_end_of_a_long_one() -> None:
    """Where the first layer's ciphertext is full."""
    net = Network()
    long = net.layer([net.layer([net.x], 64, "tanh", "l1")], 4, "tanh", "l2")
    short = net.layer([net.x], 4, "relu", "s")
    _, after, _ = merged(net.done(long, short), RING // 64)
    assert sorted(n.location for n in bootstrapped(after)) == ["l1", "l2|s"]


def test_what_the_client_reads_stays_apart() -> None:
    """A nonlinearity at the output must keep its shape."""
    net = Network()
    one, two = net.layer([net.x], 3, "tanh", "a"), net.layer([net.x], 3, "relu", "b")
    net.graph.add(Output("z"), (one,), location="z")
    before, after, _ = merged(net.done(two))
    assert after == before


def test_encrypted_results_and_what_users_see() -> None:
    x = np.random.default_rng(3).normal(size=(200, 4))
    source = branches(5, 6, functions=("tanh", "relu"))
    program = glyphc.compile(source, x, 8, insecure_ring=RING)
    apart = glyphc.compile(source, x, 8, insecure_ring=RING, passes=DEFAULT.replace("merge,", ""))
    kinds = [[type(i) for i in p.schedule.instructions] for p in (program, apart)]
    assert [k.count(Powers) for k in kinds] == [1, 2]
    assert [k.count(Evaluate) for k in kinds] == [2, 2]
    wanted = evaluate(source, {"x": x[:8]})["y"]
    assert np.abs(program.run(x[:8]) - wanted).max() < 0.01 * np.ptp(wanted)
    # the guard band is told for each of them, in its own units
    band = [line.split()[0] for line in summary(program).splitlines() if "of the way" in line]
    assert band == ["b0", "b1", "last"]
    (shared,) = (n for n, _ in program.graph.of(Linear) if "|" in n.location)
    assert "b0 and b1 share the first half of their bootstraps" in why(shared)


def test_layers_of_one_name_are_told_apart_in_the_guard_band() -> None:
    net = Network()
    source = net.done(net.layer([net.layer([net.x], 3, "tanh", "same")], 4, "tanh", "same"))
    x = np.random.default_rng(3).normal(size=(200, 4))
    program = glyphc.compile(source, x, 8, insecure_ring=RING)
    band = [line.split()[:2] for line in summary(program).splitlines() if "of the way" in line]
    first, second = (n.id for n, _ in program.graph.of(Linear) if n.location == "same")
    assert band[:2] == [["same", f"%{first}"], ["same", f"%{second}"]]
    assert band[2][0] == "last"
    assert band[2][1].startswith("["), "one that is alone needs no number"


def test_why_of_merged_nodes_shows_what_they_share_once() -> None:
    x = np.random.default_rng(3).normal(size=(200, 4))
    program = glyphc.compile(branches(5, 5, functions=("tanh", "tanh")), x, 8, insecure_ring=RING)
    (shared,) = (n for n, _ in program.graph.of(Linear) if "|" in n.location)
    assert why(shared).count("assign-scheme chose bgv") == 1
    assert len(set(shared.decisions)) == len(shared.decisions)
    assert not any("65536" in why(node) for node in program.graph)


def test_expensive_functions_stay_apart() -> None:
    """With a machine on which functions cost more than the half they share, nothing is merged that adds functions."""
    source, context = assigned(branches(16, 16), RING // 16)
    configurations = tuple(
        replace(c, costs=tuple(replace(row, powers=0.001, evaluate=10.0) for row in c.costs))
        for c in CostModel().configurations
    )
    after = Merge(ring=RING).run(source, replace(context, cost=CostModel(configurations=configurations)))
    assert len(bootstrapped(after)) == 2


@pytest.mark.parametrize("options", ["ring=1000", "ring=64", "max_chunks=0"])
def test_bad_options(options: str) -> None:
    name, _, value = options.partition("=")
    with pytest.raises(GlyphcError, match=f"'merge': {name}={value}"):
        Merge(**{name: int(value)})
