"""Training as the survey's systems do it: definitions beside autodiff and big integers, instructions and ciphertexts
beside definitions, forecasts beside what happens."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from glyphc.backends.base import execute
from glyphc.backends.integers_clear import ClearIntegers
from glyphc.backends.openfhe.integer_client import generate_integer_keys
from glyphc.backends.openfhe.integer_evaluator import IntegerOpenFHE
from glyphc.backends.openfhe.keys import release_all_keys
from glyphc.cli import main
from glyphc.errors import GlyphcError
from glyphc.frontends.to_onnx import to_onnx
from glyphc.ir.client_requests import Places, Request
from glyphc.ir.errors import IRError
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph
from glyphc.ir.instructions import IntegerTotal, Load, Store
from glyphc.ir.instructions.integers import check_integers
from glyphc.ir.instructions.text import INTEGERS, code_text, parse_code
from glyphc.ir.integer_parameters import IntegerStepParameters
from glyphc.ir.network_ops import NO_BIAS
from glyphc.ir.ops import Apply, Const, Dense, Input, Output, Softmax
from glyphc.ir.parameters import INSECURE
from glyphc.ir.types import Level
from glyphc.runtime import Mode
from glyphc.slots.integers import plaintext_primes
from glyphc.survey.chain import chain_of
from glyphc.survey.choose import NAMES, Sizes, system_of
from glyphc.survey.integer_system import IntegerSystem
from glyphc.survey.system import System, carry_out
from glyphc.survey.tbmpnet import TBMPNet
from glyphc.train.errors import TrainingError
from glyphc.train.job import Job, Keeper, Options, RangeSource, make_job
from glyphc.train.optimizers import SGD, Exponential

RING = 1024
MSE, BCE = "mean-squared-error", "binary-cross-entropy"


def network(widths: tuple[int, ...], between: str = "sigmoid", last: str = "", biased: bool = True) -> Graph:
    random = np.random.default_rng(len(widths))
    graph = Graph(Level.SOURCE, 1)
    value = graph.add(Input("x", widths[:1]))
    for at, (fan, out) in enumerate(pairwise(widths)):
        w = graph.add_constant(f"w{at}", random.normal(size=(out, fan)) / np.sqrt(fan))
        name, values = (f"b{at}", random.normal(size=out) / 4) if biased else (f"w{at}.{NO_BIAS}", np.zeros(out))
        b = graph.add_constant(name, values)
        value = graph.add(Dense((Const(w),), Const(b)), (value,), location=f"layer{at}")
        if at + 2 < len(widths):
            value = graph.add(Apply((Function(between),)), (value,))
    if last:
        value = graph.add(Softmax() if last == "softmax" else Apply((Function(last),)), (value,))
    graph.add(Output("y"), (value,))
    return graph


def job_of(graph: Graph, batch: int = 13, rate: float = 0.5, loss: str = MSE, **options: Any) -> Job:
    random = np.random.default_rng(1)
    inputs = graph.inputs[0].type.size
    (output,) = graph.outputs
    outputs = graph.operands(output)[0].type.size
    x = random.normal(size=(40, inputs))
    y = np.eye(max(outputs, 2))[random.integers(0, max(outputs, 2), 40)][:, :outputs]
    optimizer = options.pop("optimizer", SGD(rate))
    return make_job(graph, x, y, Options(optimizer, 2, batch, loss, insecure_ring=RING, **options))


def trained(system: System, mode: Mode = Mode.CLEAR) -> dict[str, np.ndarray[Any, Any]]:
    return dict(carry_out(system, mode).state)


def by_floats(job: Job) -> dict[str, np.ndarray[Any, Any]]:
    """Weights after all steps of the step program that autodiff made."""
    state = job.program.initial()
    for step in range(job.options.steps):
        x, y = job.batch(job.batches.number(step))
        state, _ = job.program.run(state, job.named(x), y)
    return state.weights


# -- instructions --


@given(st.integers(0, 5), st.data())
@settings(max_examples=40, deadline=None)
def test_places_keep_what_stands_there(power: int, data: st.DataObject) -> None:
    block, slots = 1 << power, 64
    samples, blocks = data.draw(st.integers(1, block)), data.draw(st.integers(1, slots // block))
    summed = data.draw(st.booleans())
    request = Request(1, 1.0, places=(Places(block, samples, blocks, summed),))
    request.check(slots)
    values = np.arange(1, slots + 1)[None]
    (found,) = request.answer(values)
    for slot in range(slots):
        unit, sample = divmod(slot, block)
        stands = unit < blocks and sample < samples
        source = unit * block if summed else slot
        assert found[slot] == (values[0, source] if stands else 0)


@pytest.mark.parametrize(
    "request_",
    [
        Request(2, 0.5, places=(Places(4, 1, 1),)),
        Request(1, 0.5, places=(Places(3, 1, 1),)),
        Request(1, 0.5, places=(Places(4, 5, 1),)),
        Request(1, 0.5, places=(Places(4, 1, 17),)),
        Request(1, 0.5, bits=3, block=4, places=(Places(4, 1, 1),)),
    ],
)
def test_requests_that_no_compiler_makes(request_: Request) -> None:
    with pytest.raises(IRError):
        request_.check(64)


def test_totals_of_ciphertexts_and_of_clear_integers() -> None:
    block = 16
    p = IntegerStepParameters(RING, plaintext_primes(RING, 40.0), 2, True, INSECURE, block, within=block)
    code = (Load(0, "x"), IntegerTotal(1, 0, False, 0), IntegerTotal(2, 0, True, 0), Store(1, "y"), Store(2, "y", 1))
    check_integers(code, {"x": 1}, p)
    assert parse_code(code_text(code, INTEGERS), INTEGERS) == code
    x = np.random.default_rng(5).integers(-(2**20), 2**20, RING)
    over_blocks = np.tile(x.reshape(-1, block).sum(axis=0), RING // block)
    within = x.reshape(-1, block).sum(axis=1)
    machine = ClearIntegers(p)
    clear = [machine.decrypt(c) for c in execute(code, machine, {"x": [machine.encrypt(x)]})["y"]]
    try:
        client = generate_integer_keys(p)
        encrypted = execute(code, IntegerOpenFHE(client.contexts), {"x": [client.encrypt(x)]})["y"]
        found = [client.decrypt(c) for c in encrypted]
    finally:
        release_all_keys()
    for blocks, inner in (clear, found):
        np.testing.assert_array_equal(blocks, over_blocks)
        np.testing.assert_array_equal(inner[::block], within)
    np.testing.assert_array_equal(clear[1], found[1])
    with pytest.raises(IRError, match="no keys"):
        check_integers(code[:2], {"x": 1}, IntegerStepParameters(RING, p.moduli, 2, True, INSECURE, within=block))


# -- definitions --


@pytest.mark.parametrize(
    ("widths", "last", "loss"),
    [
        ((6, 3), "", MSE),
        ((6, 5, 3), "", MSE),
        ((6, 5, 3), "sigmoid", MSE),
        ((6, 5, 4, 3), "tanh", MSE),
        ((6, 5, 3), "sigmoid", BCE),
        ((6, 3), "", BCE),
    ],
)
def test_a_chain_has_the_gradients_of_autodiff(widths: tuple[int, ...], last: str, loss: str) -> None:
    job = job_of(network(widths, "tanh", last), loss=loss)
    chain, weights = chain_of(job, "x"), job.program.initial().weights
    for step in range(2):
        x, y = job.batch(step)
        weights = chain.after(weights, chain.values(weights, x, y), 0.5)
    for name, value in by_floats(job).items():
        np.testing.assert_allclose(weights[name], value, rtol=0, atol=1e-12)


def rounded(values: Any, ratio: float) -> list[list[int]]:
    return [[round(float(v) * ratio) for v in row] for row in values]


def test_a_step_on_integers_is_its_formulas_by_hand() -> None:
    """Two layers, polynomials: all in Python's own integers."""
    system = system_of("hesamifard", job_of(network((6, 5, 3))))
    assert isinstance(system, IntegerSystem)
    first, second = system.formats.layers
    state = {name: value.tolist() for name, value in system.initial().items()}
    x, y = system.job.batch(0)
    X = [[round(v / system.formats.input_unit) for v in row] for row in x.tolist()]
    Y = [[round(v / system.formats.target_unit) for v in row] for row in y.tolist()]
    z = [
        [sum(a * w for a, w in zip(row, line, strict=True)) + first.one * b for line, b in zip(*layer, strict=True)]
        for layer in [(state["w0"], state["b0"])]
        for row in X
    ]
    behind: Any = first.behind
    r = rounded(z, behind.ratio)
    a = [[sum(c * v**k for k, c in enumerate(behind.coefficients)) for v in row] for row in r]
    s = [[sum(k * c * v ** (k - 1) for k, c in enumerate(behind.coefficients) if k) for v in row] for row in r]
    e2 = rounded(
        [
            [
                sum(v * w for v, w in zip(row, line, strict=True)) + second.one * b - t
                for line, b, t in zip(state["w1"], state["b1"], wanted, strict=True)
            ]
            for row, wanted in zip(a, Y, strict=True)
        ],
        second.error_ratio,
    )
    sent = [[sum(e * state["w1"][k][u] for k, e in enumerate(row)) for u in range(5)] for row in e2]
    e1 = rounded(
        [[d * v for d, v in zip(row, line, strict=True)] for row, line in zip(sent, s, strict=True)], first.error_ratio
    )
    K = system.formats.weight_factor

    def updated(old: list[list[int]], errors: list[list[int]], read: list[list[int]], gain: int) -> list[list[int]]:
        totals = [
            [
                K * w - gain * sum(row[i] * line[j] for row, line in zip(errors, read, strict=True))
                for j, w in enumerate(line)
            ]
            for i, line in enumerate(old)
        ]
        return rounded(totals, 1 / K)

    ones = [[1] for _ in X]
    expected = {
        "w1": updated(state["w1"], e2, a, second.gain),
        "w0": updated(state["w0"], e1, X, first.gain),
        "b1": updated([[b] for b in state["b1"]], e2, [[second.one] for _ in ones], second.gain),
        "b0": updated([[b] for b in state["b0"]], e1, [[first.one] for _ in ones], first.gain),
    }
    found = system.defined(system.initial(), 0)
    for name, value in found.items():
        np.testing.assert_array_equal(value, np.array(expected[name]).reshape(value.shape))
        assert np.any(value != system.initial()[name])


