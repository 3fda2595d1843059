"""Fixed point keeps close to the network in floats, and within the ranges that it promises."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from strategies import examples

import glyphc
from glyphc.analysis.series import HALF_RANGE
from glyphc.ir.evaluate import dequantize, evaluate_all
from glyphc.ir.ops import Apply, Input, Linear
from glyphc.passes.quantize import Quantize
from tests.quantized_networks import CONTRACTIONS, F64, Network, Quantized, networks, quantized

# -- errors and ranges --


def error_bounds(network: Network, q: Quantized) -> list[F64]:
    """Largest possible errors after every layer, from the formats alone: half a step wherever something is rounded.

    A triangle inequality per operation; it knows nothing of how formats are chosen.
    """
    values = evaluate_all(q.graph, {"x": q.x})
    nodes = [n for n in q.graph if isinstance(n.op, Input | Linear | Apply)]
    source = nodes[0].type.fixed
    assert source is not None
    step = np.broadcast_to(np.array(source.scale), nodes[0].type.shape).reshape(-1)
    error = step / 2
    integers = np.abs(values[nodes[0].id]).reshape(len(q.x), -1).max(axis=0).astype(np.float64)
    bounds = []
    layer = 0
    for node in nodes[1:]:
        assert node.type.fixed is not None
        unit = np.array(node.type.fixed.scale)
        if isinstance(node.op, Linear):
            # the operand's error through the weights; every weight and the bias rounded to half a unit
            error = np.abs(network.weights[layer]) @ error + unit / 2 * (integers.sum() + 1)
            layer += 1
        else:
            error = error + unit / 2
        integers = np.abs(values[node.id]).max(axis=0).astype(np.float64)
        bounds.append(error * (1 + 1e-9) + 1e-300)
    return bounds


@given(networks())
@examples(150)
def test_errors_are_rounding_errors(case: tuple[Network, F64]) -> None:
    network, x = case
    q = quantized(network.graph(), x)
    exact, rounded = evaluate_all(q.calibrated, {"x": x}), evaluate_all(q.graph, {"x": x})
    pairs = [
        (exact[a.id], rounded[b.id], b)
        for a, b in zip(q.calibrated, q.graph, strict=True)
        if isinstance(b.op, Linear | Apply)
    ]
    for (wanted, integers, node), bound in zip(pairs, error_bounds(network, q), strict=True):
        fixed = node.type.fixed
        assert fixed is not None
        got = dequantize(integers, fixed)
        assert np.all(np.abs(got - wanted) <= bound), node


@given(networks())
@examples(100)
def test_calibration_samples_stay_within_the_formats(case: tuple[Network, F64]) -> None:
    network, x = case
    q = quantized(network.graph(), x)
    # samples that hardly differ may be nearer to each other than the rounding of their inputs
    nodes = [n for n in q.graph if isinstance(n.op, Linear | Apply)]
    for node, bound in zip(nodes, error_bounds(network, q), strict=True):
        if (
            isinstance(node.op, Linear)
            and node.type.calibration
            and node.type.calibration.lo < node.type.calibration.hi
        ):
            assume(bound.max() < (node.type.calibration.hi - node.type.calibration.lo) / 2 * 0.25)
    for node_id, value in evaluate_all(q.graph, {"x": x}).items():
        fixed = q.graph.node(node_id).type.fixed
        if fixed is not None and np.issubdtype(value.dtype, np.integer):
            assert fixed.lo <= value.min() <= value.max() <= fixed.hi, q.graph.node(node_id)


@pytest.mark.parametrize("function", CONTRACTIONS)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_error_is_small(function: str, scale: float) -> None:
    """12-bit activations: at most 2^-10 of the outputs' range (rms), whatever the units of the data."""
    rng = np.random.default_rng(3)
    network = Network.random(rng, (20, 16, 12, 5), (function, function))
    weights = (network.weights[0] / scale, *network.weights[1:])
    q = quantized(Network(weights, network.biases, network.functions).graph(), rng.normal(size=(300, 20)) * scale)
    assert q.error < 2**-10


