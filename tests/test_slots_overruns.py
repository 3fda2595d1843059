"""Samples whose hidden values explode in slots: what is said of them, and of the others in their pass."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import glyphc
from glyphc.cli import main
from glyphc.errors import OverrunWarning
from glyphc.exchange.server import Evaluator
from glyphc.ir.graph import Graph, Node
from glyphc.ir.ops import Const, Dense
from glyphc.ir.parameters import INSECURE
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.ir.slot_range import coefficients, holds, slots_of, wrapped
from glyphc.runtime import RunReport, run
from tests.pass_networks import Network
from tests.roles import Setting, make_setting

F64 = npt.NDArray[np.floating]
RING = 1024
# Samples in a pass.
BATCH = 8
FEATURES = 6
# In all features within their ranges; what the first layer sums up is not.
FAR_OUT = np.full(FEATURES, 0.9)
A_LITTLE = np.array([0.9, 0.9, 0.6, 0, 0, 0])


def network() -> Graph:
    """The first layer sums all inputs up, of which calibration samples have one alone that is not small."""
    n = Network(FEATURES)
    hidden = dense(n, n.x, np.outer([1.0, -1.0, 1.0, -1.0], np.ones(FEATURES)), "fc1")
    n.output(dense(n, n.apply(hidden, "relu"), np.array([[1.0, 0.5, -1.0, 0.2], [0.0, 1.0, 0.3, 0.4]]), "fc2"))
    return n.graph


def dense(n: Network, x: Node, weights: F64, name: str, bias: F64 | None = None) -> Node:
    bias = np.zeros(len(weights)) if bias is None else bias
    w, b = (Const(n.graph.add_constant(k, v)) for k, v in (("w", weights), ("b", bias)))
    return n.graph.add(Dense((w,), b), (x,), location=name)


def samples(count: int) -> F64:
    x = np.random.default_rng(5).uniform(-0.1, 0.1, (count, FEATURES))
    x[np.arange(count), np.arange(count) % FEATURES] += np.resize([0.9, -0.9, 0.3, -0.4, 0.1], count)
    return x


@pytest.fixture(scope="module")
def program() -> glyphc.Program:
    return glyphc.compile(network(), samples(300), BATCH, insecure_ring=RING, strategy="slots", logit_tolerance=0.04)


def report(program: glyphc.Program, x: F64, mode: str) -> tuple[RunReport, F64]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OverrunWarning)
        found = run(program, x, mode)
    (y,) = found.outputs.values()
    return found, y


@pytest.mark.parametrize("mode", ["clear", "simulate", "encrypted"])
def test_a_sample_that_explodes_takes_its_pass_with_it(program: glyphc.Program, mode: str) -> None:
    """The second pass of three; told in all modes, and seen in simulation as in encryption."""
    x = samples(20)
    expected = run(program, x, "clear").outputs["y"]
    x[11] = FAR_OUT
    with pytest.warns(OverrunWarning, match=r"the results of samples 8 to 15 are lost"):
        run(program, x, mode)
    found, y = report(program, x, mode)
    assert found.lost == ((8, 16),)
    assert {o.sample for o in found.overruns} == {11}
    spoiled = np.zeros(20, dtype=bool)
    spoiled[8:16] = True
    if mode != "clear":
        assert np.isnan(y[spoiled]).all()
    np.testing.assert_allclose(y[~spoiled], expected[~spoiled], atol=2.0**-10)


@pytest.mark.parametrize("mode", ["simulate", "encrypted"])
def test_one_that_is_a_little_out_harms_itself_alone(program: glyphc.Program, mode: str) -> None:
    x = samples(8)
    expected = run(program, x, "clear").outputs["y"]
    x[3] = A_LITTLE
    found, y = report(program, x, mode)
    assert found.lost == ()
    assert {o.sample for o in found.overruns} == {3}
    others = np.arange(8) != 3
    np.testing.assert_allclose(y[others], expected[others], atol=2.0**-10)


def test_slots_that_no_sample_fills_spoil_nothing() -> None:
    """The middle of all ranges is no sample: sums of it are five times as large here as sums of samples."""
    n = Network(24)
    hidden = dense(n, n.x, np.ones((2, 24)) - 3 * np.eye(2, 24), "fc1", np.full(2, -21.0))
    n.output(dense(n, n.apply(hidden, "relu"), np.array([[1.0, -0.5]]), "fc2"))
    x = 1 + np.eye(24)[np.arange(200) % 24]
    made = glyphc.compile(n.graph, x, BATCH, insecure_ring=RING, strategy="slots", logit_tolerance=0.02)
    found, y = report(made, x[:3], "simulate")
    assert (found.lost, found.overruns) == ((), ())
    np.testing.assert_allclose(y, run(made, x[:3], "clear").outputs["y"], atol=2.0**-10)


# -- between a client and a server --


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory, program: glyphc.Program) -> Setting:
    return make_setting(tmp_path_factory.mktemp("overruns"), program)


def test_the_client_sees_which_pass_is_lost(setting: Setting, tmp_path: Path) -> None:
    x = samples(20)
    x[11], x[17] = FAR_OUT, A_LITTLE
    setting.account.encrypt(x, tmp_path / "in")
    with Evaluator(setting.half, setting.keys) as evaluator:
        evaluator.evaluate(tmp_path / "in", tmp_path / "out")
    with pytest.warns(OverrunWarning, match=r"samples 8 to 15 of 20 are lost.*sample 17 of 20 lie more than 2 times"):
        (y,) = setting.account.decrypt(tmp_path / "out").values()
    assert np.flatnonzero(np.isnan(y).any(axis=1)).tolist() == list(range(8, 16))
    result = CliRunner().invoke(
        main,
        [
            "decrypt",
            "--client",
            str(setting.client),
            "--input",
            str(tmp_path / "out"),
            "--output",
            str(tmp_path / "y.npy"),
        ],
    )
    assert result.exit_code == 0, result.output
    assert "warning: the results of samples 8 to 15 of 20 are lost" in result.stderr


# -- what a modulus holds --


@given(st.integers(0, 2**32), st.sampled_from([8, 64, 512]))
@settings(max_examples=30, deadline=None)
def test_coefficients_are_those_of_the_canonical_embedding(seed: int, slots: int) -> None:
    """Slot j is the value at the 5^j-th power of the primitive root, evaluated by Horner's rule."""
    numbers = np.random.default_rng(seed).normal(size=slots)
    polynomial = coefficients(numbers)
    powers = [pow(5, j, 4 * slots) for j in range(slots)]
    roots = np.exp(1j * np.pi * np.array(powers) / (2 * slots))
    np.testing.assert_allclose(np.polyval(polynomial[::-1], roots), numbers, atol=1e-9)
    np.testing.assert_allclose(slots_of(polynomial), numbers, atol=1e-9)
    assert np.abs(polynomial).max() <= np.abs(numbers).mean() + 1e-12


def test_one_slot_spoils_all_of_them_where_the_modulus_ends() -> None:
    """A number v in one of N/2 slots has coefficients up to v / (N/2); the modulus is 16 units, half of it each way.

    The ciphertexts of ``test_a_sample_that_explodes_takes_its_pass_with_it`` say the same.
    """
    p = SlotParameters(RING, 2, 28, 32, 1, INSECURE)
    numbers = np.zeros(p.slots)
    for far, fits in ((4000.0, True), (4200.0, False)):
        numbers[7] = far
        assert holds(numbers, p) == fits
        others = np.abs(np.delete(wrapped(numbers, p), 7))
        assert (others.max() < 1e-9) == fits
        assert (np.median(others) > 2) != fits
    numbers[7] = np.nan
    assert not holds(numbers, p)
