"""Ways, conversions and the choice among them; ways of other packages."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint
from itertools import product
from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pass_networks import SAMPLES, Network, mlp, run, upto
from strategies import examples

import glyphc
from glyphc.analysis.cost import CostModel
from glyphc.errors import GlyphcError, ParameterError
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import Apply, Linear, Output
from glyphc.ir.types import Encoding, Scheme
from glyphc.passes.base import Context as PassContext
from glyphc.passes.pipeline import parse_pipeline, run_pipeline
from glyphc.ways import registry
from glyphc.ways.base import BGV, CLIENT, TORUS, Context, Conversion, Offer, Question, Refusal, Space, Way
from glyphc.ways.choice import Answer, Paths, choose, more_seconds

CKKS = Space(Scheme.CKKS, Encoding.MSB)
SPACES = (BGV, TORUS, CKKS)
QUESTION = Question(1024, 1, CostModel())


def hop(start: Space, end: Space, price: float) -> Conversion:
    """A conversion with a fixed price."""

    class Hop(Conversion):
        name = f"{start} to {end}"
        source = start
        target = end

        def offer(self, value: Node, question: Question) -> Offer | Refusal:
            return Offer(start, end, price, "")

    return Hop()


def chain(length: int) -> Graph:
    """Dense layers one after another."""
    n = Network(3)
    x = n.x
    for number in range(length):
        x = n.dense(x, 3, f"fc{number}")
    n.output(x)
    return n.graph


def total(graph: Graph, chosen: dict[int, Answer], hops: Sequence[Conversion]) -> float:
    """What a choice costs, by the definition: every conversion of a value once, contexts once."""
    paths = Paths(hops, QUESTION)
    seconds, contexts = 0.0, set()
    for node in graph:
        offer = chosen[node.id].answer
        assert isinstance(offer, Offer)
        seconds += offer.seconds
        contexts |= offer.contexts
        taken: set[Conversion] = set()
        for user in graph.users(node):
            wanted = chosen[user.id].answer
            assert isinstance(wanted, Offer)
            price, steps = paths.path(node, offer.result, wanted.operands)
            if price == inf:
                return inf
            taken |= set(steps)
        for step in taken:
            found = step.offer(node, QUESTION)
            assert isinstance(found, Offer)
            seconds += found.seconds
    return seconds + sum(context.seconds for context in contexts)


PRICES = st.integers(0, 20).map(float)
OFFERS = st.builds(
    lambda a, b, price, shared: Offer(a, b, price, "", frozenset([Context("shared", 7.0)] if shared else [])),
    st.sampled_from(SPACES),
    st.sampled_from(SPACES),
    PRICES,
    st.booleans(),
)


@examples(60)
@given(st.data())
def test_the_choice_is_the_cheapest_on_chains(data: st.DataObject) -> None:
    graph = chain(data.draw(st.integers(1, 3)))
    nodes = list(graph)
    drawn = {n.id: data.draw(st.lists(OFFERS, min_size=1, max_size=3)) for n in nodes}
    said = {id: tuple(Answer(f"w{i}", offer) for i, offer in enumerate(offers)) for id, offers in drawn.items()}
    hops = [hop(a, b, data.draw(PRICES)) for a in SPACES for b in SPACES if a != b and data.draw(st.booleans())]
    options = [dict(zip((n.id for n in nodes), pick, strict=True)) for pick in product(*(said[n.id] for n in nodes))]
    best = min(total(graph, option, hops) for option in options)
    found = choose(graph, said, Paths(hops, QUESTION))
    assert (found is None) == (best == inf)
    if found is not None:
        assert found.seconds == pytest.approx(best)
        assert total(graph, dict(found.chosen), hops) == pytest.approx(best)
        for at, other in ((n, answer) for n in nodes for answer in said[n.id]):
            more = total(graph, {**found.chosen, at.id: other}, hops) - best
            assert more_seconds(graph, found, Paths(hops, QUESTION), at, other) == pytest.approx(more)


def test_a_value_with_two_readers_is_converted_once() -> None:
    """Two readers want the torus: one conversion. So a dearer way that leads there directly loses."""
    n = Network(3)
    shared = n.dense(n.x, 3, "fc")
    n.output(n.apply(shared, "relu"), "y1")
    n.output(n.apply(shared, "tanh"), "y2")
    free = {node.id: (Answer("free", Offer(BGV, BGV, 0.0, "")),) for node in n.graph}
    for node, _ in n.graph.of(Apply):
        free[node.id] = (Answer("boot", Offer(TORUS, TORUS, 1.0, "")),)
    for node, _ in n.graph.of(Output):
        free[node.id] = (Answer("out", Offer(TORUS, TORUS, 0.0, "")),)
    free[shared.id] = (Answer("plain", Offer(BGV, BGV, 0.0, "")), Answer("direct", Offer(BGV, TORUS, 3.0, "")))
    found = choose(n.graph, free, Paths([hop(BGV, TORUS, 2.0)], QUESTION))
    assert found is not None
    assert found.chosen[shared.id].way == "plain"
    assert found.seconds == 4.0


# -- ways of other packages --


class Oracle(Way):
    """Computes nonlinearities in BGV for nothing: of course it wins."""

    name = "oracle"

    def offer(self, node: Node, operands: Sequence[Node], question: Question) -> Offer | Refusal | None:
        return Offer(BGV, BGV, 0.0, "it just knows the answer") if isinstance(node.op, Apply) else None


NOTHING = object()


def plug_in(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    point = EntryPoint("oracle", f"{__name__}:{value}", registry.WAYS_GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == registry.WAYS_GROUP else [])


def test_a_way_of_another_package_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, "Oracle")
    graph, _ = run(mlp(), upto("insert-switches").replace("strategy=glyph", "strategy=auto"))
    (node,) = [node for node, _ in graph.of(Apply)]
    assert (node.type.scheme, node.type.encoding) == (Scheme.BGV, Encoding.LSB)
    (decision,) = node.decisions
    assert decision.chosen == "oracle"
    assert "packed functional bootstrap" in {c.name for c in decision.candidates}


def test_a_strategy_leaves_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, "Oracle")
    program = glyphc.compile(mlp(), SAMPLES, insecure_ring=1024, strategy="glyph")
    assert np.isfinite(program.run(SAMPLES[:2], "simulate")).all()  # type: ignore[arg-type]


def test_a_plug_in_that_is_no_way(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, "NOTHING")
    with pytest.raises(GlyphcError, match=r"'oracle' .* is no Way"):
        run(mlp(), upto("assign-scheme"))


def test_unknown_strategies_are_refused() -> None:
    with pytest.raises(GlyphcError, match="no strategy 'magic'; there are: auto, glyph, slots"):
        glyphc.compile(mlp(), SAMPLES, insecure_ring=1024, strategy="magic")


def test_a_strategy_without_its_pass_is_refused() -> None:
    with pytest.raises(GlyphcError, match="not among the passes"):
        glyphc.compile(mlp(), SAMPLES, passes="fold", strategy="glyph")


def test_no_way_together_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_CONVERSIONS", ())
    with pytest.raises(ParameterError, match="no schemes go together"):
        run_pipeline(mlp(), parse_pipeline(upto("assign-scheme")), PassContext({"x": SAMPLES}))


def test_linear_maps_stay_in_bgv() -> None:
    graph, _ = run(mlp(), upto("assign-scheme"))
    for node, _ in graph.of(Linear):
        assert node.type.scheme is Scheme.BGV
    assert {node.type.scheme for node, _ in graph.of(Output)} == {CLIENT.scheme}
