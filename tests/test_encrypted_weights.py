"""Weights that the server never sees: the products, whole networks, predictions, and what is refused (small rings)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest

import glyphc
from glyphc.analysis.cost import CostModel
from glyphc.analysis.estimate import estimate, weight_bytes
from glyphc.analysis.noise import predict, public_norm
from glyphc.backends.openfhe.bridge import residues
from glyphc.backends.openfhe.client import ClientKeys, generate_keys
from glyphc.backends.openfhe.keys import EvaluationKeys
from glyphc.backends.openfhe.linear import LinearEngine
from glyphc.backends.openfhe.weight_keys import encrypt_weights
from glyphc.diagnostics import graph_text, schedule_text
from glyphc.errors import GlyphcError, ModelError
from glyphc.frontends.from_onnx import read_onnx
from glyphc.ir.instructions import ConjugateDot, Dot, EncryptedDot, EncryptedMap, Polynomials
from glyphc.ir.matrices import Full
from glyphc.ir.noise import external_products
from glyphc.ir.ops import Linear, Unpack
from glyphc.ir.parameters import INSECURE, Parameters
from glyphc.reasons import why
from glyphc.runtime import run
from tests.onnx_models import build, node, randoms, run_onnxruntime
from tests.roles import MODELS, compiled, samples

I64 = npt.NDArray[np.int64]
N, T_BITS = 1024, 26
PARAMETERS = Parameters(ring=N, plaintext_bits=T_BITS, bgv_bits=54, security=INSECURE)


# -- one sum of products --


@pytest.fixture(scope="module")
def keys() -> tuple[ClientKeys, EvaluationKeys]:
    return generate_keys(PARAMETERS)


def dense(rows: list[I64]) -> Polynomials:
    exponents = np.tile(np.arange(N, dtype=np.int32), len(rows))
    return Polynomials(np.arange(len(rows) + 1) * N, exponents, np.concatenate(rows))


def engine(keys: tuple[ClientKeys, EvaluationKeys], rows: list[I64], bias: bool) -> LinearEngine:
    """One that has the same weights in the clear and encrypted."""
    client, evaluation = keys
    polynomials = dense(rows)
    map = EncryptedMap("w", len(rows) - bias, bias)
    weights = encrypt_weights(client, [map], {"w": polynomials})
    return LinearEngine(replace(evaluation, weights=weights), {"w": polynomials})


def phase(client: ClientKeys, ciphertext: object) -> npt.NDArray[np.float64]:
    """Message and error of a BGV ciphertext in units of the message, modulo t: what a bootstrap would read."""
    ring, t = client.contexts.bgv_ring, client.contexts.parameters.plaintext_modulus
    c0, c1 = residues(ciphertext, N, (ring.q,), 2)
    whole = ring.to_coefficients(ring.add(c0, client.factor.times(c1)))
    return ring.centre(ring.scale(whole, -pow(t, -1, ring.q))).astype(np.float64) * (t / ring.q)


def wrapped(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return (x + 2.0 ** (T_BITS - 1)) % 2.0**T_BITS - 2.0 ** (T_BITS - 1)


@pytest.mark.parametrize(("count", "bias", "total"), [(3, True, False), (2, False, True), (1, False, False)])
def test_products_are_those_of_the_plaintext_weights(
    keys: tuple[ClientKeys, EvaluationKeys], count: int, bias: bool, total: bool
) -> None:
    client, _ = keys
    random = np.random.default_rng(1)
    sources = [client.encrypt(random.integers(-100, 100, N)) for _ in range(count)]
    machine = engine(keys, [random.integers(-40, 40, N) for _ in range(count + bias)], bias)
    earlier = client.encrypt(random.integers(-9, 9, N)) if total else None
    hidden, plain = (dot(sources, "w", earlier) for dot in (machine.encrypted_dot, machine.dot))
    assert np.array_equal(client.decrypt(hidden), client.decrypt(plain))
    # operands are left as they were, so they can be used again
    again = machine.encrypted_dot(sources, "w", earlier)
    assert np.array_equal(client.decrypt(again), client.decrypt(plain))


def test_an_operand_whose_error_is_no_integer(keys: tuple[ClientKeys, EvaluationKeys]) -> None:
    """As a bootstrap leaves it: the product has the plaintext product's error, where a tensor product is garbage."""
    client, evaluation = keys
    random = np.random.default_rng(2)
    ring, t = client.contexts.bgv_ring, PARAMETERS.plaintext_modulus
    error = random.normal(0, 300, N)  # in units of the message
    scaled = np.rint(error * ring.q / t).astype(np.int64)
    c0, c1 = evaluation.bgv_mould.coefficients(client.encrypt(random.integers(-1000, 1000, N)))
    noisy = evaluation.bgv_mould.cast(ring.add(c0, ring.scale(ring.reduce(scaled), -t)), c1)
    machine = engine(keys, [random.integers(-3, 4, N)], False)
    hidden, plain = (phase(client, dot([noisy], "w")) for dot in (machine.encrypted_dot, machine.dot))
    difference = wrapped(hidden - plain)
    assert 10 * np.abs(plain - np.rint(plain)).max() > 1  # no integers
    assert np.abs(difference).max() < 1e-3


