"""Networks on words of encrypted bits: what words are, circuits beside them, and encrypted runs with toy keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import glyphc
from glyphc import slow
from glyphc.analysis.word_cost import gates_of
from glyphc.backends.base import execute
from glyphc.backends.engine import encrypted_bits
from glyphc.backends.words_clear import ClearBits
from glyphc.cli import main
from glyphc.codec import decode, encode
from glyphc.errors import GlyphcError, ParameterError
from glyphc.exchange.split import split
from glyphc.frontends.to_onnx import to_onnx
from glyphc.gates import lowering
from glyphc.gates.lowering import most_gates
from glyphc.ir.errors import IRError
from glyphc.ir.evaluate import evaluate, evaluate_all
from glyphc.ir.graph import Graph
from glyphc.ir.instructions import ConstantBit, Gate, GateKind, Load, Opposite, Store
from glyphc.ir.instructions.check import check_schedule
from glyphc.ir.instructions.gates import check_gates
from glyphc.ir.instructions.text import GATES, code_text, parse_code
from glyphc.ir.ops import Input, Linear, Shorten, WordTable
from glyphc.ir.rescaling import from_word_bits, word_bits
from glyphc.ir.text import parse, to_text
from glyphc.ir.types import Encoding, FixedPoint, Level, Scheme, TensorType
from glyphc.program import Program
from glyphc.runtime import run
from glyphc.storage.withheld import without_secrets
from tests.pass_networks import Network

I64 = npt.NDArray[np.int64]
RING = 1024
X = np.random.default_rng(3).normal(size=(80, 2))


def small(function: str = "sigmoid", last: bool = True) -> Graph:
    """2-2-1, as t-BMPNet's example: a function behind each layer."""
    n = Network(2)
    hidden = n.apply(n.dense(n.x, 2, "fc1"), function)
    y = n.dense(hidden, 1, "fc2")
    n.output(n.apply(y, function) if last else y)
    return n.graph


def compiled(graph: Graph, bits: int, secret: str | None = None, batch: int = 1) -> Program:
    return glyphc.compile(
        graph, X, batch, strategy="tbmpnet", word_bits=bits, insecure_ring=RING, encrypt_weights=secret
    )


