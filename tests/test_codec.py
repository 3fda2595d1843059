"""The client's codec: fixed-point coefficients in their layouts, and what it refuses to encrypt."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

from glyphc.codec import check_inputs, decode, encode
from glyphc.errors import DataError
from glyphc.ir.instructions import ClientSpec, Port
from glyphc.ir.layout import Layout, next_power_of_two
from glyphc.ir.ops import ArgMax, Reshape, Softmax
from glyphc.ir.parameters import Parameters
from glyphc.ir.types import FixedPoint

F64 = npt.NDArray[np.float64]
PARAMETERS = Parameters(ring=1024, plaintext_bits=20, bgv_bits=50)


def layout_of(features: int, batch: int, parts: int, stride: int, chunks: int = 1) -> Layout:
    """A layout without gaps between samples beyond what powers of two ask for."""
    per_part = -(-features // parts)
    block = next_power_of_two(per_part) * stride
    ring = max(16, next_power_of_two(-(-batch // chunks)) * block)
    return Layout(ring, batch, features, parts, stride, block, stride, True, chunks)


@st.composite
def ports(draw: st.DrawFn) -> Port:
    """A port of any shape, with one scale or one for each feature."""
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=2)))
    features = prod(shape)
    count = draw(st.sampled_from([1, features]))
    scales = draw(st.lists(st.floats(1e-6, 1e6), min_size=count, max_size=count))
    offsets = draw(st.lists(st.floats(-1e3, 1e3), min_size=count, max_size=count))
    lo = draw(st.integers(-5000, 4000))
    fixed = FixedPoint(tuple(scales), tuple(offsets), lo, lo + draw(st.integers(0, 1000)))
    parts, stride = draw(st.sampled_from([1, 2, 4, 8])), draw(st.sampled_from([1, 2, 4]))
    batch, chunks = draw(st.integers(1, 9)), draw(st.sampled_from([1, 1, 2, 4]))
    return Port("x", shape, fixed, layout_of(features, batch, parts, stride, chunks))


@st.composite
def ports_with_samples(draw: st.DrawFn) -> tuple[Port, F64]:
    """A port and at most a batch of samples in its allowed range."""
    port = draw(ports())
    count = draw(st.integers(1, port.layout.batch))
    size = count * port.layout.features
    # a little within the limits: at the very end rounding may fall on either side
    steps = st.floats(port.fixed.lo - 0.499, port.fixed.hi + 0.499)
    values = np.array(draw(st.lists(steps, min_size=size, max_size=size))).reshape(count, -1)
    real = values * np.array(port.fixed.scale) + np.array(port.fixed.offset)
    return port, real.reshape(count, *port.shape)


def client(*inputs: Port) -> ClientSpec:
    return ClientSpec(PARAMETERS, inputs, (), 4)


def tolerance(port: Port, x: F64) -> F64:
    """Half a step, and a little for the rounding of large numbers."""
    scale = np.broadcast_to(np.array(port.fixed.scale), (port.layout.features,)).reshape(port.shape)
    offset = np.abs(np.array(port.fixed.offset)).max()
    return np.asarray(scale * (0.5 + 1e-9) + 1e-12 * (np.abs(x) + offset))


# -- round trip ---------------------------------------------------------------------------------------------


@given(ports_with_samples())
def test_what_is_decoded_is_what_was_encoded_within_half_a_step(drawn: tuple[Port, F64]) -> None:
    port, x = drawn
    coefficients = np.array(encode(port, x))
    assert coefficients.shape == (port.layout.ciphertexts, port.layout.ring)
    assert coefficients.dtype == np.int64
    y = decode(port, coefficients, len(x))
    assert y.shape == x.shape
    assert y.dtype == np.float64
    assert (np.abs(y - x) <= tolerance(port, x)).all()


@given(ports_with_samples())
def test_every_value_stands_where_the_layout_says(drawn: tuple[Port, F64]) -> None:
    port, x = drawn
    coefficients = np.array(encode(port, x))
    seen = np.zeros_like(coefficients, dtype=bool)
    flat = x.reshape(len(x), -1)
    for sample, row in enumerate(flat):
        for feature, value in enumerate(row):
            number = sample % port.layout.chunks * port.layout.parts + feature % port.layout.parts
            at = number, port.layout.exponent_of(feature, sample)
            assert not seen[at], "two values in one place"
            seen[at] = True
            which = feature if len(port.fixed.scale) > 1 else 0
            integer = (value - port.fixed.offset[which]) / port.fixed.scale[which]
            assert abs(coefficients[at] - integer) <= 0.5 + 1e-6
    assert not coefficients[~seen].any(), "zero elsewhere, as the layout promises"


@given(ports_with_samples(), st.integers(0, 2**32 - 1))
def test_decoding_does_not_read_garbage_between_useful_positions(drawn: tuple[Port, F64], seed: int) -> None:
    port, x = drawn
    clean = np.array(encode(port, x))
    used = np.zeros_like(clean, dtype=bool)
    for number in range(port.layout.ciphertexts):
        used[number, port.layout.positions(number % port.layout.parts)] = True
    garbage = np.random.default_rng(seed).integers(-(2**40), 2**40, clean.shape)
    np.testing.assert_array_equal(decode(port, np.where(used, clean, garbage), len(x)), decode(port, clean, len(x)))


def test_the_client_finishes_the_network() -> None:
    layout = layout_of(6, 2, 1, 1)
    port = Port("y", (2, 3), FixedPoint((0.5,), (1.0,), -100, 100), layout)
    integers = np.array([[4, 0, -4, 9, 8, 10], [1, 2, 3, 3, 2, 1]])
    coefficients = layout.pack(integers)
    scores = (integers * 0.5 + 1.0).reshape(2, 2, 3)
    np.testing.assert_array_equal(decode(port, coefficients, 2), scores)

    exponentials = np.exp(scores)
    expected = exponentials / exponentials.sum(axis=-1, keepdims=True)
    softmax = decode(replace(port, tail=(Softmax(log=False),)), coefficients, 2)
    np.testing.assert_allclose(softmax, expected, rtol=1e-12)

    classes = decode(replace(port, shape=(2, 3), tail=(ArgMax(keepdims=False),)), coefficients, 2)
    np.testing.assert_array_equal(classes, [[0, 2], [2, 0]])

    both = decode(replace(port, tail=(Reshape((6,)), ArgMax(keepdims=True))), coefficients, 1)
    np.testing.assert_array_equal(both, [[5]])


# -- what is refused ----------------------------------------------------------------------------------------

PIXELS = Port("pixels", (3,), FixedPoint((0.5,), (10.0,), -8, 4), layout_of(3, 4, 1, 1))
TABLE = Port(
    "table",
    (2, 2),
    FixedPoint((1.0, 0.1, 10.0, 1e-3), (0.0, 5.0, -50.0, 0.0), -10, 10),
    layout_of(4, 4, 2, 1),
)
GOOD = np.array([[6.0, 12.0, 7.3], [6.0, 6.1, 11.9]])


@given(ports_with_samples())
def test_values_in_range_pass_unchanged(drawn: tuple[Port, F64]) -> None:
    port, x = drawn
    np.testing.assert_array_equal(check_inputs(client(port), x)["x"], x)


@given(ports_with_samples(), st.data())
@examples(200)
def test_one_value_out_of_range_is_found_and_named(drawn: tuple[Port, F64], data: st.DataObject) -> None:
    port, x = drawn
    sample = data.draw(st.integers(0, len(x) - 1))
    feature = data.draw(st.integers(0, port.layout.features - 1))
    which = feature if len(port.fixed.scale) > 1 else 0
    beyond = data.draw(st.floats(0.51, 1e9)) * port.fixed.scale[which]
    scale, offset = port.fixed.scale[which], port.fixed.offset[which]
    lo, hi = scale * port.fixed.lo + offset, scale * port.fixed.hi + offset
    bad = x.copy()
    bad.reshape(len(x), -1)[sample, feature] = data.draw(st.sampled_from([hi + beyond, lo - beyond]))
    with pytest.raises(DataError) as caught:
        check_inputs(client(port), bad)
    message = str(caught.value)
    assert f"in sample {sample}, feature {feature} " in message
    assert "'x': 1 value(s)" in message
    assert f"{lo:.6g} to {hi:.6g}" in message, "the limits of that feature"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("sample", "feature"), [(0, 0), (1, 2)])
def test_values_that_are_no_numbers(value: float, sample: int, feature: int) -> None:
    x = GOOD.copy()
    x[sample, feature] = value
    with pytest.raises(DataError, match=rf"'pixels' has NaN or infinity.* sample {sample}, feature {feature}"):
        check_inputs(client(PIXELS), x)


def test_the_first_of_several_is_named_and_all_are_counted() -> None:
    x = GOOD.copy()
    x[0, 2] = 12.5
    x[1] = -100.0
    with pytest.raises(DataError, match=r"4 value\(s\).* first 12\.5 in sample 0, feature 2 \(allowed: 6 to 12\)"):
        check_inputs(client(PIXELS), x)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [1e19, 1e300, -1e300, 1.7e308])
def test_values_far_beyond_any_integer(value: float) -> None:
    with pytest.raises(DataError, match="outside the calibrated range"):
        check_inputs(client(PIXELS), np.full((1, 3), value))


@pytest.mark.parametrize(
    ("feature", "inside", "outside"),
    [((0, 0), 10.0, 11.0), ((0, 1), 5.9, 6.2), ((1, 0), -149.0, -160.0), ((1, 1), 0.01, 0.02)],
)
def test_each_feature_has_its_own_range(feature: tuple[int, int], inside: float, outside: float) -> None:
    x = np.array([[[0.0, 5.0], [-50.0, 0.0]]] * 3)
    x[2][feature] = inside
    np.testing.assert_array_equal(check_inputs(client(TABLE), x)["table"], x)
    x[2][feature] = outside
    flat = feature[0] * 2 + feature[1]
    with pytest.raises(DataError, match=rf"{outside:g} in sample 2, feature {flat} "):
        check_inputs(client(TABLE), x)


@pytest.mark.parametrize(
    ("x", "part"),
    [
        (GOOD[0], r"shape \[3\]"),
        (GOOD[:, :2], r"shape \[2, 2\]"),
        (GOOD[None], r"shape \[1, 2, 3\]"),
        (GOOD[:0], r"shape \[0, 3\]"),
        (7.0, r"shape \[\]"),
        ([[6.0, 7.0, 8.0], [6.0, 7.0]], "inhomogeneous"),
        (GOOD.astype(str), "<U"),
        (GOOD.astype(complex), "complex128"),
        (GOOD.astype(object), "object"),
        (GOOD.astype(bytes), r"\|S"),
        (None, "object"),
        ("digits.npy", "<U"),
        ({"pixels": None}, "object"),
        ({}, "got none"),
        ({"images": GOOD}, r"input\(s\) pixels; got images"),
        ({"pixels": GOOD, "images": GOOD}, r"input\(s\) pixels; got images, pixels"),
    ],
)
def test_other_things_than_samples(x: Any, part: str) -> None:
    with pytest.raises(DataError, match=part) as caught:
        check_inputs(client(PIXELS), x)
    assert "pixels" in str(caught.value)
    assert "\n\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.longdouble, np.int8, np.uint16, np.int64])
def test_all_kinds_of_real_numbers_are_taken(dtype: type) -> None:
    x = np.array([[6, 7, 12], [12, 9, 6]], dtype=dtype)
    checked = check_inputs(client(PIXELS), x)["pixels"]
    assert checked.dtype == np.float64
    np.testing.assert_array_equal(checked, x.astype(np.float64))


def test_lists_and_mappings_are_taken() -> None:
    for x in (GOOD.tolist(), {"pixels": GOOD}, {"pixels": GOOD.tolist()}, tuple(map(tuple, GOOD))):
        np.testing.assert_array_equal(check_inputs(client(PIXELS), x)["pixels"], GOOD)


def test_several_inputs_need_equally_many_samples() -> None:
    spec = client(PIXELS, TABLE)
    table = np.array([[[0.0, 5.0], [-50.0, 0.0]]] * 2)
    assert set(check_inputs(spec, {"table": table, "pixels": GOOD})) == {"pixels", "table"}
    with pytest.raises(DataError, match=r"different numbers of samples: \[1, 2\]"):
        check_inputs(spec, {"table": table[:1], "pixels": GOOD})
    with pytest.raises(DataError, match=r"input\(s\) pixels, table; got pixels"):
        check_inputs(spec, GOOD)


def test_the_given_array_is_not_changed() -> None:
    x = GOOD.copy()
    checked = check_inputs(client(PIXELS), x)["pixels"]
    encode(PIXELS, checked)
    checked[:] = 0
    np.testing.assert_array_equal(x, GOOD)
