"""Dense uploads: inputs side by side in a few ciphertexts, which the server unpacks exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from pass_networks import Network, rebuilt
from test_masks import Untold

import glyphc
from glyphc.analysis import noise
from glyphc.analysis.cost import CostModel
from glyphc.analysis.estimate import estimate
from glyphc.backends.base import State, execute
from glyphc.backends.engine import engine
from glyphc.backends.simulate import SimulatedMachine
from glyphc.diagnostics import summary
from glyphc.errors import GlyphcError
from glyphc.ir.errors import IRError
from glyphc.ir.graph import Graph, Node
from glyphc.ir.instructions import ConjugateDot, Divide, Load
from glyphc.ir.instructions.check import check_schedule
from glyphc.ir.instructions.text import COEFFICIENTS, code_text, parse_code
from glyphc.ir.ops import Input, Unpack
from glyphc.ir.parameters import Parameters
from glyphc.ir.text import parse, to_text
from glyphc.ir.verify import verify
from glyphc.passes.pipeline import DEFAULT, parse_pipeline
from glyphc.passes.uploads import Uploads
from glyphc.program import Program
from glyphc.runtime import run

RING = 1024
# where nobody unpacks anything
SLOW = CostModel(automorphism=100.0)
PASSES = DEFAULT.replace("assign-layout", "assign-layout{{uploads={}}}").replace(
    "assign-scheme", "assign-scheme{{strategy=glyph}}"
)


def network(features: int) -> Graph:
    """features -> 16 -> tanh -> 4."""
    n = Network(features)
    n.output(n.dense(n.apply(n.dense(n.x, 16, "a"), "tanh"), 4, "b"))
    return n.graph


def compiled(features: int, batch: int, uploads: Uploads, cost: CostModel | None = None) -> Program:
    x = np.random.default_rng(5).normal(size=(64, features))
    passes = PASSES.format(uploads)
    return glyphc.compile(network(features), x, batch, passes=passes, insecure_ring=RING, cost=cost, engine="openfhe")


def unpackings(program: Program) -> list[Node]:
    return [n for n, op in program.graph.of(Unpack) if isinstance(program.graph.operands(n)[0].op, Input)]


@pytest.mark.parametrize(
    ("features", "batch", "sent"),
    [(20, 32, 1), (16, 64, 1), (40, 64, 3), (5, 64, 1), (70, 8, 1), (70, 128, 10)],
    ids=str,
)
def test_dense_inputs_are_what_they_were(features: int, batch: int, sent: int) -> None:
    """The same results, bit for bit, of fewer ciphertexts; several of them, in groups, chunks, full and partial."""
    program = compiled(features, batch, Uploads.BYTES)
    plain = compiled(features, batch, Uploads.SERVER, SLOW)
    (port,), (before,) = program.client.inputs, plain.client.inputs
    assert port.layout.ciphertexts == sent < before.layout.ciphertexts
    assert len(unpackings(program)) == 1
    assert not unpackings(plain)
    check_schedule(program.schedule)
    for count in (batch, batch // 2 + 1):
        x = np.random.default_rng(6).normal(size=(count, features))
        np.testing.assert_array_equal(program.run(x, mode="clear"), plain.run(x, mode="clear"))
    assert parse(to_text(program.graph)) == program.graph
    code = program.schedule.instructions
    assert parse_code(code_text(code, COEFFICIENTS), COEFFICIENTS) == code
    loads = [i for i in code if isinstance(i, Load)]
    assert len(loads) == len([i for i in code if isinstance(i, Divide)]) == sent
    assert estimate(program.schedule, CostModel()).upload_bytes == sent * RING * -(
        -program.client.parameters.bgv_bits // 8
    )


@pytest.mark.parametrize("name", ["simulate", "kernels", "openfhe"])
def test_engines_unpack_dense_inputs(name: str) -> None:
    program = compiled(20, 32, Uploads.BYTES)
    x = np.random.default_rng(6).normal(size=(32, 20))
    clear, simulated = (np.asarray(program.run(x, mode=mode)) for mode in ("clear", "simulate"))
    deviation = np.sqrt(np.mean((simulated - clear) ** 2))
    found = simulated if name == "simulate" else np.asarray(next(iter(run(program, x, engine=name).outputs.values())))
    assert np.sqrt(np.mean((found - clear) ** 2)) < 1.5 * deviation + 1e-3 * np.ptp(clear)


def product(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Modulo X^RING + 1, by the terms of the second."""
    total = np.zeros(RING, dtype=np.int64)
    for e in np.flatnonzero(b):
        total += b[e] * np.concatenate([-a[RING - e :], a[: RING - e]])
    return total