@pytest.mark.parametrize("name", NAMES)
def test_definitions_come_close_to_training_with_floats(name: str) -> None:
    graph = network((6, 5, 3) if name != "tbmpnet" else (2, 2, 1), last="" if name != "tbmpnet" else "sigmoid")
    job = job_of(graph, batch=13 if name != "tbmpnet" else 1)
    system = system_of(name, job, Sizes(word_bits=10 if name == "tbmpnet" else None))
    expected, found = by_floats(system.job), system.weights(trained(system))
    start = job.program.initial().weights
    moved = max(float(np.abs(value - start[layer]).max()) for layer, value in expected.items())
    bound = {"onoufriou": 1e-12, "tbmpnet": 0.2}.get(name, 0.03)
    for layer, value in expected.items():
        assert np.abs(found[layer] - value).max() <= bound * moved


# -- instructions beside definitions --


@pytest.mark.parametrize("batch", [1, 13, 16])
@pytest.mark.parametrize(
    ("name", "widths", "last", "loss", "biased"),
    [
        ("hesamifard", (6, 3), "", MSE, True),
        ("hesamifard", (3, 5, 4, 7), "", MSE, True),
        ("hesamifard", (3, 5, 2, 6, 3), "", MSE, True),
        ("nandakumar", (6, 3), "sigmoid", BCE, True),
        ("nandakumar", (6, 5, 3), "sigmoid", MSE, True),
        ("nandakumar", (6, 2, 9), "", MSE, False),
    ],
)
def test_instructions_on_integers_are_the_definition(
    name: str, widths: tuple[int, ...], last: str, loss: str, biased: bool, batch: int
) -> None:
    """Networks whose layers are wider and narrower than those around them, batches that fill blocks or do not."""
    system = system_of(
        name, job_of(network(widths, last=last, biased=biased), batch, 0.25 if batch > 1 else 0.0625, loss), Sizes()
    )
    expected, found = trained(system), trained(system, Mode.SIMULATE)
    for weight, value in expected.items():
        np.testing.assert_array_equal(found[weight], value, err_msg=weight)
    assert any(np.any(value != system.initial()[weight]) for weight, value in expected.items())


