"""Activations of the user's own in networks: read from ONNX, compiled and run encrypted."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import glyphc
from glyphc.errors import CalibrationError, ModelError
from glyphc.frontends.from_onnx import read_onnx
from glyphc.ir.errors import IRError
from glyphc.ir.functions import Function
from glyphc.ir.ops import Apply, Bootstrap
from tests.activation_models import F64, expected, model, samples

pytestmark = pytest.mark.usefixtures("_own_activations")

# -- functions of the IR -------------------------------------------------------------------------------------


def test_tables_cover_what_calibration_may_see() -> None:
    for table in (
        Function("table", (-1.0, 3.0, 5.0, 6.0)),
        Function("table_with_jumps", (-1.0, 3.0, 1.0, 0.5, 2.0, 5.0, 6.0)),
    ):
        assert table.domain(-1, 3) == table.domain(-1 - 1e-7, 2) == (-math.inf, math.inf)
        for lo, hi in ((-1.1, 0.0), (0.0, 3.1), (-9.0, -8.0)):
            with pytest.raises(IRError, match=r"table\(2 values over \[-1, 3\].* does not cover \[-?\d"):
                table.domain(lo, hi)
        np.testing.assert_array_equal(table(np.array([-50.0, 50.0])), table(np.array([-1.0, 3.0])))


def test_tables_with_jumps_of_the_wrong_form() -> None:
    for numbers in (
        (0.0, 1.0, 1.0, 0.5),
        (0.0, 1.0, 0.5, 0, 0, 0, 0),
        (0.0, 1.0, -1.0, 0, 0, 0),
        (1.0, 0.0, 0.0, 1, 2),
    ):
        with pytest.raises(IRError, match="table_with_jumps"):
            Function("table_with_jumps", numbers)
    assert str(Function("table_with_jumps", (0.0, 1.0, 1.0, 0.5, 9, 1, 2, 3))) == (
        "table(3 values over [0, 1], jumps at 0.5)"
    )


# -- from ONNX to ciphertexts --------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", ["custom", "com.example.ops", "glyphc"])
def test_a_node_of_ones_own(domain: str, tmp_path: Path) -> None:
    table = glyphc.register_activation("wave", np.sin, -4, 4)
    path = tmp_path / "model.onnx"
    onnx.save(model("wave", domain=domain), path)
    ((node, op),) = read_onnx(path).of(Apply)
    assert op.functions == (table,)
    assert node.location == "own" and node.type.shape == (8,)


def test_unknown_nodes_say_how_to_make_them_known() -> None:
    with pytest.raises(ModelError, match=r"'own' .wave.: ops of domain 'custom'.*register_activation\('wave', ...\)"):
        read_onnx(model("wave"))
    glyphc.register_activation("wave", np.sin, -4, 4)
    with pytest.raises(ModelError):  # onnx's own domain has no such op
        read_onnx(model("wave", domain=""))


@pytest.mark.parametrize("strange", [{"alpha": 1.0}, {"count": 2}])
def test_nodes_with_more_than_an_activation_has(strange: dict[str, Any]) -> None:
    glyphc.register_activation("wave", np.sin, -4, 4)
    with pytest.raises(ModelError, match=r"'own' .wave.: .*one operand, one result and no attributes"):
        read_onnx(model("wave", **strange))


def test_onnx_keeps_its_own_operators() -> None:
    table = glyphc.register_activation("Tanh", np.sin, -4, 4, replace=True)
    functions = [read_onnx(model("Tanh", domain=d)).of(Apply) for d in ("", "custom")]
    assert [op.functions for ((_, op),) in functions] == [(Function("tanh"),), (table,)]


def test_calibration_beyond_the_table() -> None:
    glyphc.register_activation("wave", np.sin, -2, 2.5)
    with pytest.raises(CalibrationError, match=r"own.*over \[-2, 2\.5\]\) does not cover \[-3, 3\]"):
        glyphc.compile(model("wave"), samples(), batch=64, insecure_ring=1024)


SMOOTH: list[tuple[Callable[[F64], F64], float]] = [
    (np.sin, 3.8),
    (lambda x: x / (1 + np.exp(-1.7 * x)), 3.8),
    (lambda x: 0.1 * x**3 - x + 0.3, 3.8),
]


def _tolerance(program: glyphc.Program, wanted: F64) -> float:
    """The reported error, half as much again from the layer behind, and rounding to 12 bits."""
    ((_, op),) = program.graph.of(Bootstrap)
    return 1.5 * (op.series.max_error + 2e-3) * float(np.ptp(wanted))


@pytest.mark.parametrize(("function", "edge"), SMOOTH)
def test_compiled_and_simulated(function: Callable[[F64], F64], edge: float) -> None:
    glyphc.register_activation("own", function, -edge, edge)
    x = samples()
    program = glyphc.compile(model("own"), x, batch=64, insecure_ring=1024)
    wanted = expected(function, x)
    assert np.abs(np.asarray(program.run(x, mode="clear")) - wanted).max() < 2e-3 * np.ptp(wanted)
    assert np.abs(np.asarray(program.run(x, mode="simulate")) - wanted).max() < _tolerance(program, wanted)


def test_values_in_the_guard_band() -> None:
    """A table exactly as wide as the calibrated range: inputs a little beyond get its end values."""
    glyphc.register_activation("own", lambda x: 1 - np.cos(x), -3, 3)
    x = samples()
    program = glyphc.compile(model("own"), x, batch=64, insecure_ring=1024)
    beyond = np.where(np.abs(x) > 0.9, 1.15 * x, x)
    wanted = expected(lambda v: np.asarray(1 - np.cos(np.clip(v, -3, 3))), beyond)
    for mode in ("clear", "simulate"):
        y = np.asarray(program.run(beyond, mode=mode))
        assert np.abs(y - wanted).max() < _tolerance(program, wanted)


def test_steps_have_dead_zones() -> None:
    glyphc.register_activation("own", lambda x: np.sign(x - 0.5) + 0.1 * x, -4, 4)
    x = samples()
    program = glyphc.compile(model("own"), x, batch=64, insecure_ring=1024)
    ((_, op),) = program.graph.of(Bootstrap)
    assert op.series.dead_zone > 0
    away = np.where(np.abs(3 * x - 0.5) < 0.3, 0.0, x)
    wanted = expected(lambda v: np.sign(v - 0.5) + 0.1 * v, away)
    y = np.asarray(program.run(away, mode="simulate"))
    assert np.abs(y - wanted).max() < 0.03 * np.ptp(wanted)


def test_programs_need_no_registry(tmp_path: Path) -> None:
    glyphc.register_activation("own", np.sin, -4, 4)
    x = samples()
    program = glyphc.compile(model("own"), x, batch=64, insecure_ring=1024)
    program.save(tmp_path / "p.glyphc")
    glyphc.unregister_activation("own")
    loaded = glyphc.load(tmp_path / "p.glyphc")
    for mode in ("clear", "simulate"):
        np.testing.assert_array_equal(loaded.run(x, mode=mode), program.run(x, mode=mode))


def test_encrypted() -> None:
    def swing(x: F64) -> F64:
        return np.asarray(np.sin(2 * x) * np.exp(-(np.abs(x) ** 2) / 4))

    glyphc.register_activation("swing", swing, -4, 4)
    x = samples()
    program = glyphc.compile(model("swing"), x, batch=64, insecure_ring=2048)
    wanted = expected(swing, x)
    assert np.abs(np.asarray(program.run(x)) - wanted).max() < _tolerance(program, wanted)


def test_a_table_encrypted() -> None:
    """The table itself is what is computed, kinks and all."""
    values = [0.0, 0.0, 1.0, 0.5, 0.25, 1.5, 1.5]
    glyphc.register_activation("zigzag", values, -3.6, 3.6)
    x = samples()
    program = glyphc.compile(model("zigzag"), x, batch=64, insecure_ring=2048)
    wanted = expected(lambda v: np.interp(v, np.linspace(-3.6, 3.6, 7), values), x)
    assert np.abs(np.asarray(program.run(x)) - wanted).max() < _tolerance(program, wanted)


def test_the_docstring_names_every_argument() -> None:
    text = inspect.getdoc(glyphc.register_activation) or ""
    for name in inspect.signature(glyphc.register_activation).parameters:
        assert name in text