def test_more_bits_less_error() -> None:
    rng = np.random.default_rng(4)
    network = Network.random(rng, (20, 16, 5), ("tanh",))
    x = rng.normal(size=(300, 20))
    errors = [
        quantized(network.graph(), x, Quantize(input_bits=bits + 1, activation_bits=bits)).error
        for bits in (6, 8, 10, 12)
    ]
    # two bits are a factor of four
    for coarse, fine in pairwise(errors):
        assert 2 < coarse / fine < 8
    coarse_weights = quantized(network.graph(), x, Quantize(weight_precision=1, activation_bits=2))
    assert coarse_weights.error > errors[-1]


@pytest.mark.parametrize("option", ["input_bits", "activation_bits"])
@pytest.mark.parametrize("bits", [4, 9, 12])
def test_bits_are_widths_of_signed_integers(option: str, bits: int) -> None:
    rng = np.random.default_rng(5)
    network = Network.random(rng, (6, 5, 3), ("tanh",))
    q = quantized(network.graph(), rng.normal(size=(40, 6)), Quantize(**{option: bits}))
    fixed = q.format(Input if option == "input_bits" else Apply)
    assert -(2 ** (bits - 1)) <= fixed.lo < fixed.hi < 2 ** (bits - 1)
    assert fixed.bits == bits


# -- margins --


def at_least(got: float, wanted: float, more: float) -> None:
    """Ranges are rounded outward."""
    assert wanted <= got * (1 + 1e-9)
    assert got <= wanted * (1 + more) * (1 + 1e-9)


@pytest.mark.parametrize(("margin", "input_margin"), [(1.0, 1.0), (1.25, 2.0), (3.0, 1.5)])
def test_formats_reach_beyond_calibration_by_the_margins(margin: float, input_margin: float) -> None:
    rng = np.random.default_rng(6)
    network = Network.random(rng, (6, 5, 3), ("softplus",))
    x = rng.uniform(-1, 3, (100, 6))
    q = quantized(network.graph(), x, Quantize(margin=margin, input_margin=input_margin))
    fixed = q.format(Input)
    at_least(fixed.real_hi, np.abs(x).max() * input_margin, 2 ** (1 / 8) - 1)
    z = x @ network.weights[0].T + network.biases[0]
    middle, half = (z.max() + z.min()) / 2, (z.max() - z.min()) / 2
    fixed = q.format(Linear)
    at_least(fixed.real_hi - middle, half * margin, 1 / 8)
    # to the left, where the function is nearly constant, there may be a reserve
    assert fixed.real_lo <= middle - half * margin
    # a nonlinearity's result has room for all that its operand may be
    reach = np.logaddexp(0, fixed.real_hi)
    assert reach * (1 - 1e-6) <= q.format(Apply).real_hi <= reach * 1.01


def test_values_between_calibration_and_margin_are_as_precise() -> None:
    rng = np.random.default_rng(7)
    network = Network.random(rng, (6, 8, 3), ("relu",))
    x = rng.uniform(-1, 1, (200, 6))
    q = quantized(network.graph(), x)
    near = Quantized(q.source, q.calibrated, q.graph, x * 1.2)
    assert near.error < 2**-9


def test_results_fill_the_usable_part_of_the_accumulator() -> None:
    """All layers share one plaintext modulus: their results have the same integer range, a power of two."""
    rng = np.random.default_rng(8)
    network = Network.random(rng, (6, 8, 7, 3), ("relu", "tanh"))
    q = quantized(network.graph(), rng.normal(size=(100, 6)))
    limits = {n.type.fixed.hi for n, _ in q.graph.of(Linear) if n.type.fixed}
    assert len(limits) == 1
    (limit,) = limits
    bits = np.log2(limit / HALF_RANGE)
    assert abs(bits - round(bits)) < 1e-3
    assert all(n.type.fixed.lo == -limit for n, _ in q.graph.of(Linear) if n.type.fixed)


def test_results_fill_the_usable_part_of_the_torus() -> None:
    """HALF_RANGE of the torus is for values; using less costs precision and amplifies the bootstrap's noise."""
    rng = np.random.default_rng(8)
    network = Network.random(rng, (6, 8, 3), ("relu",))
    program = glyphc.compile(network.graph(), rng.normal(size=(100, 6)), insecure_ring=1024)
    t = program.client.parameters.plaintext_modulus
    for node, _ in program.graph.of(Linear):
        assert node.type.fixed is not None
        assert 0.95 * HALF_RANGE <= node.type.fixed.magnitude / t <= HALF_RANGE


