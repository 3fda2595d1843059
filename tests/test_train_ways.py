"""Ways of products of encrypted operands: what they offer, how the choice is explained, what their prices count."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from test_train_chain import assert_close, chain, one_hot, trained
from test_train_plan import data, referred

import glyphc.ways.registry
from glyphc.analysis.cost import CostModel
from glyphc.analysis.kernels_cost import MODELLED
from glyphc.analysis.training_cost import Bootstraps, Figure, figures_of, step_seconds
from glyphc.analysis.training_figures import TORUS_FIGURES, TrainingFigures
from glyphc.backends.ckks_clear import ClearCKKS
from glyphc.backends.openfhe.ckks_evaluator import OpenFHECKKS
from glyphc.cli import main
from glyphc.frontends.to_onnx import to_onnx
from glyphc.ir.instructions import Register
from glyphc.ir.instructions.ckks import Pack, Unpack
from glyphc.ir.parameters import INSECURE
from glyphc.measure import measure_apart
from glyphc.measure_training import training_job
from glyphc.train.arrange import arrangements
from glyphc.train.losses import LOSSES
from glyphc.train.optimizers import SGD
from glyphc.train.plan import Plan, make_plan, plan_step, wanted
from glyphc.train.predict import predict
from glyphc.train.stages import find_stages
from glyphc.train.step import make_step
from glyphc.train.ways import registry
from glyphc.train.ways.base import ProductWay
from glyphc.train.ways.hidden_layers import Coarse
from glyphc.train.writer import Writer

BCE = LOSSES["binary-cross-entropy"]
RING = 1024


class Halves(Coarse):
    """The coarse way, with each half of the values apart: more work."""

    way = "halves"

    def forward(self, w: Writer, values: Register | None, step: int) -> Register:
        assert values is not None
        whole = super().forward(w, values, step)
        return w.sum((whole, 1), (super().forward(w, values, step), 1), (whole, -1))


WAY = ProductWay(Halves)


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> None:
    """``Halves`` as a plug-in of another package."""
    point = EntryPoint("halves", "test_train_ways:WAY", registry.GROUP)
    monkeypatch.setattr(glyphc.ways.registry, "entry_points", lambda group: [point] if group == registry.GROUP else [])


@pytest.mark.usefixtures("plugged")
def test_a_way_of_another_package_takes_part() -> None:
    """It loses here, with its price; asked for, it computes the same."""
    widths, optimizer = (5, 4, 3), SGD(0.3)
    graph, (x, _), y = chain(widths), data(6, 5), one_hot(6, 3)
    plan = make_plan(graph, BCE, optimizer, 6, 8.0, (), RING)
    candidates = {c.name: c.seconds for c in plan.decisions[1].candidates}
    assert candidates["halves"] is not None and candidates["coarse"] is not None
    assert candidates["halves"] > candidates["coarse"]
    program = make_step(graph, BCE, optimizer, 6)
    found = arrangements(wanted(program, find_stages(program), RING), CostModel())
    arrangement = next(a for a in found if a.names[1] == "halves")
    plan = make_plan(graph, BCE, optimizer, 6, 8.0, (), RING, arrangement=arrangement)
    expected = referred(graph, BCE.name, optimizer, x, y, 2).weights
    assert_close(trained(plan, ClearCKKS(plan.parameters), x, y, 2), expected, 1e-8)


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_the_choice_follows_the_figures(factor: float) -> None:
    """What is cheapest depends on what bootstraps cost beside products."""
    cost = CostModel()
    rows = tuple(
        replace(r, product=factor * r.product, key_switch=factor * r.key_switch, load=factor * r.load)
        for r in cost.training.rows
    )
    cost = replace(cost, training=replace(cost.training, rows=rows))
    plan = make_plan(chain((60, 3)), BCE, SGD(0.3), 20, 8.0, (), 4096, cost)
    candidates = {c.name: c.seconds for c in plan.decisions[0].candidates}
    assert candidates[plan.decisions[0].chosen] == min(v for v in candidates.values() if v is not None)


class Counting(OpenFHECKKS):
    """Counts automorphisms; ciphertexts are anything."""

    def __init__(self) -> None:
        self.count = 0
        self._context = type("Context", (), {"EvalAdd": lambda *_: 0, "EvalSub": lambda *_: 0})()

    def _automorphism(self, ciphertext: Any, stride: int) -> Any:
        self.count += 1
        return 0

    def _shifted(self, ciphertext: Any, by: int) -> Any:
        return 0


@settings(deadline=None)
@given(st.integers(0, 5), st.integers(0, 4), st.data())
def test_prices_count_the_automorphisms_that_are_done(parts_bits: int, stride_bits: int, draw: st.DataObject) -> None:
    parts, stride = 1 << parts_bits, 1 << stride_bits
    there = draw.draw(st.lists(st.booleans(), min_size=1, max_size=parts).filter(any))
    machine = Counting()
    machine.pack([0 if t else None for t in there], parts, stride)
    pack = Pack(99, tuple(0 if t else None for t in there), parts, stride)
    assert sum(count for _, count in figures_of(pack, dict.fromkeys((0, 99), 1))) == machine.count
    machine = Counting()
    machine.unpack(0, parts, stride, len(there))
    unpack = Unpack(tuple(range(len(there))), 99, parts, stride)
    levels = dict.fromkeys(range(100), 3)
    assert list(figures_of(unpack, levels)) == [(Figure("branch", 3), machine.count)]


def predicted(plan: Plan, **changes: float) -> float:
    cost = CostModel()
    return predict(plan, 3, replace(cost, training=replace(cost.training, **changes))).step_seconds


def test_a_prediction_is_made_of_all_figures() -> None:
    plan = make_plan(chain((5, 4, 3)), BCE, SGD(0.3), 6, 8.0, (), RING)
    usual = predicted(plan)
    for name in ("to_torus", "from_torus", "slot_product", "mask"):
        assert predicted(plan, **{name: 10.0}) > usual
    assert predict(plan, 3, CostModel()).bootstraps == 3
    assert predict(plan, 3, CostModel()).seconds > 3 * usual


@pytest.mark.parametrize(
    ("widths", "batch", "end"), [((5, 3), 9, ""), ((40, 8, 4), 6, "softmax"), ((70, 8, 8, 3), 4, "")]
)
def test_what_is_compared_is_what_is_written(widths: tuple[int, ...], batch: int, end: str) -> None:
    """The seconds of an arrangement, from its offers, are those of the whole step's instructions, but for labels."""
    loss = LOSSES["softmax-cross-entropy" if end else "mean-squared-error"]
    program = make_step(chain(widths, end), loss, SGD(0.3), batch)
    found = arrangements(wanted(program, find_stages(program), RING), CostModel())
    for arrangement in {a.names: a for a in found}.values():
        plan = plan_step(program, 3.0, RING, CostModel(), arrangement)
        code, p = plan.server.code(1), plan.parameters
        held = dict.fromkeys(plan.server.state_names, 2)
        bootstraps = replace(Bootstraps.of(p), degree=13)
        written = step_seconds(code, held, plan.server.data_limbs, p.decoded_limbs, bootstraps, RING, CostModel())
        assert arrangement.seconds == pytest.approx(written, rel=0.02)


