"""Random networks, compiled and executed on plain polynomials, give exactly what the quantized graph says.

This is the central test of the compiler: layouts, unpackings, weight polynomials and the lifetimes of registers all
have to be right for the results to agree bit by bit. Noise and series are not part of it (see test_noise_model.py).
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import event, given, note, settings
from hypothesis import strategies as st
from strategies import drawn, graphs

import glyphc
from glyphc.errors import GlyphcError
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph
from glyphc.ir.instructions import Evaluate, FromTorus, Powers, ToTorus
from glyphc.ir.ops import Apply, Const, Dense, Input, Linear, Output, Reshape
from glyphc.ir.types import Level
from glyphc.program import Program
from tests.schedule_cases import (
    PASSES,
    Case,
    assert_exact,
    cases,
    check_bootstraps,
    check_parameters,
    check_ports,
    check_registers,
    describe,
    relaxed,
    run_schedule,
)


@given(st.booleans().flatmap(cases), st.data())
@settings(relaxed, max_examples=drawn(120))
def test_the_schedule_computes_exactly_what_the_quantized_graph_says(case: Case, data: st.DataObject) -> None:
    """In every second network, hidden values are outputs too. What has to hold of any schedule holds of these."""
    note(describe(case.graph))
    program = case.compile()
    check_registers(program.schedule)
    check_bootstraps(program.schedule)
    check_ports(program)
    check_parameters(program.schedule)
    batch = program.client.batch
    assert 1 <= batch <= case.batch
    event(f"bootstrap slots: {program.client.parameters.slots}")
    event(f"parts: {max(n.type.layout.parts for n in program.graph if n.type.layout)}")
    chunks = [n.type.layout.chunks for n in program.graph if n.type.layout]
    event(f"chunks: {max(chunks)}" + (" to fewer" if len(set(chunks)) > 1 else ""))
    event(f"operands of a linear map: {max((len(n.operands) for n, _ in program.graph.of(Linear)), default=0)}")
    available = len(next(iter(case.samples.values())))
    # as many samples as fit into one run, and fewer than the batch
    for count in {min(batch, available), data.draw(st.integers(1, min(batch, available)))}:
        at = data.draw(st.integers(0, available - count))
        assert_exact(program, {name: x[at : at + count] for name, x in case.samples.items()})


@given(graphs(Level.SOURCE, max_steps=8, tame=True), st.integers(1, 80), st.booleans(), st.integers(0, 2**32 - 1))
@settings(relaxed, max_examples=drawn(50))
def test_networks_of_all_ops(graph: Graph, batch: int, client_tail: bool, seed: int) -> None:
    """From products, maxima and softmax inside down to polynomials; other layers than those above, and smaller ones."""
    note(describe(graph))
    rng = np.random.default_rng(seed)
    samples = {op.name: rng.uniform(-2, 2, (40, *op.shape)) for _, op in graph.of(Input)}
    passes = f"expand{{client_tail={client_tail}}},{PASSES}"
    try:
        program = glyphc.compile(graph, samples, batch, passes=passes, insecure_ring=1024)
    except GlyphcError as e:
        # random products grow, random selections leave nothing to compute: whatever is refused has a message for it
        event(type(e).__name__)
        return
    event(f"bootstraps: {sum(isinstance(i, Powers) for i in program.schedule.instructions)}")
    assert_exact(program, {name: x[: program.client.batch] for name, x in samples.items()})
    check_registers(program.schedule)
    check_bootstraps(program.schedule)
    check_parameters(program.schedule)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 64), st.integers(0, 2**32 - 1))
@settings(relaxed, max_examples=drawn(100))
def test_every_combination_of_widths(inputs: int, hidden: int, outputs: int, batch: int, seed: int) -> None:
    """One hidden layer, full batches with values everywhere: nothing can hide behind zeros."""
    rng = np.random.default_rng(seed)
    graph = Graph(Level.SOURCE, 1)
    x = graph.add(Input("x", (inputs,)))
    for width in (hidden, outputs):
        if width == outputs and len(graph) > 1:
            x = graph.add(Apply((Function("leaky_relu", (0.5,)),)), (x,))
        weight = Const(graph.add_constant("w", rng.uniform(0.5, 1.0, (width, x.type.size))))
        x = graph.add(Dense((weight,), Const(graph.add_constant("b", rng.normal(size=width)))), (x,))
    graph.add(Output("y"), (x,))
    samples = {"x": rng.uniform(0.5, 1.0, (batch, inputs))}
    program = Case(graph, samples, batch, 1024).compile()
    assert_exact(program, {"x": samples["x"][: program.client.batch]})


def test_one_precomputation_serves_all_functions_of_a_value() -> None:
    rng = np.random.default_rng(4)
    graph = Graph(Level.SOURCE, 1)
    x = graph.add(Input("x", (6,)))
    weight, bias = (Const(graph.add_constant("w", v)) for v in (rng.normal(size=(5, 6)), rng.normal(size=5)))
    hidden = graph.add(Dense((weight,), bias), (x,))
    for name in ("relu", "tanh", "sigmoid"):
        graph.add(Output(name), (graph.add(Apply((Function(name),)), (hidden,)),))
    samples = {"x": rng.normal(size=(9, 6))}
    program = glyphc.compile(graph, samples, 4, insecure_ring=1024)
    counts = Counter(type(i) for i in program.schedule.instructions)
    assert (counts[ToTorus], counts[Powers], counts[Evaluate], counts[FromTorus]) == (1, 1, 3, 3)
    assert_exact(program, {"x": samples["x"][:4]})


def test_more_samples_than_a_batch_go_through_in_passes() -> None:
    rng = np.random.default_rng(5)
    case = _small_case(rng)
    program = case.compile()
    assert program.client.batch == 4
    x = case.samples["x"]
    wanted = program.run(x, mode="clear")
    pieces = [run_schedule(program, {"x": x[at : at + 4]})["y"] for at in range(0, len(x), 4)]
    np.testing.assert_array_equal(np.concatenate(pieces), wanted)
    # the same passes, made by the runtime, with noise: near, in the same order
    simulated = program.run(x, mode="simulate")
    assert simulated.shape == wanted.shape
    assert np.abs(simulated - wanted).max() < 0.2 * np.ptp(wanted)


def _small_case(rng: np.random.Generator) -> Case:
    graph = Graph(Level.SOURCE, 1)
    x = graph.add(Input("x", (2, 3)))
    x = graph.add(Reshape((6,)), (x,))
    for width in (5, 3):
        if width == 3:
            x = graph.add(Apply((Function("tanh"),)), (x,))
        weight = Const(graph.add_constant("w", rng.normal(size=(width, x.type.size))))
        x = graph.add(Dense((weight,), Const(graph.add_constant("b", rng.normal(size=width)))), (x,))
    graph.add(Output("y"), (x,))
    return Case(graph, {"x": rng.normal(size=(11, 2, 3))}, 4, 1024)


# -- artifacts --


@given(cases())
@settings(relaxed, max_examples=drawn(8))
def test_artifacts_keep_the_whole_program(case: Case) -> None:
    note(describe(case.graph))
    program = case.compile()
    data = program.to_bytes()
    assert program.to_bytes() == data
    assert case.compile().to_bytes() == data, "compiling is not deterministic"
    loaded = Program.from_bytes(data)
    assert loaded.to_bytes() == data
    assert list(loaded.stages) == list(program.stages)
    for name, graph in program.stages.items():
        assert loaded.stages[name] == graph, name
    assert loaded.requested_batch == program.requested_batch == case.batch
    assert loaded.client == program.client
    assert loaded.schedule.instructions == program.schedule.instructions
    assert set(loaded.schedule.polynomials) == set(program.schedule.polynomials)
    for name, polynomials in program.schedule.polynomials.items():
        for field in ("offsets", "exponents", "values"):
            np.testing.assert_array_equal(
                getattr(loaded.schedule.polynomials[name], field), getattr(polynomials, field)
            )
    samples = {name: x[: program.client.batch] for name, x in case.samples.items()}
    assert_exact(loaded, samples)


def test_the_test_notices_wrong_weights_and_layouts() -> None:
    """Guards the guard: a small corruption anywhere shows."""
    case = _small_case(np.random.default_rng(6))
    program = case.compile()
    samples = {"x": case.samples["x"][:4]}
    assert_exact(program, samples)
    for name, polynomials in program.schedule.polynomials.items():
        for field, change in (("values", 2**14), ("exponents", 1)):
            array = getattr(polynomials, field)
            kept = array.copy()
            array[0] += change
            with pytest.raises(AssertionError):
                assert_exact(program, samples)
            array[:] = kept
        assert name in program.schedule.polynomials
    assert_exact(program, samples)