@pytest.mark.parametrize(("bits", "batch", "last", "loss"), [(6, 1, "sigmoid", MSE), (5, 2, "", MSE), (6, 1, "", BCE)])
def test_gates_are_the_definition(bits: int, batch: int, last: str, loss: str) -> None:
    rate = {MSE: 1.0, BCE: 0.5}[loss]
    job = job_of(network((2, 2, 1), last=last), batch, rate, loss)
    system = system_of("tbmpnet", job, Sizes(word_bits=bits))
    assert isinstance(system, TBMPNet)
    expected, found = trained(system), trained(system, Mode.SIMULATE)
    for weight, value in expected.items():
        np.testing.assert_array_equal(found[weight], value, err_msg=weight)
    assert any(np.any(value != system.initial()[weight]) for weight, value in expected.items())
    assert len(system.schedule.instructions) > 500


@pytest.mark.parametrize("name", NAMES)
def test_encrypted_steps_are_as_in_the_clear(name: str) -> None:
    """Test keys; integers and words bit for bit. There are as many trips as were predicted."""
    small = name == "tbmpnet"
    graph = network((2, 1) if small else (4, 3, 2), last="sigmoid" if small else "")
    system = system_of(name, job_of(graph, *((1, 1.0) if small else ())), Sizes(word_bits=3 if small else None))
    expected = trained(system)
    done = carry_out(system, Mode.ENCRYPTED)
    for weight, value in expected.items():
        if system.exact:
            np.testing.assert_array_equal(done.state[weight], value, err_msg=weight)
        else:
            np.testing.assert_allclose(done.state[weight], value, rtol=0, atol=1e-4, err_msg=weight)
    assert done.trips == 2 * system.forecast.trips
    assert system.forecast.trips == {"tbmpnet": 0, "onoufriou": 1}.get(name, 4)
    assert any(np.any(value != system.initial()[weight]) for weight, value in expected.items())
    assert len(done.seconds) == 2
    assert 0 <= done.client_seconds < sum(done.seconds)


