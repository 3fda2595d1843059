"""The choice of parameters."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from pass_networks import SAMPLES, Network, mlp, rebuilt, run, upto

import glyphc
from glyphc.analysis.cost import CostModel
from glyphc.analysis.security import MAX_LOG_QP_SPARSE
from glyphc.errors import ParameterError
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph, Node
from glyphc.ir.instructions import Powers
from glyphc.ir.ops import (
    Bootstrap,
    Linear,
)
from glyphc.ir.parameters import MAX_DEGREES, Parameters
from glyphc.ir.series import OUTPUT_BITS, evaluate_series
from glyphc.ir.verify import verify
from glyphc.passes.pipeline import DEFAULT
from glyphc.passes.quantize import Quantize
from glyphc.passes.select_parameters import SelectParameters


def selected(**options: Any) -> tuple[Parameters, Graph]:
    graph, context = run(mlp("relu"), upto("validate-layout"))
    graph = SelectParameters(security="insecure", **options).run(graph, context)
    verify(graph)
    assert graph.parameters is not None
    return graph.parameters, graph


def only_bootstrap(graph: Graph) -> tuple[Node, Bootstrap]:
    ((node, op),) = [(n, o) for n, o in graph.of(Bootstrap)]
    return node, op


@pytest.mark.parametrize("budget", ["max_error", "rms_error"])
def test_tighter_budgets_take_higher_degrees(budget: str) -> None:
    other = {"max_error": "rms_error", "rms_error": "max_error"}[budget]
    degrees = []
    for bits in (3.0, 7.0, 8.0, 9.0, 10.0, 12.0):
        parameters, graph = selected(**{budget: bits, other: 1.0})
        _, op = only_bootstrap(graph)
        assert op.series.degree == parameters.degree
        error = op.series.max_error if budget == "max_error" else op.series.rms_error
        if not only_bootstrap(graph)[0].decisions[-1].warning:
            assert error <= 2**-bits * 1.01
        degrees.append(parameters.degree)
    assert degrees == sorted(degrees)
    assert degrees[0] == min(MAX_DEGREES.values())
    assert len(set(degrees)) >= 3


def test_the_degree_is_the_smallest_within_the_budget() -> None:
    parameters, graph = selected(max_error=7.5, rms_error=10.0)
    node, _ = only_bootstrap(graph)
    decision = node.decisions[-1]
    tried = [c for c in decision.candidates if c.name.startswith("degree")]
    assert [c.name for c in tried] == [f"degree {d}" for d in MAX_DEGREES.values() if d <= parameters.degree]
    assert all("over the budget" in c.reason for c in tried[:-1])
    assert "over the budget" not in tried[-1].reason
    assert decision.chosen == f"degree {parameters.degree}"
    assert not decision.warning


def test_a_budget_that_cannot_be_met_takes_the_best_and_says_so() -> None:
    parameters, graph = selected(max_error=15.0, rms_error=20.0)
    assert parameters.degree == max(MAX_DEGREES.values())
    node, _ = only_bootstrap(graph)
    assert "misses the error budget" in node.decisions[-1].warning


def test_every_value_has_its_own_degree() -> None:
    """The lowest that its functions can do with; the highest of all decides the depth of the context."""
    n = Network(2, 3)
    hidden = n.dense(n.apply(n.dense(n.x, 8, "fc1"), "sigmoid"), 8, "fc2")
    for name in ("relu", "tanh"):
        n.output(n.dense(n.apply(hidden, name), 2, f"after {name}"), f"y {name}")
    program = glyphc.compile(n.graph, SAMPLES, insecure_ring=1024, tolerance=3.5)
    degrees = {op.functions[0].name: op.series.degree for _, op in program.graph.of(Bootstrap)}
    # tanh reads the same value as relu, so it shares its powers
    assert degrees["tanh"] == degrees["relu"] > degrees["sigmoid"]
    assert program.client.parameters.degree == degrees["relu"]
    for node, op in program.graph.of(Bootstrap):
        assert node.decisions[-1].chosen == f"degree {op.series.degree}"
    powers = [i.degree for i in program.schedule.instructions if isinstance(i, Powers)]
    assert powers == [degrees["sigmoid"], degrees["relu"]]
    simulated, encrypted = (program.run(SAMPLES[:1], mode=mode) for mode in ("simulate", "encrypted"))
    for name, wanted in simulated.items():
        np.testing.assert_allclose(encrypted[name], wanted, atol=1e-3)


@pytest.mark.parametrize("function", ["relu", "tanh", "sigmoid", "abs", "softplus", "exp"])
@pytest.mark.parametrize("divided", [True, False])
def test_a_series_computes_the_divided_function(function: str, divided: bool) -> None:
    """Integers in, through the phases, integers out: what a bootstrap does, from the definition of the formats."""
    n = Network(2, 3)
    x = n.apply(n.dense(n.x, 8, "fc1"), function)
    n.output(n.apply(n.dense(x, 6, "fc2"), "tanh") if divided else x)
    passes = DEFAULT.replace("assign-budget,", "")
    program = glyphc.compile(n.graph, SAMPLES, 2, passes=passes, insecure_ring=1024)
    graph, t = program.graph, program.client.parameters.plaintext_modulus
    node, op = next((n, o) for n, o in graph.of(Bootstrap))
    assert op.divisor == (8 if divided else 1)
    source, target = graph.operands(node)[0].type.fixed, node.type.fixed
    assert source is not None
    assert target is not None
    integers = np.linspace(source.lo, source.hi, 1001)
    wanted = Function(function)(integers * source.scale[0] + source.offset[0])
    phase = evaluate_series(op.series, integers / t) / 2**OUTPUT_BITS
    got = phase * t * op.divisor * target.scale[0] + target.offset[0]
    assert np.abs(got - wanted).max() <= 2**-7 * np.ptp(wanted)
    # a message that big still fits below half of the modulus after the unpacking
    assert np.abs(phase * op.divisor).max() < 0.5


def test_the_plaintext_modulus_is_the_least_that_holds_all_sums() -> None:
    for options in ("", "{weight_precision=8}", "{activation_bits=8,weight_precision=6}"):
        graph, _ = run(mlp(), upto("select-parameters").replace("quantize", f"quantize{options}"))
        assert graph.parameters is not None
        largest = max(n.type.fixed.magnitude for n, _ in graph.of(Linear) if n.type.fixed)
        t = graph.parameters.plaintext_modulus
        assert t / 4 < largest < t / 2


def test_sums_of_too_many_bits_name_the_layer() -> None:
    graph, context = run(mlp(), upto("validate-layout"))

    def wide(node: Node) -> Node:
        if node.location != "fc2" or node.type.fixed is None:
            return node
        return replace(node, type=replace(node.type, fixed=replace(node.type.fixed, lo=-(2**33), hi=2**33)))

    with pytest.raises(ParameterError, match="@fc2"):
        SelectParameters().run(rebuilt(graph, wide), context)


def test_levels_of_the_transforms_fit_the_slots() -> None:
    for batch in (1, 4, 64):
        program = glyphc.compile(mlp(), SAMPLES, batch, insecure_ring=2048)
        parameters = program.client.parameters
        assert all(1 <= levels <= np.log2(parameters.slots) for levels in parameters.level_budget)


@pytest.mark.parametrize("batch", [1, 100, 2048])
def test_programs_are_secure_by_default(batch: int) -> None:
    program = glyphc.compile(mlp(), SAMPLES, batch)
    parameters = program.client.parameters
    assert program.secure
    assert parameters.ring == 65536
    assert parameters.modulus_bits <= MAX_LOG_QP_SPARSE[65536]


def test_more_precision_needs_a_larger_accumulator() -> None:
    widths = []
    for precision in (6, 10, 16):
        graph, context = run(mlp(), "fold,calibrate")
        quantized = Quantize(weight_precision=precision).run(graph, context)
        widths.append(max(n.type.fixed.bits for n, _ in quantized.of(Linear) if n.type.fixed))
    for low, high in pairwise(widths):
        assert low <= high
    assert widths[0] < widths[-1]


def test_the_cost_model_ranks_what_it_compares() -> None:
    cost = CostModel()
    assert cost.bootstrap_seconds(64, 27) < cost.bootstrap_seconds(8192, 27) < cost.bootstrap_seconds(32768, 27)
    assert cost.bootstrap_seconds(64, 13) < cost.bootstrap_seconds(64, 59) < cost.bootstrap_seconds(64, 247)
    assert cost.bootstrap_seconds(64, 27, 2048) < cost.bootstrap_seconds(64, 27, 65536)