@pytest.mark.parametrize("count", [1, 4, 32])
def test_the_noise_of_a_sum_of_products(count: int) -> None:
    """Weights of zero leave that of the key switches alone. The mean of several secrets: most of it depends on them."""
    sparse = replace(PARAMETERS, slots=16, degree=13, level_budget=(2, 2), large_digits=2)
    found = []
    for _ in range(4):
        keys = generate_keys(sparse)
        bits = float(np.log2(keys[0].contexts.bgv_ring.q))
        machine = engine(keys, [np.zeros(N, dtype=np.int64)] * count, False)
        fresh = [keys[0].encrypt(np.zeros(N, dtype=np.int64)) for _ in range(count)]
        noise = phase(keys[0], machine.encrypted_dot(fresh, "w"))
        found.append(np.sqrt(np.mean(noise**2)) * 2.0 ** (bits - T_BITS))
    assert 0.5 < np.mean(found) / external_products(N, bits, count) < 2


# -- networks --


@pytest.mark.parametrize(
    ("name", "ring", "batch", "tensors"),
    [
        ("digits", 1024, 64, "all"),  # several chunks, and a last pass that leaves one empty
        ("digits", 1024, 1, "fc1.weight,fc1.bias"),
        ("breast-cancer", 1024, 32, "all"),
        ("digits", 1024, 4, "fc2.weight"),
    ],
)
def test_networks_agree_with_the_definition(name: str, ring: int, batch: int, tensors: str) -> None:
    """As with plaintext weights: same clear results, and an encrypted error of the simulated size."""
    hidden, plain = (compiled(batch, ring, name, encrypt_weights=e) for e in (tensors, None))
    x = samples(batch + 1, name)
    clear, simulated = (np.asarray(hidden.run(x, mode=m)) for m in ("clear", "simulate"))
    np.testing.assert_array_equal(clear, np.asarray(plain.run(x, mode="clear")))
    report = run(hidden, x)
    (encrypted,) = report.outputs.values()
    deviation = np.sqrt(np.mean((simulated - clear) ** 2))
    assert np.sqrt(np.mean((encrypted - clear) ** 2)) < 1.5 * deviation
    # the noise of both, without the error of the series, which is the same
    assert np.abs(encrypted - simulated).max() < 2e-3 * np.ptp(clear)
    assert report.seconds["encrypt weights"] > 0