# -- formats of inputs --


def standardised(rng: np.random.Generator, x: F64, width: int = 8) -> Network:
    """A network that begins with a standardisation of its inputs, as exported pipelines do."""
    network = Network.random(rng, (x.shape[1], width, 3), ("tanh",))
    mean, deviation = x.mean(axis=0), np.where(np.ptp(x, axis=0) > 0, x.std(axis=0), 1.0)
    first = network.weights[0] / deviation
    return Network((first, network.weights[1]), (network.biases[0] - first @ mean, network.biases[1]), ("tanh",))


def test_images_share_one_scale() -> None:
    rng = np.random.default_rng(9)
    x = rng.integers(0, 17, (200, 8, 8)).astype(np.float64)
    x[:, :, 0] = 0  # a margin that never changes
    x[:, 0, 1:] *= rng.random((200, 7)) < 0.02  # pixels that hardly ever do
    network = Network.random(rng, (64, 16, 10), ("relu",))
    q = quantized(network.graph((8, 8)), x)
    fixed = q.format(Input)
    assert fixed.uniform
    # other images may use those pixels, too
    assert fixed.real_lo <= 0
    assert fixed.real_hi >= 16
    assert q.error < 2**-9


def test_tables_have_a_scale_for_each_feature() -> None:
    rng = np.random.default_rng(10)
    magnitudes = 10.0 ** np.arange(-4, 4)
    x = rng.normal(size=(200, 8)) * magnitudes
    q = quantized(standardised(rng, x).graph(), x)
    fixed = q.format(Input)
    assert len(fixed.scale) == len(fixed.offset) == 8
    assert q.error < 2**-9
    steps = np.array(fixed.scale) / magnitudes
    assert steps.max() < 4 * steps.min()
    assert [c.name for c in q.graph.inputs[0].decisions[-1].candidates] == ["shared scale", "scale per feature"]
    assert q.graph.inputs[0].decisions[-1].chosen == "scale per feature"


@pytest.mark.parametrize(
    "kind",
    [
        "offsets",
        "far offset",
        "one small",
        "a third small",
        "one large",
        "constants",
    ],
)
def test_no_feature_drowns(kind: str) -> None:
    """Whatever the units of a table's columns, a network that standardises them keeps its precision."""
    rng = np.random.default_rng(11)
    x = rng.normal(size=(300, 9))
    match kind:
        case "offsets":
            x += 10.0 ** rng.integers(-2, 5, 9)
        case "far offset":  # years, kelvins
            x += 2000
        case "one small":
            x[:, 4] *= 1e-4
        case "a third small":
            x[:, :3] *= 1e-3
        case "one large":
            x[:, 4] *= 1e5
        case "constants":
            x[:, ::2] = np.array([0.0, 1e6, -3.0, 1e-6, 7.0])
    q = quantized(standardised(rng, x).graph(), x)
    assert q.error < 2**-8
    check_input_range(q)


def check_input_range(q: Quantized) -> None:
    """Every calibrated value, and some around it, has an integer within the format."""
    fixed = q.format(Input)
    flat = q.x.reshape(len(q.x), -1)
    steps = (flat - np.array(fixed.offset)) / np.array(fixed.scale)
    assert np.all(steps >= fixed.lo)
    assert np.all(steps <= fixed.hi)
    span = np.ptp(flat, axis=0) / np.array(fixed.scale)
    low, high = steps.min(axis=0), steps.max(axis=0)
    assert np.all(low - span / 4 >= fixed.lo)
    assert np.all(high + span / 4 <= fixed.hi)


def test_constant_features_take_other_values_near_by() -> None:
    x = np.random.default_rng(12).normal(size=(50, 4)) * [1.0, 1e3, 1.0, 1e-3]
    x[:, 2] = 5.0
    q = quantized(standardised(np.random.default_rng(12), x).graph(), x)
    fixed = q.format(Input)
    assert len(fixed.scale) == 4
    assert fixed.scale[2] * fixed.lo + fixed.offset[2] <= 4.0
    assert fixed.scale[2] * fixed.hi + fixed.offset[2] >= 6.0