@pytest.mark.slow
def test_the_example_of_t_bmpnet() -> None:
    """2-2-1 on words of 5 bits, with test keys: some thousand gates."""
    system = system_of("tbmpnet", job_of(network((2, 2, 1), last="sigmoid"), 1, 2.0), Sizes(word_bits=5))
    expected, found = trained(system), trained(system, Mode.ENCRYPTED)
    for weight, value in expected.items():
        np.testing.assert_array_equal(found[weight], value, err_msg=weight)


def test_what_leaves_its_range_is_found_by_the_client() -> None:
    system = system_of("nandakumar", job_of(network((6, 5, 3))))
    far = {name: 40 * value for name, value in system.initial().items()}
    with pytest.raises(TrainingError, match="left the range"):
        system.defined(far, 0)
    with system.runner(Mode.SIMULATE, None) as runner:  # type: ignore[arg-type]
        runner.start(far)
        with pytest.raises(TrainingError, match="left the range"):
            runner.step(0)


def test_onoufriou_takes_every_optimizer_and_loss() -> None:
    """All of them are the client's."""
    optimizer = SGD(0.3, 0.9, True, 0.01, Exponential(0.9))
    system = system_of("onoufriou", job_of(network((6, 5, 3)), loss="softmax-cross-entropy", optimizer=optimizer))
    found = trained(system, Mode.SIMULATE)
    for name, value in by_floats(system.job).items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-4)