def by_gates(program: Program, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The instructions on plain bits, all samples at once: the clear machine's registers may have any shape."""
    port, machine = program.client.inputs[0], ClearBits()
    inputs: dict[str, Any] = {
        port.name: np.array([[m[0] for m in encode(port, row[None])] for row in x]).T.astype(bool)
    }
    inputs |= {name: np.array(bits) for name, bits in encrypted_bits(program.schedule, machine.encrypt).items()}
    (out,) = program.client.outputs
    stored = execute(program.schedule.instructions, machine, inputs)[out.name]
    bits = np.array([np.broadcast_to(b, len(x)) for b in stored]).astype(np.int64)
    return np.array([decode(out, column[:, None], 1)[0] for column in bits.T])


# -- what words are --


@given(st.lists(st.integers(-(2**15), 2**15 - 1), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_words_are_two_s_complement(values: list[int]) -> None:
    words = np.array([values])
    bits = word_bits(words, 16)
    assert "".join(str(b) for b in bits[0, :16][::-1]) == f"{values[0] % 2**16:016b}"
    np.testing.assert_array_equal(from_word_bits(bits, 16), words)


@pytest.mark.parametrize(("lo", "hi", "bits"), [(-128, 127, 8), (-127, 127, 8), (-129, 0, 9), (0, 1, 2), (0, 128, 9)])
def test_the_shortest_word_of_a_range(lo: int, hi: int, bits: int) -> None:
    assert FixedPoint((1.0,), (0.0,), lo, hi).word_bits == bits


@given(st.integers(0, 5), st.integers(2, 6), st.lists(st.integers(-4000, 4000), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_shortened_words_are_the_nearest_that_there_are(shift: int, bits: int, values: list[int]) -> None:
    graph = Graph(Level.ASSIGNED, 1)
    wide = FixedPoint((1.0,), (0.0,), -4096, 4095)
    type = TensorType((len(values),), None, wide, Scheme.FHEW, Encoding.BITS)
    x = graph.add(Input("x", (len(values),)), type=type)
    y = graph.add(Shorten(shift, bits), (x,), type)
    found = evaluate_all(graph, {"x": np.array([values], dtype=np.float64)})[y.id][0]
    for value, word in zip(values, found.tolist(), strict=True):
        nearest = (2 * value + 2**shift) // 2 ** (shift + 1)  # halves up
        assert word == min(max(nearest, -(2 ** (bits - 1))), 2 ** (bits - 1) - 1)


def test_tables_are_looked_up_by_signed_words() -> None:
    program = compiled(small("sigmoid", last=False), 6)
    ((node, op),) = program.graph.of(WordTable)
    type = program.graph.operands(node)[0].type
    assert type.fixed is not None
    assert type.calibration is not None
    assert node.type.fixed is not None
    real = type.fixed.scale[0] * np.arange(-32, 32)
    inside = (real >= type.calibration.lo) & (real <= type.calibration.hi)
    assert inside.sum() > 15
    wanted = 1 / (1 + np.exp(-real))
    assert np.abs(np.array(op.table) * node.type.fixed.scale[0] - wanted)[inside].max() <= node.type.fixed.scale[0]


# -- circuits beside the integers that they stand for --


@pytest.mark.parametrize("secret", [None, "all"])
@pytest.mark.parametrize(("bits", "function", "last"), [(4, "sigmoid", True), (8, "relu", False), (7, "tanh", False)])
def test_circuits_are_their_words(bits: int, function: str, last: bool, secret: str | None) -> None:
    """Samples far beyond calibration, too: words saturate, they do not wrap."""
    program = compiled(small(function, last), bits, secret)
    check_schedule(program.schedule)
    given = program.graph.inputs[0].type.fixed
    assert given is not None
    x = np.random.default_rng(4).uniform(given.real_lo, given.real_hi, (60, 2))
    np.testing.assert_array_equal(by_gates(program, x), run(program, x, "clear").outputs["y"])


def test_eight_bits_come_close_to_the_network() -> None:
    program = compiled(small(), 8)
    truth = evaluate(small(), {"x": X})["y"]
    assert np.abs(run(program, X, "clear").outputs["y"] - truth).max() < 0.02
    simulated = run(program, X[:3], "simulate").outputs["y"]
    np.testing.assert_array_equal(simulated, run(program, X[:3], "clear").outputs["y"])


def test_relu_takes_no_table_of_choices() -> None:
    """Its table has the unit of its words, so nearly all choices fold away: a few gates a bit are left."""
    program = compiled(small("relu", last=False), 8)
    table = {node.id for node, _ in program.graph.of(WordTable)}
    assert sum(isinstance(i, Gate) and i.node in table for i in program.schedule.instructions) <= 2 * 3 * 8


def test_gates_are_counted_and_bounded_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    for secret in (None, "all"):
        program = compiled(small(), 6, secret)
        assert 20 < gates_of(program.schedule) <= most_gates(program.graph)
    monkeypatch.setattr(lowering, "MOST_GATES", 100)
    with pytest.raises(ParameterError, match=r"up to [\d,]+ gates, 0 hours"):
        compiled(small(), 6)


def test_artifacts_and_instructions_have_a_text(tmp_path: Path) -> None:
    program = compiled(small(), 5, "all")
    graph = program.public_stages["fit-words"]
    assert parse(to_text(graph)) == graph
    code = program.schedule.instructions
    assert parse_code(code_text(code, GATES), GATES) == code
    program.save(tmp_path / "p.glyphc")
    program.save_weights(tmp_path / "p.weights")
    again = Program.load(tmp_path / "p.glyphc", tmp_path / "p.weights")
    np.testing.assert_array_equal(by_gates(again, X[:5]), by_gates(program, X[:5]))
    public = Program.load(tmp_path / "p.glyphc")
    assert public.schedule.secret == {}
    assert public.schedule.instructions == code
    with pytest.raises(GlyphcError, match="--weights"):
        run(public, X[:1])


def test_instructions_that_no_compiler_writes() -> None:
    load = (Load(0, "x", 0, 0), Load(1, "x", 1, 0))
    for bad, problem in (
        (Gate(2, GateKind.AND, (0, 0), (False, True), 0), "twice"),
        (Gate(2, GateKind.MAJORITY, (0, 1), (False, False), 0), "3"),
        (Gate(2, GateKind.XOR, (0, 1), (False,), 0), "signs"),
        (Load(2, "x", 2, 0), "not there"),
        (Gate(2, GateKind.AND, (0, 5), (False, False), 0), "holds nothing"),
    ):
        with pytest.raises(IRError, match=problem):
            check_gates((*load, bad), {"x": 2})
    check_gates((*load, Opposite(2, 0, 0), ConstantBit(3, True, 0), Store(2, "y", 0, 0)), {"x": 2})


# -- encrypted --


@pytest.mark.parametrize("secret", [None, "all"])
def test_encrypted_bits_give_what_the_words_give(secret: str | None) -> None:
    """Toy keys; outputs that are constants or negations as well (a sigmoid's sign)."""
    n = Network(2)
    n.output(n.apply(n.dense(n.x, 1, "fc"), "sigmoid"))
    program = compiled(n.graph, 4, secret, batch=2)
    assert any(isinstance(i, ConstantBit) for i in program.schedule.instructions)
    report = run(program, X[:2])
    np.testing.assert_array_equal(report.outputs["y"], run(program, X[:2], "clear").outputs["y"])
    assert report.passes == 2
    assert report.engine == "openfhe"
    learns = str(report.learns)
    assert "neither: activations" in learns
    assert ("server" in learns) is (secret is None)


def test_the_server_s_graph_has_no_encrypted_weight() -> None:
    program = compiled(small(), 6, "all")
    public = without_secrets({"": program.graph})[""]
    assert {name for _, op in program.graph.of(Linear) for name in op.constant_names()} <= public.withheld
    # nor does the step of a secret map tell more of its largest weight than between which powers of two it lies
    steps = [node.type.fixed.scale[0] for node, op in program.graph.of(Linear) if node.type.fixed is not None]
    assert all(float(np.log2(step)).is_integer() for step in steps)


# -- what cannot be, and what takes too long --


def test_networks_and_options_that_words_do_not_take() -> None:
    with pytest.raises(GlyphcError, match="2 to 16, not 17"):
        compiled(small(), 17)
    with pytest.raises(GlyphcError, match="tbmpnet"):
        glyphc.compile(small(), X, strategy="glyph", word_bits=8, insecure_ring=RING)
    with pytest.raises(ParameterError, match="one process"):
        split(compiled(small(), 4).graph)


def test_hours_of_gates_are_refused_unless_they_are_asked_for(tmp_path: Path) -> None:
    """At 128-bit; nothing is encrypted."""
    with pytest.raises(ParameterError, match=r"200 samples would take \d\.\d hours by [\d,]+ gates .*--allow-slow"):
        glyphc.compile(small(), X, 200, strategy="tbmpnet", encrypt_weights="all")
    program = glyphc.compile(small(), X, 200, strategy="tbmpnet", encrypt_weights="all", allow_slow=True)
    with pytest.raises(ParameterError, match=r"80 samples would take .* (hours|minutes)"):
        run(program, X)
    (tmp_path / "net.onnx").write_bytes(to_onnx(small()).SerializeToString())
    np.save(tmp_path / "x.npy", X)
    command = ["compile", str(tmp_path / "net.onnx"), "--calibration", str(tmp_path / "x.npy"), "--batch", "200"]
    command += ["--strategy", "tbmpnet", "--word-bits", "6", "-o", str(tmp_path / "net.glyphc")]
    refused = CliRunner().invoke(main, command)
    assert refused.exit_code == ParameterError.exit_code
    assert "hours" in refused.output or "minutes" in refused.output
    assert not (tmp_path / "net.glyphc").exists()
    allowed = CliRunner().invoke(main, [*command, "--allow-slow"])
    assert allowed.exit_code == 0, allowed.output
    assert "one sample per pass; 200 samples take 200 passes" in allowed.output
    late = [
        "run",
        str(tmp_path / "net.glyphc"),
        "--input",
        str(tmp_path / "x.npy"),
        "--output",
        str(tmp_path / "y.npy"),
    ]
    refused = CliRunner().invoke(main, late)
    assert refused.exit_code == ParameterError.exit_code
    assert "--allow-slow" in refused.output


def test_long_look_ups_are_refused_and_bootstraps_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow, "MOST_SECONDS", 0.001)
    with pytest.raises(ParameterError, match="look-ups in tables"):
        glyphc.compile(small(last=False), X, 4, strategy="nandakumar", table_bits=4, insecure_ring=RING)
    bootstraps = glyphc.compile(small(last=False), X, 4, strategy="glyph", insecure_ring=RING)
    assert bootstraps.client.batch == 4


@pytest.mark.slow
@pytest.mark.xdist_group("128-bit")
def test_a_network_with_encrypted_weights_at_128_bit(tmp_path: Path) -> None:
    """A user's ONNX file by the command line, weights encrypted as well; words of four bits, as gates take long."""
    (tmp_path / "net.onnx").write_bytes(to_onnx(small()).SerializeToString())
    np.save(tmp_path / "cal.npy", X)
    np.save(tmp_path / "x.npy", X[:1])
    at = {name: str(tmp_path / name) for name in ("net.onnx", "cal.npy", "x.npy", "p.glyphc", "p.weights", "y.npy")}
    made = ["compile", at["net.onnx"], "--calibration", at["cal.npy"], "--strategy", "tbmpnet", "-o", at["p.glyphc"]]
    found = CliRunner().invoke(main, [*made, "--encrypt-weights", "all", "--word-bits", "4"])
    assert found.exit_code == 0, found.output
    ran = ["run", at["p.glyphc"], "--weights", at["p.weights"], "--input", at["x.npy"], "--output", at["y.npy"]]
    found = CliRunner().invoke(main, ran)
    assert found.exit_code == 0, found.output
    program = Program.load(at["p.glyphc"], at["p.weights"])
    np.testing.assert_array_equal(np.load(at["y.npy"]), run(program, X[:1], "clear").outputs["y"])