def convolutions() -> onnx.ModelProto:
    """A residual block: two convolutions and a shortcut, then a dense layer."""
    nodes = [
        node("Conv", ["x", "k1", "c1"], ["a"], name="conv1", pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"], name="relu1"),
        node("Conv", ["b", "k2"], ["c"], name="conv2", pads=[1, 1, 1, 1]),
        node("Add", ["b", "c"], ["d"], name="shortcut"),
        node("Relu", ["d"], ["e"], name="relu2"),
        node("Flatten", ["e"], ["f"], name="flat"),
        node("Gemm", ["f", "w", "v"], ["y"], name="dense", transB=1),
    ]
    constants = {
        "k1": randoms(2, 1, 3, 3) / 3,
        "c1": randoms(2),
        "k2": randoms(2, 2, 3, 3, seed=2) / 5,
        "w": randoms(3, 32, seed=3) / 8,
        "v": randoms(3, seed=4),
    }
    return build(nodes, constants, (1, 4, 4))


@pytest.mark.parametrize("tensors", ["all", "k2", "k1,w"])
def test_convolutions_and_residual_blocks(tensors: str) -> None:
    model = convolutions()
    x = randoms(40, 1, 4, 4, seed=5)
    program = glyphc.compile(model, x, 4, insecure_ring=2048, encrypt_weights=tensors)
    encrypted = {n.location for n, op in program.graph.of(Linear) if op.encrypted}
    named = {"all": ("conv1", "conv2", "dense"), "k2": ("conv2",), "k1,w": ("conv1", "dense")}[tensors]
    assert all(any(name in place for place in encrypted) for name in named)
    assert len(encrypted) == len(named)
    clear, found = (np.asarray(program.run(x[:4], mode=m)) for m in ("clear", "encrypted"))
    (wanted,) = run_onnxruntime(model, x[:4]).values()
    assert np.abs(found - clear).max() < 0.03 * np.ptp(wanted)
    assert np.abs(clear - wanted).max() < 0.01 * np.ptp(wanted)


def test_what_the_server_computes_follows_from_shapes_alone() -> None:
    """Zeros among secret weights must not show: pruning them changes nothing of the schedule but its plaintexts."""
    model = onnx.load(MODELS / "digits-mlp.onnx")
    train = samples(100)
    for tensor in model.graph.initializer:
        if tensor.name == "fc1.weight":
            value = np.array(onnx.numpy_helper.to_array(tensor))
            value[:, :8] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    whole = glyphc.compile(MODELS / "digits-mlp.onnx", train, 4, insecure_ring=1024, encrypt_weights="fc1.weight")
    pruned = glyphc.compile(model, train, 4, insecure_ring=1024, encrypt_weights="fc1.weight")
    first, second = (
        [(len(i.sources), i.weights) for i in p.schedule.instructions if isinstance(i, EncryptedDot)]
        for p in (whole, pruned)
    )
    assert first == second
    assert whole.client.encrypted == pruned.client.encrypted


def test_a_merged_map_is_encrypted_when_a_part_of_it_is() -> None:
    nodes = [
        node("Gemm", ["x", "p", "pb"], ["a"], name="left", transB=1),
        node("Gemm", ["x", "q", "qb"], ["b"], name="right", transB=1),
        node("Tanh", ["a"], ["c"], name="tanh"),
        node("Sigmoid", ["b"], ["d"], name="sigmoid"),
        node("Concat", ["c", "d"], ["e"], name="both", axis=1),
        node("Gemm", ["e", "w", "wb"], ["y"], name="last", transB=1),
    ]
    constants = {"p": randoms(3, 4), "pb": randoms(3), "q": randoms(3, 4, seed=2), "qb": randoms(3, seed=3)}
    model = build(nodes, constants | {"w": randoms(2, 6, seed=4), "wb": randoms(2, seed=5)})
    x = randoms(40, 4, seed=6)
    program = glyphc.compile(model, x, 4, insecure_ring=1024, encrypt_weights="q")
    maps = {n.location: op for n, op in program.graph.of(Linear)}
    assert {place: op.encrypted for place, op in maps.items()} == {"left|right": True, "both+last": False}
    clear, found = (np.asarray(program.run(x[:4], mode=m)) for m in ("clear", "encrypted"))
    assert np.abs(found - clear).max() < 0.03 * np.ptp(clear)


# -- predictions --


def test_noise_price_and_memory() -> None:
    # at prices at which nobody unpacks an input
    train, slow = np.load(MODELS / "data" / "digits-train.npy"), CostModel(automorphism=100.0)
    hidden, plain = (
        glyphc.compile(
            MODELS / "digits-mlp.onnx", train, 4, insecure_ring=1024, encrypt_weights=e, cost=slow, engine="openfhe"
        )
        for e in ("all", None)
    )
    parameters = hidden.client.parameters
    noise, other = (predict(p.graph, parameters, parameters.bgv_bits) for p in (hidden, plain))
    for linear, _ in hidden.graph.of(Linear):
        (operand,) = hidden.graph.operands(linear)
        parts = operand.op.parts if isinstance(operand.op, Unpack) else 1
        # norms are rounded up by at most a quarter of a power of two; key switches are nothing beside them. Parts are
        # made with other noise than a sum over conjugates has.
        unlike = np.sqrt(parts / 3) if parts > 1 else 1.0
        assert min(1, unlike) <= noise[linear.id].white / other[linear.id].white < 1.3 * max(1, unlike)
    cost = CostModel()
    ours, theirs = (estimate(p.schedule, cost) for p in (hidden, plain))
    products = sum(m.products for m in hidden.client.encrypted)
    assert ours.seconds > theirs.seconds
    unpacking = [32 * parameters.ring * len(p.unpack_strides + p.conjugates) for p in map(_parameters, (hidden, plain))]
    weights = ours.key_bytes - theirs.key_bytes - unpacking[0] + unpacking[1]
    assert weights == weight_bytes(hidden.client) > 8 * 8 * parameters.ring * products
    assert ours.memory_bytes > theirs.memory_bytes


def _parameters(program: glyphc.Program) -> Parameters:
    parameters = program.client.parameters
    assert isinstance(parameters, Parameters)
    return parameters


def test_a_public_norm_is_a_tight_bound() -> None:
    random = np.random.default_rng(0)
    for scale in (0, 1, 30, 5000):
        weight = random.integers(-scale, scale + 1, (7, 11))
        norm = np.sqrt((weight.astype(float) ** 2).sum(axis=1).mean())
        assert norm <= public_norm(Full(weight.astype(float))) <= max(1.0, 1.19 * norm)


def test_explanations_say_what_is_encrypted() -> None:
    program = compiled(encrypt_weights="fc1.weight")
    text = graph_text(program.graph)
    assert text.count("encrypted linear") == 1
    assert "encrypted dot" in schedule_text(program.schedule)
    shown = why(next(n for n, op in program.graph.of(Linear) if op.encrypted))
    assert "bgv, encrypted weights" in shown and "bfv tensor product" in shown
    assert sum(isinstance(i, EncryptedDot) for i in program.schedule.instructions) == 1
    assert any(isinstance(i, Dot | ConjugateDot) for i in program.schedule.instructions)


# -- what is refused --


def test_unknown_tensors_are_answered_with_the_known() -> None:
    known = "scale.value, fc1.weight, fc1.bias, fc2.weight, fc2.bias, fc3.weight, fc3.bias, or 'all'"
    with pytest.raises(GlyphcError, match=f"no tensor 'fc9.weight' to encrypt; there are: {re.escape(known)}"):
        compiled(encrypt_weights="fc1.weight,fc9.weight")
    with pytest.raises(GlyphcError, match="leave out the other names"):
        compiled(encrypt_weights="all,fc1.weight")
    with pytest.raises(GlyphcError, match="names no tensor"):
        compiled(encrypt_weights=" , ")


def test_parameters_of_functions_are_refused_by_name() -> None:
    nodes = [
        node("Gemm", ["x", "w", "b"], ["a"], name="dense", transB=1),
        node("PRelu", ["a", "slope"], ["c"], name="leaky"),
        node("Mul", ["c", "factor"], ["d"], name="times"),
        node("Tanh", ["d"], ["e"], name="tanh"),
        node("Gemm", ["e", "v", "b2"], ["y"], name="last", transB=1),
    ]
    constants = {"w": randoms(4, 4), "b": randoms(4), "slope": np.float32([0.1]), "factor": np.float32([0.5])}
    model = build(nodes, constants | {"v": randoms(2, 4, seed=2), "b2": randoms(2)})
    x = randoms(30, 4, seed=3)
    for tensor, place in (("slope", "leaky"), ("factor", "leaky")):
        with pytest.raises(ModelError, match=rf"tensor '{tensor}' cannot be encrypted: %\d \(apply @.*{place}"):
            glyphc.compile(model, x, insecure_ring=1024, encrypt_weights=tensor)
    program = glyphc.compile(model, x, insecure_ring=1024, encrypt_weights=["w", "b"])
    assert [op.encrypted for _, op in program.graph.of(Linear)] == [True, False]


@pytest.mark.parametrize("form", ["onnx", "graph"])
def test_tied_weights_are_hidden_together(form: str) -> None:
    nodes = [
        node("Gemm", ["x", "w", "b"], ["a"], name="first", transB=1),
        node("Relu", ["a"], ["c"], name="relu"),
        node("Gemm", ["c", "v", "b"], ["d"], name="second", transB=1),
        node("Tanh", ["d"], ["e"], name="tanh"),
        node("Gemm", ["e", "u", "b"], ["y"], name="third", transB=1),
    ]
    tied = randoms(4, 4)
    zeros = np.zeros(4, dtype=np.float32)
    model = build(nodes, {"w": tied, "v": tied, "u": randoms(4, 4, seed=2), "b": zeros})
    source = model if form == "onnx" else read_onnx(model)
    program = glyphc.compile(source, randoms(30, 4, seed=3), insecure_ring=1024, encrypt_weights="w")
    assert {n.location: op.encrypted for n, op in program.graph.of(Linear)} == {
        "first": True,
        "second": True,
        "third": False,
    }


def test_of_two_alike_the_one_that_changes_is_seen() -> None:
    """One name and equal values, all of them alike: no copies of each other, and only one of them is asked for."""
    nodes = [
        node("Gemm", ["x", "w", "b"], ["a"], name="twin", transB=1),
        node("Tanh", ["a"], ["c"], name="tanh"),
        node("Gemm", ["c", "v", "b"], ["d"], name="twin", transB=1),
        node("Tanh", ["d"], ["e"], name="tanh"),
        node("Gemm", ["e", "u", "b"], ["y"], name="last", transB=1),
    ]
    alike = np.full((4, 4), 0.25, dtype=np.float32)
    constants = {"w": alike, "v": alike.copy(), "u": randoms(4, 4), "b": np.zeros(4, dtype=np.float32)}
    program = glyphc.compile(build(nodes, constants), randoms(30, 4, seed=3), insecure_ring=1024, encrypt_weights="v")
    # one name stands for both
    assert [op.encrypted for _, op in program.graph.of(Linear)] == [True, True, False]


def test_passes_that_cannot_do_it_are_refused() -> None:
    program = compiled()
    with pytest.raises(GlyphcError, match=r"is for the pass 'assign-scheme', which is not among the passes to run"):
        glyphc.compile(
            program.stages["assign-scheme"], start="assign-scheme", insecure_ring=1024, encrypt_weights="all"
        )
    with pytest.raises(GlyphcError, match=r"there is no linear map 'fc7' .* there are: fc2, fc3, scale\+fc1, or 'all'"):
        glyphc.compile(program.stages["quantize"], insecure_ring=1024, passes="assign-scheme{encrypt_weights=fc7}")


def test_a_graph_of_a_later_level() -> None:
    """Tensors are then the constants of its linear maps."""
    quantized = compiled().stages["quantize"]
    x = np.load(MODELS / "data" / "digits-train.npy")
    name = next(op.weights[0].name for n, op in quantized.of(Linear) if n.location == "fc2")
    program = glyphc.compile(quantized, x, insecure_ring=1024, encrypt_weights=name)
    assert {n.location for n, op in program.graph.of(Linear) if op.encrypted} == {"fc2"}


# -- 128-bit --

ENCRYPTED_128 = """
import json, sys
import numpy as np
import glyphc
from glyphc.runtime import run
model, train, test, batch, output = sys.argv[1:]
program = glyphc.compile(model, np.load(train), int(batch), encrypt_weights="all")
report = run(program, np.load(test)[:int(batch)])
(y,) = report.outputs.values()
np.save(output, y)
print(json.dumps({"seconds": report.seconds, "peak": report.peak_memory, "security": report.security}))
"""


@pytest.mark.slow
@pytest.mark.xdist_group("128-bit")
@pytest.mark.parametrize(("name", "batch"), [("digits", 1), ("digits", 512)])
def test_at_128_bit(name: str, batch: int, tmp_path: Path) -> None:
    arguments = [MODELS / f"{name}-mlp.onnx", *(MODELS / "data" / f"{name}-{p}.npy" for p in ("train", "test"))]
    command = [sys.executable, "-c", ENCRYPTED_128, *map(str, arguments), str(batch), str(tmp_path / "y.npy")]
    everything = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=everything)
    report = json.loads(done.stdout.splitlines()[-1])
    wanted = np.asarray(compiled(batch, None, name).run(samples(batch, name), mode="clear"))
    print(name, batch, report)
    assert report["security"] == "HEStd_128_classic"
    assert np.mean(np.load(tmp_path / "y.npy").argmax(axis=1) == wanted.argmax(axis=1)) >= 0.99
