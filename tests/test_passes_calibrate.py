"""Calibration data that are odd, or unusable, and calibration itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

import glyphc
from glyphc.errors import CalibrationError, GlyphcError, ParameterError
from glyphc.ir.evaluate import evaluate, evaluate_all
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import Const, Dense, Input, Linear, Output, Reshape, Softmax
from glyphc.ir.types import Calibration, Level
from glyphc.passes.base import Context
from glyphc.passes.calibrate import Calibrate
from glyphc.passes.quantize import Quantize
from tests.quantized_networks import F64, Network, networks, quantized

# -- odd calibration data --


@pytest.mark.parametrize("kind", ["zeros", "one sample", "equal samples", "one value", "tiny", "large"])
def test_odd_but_usable_samples(kind: str) -> None:
    rng = np.random.default_rng(13)
    x = rng.normal(size=(30, 5))
    match kind:
        case "zeros":
            x *= 0
        case "one sample":
            x = x[:1]
        case "equal samples":
            x = np.repeat(x[:1], 64, axis=0)
        case "one value":
            x[:] = 0.3
        case "tiny":
            x *= 1e-12
        case "large":
            x *= 1e12
    network = Network.random(rng, (5, 6, 1), ("tanh",))
    unit = {"tiny": 1e-12, "large": 1e12}.get(kind, 1.0)
    network = Network((network.weights[0] / unit, network.weights[1]), network.biases, ("tanh",))
    q = quantized(network.graph(), x)
    assert np.abs(q.values - q.float_values).max() < 2**-7
    program = glyphc.compile(network.graph(), x, 4, insecure_ring=1024)
    np.testing.assert_array_equal(program.run(x[:4], mode="clear"), q.values[:4])


def test_dead_neurons_and_rounding_errors_of_constants() -> None:
    """Results that are all equal, but for the last bit of a sum, have no range to be stretched."""
    rng = np.random.default_rng(14)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        network = Network.random(rng, (5, 7, 1), ("sigmoid",))
        first = network.weights[0] * 0
        network = Network((first, network.weights[1] * 1e3), network.biases, ("sigmoid",))
        q = quantized(network.graph(), rng.normal(size=(17, 5)))
        assert q.format(Linear, 1).scale[0] > 1e-12
        wanted = q.float_values
        assert np.abs(q.values - wanted).max() <= 2**-8 * np.abs(network.weights[1]).sum()


def test_layers_that_nearly_cancel_are_refused_or_right() -> None:
    """Differences far below the steps of the inputs cannot be computed; that must not give garbage unnoticed."""
    rng = np.random.default_rng(15)
    for exponent in range(-16, 0, 2):
        w = rng.normal(size=(1, 6))
        network = Network(
            (np.vstack([w, w * (1 + 10.0**exponent)]), np.array([[1.0, -1.0]])), (np.zeros(2), np.zeros(1)), ()
        )
        x = rng.normal(size=(40, 6))
        try:
            program = glyphc.compile(network.graph(), x, 4, insecure_ring=1024)
        except GlyphcError:
            continue
        wanted = evaluate(network.graph(), {"x": x})["y"]
        assert np.abs(program.run(x, mode="clear") - wanted).max() <= 0.1 * np.ptp(wanted)


# -- unusable calibration data --


def two_inputs() -> Graph:
    graph = Graph(Level.SOURCE, 1)
    for name, shape in (("image", (2, 3)), ("age", (1,))):
        x: Node = graph.add(Input(name, shape), location=name)
        if len(shape) > 1:
            x = graph.add(Reshape((6,)), (x,))
        w, b = graph.add_constant("w", np.ones((2, x.type.size))), graph.add_constant("b", np.zeros(2))
        x = graph.add(Dense((Const(w),), Const(b)), (x,), location=f"fc-{name}")
        graph.add(Output(f"y-{name}"), (graph.add(Softmax(), (x,)),))
    return graph


GOOD = {"image": np.arange(24.0).reshape(4, 2, 3), "age": np.arange(4.0).reshape(4, 1)}


def spoiled(name: str, at: tuple[int, ...], value: float) -> dict[str, F64]:
    x = {k: v.copy() for k, v in GOOD.items()}
    x[name][at] = value
    return x


@pytest.mark.parametrize(
    ("samples", "parts"),
    [
        (None, ["no calibration samples", "'image'", "(samples, 2, 3)"]),
        ({"image": GOOD["image"]}, ["no calibration samples", "'age'", "(samples, 1)"]),
        (GOOD | {"extra": GOOD["age"]}, ["extra", "image", "age"]),
        (GOOD["image"], ["no calibration samples", "'age'"]),
        (GOOD | {"image": GOOD["image"].reshape(4, 6)}, ["'image'", "[4, 6]", "(samples, 2, 3)"]),
        (GOOD | {"image": GOOD["image"][0]}, ["'image'", "[2, 3]", "(samples, 2, 3)"]),
        (GOOD | {"age": GOOD["age"][:0]}, ["'age'", "[0, 1]", "(samples, 1)"]),
        (spoiled("image", (2, 1, 1), np.nan), ["'image'", "1 of 4", "index 2", "NaN"]),
        (spoiled("image", (1, 1, 1), -np.inf), ["'image'", "1 of 4", "index 1", "infinity"]),
        (GOOD | {"age": np.full((4, 1), np.nan)}, ["'age'", "4 of 4", "index 0"]),
        (GOOD | {"age": np.array([["a"], ["b"], ["c"], ["d"]])}, ["'age'", "not numbers"]),
        (GOOD | {"age": GOOD["age"] + 1j}, ["'age'", "not numbers"]),
        (GOOD | {"age": GOOD["age"] * 1e300}, ["age"]),
    ],
)
def test_unusable_samples_are_named(samples: Any, parts: list[str]) -> None:
    with pytest.raises(CalibrationError) as caught:
        glyphc.compile(two_inputs(), samples, insecure_ring=1024)
    for part in parts:
        assert part in str(caught.value)


def test_usable_samples_of_two_inputs() -> None:
    program = glyphc.compile(two_inputs(), GOOD, 4, insecure_ring=1024)
    assert [p.name for p in program.client.inputs] == ["image", "age"]


def test_overflow_inside_the_network_names_the_node() -> None:
    for weight in (1e12, 1e300):
        network = Network((np.full((1, 2), 1e10), np.full((1, 1), weight)), (np.zeros(1), np.zeros(1)), ("relu",))
        with pytest.raises(CalibrationError, match="fc1"):
            glyphc.compile(network.graph(), np.ones((3, 2)), insecure_ring=1024)


def test_a_function_outside_its_domain() -> None:
    network = Network((np.eye(2), np.ones((1, 2))), (np.zeros(2), np.zeros(1)), ("log",))
    with pytest.raises(CalibrationError, match="log"):
        glyphc.compile(network.graph(), np.array([[1.0, -1.0], [2.0, 3.0]]), insecure_ring=1024)


def test_a_function_that_grows_too_fast() -> None:
    network = Network((np.eye(2), np.ones((1, 2))), (np.zeros(2), np.zeros(1)), ("exp",))
    with pytest.raises((ParameterError, CalibrationError), match="exp"):
        glyphc.compile(network.graph(), np.array([[-1.0, 700.0], [2.0, 3.0]]), insecure_ring=1024)


def test_ranges_must_be_known() -> None:
    with pytest.raises(CalibrationError, match="calibrate"):
        Quantize().run(Network.random(np.random.default_rng(0), (2, 2), ()).graph(), Context())


# -- calibration itself --


@given(networks(), st.integers(1, 100))
@examples(50)
def test_calibration_sees_every_value(case: tuple[Network, F64], bins: int) -> None:
    network, x = case
    context = Context({"x": x})
    graph = Calibrate(bins=bins).run(network.graph(), context)
    for node_id, value in evaluate_all(network.graph(), {"x": x}).items():
        seen = graph.node(node_id).type.calibration
        assert isinstance(seen, Calibration)
        assert (seen.lo, seen.hi) == (value.min(), value.max())
        assert len(seen.histogram) == bins
        assert sum(seen.histogram) == value.size
        assert sum(seen.reach) == len(x)
        assert len(seen.reach) == 10
        assert seen.lo == seen.hi or seen.reach[9] >= 1, "some sample comes to the end of the range"
