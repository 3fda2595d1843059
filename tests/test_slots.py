"""Numbers in slots: instructions, their checker and text, polynomials, and the three backends that execute them."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

import glyphc
from glyphc.backends.base import execute
from glyphc.backends.engine import engine
from glyphc.backends.openfhe.keys import release_all_keys
from glyphc.backends.openfhe.slot_client import generate_slot_keys
from glyphc.backends.openfhe.slot_evaluator import SlotOpenFHE
from glyphc.backends.slots_clear import ClearSlots
from glyphc.backends.slots_simulate import SimulatedSlots
from glyphc.codec import decode, encode
from glyphc.diagnostics import predicted, totals
from glyphc.errors import CalibrationError, GlyphcError
from glyphc.ir.errors import IRError, IRSyntaxError
from glyphc.ir.evaluate import evaluate
from glyphc.ir.graph import Graph, Rewriter
from glyphc.ir.instructions import (
    ClientSpec,
    Drop,
    Free,
    Instruction,
    Load,
    Port,
    Schedule,
    SlotDot,
    SlotProduct,
    Store,
    with_frees,
)
from glyphc.ir.instructions.slots import check_slots
from glyphc.ir.instructions.text import SLOTS as FAMILY
from glyphc.ir.instructions.text import code_text, parse_code
from glyphc.ir.layout import Layout
from glyphc.ir.ops import Fit, Polynomial
from glyphc.ir.parameters import INSECURE
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.ir.text import parse, parse_record, record_text, to_text
from glyphc.ir.types import Encoding, FixedPoint, Scheme
from glyphc.ir.verify import verify
from glyphc.passes.base import Context
from glyphc.passes.fit_polynomials import FitPolynomials
from glyphc.passes.plan_slots import plan_slots
from glyphc.passes.select_slots import SelectSlots
from glyphc.runtime import run
from glyphc.slots.layout import laid_out
from glyphc.slots.lowering import slot_schedule
from glyphc.slots.noise import added_noise, predict_slots
from glyphc.slots.polynomials import polynomial_depth
from glyphc.slots.writer import SlotWriter
from glyphc.ways.base import SlotPlan
from tests.pass_networks import SAMPLES, Network, mlp
from tests.pass_networks import run as run_passes
from tests.roles import MODELS

F64 = npt.NDArray[np.floating]
RING = 1024
SLOTS = RING // 2
_LAYOUT = Layout(SLOTS, SLOTS, 1, 1, 1, 1, 1, True)
_PORT = Port("x", (1,), FixedPoint((1.0,), (0.0,), -1, 1), _LAYOUT, (), Encoding.SLOTS)


def polynomial_program(coefficients: F64, bits: int = 40) -> tuple[Schedule, float]:
    """A program for one polynomial behind a weighted sum, and the factor that it leaves to others."""
    depth = polynomial_depth(len(coefficients) - 1) + 1
    writer = SlotWriter()
    x = writer.dot([writer.load("x", 0, depth)], [1.0], 0.0)
    result, factor = writer.polynomial(x, tuple(coefficients))
    writer.store(writer.drop(result, 0), "y", 0)
    parameters = SlotParameters(RING, depth, bits, bits + 8, 1, INSECURE)
    client = ClientSpec(parameters, (_PORT,), (replace(_PORT, name="y"),), SLOTS)
    return Schedule(client, tuple(with_frees(writer.instructions)), {}), factor


def evaluated(schedule: Schedule, machine: ClearSlots | SlotOpenFHE, message: object) -> object:
    (result,) = execute(schedule.instructions, machine, {"x": [message]})["y"]
    return result


# -- polynomials --


@given(st.integers(1, 33), st.randoms(use_true_random=False))
@examples(60)
def test_polynomials_take_the_levels_of_their_degree_and_give_what_numpy_gives(degree: int, random: object) -> None:
    rng = np.random.default_rng(random.randint(0, 2**32))  # type: ignore[attr-defined]
    coefficients = rng.normal(size=degree + 1)
    if degree & (degree - 1) == 0:
        coefficients[-1] = np.copysign(1.0, coefficients[-1])
    schedule, factor = polynomial_program(coefficients)
    assert isinstance(schedule.parameters, SlotParameters)
    check_slots(schedule.instructions, {"x": 1}, schedule.parameters.depth)
    assert schedule.parameters.depth - 1 == max(1, int(np.ceil(np.log2(degree + (degree & (degree - 1) != 0)))))
    x = rng.uniform(-1, 1, SLOTS)
    y = evaluated(schedule, ClearSlots(schedule.parameters), x)
    wanted = np.polynomial.chebyshev.chebval(x, coefficients)
    np.testing.assert_allclose(y * factor, wanted, atol=1e-9)  # type: ignore[operator]


@pytest.mark.parametrize("degree", [2, 7, 8])
@pytest.mark.parametrize("bits", [28, 40])
def test_ciphertexts_err_as_simulated_whatever_primes_openfhe_finds(degree: int, bits: int) -> None:
    """With primes of 28 bits, each rescaling is off by up to a hundredth of a percent; none of that may be left."""
    rng = np.random.default_rng(degree)
    coefficients = rng.normal(size=degree + 1)
    schedule, factor = polynomial_program(coefficients, bits)
    x = rng.uniform(-1, 1, SLOTS)
    wanted = np.polynomial.chebyshev.chebval(x, coefficients)
    assert isinstance(schedule.parameters, SlotParameters)
    simulator = SimulatedSlots(schedule.parameters)
    simulated = factor * evaluated(schedule, simulator, simulator.encrypt(x)) - wanted  # type: ignore[operator]
    try:
        client, keys = generate_slot_keys(schedule.parameters)
        y = client.decrypt(evaluated(schedule, SlotOpenFHE(schedule, keys), client.encrypt(x)))
    finally:
        release_all_keys()
    assert 0.5 < np.std(factor * y - wanted) / np.std(simulated) < 2
    assert abs(factor * y @ wanted / (wanted @ wanted) - 1) < 8 * np.std(simulated) / np.std(wanted)


# -- text and checker --


def program() -> tuple[Instruction, ...]:
    return (
        Load(0, "x", 0, 1),
        SlotDot(1, (0,), (0.1,), -1.5, 2),
        Drop(2, 0, 1, 2),
        SlotProduct(3, ((1, 2), (1, 1)), (2,), (1e-300,), 0.0, 3),
        Store(3, "y", 0, 3),
        Free((0, 1, 2, 3), 3),
    )


def test_text_parses_back() -> None:
    assert parse_code(code_text(program(), FAMILY), FAMILY) == program()
    with pytest.raises(IRSyntaxError, match="line 3"):
        parse_code(code_text(program(), FAMILY).replace('"weights":[0.1]', '"weights":0.1'), FAMILY)


@pytest.mark.parametrize(
    ("at", "other", "message"),
    [
        (0, Load(0, "x", 1, 1), "loads part 1"),
        (1, SlotDot(1, (0,), (0.1, 0.2), 0.0, 2), "2 weights for 1"),
        (1, SlotDot(1, (), (), 0.0, 2), "no operand"),
        (1, SlotDot(0, (0,), (0.1,), 0.0, 2), "a second time"),
        (1, SlotDot(1, (0,), (float("inf"),), 0.0, 2), "beyond what is computed with"),
        (1, SlotDot(1, (7,), (0.1,), 0.0, 2), "holds nothing"),
        (2, Drop(2, 0, 2, 2), "from 2 levels to 2"),
        (2, Drop(2, 0, 0, 2), "different levels"),
        (3, SlotProduct(3, (), (2,), (1.0,), 0.0, 3), "multiplies nothing"),
        (4, Store(5, "y", 0, 3), "holds nothing"),
    ],
)
def test_the_checker_names_what_is_wrong(at: int, other: object, message: str) -> None:
    check_slots(program(), {"x": 1}, 2)
    broken = tuple(other if n == at else i for n, i in enumerate(program()))
    with pytest.raises(IRError, match=message):
        check_slots(broken, {"x": 1}, 2)  # type: ignore[arg-type]


def test_code_without_levels_is_refused() -> None:
    with pytest.raises(IRError, match="none left"):
        check_slots(program()[:2], {"x": 1}, 0)


def test_parameters_are_records() -> None:
    parameters = SlotParameters(16384, 8, 28, 32, 2)
    assert parse_record(record_text(parameters), SlotParameters) == parameters
    assert parameters.modulus_bits == 437
    with pytest.raises(ValueError, match="not possible"):
        SlotParameters(16384, 8, 28, 61, 2)


# -- programs --


@pytest.fixture(scope="module")
def compiled() -> glyphc.Program:
    return glyphc.compile(mlp("relu"), SAMPLES, 8, insecure_ring=RING, strategy="slots")


def test_clear_simulated_and_encrypted_agree(compiled: glyphc.Program) -> None:
    x = SAMPLES[:20]
    clear, simulated, encrypted = (compiled.run(x, mode) for mode in ("clear", "simulate", "encrypted"))
    span = np.ptp(clear)
    noise = predict_slots(compiled.graph, compiled.graph.parameters)  # type: ignore[arg-type]
    output = compiled.graph.node(compiled.graph.outputs[0].operands[0])
    assert output.type.fixed is not None
    predicted = noise[output.id].white * output.type.fixed.scale[0]
    for found in (simulated, encrypted):
        assert 0.4 < np.std(found - clear) / predicted < 2.5
        assert np.abs(found - clear).max() < 2.0**-12 * span


@pytest.mark.parametrize("bits", [20, 32])
def test_what_is_promised_has_the_noise_of_the_parameters(bits: int) -> None:
    """Two layers without a nonlinearity: noise and rounding are all that is lost. 20 bits are too few: noise leads."""
    n = Network(6)
    n.output(n.dense(n.dense(n.x, 8, "fc1"), 3, "fc2"))
    x = SAMPLES.reshape(100, 6)
    made = glyphc.compile(n.graph, x, 50, insecure_ring=RING, strategy="slots", logit_tolerance=1.0)
    chosen = made.graph.parameters
    assert isinstance(chosen, SlotParameters)
    parameters = replace(chosen, scaling_bits=bits, first_bits=bits + 4)
    (loss,) = SelectSlots(logits=1.0).promised(made.graph, parameters, Context({"x": x}, source=n.graph))
    assert loss.held_out
    held_out = {"x": x[1::2]}
    schedule = slot_schedule(laid_out(made.graph, parameters))
    (port,), (result,) = schedule.client.inputs, schedule.client.outputs
    try:
        client, keys = generate_slot_keys(parameters)
        inputs = {"x": [client.encrypt(np.asarray(m)) for m in encode(port, held_out["x"])]}
        outputs = execute(schedule.instructions, SlotOpenFHE(schedule, keys), inputs)
        found = decode(result, np.array([client.decrypt(c) for c in outputs["y"]]), 50)
    finally:
        release_all_keys()
    error = float(np.sqrt(np.mean((found - evaluate(n.graph, held_out)["y"]) ** 2)))
    assert 0.6 < error / loss.value < 1.6
    (usual,) = SelectSlots(logits=1.0).promised(made.graph, chosen, Context({"x": x}, source=n.graph))
    assert (loss.value > 2 * usual.value) == (bits == 20)


def test_a_network_without_functions_has_an_accuracy_line() -> None:
    n = Network(6)
    n.output(n.dense(n.x, 3, "fc"))
    made = glyphc.compile(n.graph, SAMPLES.reshape(100, 6), 4, insecure_ring=RING, strategy="slots")
    assert "held-out calibration samples changes, 0.5 % tolerated (no polynomials)" in totals(made, predicted(made))


def test_the_definition_is_the_graph_of_polynomials(compiled: glyphc.Program) -> None:
    """What the instructions compute on arrays, and what the evaluator says of the final graph."""
    x, parameters = SAMPLES[:8], compiled.client.parameters
    assert isinstance(parameters, SlotParameters)
    ports = compiled.client.inputs
    results = execute(compiled.schedule.instructions, ClearSlots(parameters), {p.name: encode(p, x) for p in ports})
    (port,) = compiled.client.outputs
    found = decode(port, np.array(results[port.name]), 8)
    np.testing.assert_allclose(found, evaluate(compiled.graph, {"x": x})["y"], atol=1e-9)


def test_a_graph_in_slots_has_a_text(compiled: glyphc.Program) -> None:
    assert parse(to_text(compiled.graph)) == compiled.graph
    again = glyphc.Program.from_bytes(compiled.to_bytes())
    assert again.schedule.instructions == compiled.schedule.instructions
    assert again.fingerprint == compiled.fingerprint


def degrees(graph: Graph) -> list[int]:
    return [op.fit.degree for _, op in graph.of(Polynomial)]


def test_the_degree_follows_the_tolerance() -> None:
    found = [
        degrees(glyphc.compile(mlp(), SAMPLES, 8, logit_tolerance=t, insecure_ring=RING, strategy="slots").graph)
        for t in (0.5, 0.02, 0.002)
    ]
    assert found == sorted(found)
    assert found[0] < found[-1]


def test_polynomials_hold_on_the_whole_range_of_the_format(compiled: glyphc.Program) -> None:
    """Calibration leaves a guard band: there, too, the polynomial must not explode."""
    for node, op in compiled.graph.of(Polynomial):
        (operand,) = compiled.graph.operands(node)
        fixed = operand.type.fixed
        assert fixed is not None and node.type.fixed is not None
        steps = np.linspace(fixed.lo, fixed.hi, 999)
        y = np.polynomial.chebyshev.chebval(steps / fixed.magnitude, op.fit.coefficients) * node.type.fixed.magnitude
        wanted = np.maximum(steps * fixed.scale[0] + fixed.offset[0], 0.0) / node.type.fixed.scale[0]
        assert np.abs(y - wanted).max() < 0.3 * np.ptp(wanted)


def test_a_function_of_an_input_and_one_before_an_output_are_computed() -> None:
    n = Network(3)
    n.output(n.apply(n.x, "tanh"), "first")
    n.output(n.apply(n.dense(n.x, 2, "fc"), "tanh"), "second")
    x = np.random.default_rng(3).normal(size=(64, 3))
    made = glyphc.compile(n.graph, x, 4, insecure_ring=RING, strategy="slots", logit_tolerance=0.05)
    clear, encrypted = run(made, x[:4], "clear").outputs, run(made, x[:4], "encrypted").outputs
    np.testing.assert_allclose(clear["first"], np.tanh(x[:4]), atol=0.3)
    for name, value in clear.items():
        np.testing.assert_allclose(encrypted[name], value, atol=2.0**-10)


def test_more_samples_than_slots_take_several_passes() -> None:
    made = glyphc.compile(mlp("relu"), SAMPLES, 700, insecure_ring=RING, strategy="slots")
    assert (made.client.batch, made.requested_batch) == (SLOTS, 700)
    x = np.resize(SAMPLES, (700, 2, 3))
    np.testing.assert_allclose(made.run(x, "simulate"), made.run(x, "clear"), atol=2.0**-10)


def test_refusals() -> None:
    with pytest.raises(CalibrationError, match="--calibration"):
        glyphc.compile(mlp(), None, 4, strategy="slots", insecure_ring=RING)
    with pytest.raises(GlyphcError, match="no strategy"):
        glyphc.compile(mlp(), SAMPLES, 4, strategy="tables")
    with pytest.raises(GlyphcError, match="weights that the server must not see"):
        glyphc.compile(mlp(), SAMPLES, 4, strategy="slots", insecure_ring=RING, encrypt_weights="all")


def test_engines_say_whether_they_execute_numbers_in_slots(compiled: glyphc.Program) -> None:
    code = compiled.schedule.instructions
    assert not any(engine(name).unsupported(code) for name in ("openfhe", "kernels", "simulate", "clear"))


def test_noise_of_an_evaluation_grows_with_the_degree() -> None:
    x = np.linspace(-1, 1, 999)
    fits = [np.polynomial.chebyshev.chebfit(x, np.abs(x), degree) for degree in (2, 6, 30)]
    noise = [added_noise(Fit(tuple(map(float, c)), 0.0, 0.0)) for c in fits]
    assert noise == sorted(noise)
    assert noise[0] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoding": Encoding.LSB}, "ckks values, and only these"),
        ({"scheme": Scheme.BGV, "encoding": Encoding.LSB}, "a switch is missing"),
    ],
)
def test_the_verifier_keeps_schemes_and_slots_together(
    compiled: glyphc.Program, change: dict[str, object], message: str
) -> None:
    (polynomial,) = (node.id for node, _ in compiled.graph.of(Polynomial))
    rewriter = Rewriter(compiled.graph)
    for node in compiled.graph:
        rewriter.keep(node, replace(node.type, **change) if node.id == polynomial else node.type)  # type: ignore[arg-type]
    with pytest.raises(IRError, match=message):
        verify(rewriter.new)


def test_a_plan_has_the_price_of_the_program_or_a_reason() -> None:
    quantized, context = run_passes(mlp("relu"), "expand,fold,calibrate,quantize", batch=8)
    fits = FitPolynomials(logits=0.2)
    found = plan_slots(quantized, context, fits, inf)
    assert isinstance(found, SlotPlan)
    made = glyphc.compile(mlp("relu"), SAMPLES, 8, logit_tolerance=0.2, strategy="slots", cost=context.cost)
    assert found.parameters.ring == made.graph.parameters.ring  # type: ignore[union-attr]
    # the same for two samples and for as many as there are slots
    slots = found.parameters.slots
    for batch in (2, slots):
        quantized, _ = run_passes(mlp("relu"), "expand,fold,calibrate,quantize", batch=batch)
        other = plan_slots(quantized, context, fits, inf)
        assert isinstance(other, SlotPlan)
        assert other.seconds == pytest.approx(found.seconds)
    assert "more than the tolerated" in str(plan_slots(quantized, context, FitPolynomials(logits=1e-9), inf))
    assert "products with numbers alone" in str(plan_slots(quantized, context, fits, 1e-6))
    assert "already" in str(plan_slots(quantized, context, fits, 0.05))


@pytest.mark.slow
@pytest.mark.xdist_group("128-bit")
def test_digits_at_128_bit() -> None:
    """ReLU without retraining: as accurate as promised, and far more precise than the polynomials are."""
    data = MODELS / "data"
    x, labels = np.load(data / "digits-test.npy"), np.load(data / "digits-test-labels.npy")
    made = glyphc.compile(MODELS / "digits-mlp.onnx", np.load(data / "digits-train.npy"), 512, strategy="slots")
    assert made.secure
    clear, encrypted = made.run(x, "clear"), made.run(x)
    assert isinstance(clear, np.ndarray)
    assert isinstance(encrypted, np.ndarray)
    assert np.mean(encrypted.argmax(axis=1) == labels) >= 0.97
    assert np.std(encrypted - clear) < 2.0**-14 * np.ptp(clear)


def test_histograms_do_not_show() -> None:
    """The server gets the polynomials: where in its range a value lies on the calibration samples is not in them."""
    x = SAMPLES.copy()
    x[np.abs(x).max(axis=(1, 2)).argsort()[:20]] *= 0.7  # none of these is near an end of a range
    graphs = [glyphc.compile(mlp("relu"), s, 8, insecure_ring=RING, strategy="slots").graph for s in (SAMPLES, x)]
    first, second = ([op for _, op in graph.of(Polynomial)] for graph in graphs)
    assert first == second
