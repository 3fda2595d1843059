"""Programs that keep to constraints, and the best of several strategies by what is preferred (small rings)."""

from __future__ import annotations

import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import glyphc
from glyphc import knowledge
from glyphc.analysis.cost import CostModel
from glyphc.cli import main
from glyphc.constraints import capacity
from glyphc.diagnostics import predicted, summary
from glyphc.errors import GlyphcError, ParameterError
from glyphc.frontends.to_onnx import to_onnx
from glyphc.ir.functions import Function
from glyphc.ir.graph import Graph
from glyphc.ir.integer_parameters import IntegerParameters
from glyphc.ir.ops import Apply, ClientBits
from glyphc.ir.parameters import Parameters
from glyphc.program import Program
from glyphc.progress import Silent
from tests.pass_networks import Network

RING = 1024
X = np.random.default_rng(3).normal(size=(80, 6))


def network(function: str) -> Graph:
    n = Network(6)
    hidden = n.graph.add(Apply((Function(function, _PARAMETERS[function]),)), (n.dense(n.x, 5, "a"),), location="f")
    n.output(n.dense(hidden, 3, "b"))
    return n.graph


_PARAMETERS: dict[str, tuple[float, ...]] = {"relu": (), "quadratic": (1.0, 0.0, 0.0)}


@lru_cache(maxsize=32)
def compiled(function: str, strategy: str | None, **limits: object) -> Program:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return glyphc.compile(
            network(function), X, 4, strategy=strategy, insecure_ring=RING, cost=CostModel(), tolerance=20.0, **limits
        )  # type: ignore[arg-type]


def prices(program: Program) -> dict[str, float]:
    """Worked out by hand, of a batch of four."""
    found = predicted(program, CostModel())
    seconds = found.seconds + found.client_seconds + CostModel().upload_seconds(found.upload_bytes)
    return {
        "latency": seconds,
        "throughput": seconds / capacity(program),
        "traffic": found.upload_bytes + found.download_bytes,
    }


@pytest.mark.parametrize("prefer", ["latency", "throughput", "traffic"])
def test_the_best_by_what_is_preferred(prefer: str) -> None:
    """Squares: bootstraps, numbers and integers in slots all compute the network."""
    each = {name: compiled("quadratic", name) for name in ("glyph", "slots", "integers")}
    best = min(each, key=lambda name: prices(each[name])[prefer])
    program = compiled("quadratic", None, prefer=prefer)
    assert program.fingerprint == each[best].fingerprint
    note = program.notes[-1]
    assert f"auto takes {best}" in note
    assert all(f"{name}: " in note for name in (*each, "nandakumar"))


def test_slots_hold_more_samples_than_a_batch() -> None:
    assert capacity(compiled("quadratic", "glyph")) == 4
    assert capacity(compiled("quadratic", "slots")) == RING // 2
    assert capacity(compiled("quadratic", "integers")) == RING
    looked_up = compiled("relu", "nandakumar")
    assert isinstance(looked_up.client.parameters, IntegerParameters)
    assert capacity(looked_up) == looked_up.client.parameters.block == 4


def test_hidden_values_are_shown_to_nobody_who_did_not_allow_it() -> None:
    program = compiled("relu", None, prefer="traffic")
    assert "nandakumar: shows hidden values to the client" in program.notes[-1]
    assert "integers: " in program.notes[-1]
    assert "relu is no polynomial" in program.notes[-1]
    assert knowledge.trips(program) == 0
    allowed = compiled("relu", None, prefer="latency", trips=1)
    assert "nandakumar: " in allowed.notes[-1]
    assert "shows" not in allowed.notes[-1]
    if any(allowed.graph.of(ClientBits)):
        assert knowledge.trips(allowed) == 1
    alone = compiled("relu", "nandakumar", trips=0)
    assert knowledge.trips(alone) == 0
    assert not any(alone.graph.of(ClientBits))
    assert knowledge.trips(compiled("relu", "nandakumar", trips=1)) == 1


def test_memory_is_a_limit() -> None:
    least = min(predicted(compiled("relu", name), CostModel()).memory_bytes for name in ("glyph", "slots"))
    program = compiled("relu", None, memory=least)
    assert predicted(program, CostModel()).memory_bytes <= least
    with pytest.raises(ParameterError, match=r"no strategy keeps .*glyph: .*GB of memory.*slots: "):
        compiled("relu", None, memory=1.0)
    with pytest.raises(ParameterError, match="GB of memory"):
        compiled("relu", "glyph", memory=1.0)
    assert isinstance(compiled("relu", "glyph", memory=1e12).client.parameters, Parameters)
    for limits in ({"memory": 0.0}, {"trips": -1}, {"prefer": "fun"}):
        with pytest.raises(GlyphcError, match=r"positive|from 0 on|nothing to prefer"):
            compiled("relu", None, **limits)


class Told(Silent):
    def __init__(self) -> None:
        self.stages: list[str] = []

    def stage(self, name: str, total: float) -> None:
        self.stages.append(name)


def in_batches(batch: int, **limits: object) -> Program:
    """With bootstraps, at 128-bit: a smaller batch has smaller ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return glyphc.compile(network("relu"), X, batch, strategy="glyph", cost=CostModel(), tolerance=20.0, **limits)  # type: ignore[arg-type]


def test_a_batch_is_cut_into_passes_that_fit_into_memory() -> None:
    needed = {size: predicted(in_batches(size), CostModel()).memory_bytes for size in (1, 32, 64, 256, 300)}
    assert needed[1] < needed[32] <= needed[64] < needed[256] <= needed[300]
    told = Told()
    program = in_batches(300, memory=needed[64], reporter=told)
    assert "compile for passes of 1 sample (--memory)" in told.stages
    assert "compile for passes of 64 samples (--memory)" in told.stages
    assert program.client.batch == 64
    assert program.requested_batch == 300
    (note,) = [n for n in program.notes if "--memory" in n]
    assert note.startswith("passes of 64 samples, and not of 300")
    assert f"{needed[300] / 1e9:.2f} GB" in note
    assert f"{needed[64] / 1e9:.2f} GB" in note
    assert "300 samples take 5 passes" in summary(program)
    x = np.resize(X, (300, 6))
    assert np.array_equal(program.run(x, "clear"), in_batches(64).run(x, "clear"))
    whole = in_batches(300, memory=needed[300])
    assert (whole.client.batch, whole.notes) == (300, ())
    with pytest.raises(ParameterError, match=r"GB of memory, one sample at a time, more than"):
        in_batches(300, memory=0.99 * needed[1])


def test_slots_take_as_much_for_one_sample_as_for_many() -> None:
    with pytest.raises(ParameterError, match=r"GB of memory, one sample at a time, more than"):
        compiled("relu", "slots", memory=1.0)


def test_the_command_says_what_was_compared(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(to_onnx(network("relu")).SerializeToString())
    np.save(tmp_path / "x.npy", X)
    given = [str(tmp_path / "net.onnx"), "--calibration", str(tmp_path / "x.npy"), "--insecure-ring", str(RING)]
    done = CliRunner().invoke(main, ["compile", *given, "--batch", "4", "--tolerance", "20", "--prefer", "traffic"])
    assert done.exit_code == 0, done.output
    assert "auto takes" in done.output
    refused = CliRunner().invoke(main, ["compile", *given, "--memory", "0.001"])
    assert refused.exit_code == ParameterError.exit_code
    assert "no strategy keeps" in refused.output