@pytest.mark.parametrize("batch", [8, 64])
@pytest.mark.parametrize("name", ["clear", "simulate", "kernels", "openfhe"])
def test_unpacking_dense_inputs_is_exact(name: str, batch: int) -> None:
    """Whatever the message: sums of integers that fill the plaintext modulus are those of what went in.

    Also where all other values stand on a coarser grid.
    """
    program = compiled(40, batch, Uploads.BYTES)
    schedule = program.schedule
    t = schedule.parameters.plaintext_modulus
    dot = next(i for i in schedule.instructions if isinstance(i, ConjugateDot))
    code = schedule.instructions[: schedule.instructions.index(dot) + 1]
    layout = program.client.inputs[0].layout
    messages = np.random.default_rng(7).integers(-t // 2, t // 2, (layout.ciphertexts, RING))
    with engine(name).session(schedule, Untold()) as session:
        state = State()
        execute(code, session.machine, {"x": [session.encrypt(m) for m in messages]}, state=state)
        found = session.decrypt(state.registers[dot.target])
    # the sources of the first chunk come first
    polynomials, parts = schedule.polynomials[dot.weights], dot.parts
    wanted = polynomials.dense(dot.count * parts, RING).astype(object)
    for source in range(dot.count):
        for r in range(parts):
            part = np.zeros(RING, dtype=np.int64)
            part[::parts] = messages[source][r::parts]
            wanted = wanted + product(part, polynomials.dense(source * parts + r, RING))
    np.testing.assert_array_equal((found - wanted) % t, 0)


@pytest.mark.parametrize(
    ("aim", "automorphism", "dense"),
    [
        (Uploads.BYTES, 0.1, True),
        (Uploads.SECONDS, 0.01, True),
        (Uploads.SECONDS, 1.0, False),
        (Uploads.SERVER, 1e-4, True),
        (Uploads.SERVER, 1.0, False),
    ],
)
def test_the_planner_says_what_uploads_cost(aim: Uploads, automorphism: float, dense: bool) -> None:
    program = compiled(40, 64, aim, CostModel(automorphism=automorphism))
    ((node, _),) = program.graph.of(Input)
    (decision,) = (d for d in node.decisions if d.made_by == "uploads")
    assert {c.name for c in decision.candidates} == {"as read, 40 ciphertexts", "dense, 3 ciphertexts"}
    assert all("MB" in c.reason and "to encrypt" in c.reason for c in decision.candidates)
    assert decision.chosen == ("dense, 3 ciphertexts" if dense else "as read, 40 ciphertexts")
    assert bool(unpackings(program)) is dense


def test_prefer_decides_on_uploads() -> None:
    x = np.random.default_rng(5).normal(size=(64, 40))
    passes = DEFAULT.replace("assign-scheme", "assign-scheme{strategy=glyph}")
    cost = CostModel(automorphism=1.0)
    sent = {}
    for prefer in (None, "traffic"):
        program = glyphc.compile(
            network(40),
            x,
            64,
            insecure_ring=RING,
            strategy="glyph",
            prefer=prefer,
            cost=cost,
            engine="openfhe",
            passes=passes,
        )
        sent[prefer] = program.client.inputs[0].layout.ciphertexts
        assert ("; --prefer traffic" in summary(program)) is (prefer is None)
    assert sent == {None: 40, "traffic": 3}


def test_the_noise_of_unpacking_is_predicted() -> None:
    """Simulated noise of the sum of all parts beside the model's: that of key switches, and of the fresh ciphertext
    once."""
    program = compiled(40, 64, Uploads.BYTES)
    (node,) = unpackings(program)
    parameters = program.client.parameters
    assert isinstance(parameters, Parameters)
    machine = SimulatedMachine(program.schedule)
    dot = next(i for i in program.schedule.instructions if isinstance(i, ConjugateDot))
    code = program.schedule.instructions[: program.schedule.instructions.index(dot) + 1]
    fresh = [
        machine.encrypt(np.zeros(RING, dtype=np.int64)) for _ in range(program.client.inputs[0].layout.ciphertexts)
    ]
    state = State()
    execute(code, machine, {"x": fresh}, state=state)
    # the bias is whole, and far from the noise
    found = state.registers[dot.target]
    predicted = noise.predict(program.graph, parameters, parameters.bgv_bits)
    (reader,) = program.graph.users(node)
    assert np.std(found - np.rint(found)) == pytest.approx(predicted[reader.id].white, rel=0.1)


@pytest.mark.parametrize("factor", [0, 1, 3, -2, 2 * RING])
def test_only_powers_of_two_are_divided_by(factor: int) -> None:
    schedule = compiled(20, 32, Uploads.BYTES).schedule
    code = tuple(replace(i, factor=factor) if isinstance(i, Divide) else i for i in schedule.instructions)
    with pytest.raises(IRError, match=rf"\(divide\) divides by {factor}, which is no power of two"):
        check_schedule(replace(schedule, instructions=code))


def test_an_unpacking_cannot_undo_more_than_it_does() -> None:
    graph = compiled(20, 32, Uploads.BYTES).graph
    wrong = rebuilt(graph, lambda n: replace(n, op=replace(n.op, divided=3)) if isinstance(n.op, Unpack) else n)
    with pytest.raises(IRError, match="cannot be divided by 3"):
        verify(wrong)


def test_noise_in_between_forbids_an_exact_unpacking() -> None:
    """A split at a larger stride does not multiply what stands off that stride, be it noise, but the division does."""
    n = Network(5)
    n.output(n.dense(n.apply(n.dense(n.apply(n.dense(n.x, 16, "a"), "tanh"), 16, "b"), "tanh"), 4, "c"))
    graph = glyphc.compile(n.graph, np.random.default_rng(5).normal(size=(64, 5)), 8, insecure_ring=RING).graph
    resident = [n.id for n, op in graph.of(Unpack) if op.divided == 1]
    assert resident

    def divided(node: Node) -> Node:
        return replace(node, op=replace(node.op, divided=2)) if node.id in resident else node

    with pytest.raises(IRError, match="only what stands side by side"):
        verify(rebuilt(graph, divided))


def test_an_aim_that_is_none_is_refused() -> None:
    with pytest.raises(GlyphcError, match="uploads"):
        parse_pipeline("assign-layout{uploads=small}")