# -- who learns what, and refusals --


def test_who_learns_what() -> None:
    job = job_of(network((2, 2, 1)), 1)
    known = {name: system_of(name, job, Sizes(word_bits=4 if name == "tbmpnet" else None)).knowledge for name in NAMES}
    assert "weights" in known["onoufriou"].both
    assert any("gradients" in what for what in known["onoufriou"].both)
    for name in ("hesamifard", "nandakumar", "tbmpnet"):
        assert not known[name].server
        assert "weights" in known[name].client
    assert known["tbmpnet"].neither == ("activations", "gradients")


@pytest.mark.parametrize(
    ("name", "problem", "changes"),
    [
        ("hesamifard", "momentum", {"optimizer": SGD(0.5, 0.9)}),
        ("nandakumar", "schedule", {"optimizer": SGD(0.5, schedule=Exponential(0.9))}),
        ("nandakumar", "quadratic loss", {"loss": "softmax-cross-entropy"}),
        ("hesamifard", "polynomials", {"loss": BCE}),
        ("onoufriou", "--ranges", {"source": RangeSource.BOUNDS}),
        ("onoufriou", "--logit-range", {"reach": 8.0}),
        ("tbmpnet", "--learning-rate", {"rate": 0.3}),
        ("tbmpnet", "gates", {"batch": 40, "rate": 0.390625}),
        ("hesamifard", "--clip-errors", {"clip_errors": 1.0}),
        ("onoufriou", "on the server", {"keep_on": Keeper.SERVER}),
        ("nandakumar", "convolutions", {"convolutions": True}),
        ("ghimes", "only infers", {}),
        ("nobody", "is none", {}),
    ],
)
def test_refusals(name: str, problem: str, changes: dict[str, Any]) -> None:
    graph = network((64, 32, 10)) if problem == "gates" else network((6, 5, 3))
    with pytest.raises(GlyphcError, match=problem):
        system_of(name, job_of(graph, **changes))


def test_sizes_that_a_strategy_does_not_take() -> None:
    job = job_of(network((6, 5, 3)))
    for name, sizes in (
        ("nandakumar", Sizes(degree=3)),
        ("hesamifard", Sizes(table_bits=4)),
        ("onoufriou", Sizes(word_bits=4)),
    ):
        with pytest.raises(GlyphcError, match=name):
            system_of(name, job, sizes)


# -- the command --


def files(folder: Path, graph: Graph) -> list[str]:
    job = job_of(graph)
    (folder / "m.onnx").write_bytes(to_onnx(graph).SerializeToString())
    np.save(folder / "x.npy", job.x)
    np.save(folder / "y.npy", job.y)
    return [*map(str, (folder / "m.onnx", "--data", folder / "x.npy", "--labels", folder / "y.npy")), "--loss", MSE]


