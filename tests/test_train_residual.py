"""Connections that skip layers, trained under encryption, against the step program of the reference evaluator."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples
from test_train_chain import Skips, all_arrangements, assert_close, chain, one_hot, trained
from test_train_plan import OPTIMIZERS, data, referred

from glyphc.backends.ckks_clear import ClearCKKS, SimulatedCKKS
from glyphc.frontends.from_dsl import parse_glyph
from glyphc.ir.graph import Graph
from glyphc.ir.instructions.ckks import Decode
from glyphc.ir.ops import Add
from glyphc.ir.types import Level
from glyphc.train.errors import TrainingError
from glyphc.train.job import Options, make_job
from glyphc.train.losses import LOSSES
from glyphc.train.optimizers import SGD
from glyphc.train.plan import make_plan
from glyphc.train.planning import plan_of
from glyphc.train.units import I64, Units, blocks_to_move, can_move, groups_to_move

RING = 1024

CASES = [
    ((5, 4, 4, 2), ((0, 1),), 5, "tanh"),
    # a block of two layers, of another width in between
    pytest.param((6, 3, 4, 3, 2), ((0, 2),), 3, "sigmoid", marks=pytest.mark.slow),
    # one value that is added twice
    ((5, 2, 2, 2, 3), ((0, 1), (0, 2)), 3, "tanh"),
    # as a linear bottleneck: nothing behind the sum
    ((5, 4, 4, 2), ((0, 1),), 5, ""),
    # values in blocks, errors in groups
    ((5, 8, 8, 2), ((0, 1),), 32, "tanh"),
]


@pytest.mark.parametrize(("widths", "skips", "batch", "behind"), CASES)
def test_every_arrangement_computes_the_step_program(
    widths: tuple[int, ...], skips: Skips, batch: int, behind: str
) -> None:
    graph, optimizer = chain(widths, skips=skips, behind=behind), OPTIMIZERS["nesterov, decay, schedule"]
    x, _ = data(batch, widths[0])
    x /= np.sqrt(widths[0])
    y = one_hot(batch, widths[-1])
    expected = referred(graph, "binary-cross-entropy", optimizer, x, y, 3).weights
    found = all_arrangements(graph, optimizer, batch)
    assert len({a.names[1:] for a in found}) >= 2
    for arrangement in {a.names: a for a in found}.values():
        plan = make_plan(
            graph, LOSSES["binary-cross-entropy"], optimizer, batch, 8.0, (), RING, arrangement=arrangement
        )
        assert_close(trained(plan, ClearCKKS(plan.parameters), x, y, 3), expected, 1e-8)


@pytest.mark.parametrize("second", [pytest.param("coarse", marks=pytest.mark.slow), "grouped"])
def test_encrypted_steps_follow_their_simulation(second: str) -> None:
    """Real ciphertexts on a small ring."""
    from glyphc.backends.openfhe.ckks_client import generate_training_keys
    from glyphc.backends.openfhe.ckks_evaluator import OpenFHECKKS

    widths, batch, optimizer = (5, 3, 4, 3, 2), 4, SGD(0.3, 0.8)
    graph = chain(widths, skips=((0, 2),))
    x, _ = data(batch, widths[0])
    y = one_hot(batch, widths[-1])
    arrangement = next(a for a in all_arrangements(graph, optimizer, batch) if a.names[1] == second)
    plan = make_plan(graph, LOSSES["binary-cross-entropy"], optimizer, batch, 8.0, (), RING, arrangement=arrangement)
    client, keys = generate_training_keys(plan.parameters, plan.server.periods)

    class Machine(OpenFHECKKS):
        encrypt, decrypt = client.encrypt, client.decrypt

    simulated: Any = trained(plan, SimulatedCKKS(plan.parameters), x, y, 2)
    real = trained(plan, Machine(keys), x, y, 2)
    assert_close(real, simulated, 5e-5)
    assert_close(real, trained(plan, ClearCKKS(plan.parameters), x, y, 2), 2e-3)


def test_a_connection_does_not_change_where_layers_stand() -> None:
    """64-32-32-10 with 64 samples at 128-bit: without values in blocks the second layer would come in 32 groups."""
    graph, loss = chain((64, 32, 32, 10), skips=((0, 1),)), LOSSES["binary-cross-entropy"]
    plan, plain = (make_plan(g, loss, SGD(0.5), 64, 8.0) for g in (graph, chain((64, 32, 32, 10))))
    assert [layer.target for layer in plan.server.layers] == [layer.target for layer in plain.server.layers]
    more, fewer = (sum(isinstance(i, Decode) for i in p.server.code(0)) for p in (plan, plain))
    assert more == fewer + 1
    assert plan.parameters.secure


def test_what_is_added_elsewhere_is_named() -> None:
    x, y = np.zeros((4, 3)), one_hot(4, 3)

    def refusal(graph: Graph) -> str:
        with pytest.raises(TrainingError) as refused:
            plan_of(make_job(graph, x, y, Options(SGD(0.1), 2, 4, insecure_ring=RING)))
        return str(refused.value)

    # two activations
    behind = chain((3, 3, 3, 3))
    first, second = (node for node in behind if node.location in ("act0", "act1"))
    both = Graph(Level.SOURCE, 1)
    new = {}
    for node in behind:
        for name in node.op.constant_names():
            both.add_constant(name, behind.constant(name))
        operands = tuple(new[i] for i in node.operands)
        if node.location == "layer2":
            operands = (both.add(Add(), (new[second.id], new[first.id]), location="sum"),)
        new[node.id] = both.add(node.op, operands, None, node.location)
    named = refusal(both)
    assert "and no more" in named and all(place in named for place in ("@sum", "@act0", "@act1"))
    # the logits themselves
    assert "ends in a dense layer" in refusal(chain((3, 3, 3), skips=((0, 1),)))


@pytest.mark.parametrize(
    ("shape", "first", "width"),
    [
        # one value for all units, and the other way about
        ("[5]", "dense(1)", 4),
        ("[5]", "dense(4)", 1),
        # of a convolution, whose pixels stand apart
        ("[1, 6, 6]", "conv(2, 3, stride=2) -> flatten", 8),
        ("[1, 5, 5]", "conv(2, 3) -> flatten", 18),
    ],
)
def test_what_is_of_another_form_is_not_added(shape: str, first: str, width: int) -> None:
    network = parse_glyph(
        f"weights he_normal(seed=1)\ninput x: {shape}\na = x -> {first} -> tanh\ns = a -> dense({width})\nt = s + a\n"
        "z = t -> tanh -> dense(2)\np = sigmoid(z)\noutput p\n"
    ).graph
    x = np.zeros((4, *json.loads(shape)))
    options = Options(SGD(0.1), 2, 4, insecure_ring=RING, convolutions=True)
    with pytest.raises(TrainingError, match=r"of the same width.*@t"):
        plan_of(make_job(network, x, one_hot(4, 2), options))


@examples(100)
@given(st.integers(1, 6), st.integers(0, 7), st.integers(0, 7), st.sampled_from([1, 2, 4]))
def test_units_that_can_be_moved_meet_nothing(count: int, first: int, second: int, groups: int) -> None:
    """Against the products themselves: all units at once, in blocks, and in groups."""
    ring, batch, grid = 256, 2, 1
    source, target = (Units(ring, count, 1 << max(1, p), batch, grid) for p in (first, second))
    if max(count * u.period for u in (source, target)) > ring:
        return
    values = np.random.default_rng(0).normal(size=(count, batch))

    def moves(parts: list[I64]) -> bool:
        whole = np.zeros(2 * ring)
        for numbers in parts:
            message, factor = np.zeros(ring), np.zeros(2 * ring)
            message[(source.units[numbers, None] + source.samples).ravel()] = values[numbers].ravel()
            for exponent in (target.units - source.units)[numbers]:
                factor[exponent % (2 * ring)] += 1
            product = np.convolve(message, factor[:ring] - factor[ring:])
            whole[: len(product)] += product
        sums = whole[:ring] - whole[ring:]
        return np.allclose(sums[(target.units[:, None] + target.samples).ravel()].reshape(count, batch), values)

    # nothing is done to units that stand where they should
    assert (source.period == target.period or moves([np.arange(count)])) is can_move(source, target)
    if source.period == target.period:
        return
    blocks = blocks_to_move(source, [target])
    assert moves(blocks) and (len(blocks) == 1) is can_move(source, target)
    assert np.array_equal(np.concatenate(blocks), np.arange(count))
    apart = groups_to_move(source, target, groups)
    assert apart is None or moves(apart)
    assert (apart is None) is not any(moves([np.arange(h, count, n) for h in range(n)]) for n in (1, groups))
