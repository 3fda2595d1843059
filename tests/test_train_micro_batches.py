"""A batch that the ring has no room for: micro-batches, whose gradients add before the state changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_train_chain import F64, chain, trained

from glyphc.analysis.cost import CostModel
from glyphc.backends.ckks_clear import ClearCKKS
from glyphc.exchange.training_client import finish, prepare
from glyphc.exchange.training_files import TRAINED
from glyphc.exchange.training_infer import infer
from glyphc.exchange.training_predict import make_request, read_answer
from glyphc.exchange.training_server import run_training
from glyphc.ir.evaluate import evaluate
from glyphc.ir.graph import Graph
from glyphc.ir.instructions import Store
from glyphc.ir.instructions.ckks import Bootstrap, Refresh
from glyphc.train.job import Options, make_job
from glyphc.train.losses import LOSSES
from glyphc.train.optimizers import SGD
from glyphc.train.plan import Plan, make_plan
from glyphc.train.predict import predict

RING = 1024


def plan_of(widths: tuple[int, ...], end: str, optimizer: SGD, batch: int, frozen: tuple[str, ...] = ()) -> Plan:
    loss = LOSSES["softmax-cross-entropy" if end == "softmax" else "binary-cross-entropy"]
    return make_plan(chain(widths, end), loss, optimizer, batch, 4.0, frozen, RING)


def data(widths: tuple[int, ...], batch: int) -> tuple[F64, F64]:
    random = np.random.default_rng(1)
    x, classes = random.normal(size=(batch, widths[0])), max(widths[-1], 2)
    y = np.eye(classes)[random.integers(classes, size=batch)]
    return x, y[:, : widths[-1]]


@pytest.mark.parametrize(
    ("widths", "end", "batch", "micros", "optimizer", "frozen"),
    [
        ((4, 4), "sigmoid", 200, 2, SGD(0.5), ()),
        ((4, 3), "softmax", 150, 3, SGD(0.3, 0.5, weight_decay=0.05), ()),
        ((40, 4), "sigmoid", 195, 3, SGD(0.5, 0.5), ()),
        ((4, 2, 1), "sigmoid", 400, 2, SGD(0.3, 0.4, nesterov=True), ()),
        ((40, 16, 8, 4), "sigmoid", 40, 2, SGD(0.3, 0.5, weight_decay=0.01), ()),
        ((4, 2, 1), "sigmoid", 400, 2, SGD(0.5), ("w0", "b1")),
    ],
)
def test_a_step_is_that_of_the_whole_batch(
    widths: tuple[int, ...], end: str, batch: int, micros: int, optimizer: SGD, frozen: tuple[str, ...]
) -> None:
    """Of all ways and heads, against the step program of the whole batch; products are exact here."""
    plan = plan_of(widths, end, optimizer, batch, frozen)
    assert (plan.server.micros, plan.server.micro_batch) == (micros, batch // micros)
    x, y = data(widths, batch)
    found = trained(plan, ClearCKKS(plan.parameters), x, y, 2)
    state = plan.program.initial()
    for _ in range(2):
        state, _ = plan.program.run(state, {"x": x}, y)
    for name, value in state.weights.items():
        np.testing.assert_allclose(found[name], value, atol=2e-6, err_msg=name)
    moved = max(np.abs(v - plan.network.constant(n)).max() for n, v in state.weights.items())
    assert moved > 1e-2


def test_what_a_step_takes_is_the_sum_of_its_micro_batches() -> None:
    """Bootstraps and data; the state is stored once, and constants are sent once."""
    whole, one = plan_of((4, 2, 1), "sigmoid", SGD(0.5), 400), plan_of((4, 2, 1), "sigmoid", SGD(0.5), 200)
    assert (whole.server.micros, one.server.micros) == (2, 1)
    assert whole.server.layers[0].target == one.server.layers[0].target
    found, of_one = (predict(p, 4, CostModel()) for p in (whole, one))
    assert found.bootstraps == 2 * of_one.bootstraps
    code = whole.server.code(1)
    assert sum(isinstance(i, Bootstrap | Refresh) for i in code) == found.bootstraps
    assert found.step_seconds == pytest.approx(2 * of_one.step_seconds, rel=0.02)
    assert [i.name for i in code if isinstance(i, Store)] == [
        i.name for i in one.server.code(1) if isinstance(i, Store)
    ]
    shared = sum(name.startswith("ones") for name in one.server.data_names)
    assert shared == 2
    assert found.ciphertexts == 2 * of_one.ciphertexts - shared


def by_hand(network: Graph, x: F64, y: F64, rate: float, steps: int) -> list[F64]:
    """Two layers with tanh between them and sigmoids at the end, all samples in every step."""
    w0, b0, w1, b1 = (network.constant(name) for name in ("w0", "b0", "w1", "b1"))
    for _ in range(steps):
        values = np.tanh(x @ w0.T + b0)
        errors = (1 / (1 + np.exp(-(values @ w1.T + b1))) - y) / len(x)
        back = errors @ w1 * (1 - values**2)
        w0, b0, w1, b1 = (
            w0 - rate * back.T @ x,
            b0 - rate * back.sum(axis=0),
            w1 - rate * errors.T @ values,
            b1 - rate * errors.sum(axis=0),
        )
    return [w0, b0, w1, b1]


def test_encrypted(tmp_path: Path) -> None:
    """By client and server, against training by hand; requests come in passes of a micro-batch."""
    widths = (4, 2, 1)
    x = data(widths, 400)[0]
    y = (x.sum(axis=1) > 0).astype(float)[:, None]
    network = chain(widths)
    job = make_job(network, x, y[:, 0].astype(int), Options(SGD(3.0), 2, insecure_ring=RING))
    prepare(job, tmp_path / "client", tmp_path / "server")
    assert len(list((tmp_path / "server" / "batches").iterdir())) == 1
    run_training(tmp_path / "server")
    found, _ = finish(tmp_path / "client", tmp_path / "server" / TRAINED)
    expected = by_hand(network, x, y, 3.0, 2)
    for name, value in zip(("w0", "b0", "w1", "b1"), expected, strict=True):
        np.testing.assert_allclose(found.constant(name), value, atol=1e-3, err_msg=name)
    moved = (np.abs(v - network.constant(n)).max() for n, v in zip(("w0", "w1"), expected[::2], strict=True))
    assert min(moved) > 0.1
    asked = make_request(tmp_path / "client", x[:300] / 2, tmp_path / "request")
    assert asked.passes == 2
    infer(tmp_path / "server", tmp_path / "request", tmp_path / "answer")
    predicted = read_answer(tmp_path / "client", tmp_path / "request", tmp_path / "answer", 300).outputs
    np.testing.assert_allclose(predicted, evaluate(found, {"x": x[:300] / 2})["y"], atol=5e-3)