def invoke(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["train", *map(str, arguments)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    return result


@pytest.mark.parametrize("name", ["hesamifard", "nandakumar", "onoufriou"])
def test_the_command_trains_by_a_strategy(name: str, tmp_path: Path) -> None:
    graph = network((6, 5, 3))
    given_ = files(tmp_path, graph)
    options = ("--steps", 2, "--batch", 13, "--learning-rate", 0.5, "--strategy", name, "--insecure-ring", RING)
    out = tmp_path / "out.onnx"
    dry = invoke(*given_, *options, "--dry-run", "-o", out)
    assert f"{1 if name == 'onoufriou' else 4} trips a step" in dry.stderr
    assert not out.exists()
    result = invoke(*given_, *options, "--mode", "simulate", "--monitor", "-o", out)
    assert "loss before step 1" in result.stderr
    job = job_of(graph)
    system = system_of(name, job)
    expected = system.weights(trained(system))
    written = {t.name: numpy_helper.to_array(t) for t in onnx.load(out).graph.initializer}
    found = sorted(float(np.abs(value).sum()) for value in written.values())
    wanted = sorted(float(np.abs(value).sum()) for value in expected.values())
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    other = [node.op_type for node in onnx.load(out).graph.node]
    assert "Sigmoid" in other


def test_mistakes_of_the_command(tmp_path: Path) -> None:
    given_ = files(tmp_path, network((6, 5, 3)))
    end = ("-o", tmp_path / "out.onnx", "--insecure-ring", RING)
    assert "go with another --strategy" in invoke(*given_, *end, "--degree", 3, code=2).stderr
    assert "--resume" in invoke(*given_, *end, "--strategy", "nandakumar", "--resume", code=2).stderr
    assert "only infers" in invoke(*given_, *end, "--strategy", "ghimes", code=2).stderr
    few = invoke(*given_, *end, "--strategy", "hesamifard", "--memory", 0.01, "--learning-rate", 0.5, code=2)
    assert "allowed (--memory)" in few.stderr
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.slow
def test_training_side_by_side(tmp_path: Path) -> None:
    """Each run in a process of its own; what does not fit is predicted, what is not possible is refused."""
    graph = network((4, 3, 2))
    job = job_of(graph)
    (tmp_path / "m.onnx").write_bytes(to_onnx(graph).SerializeToString())
    np.save(tmp_path / "x.npy", job.x)
    np.save(tmp_path / "y.npy", job.y.argmax(axis=1))
    command = ["compare", str(tmp_path / "m.onnx"), "--train", "--input", str(tmp_path / "x.npy")]
    command += ["--labels", str(tmp_path / "y.npy"), "--batch", "13", "--insecure-ring", str(RING)]
    kept = ["--record", str(tmp_path / "r.json")]
    little = ["--strategies", "glyph,hesamifard", "--memory", "0.01", "--format", "markdown"]
    result = CliRunner().invoke(main, [*command, *kept, "--strategies", "nandakumar,tbmpnet"])
    assert result.exit_code == 0, result.output
    row, refused = (line for line in result.stdout.splitlines() if line.startswith(("nandakumar  ", "tbmpnet  ")))
    assert "  run  " in row and "  exact  " in row and "  8 (8)  " in row
    assert "  refused" in refused
    assert "tbmpnet: the strategy" in result.stdout and "gradients by a power of two" in result.stdout
    assert "nandakumar: client: samples, labels, weights" in result.stdout
    few = CliRunner().invoke(main, [*command, *kept, *little])
    assert few.exit_code == 0, few.output
    assert few.stdout.count("predicted, not run") == 2
    for more, problem in (
        (["--strategies", "ghimes"], "no strategy 'ghimes' that trains"),
        (["--strategies", "glyph:3"], "has no size"),
        (["--engine", "openfhe"], "--train goes with"),
    ):
        wrong = CliRunner().invoke(main, [*command, *more])
        assert wrong.exit_code == 2 and problem in wrong.stderr
    (tmp_path / "m.onnx").write_bytes(to_onnx(network((4, 3, 2), last="softmax")).SerializeToString())
    assert "leave the softmax out" in CliRunner().invoke(main, command).stderr
    (tmp_path / "m.onnx").write_bytes(to_onnx(graph).SerializeToString())
    # what is in the record is not worked out again, but for what did not fit
    again = CliRunner().invoke(main, [*command, *kept, "--strategies", "nandakumar,tbmpnet"])
    assert again.stdout == result.stdout and "nandakumar: known, run" in again.stderr
    assert "tbmpnet: known, refused" in again.stderr
    assert "known" not in CliRunner().invoke(main, [*command, *kept, *little]).stderr
    other = CliRunner().invoke(main, [*command, *kept, "--steps", "1"])
    assert other.exit_code == 2 and "r.json' is of another network, other data or options" in other.stderr
    (tmp_path / "r.json").write_text("{}")
    assert "is no record of such a comparison" in CliRunner().invoke(main, [*command, *kept]).stderr
    without = CliRunner().invoke(main, [arg for arg in command if arg != "--train"])
    assert without.exit_code == 2 and "--calibration is needed" in without.stderr