@pytest.mark.parametrize("engine", MODELLED)
def test_measuring_a_small_ring(engine: str) -> None:
    job = training_job(engine)
    assert job.parameters.secure
    small = replace(job, parameters=replace(job.parameters, ring=RING, security=INSECURE))
    steps: list[str] = []
    figures = measure_apart(small, lambda step, seconds: steps.append(step))
    assert isinstance(figures, TrainingFigures)
    assert steps == ["generate keys", "products", "bootstraps"]
    assert [row.limbs for row in figures.rows] == [1, 2, 3, 4]
    assert all(0 < getattr(figures, name) < 10 for name in TORUS_FIGURES)
    assert all(0 < row.key_switch < 1 and 0 < row.load < 1 for row in figures.rows)


def test_what_a_run_takes_is_said_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.onnx").write_bytes(to_onnx(chain((5, 4, 3))).SerializeToString())
    np.save("x.npy", data(6, 5)[0])
    np.save("y.npy", np.arange(6) % 3)
    options = ["--data", "x.npy", "--labels", "y.npy", "--steps", "1", "--insecure-ring", str(RING), "--why"]
    result = CliRunner().invoke(
        main, ["training", "prepare", "m.onnx", *options, "--client", "mine", "--server", "theirs"]
    )
    assert result.exit_code == 0, result.output
    for text in ("s a step with 3 bootstraps", "GB of memory", "@layer1): assign-ways chose", "samples apart"):
        assert text in result.stderr
    assert result.stderr.index("predicted:") < result.stderr.index("generate keys")
