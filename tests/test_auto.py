"""What ``auto`` takes: slots where their price and the tolerance allow it, bootstraps where not."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from pass_networks import SAMPLES, Network, mlp

import glyphc
from glyphc.analysis.cost import CostModel
from glyphc.backends.engine import best_engine
from glyphc.diagnostics import predicted
from glyphc.errors import ParameterError
from glyphc.ir.graph import Graph
from glyphc.ir.ops import Apply, Bootstrap, Input, Linear, Polynomial
from glyphc.ir.parameters import Parameters
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.program import Program
from glyphc.storage.headers import KEY_PART


def compiled(batch: int, **options: object) -> Program:
    return glyphc.compile(mlp("relu"), SAMPLES, batch, strategy="auto", cost=CostModel(), **options)  # type: ignore[arg-type]


def said(program: Program, op: type) -> dict[str, tuple[float | None, str]]:
    """What all ways said of the first node with such an op, where schemes were assigned."""
    graph = program.stages["assign-scheme"]
    node = next(node for node in graph if isinstance(node.op, op))
    (decision,) = [d for d in node.decisions if d.made_by == "assign-scheme"]
    return {c.name: (c.seconds, c.reason) for c in decision.candidates}


def whole(program: Program) -> float:
    """Seconds of all that was chosen."""
    decisions = [d for node in program.stages["assign-scheme"] for d in node.decisions if d.made_by == "assign-scheme"]
    return sum(c.seconds or 0.0 for d in decisions for c in d.candidates if c.name == d.chosen)


def test_large_batches_stand_in_slots() -> None:
    program = compiled(8192, logit_tolerance=0.2)
    assert isinstance(program.client.parameters, SlotParameters)
    assert any(program.graph.of(Polynomial))
    prices = said(program, Apply)
    bootstrap, polynomial = prices["packed functional bootstrap"][0], prices["ckks polynomial in slots"][0]
    assert bootstrap is not None and polynomial is not None
    assert polynomial < bootstrap
    # what looks cheaper for a node and lost says what it comes to
    seconds, reason = said(program, Linear)["bgv"]
    chosen, winner = said(program, Linear)["ckks slots"]
    assert seconds is not None and chosen is not None and seconds < chosen
    taken = r"the network takes ([\d.]+) s \(.* s of them client and upload\) with bootstraps, ([\d.]+) s \("
    found = re.search(taken, reason)
    assert found is not None, reason
    assert float(found[1]) > float(found[2]) == pytest.approx(whole(program), rel=5e-3)
    assert "the network takes" not in winner
    # encryption and upload are a part of it, on both sides
    for name in ("bgv, fresh", "ckks slots, fresh"):
        seconds, reason = said(program, Input)[name]
        assert seconds is not None and seconds > 0
        assert "to encrypt" in reason and "MB to send" in reason


def test_a_strict_tolerance_takes_bootstraps() -> None:
    program = compiled(8192, logit_tolerance=0.003)
    assert isinstance(program.client.parameters, Parameters)
    assert any(program.graph.of(Bootstrap))
    seconds, reason = said(program, Apply)["ckks polynomial in slots"]
    assert seconds is None
    assert len(reason) > 20


def test_the_strategy_decides_where_it_is_asked_for() -> None:
    program = glyphc.compile(mlp("relu"), SAMPLES, 8192, strategy="glyph", cost=CostModel())
    assert isinstance(program.client.parameters, Parameters)
    assert "ckks polynomial in slots" not in said(program, Apply)


def test_small_rings_are_not_weighed() -> None:
    program = compiled(4, insecure_ring=1024)
    assert isinstance(program.client.parameters, Parameters)
    assert "small rings" in said(program, Apply)["ckks polynomial in slots"][1]


def test_results_agree() -> None:
    x = np.resize(SAMPLES, (64, 2, 3))
    programs = (glyphc.compile(mlp("tanh"), SAMPLES, 64, strategy=s, cost=CostModel()) for s in ("slots", "glyph"))
    slots, glyph = (program.run(x, "clear") for program in programs)
    assert np.abs(np.asarray(slots) - np.asarray(glyph)).max() < 0.1 * np.ptp(glyph)


def test_encrypted_weights_stay_in_bgv() -> None:
    with pytest.raises(ParameterError, match="weights that the server must not see"):
        glyphc.compile(mlp("relu"), SAMPLES, 4, strategy="slots", encrypt_weights="all")


def price(program: Program) -> float:
    """Seconds of a batch, as the finished program is predicted to take where it runs: both sides, and the upload."""
    found = predicted(program, CostModel(), best_engine(program.client.parameters, here=False)[0].name)
    passes = -(-program.requested_batch // program.client.batch)
    upload = CostModel().upload_seconds(found.upload_bytes)
    return passes * (found.seconds + found.client_seconds + upload)


def two_outputs() -> Graph:
    """One reader of the input would do better in BGV alone, but a program is of one family."""
    n = Network(6)
    n.output(n.dense(n.apply(n.dense(n.x, 8, "fc1"), "relu"), 4, "fc2"), "y")
    n.output(n.dense(n.x, 3, "lin"), "z")
    return n.graph


def linear() -> Graph:
    """No function, no bootstrap."""
    n = Network(6)
    n.output(n.dense(n.x, 40, "fc"))
    return n.graph


def wide() -> Graph:
    """As many products as take longer in slots than a bootstrap of a few values."""
    n = Network(6)
    n.output(n.dense(n.apply(n.dense(n.x, 1000, "fc1"), "relu"), 10, "fc2"))
    return n.graph


@pytest.mark.parametrize(
    ("network", "batch", "taken"),
    [
        (two_outputs, 1, SlotParameters),
        (two_outputs, 8192, SlotParameters),
        (linear, 1, Parameters),
        (linear, 8192, SlotParameters),
        pytest.param(wide, 1, Parameters, marks=pytest.mark.slow),
    ],
)
def test_auto_takes_what_is_cheaper_in_the_end(network: Callable[[], Graph], batch: int, taken: type) -> None:
    """Compared once both programs are finished, when degrees, layouts and moduli are known."""
    x = SAMPLES.reshape(100, 6)
    names = ("auto", "slots", "glyph", *(("integers",) if network is linear else ()))
    auto, *others = (
        glyphc.compile(network(), x, batch, strategy=strategy, logit_tolerance=0.5, cost=CostModel())
        for strategy in names
    )
    assert isinstance(auto.client.parameters, taken)
    assert price(auto) == pytest.approx(min(map(price, others)))
    # exact integers are weighed where there is nothing to replace
    seconds, reason = said(auto, Linear)["bfv slots"]
    assert (seconds is not None) if network is linear else ("relu is no polynomial" in reason)


def test_slots_by_name_take_any_measure() -> None:
    program = compiled_slots(measure={"y": "absolute"}, logit_tolerance=0.2)
    assert isinstance(program.client.parameters, SlotParameters)


def compiled_slots(**options: object) -> Program:
    return glyphc.compile(mlp("relu"), SAMPLES, 8, strategy="slots", cost=CostModel(), **options)  # type: ignore[arg-type]


def test_the_service_knows_keys_of_both_families() -> None:
    for name in ("slots/public", "slots/multiplication", "bgv/public", "torus/automorphism-5"):
        assert KEY_PART.fullmatch(name)
    assert not KEY_PART.fullmatch("slots/secret")
