"""Training programs that no client made are refused, and those of plans are well inside the bounds (small rings)."""

from __future__ import annotations

import functools
import hashlib
import json
import zlib
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glyphc.errors import ArtifactError, ParameterError
from glyphc.exchange.training_client import plan_steps
from glyphc.exchange.training_files import (
    PROGRAM,
    ProgramFile,
    TrainingProgram,
    check_parameters,
)
from glyphc.exchange.training_server import run_training
from glyphc.ir.errors import IRError
from glyphc.ir.instructions import Load, Store
from glyphc.ir.instructions.ckks import Raise, Scaled
from glyphc.ir.instructions.text import CKKS, code_text
from glyphc.ir.parameters import Parameters
from glyphc.storage.container import Reader, Writer
from glyphc.storage.headers import (
    TrainingProgramHeader,
)
from glyphc.train.losses import LOSSES
from glyphc.train.optimizers import SGD, Cosine
from glyphc.train.plan import make_plan
from tests.test_train_chain import chain
from tests.training_runs import (
    RING,
    copied,
    job,
    prepared_run,
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return prepared_run(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def run(prepared: Path, tmp_path: Path) -> Path:
    return copied(prepared, tmp_path)


# -- programs that no client made --


def forged(path: Path, text: str | None = None, parameters: str | None = None, **outline: object) -> None:
    """A program whose fingerprints are right, with another code, other parameters or another outline."""
    with Reader(path, TrainingProgramHeader) as reader:
        header = reader.header
        old = json.loads(reader.read("outline"))
        codes = [zlib.decompress(reader.read(f"code/{i:06d}")).decode() for i in range(len(old["codes"]))]
    if text is not None:
        codes[0] = text
    old["codes"] = [hashlib.sha256(c.encode()).hexdigest() for c in codes]
    new = json.dumps({**old, **outline}, separators=(",", ":"))
    declared = parameters or header.parameters
    fingerprint = hashlib.sha256(f"{declared}\n{new}".encode()).hexdigest()
    with Writer(path, TrainingProgramHeader(fingerprint, declared, header.memory_bytes)) as writer:
        writer.add("outline", new.encode())
        for i, code in enumerate(codes):
            writer.add(f"code/{i:06d}", zlib.compress(code.encode()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import os", "line 1: instructions begin with"),
        ("glyphc-code 2 ckks\n", "does not store the ciphertexts of the next state"),
        (code_text((Load(0, "nothing"),), CKKS), "loads 'nothing', which is no input"),
        (code_text((Load(0, "STATE"), Store(0, "other")), CKKS), "does not store"),
        (code_text((Store(7, "STATE"),), CKKS), "reads register 7, which holds nothing"),
        ('glyphc-code 2 ckks\n{"system":{"command":"true"}}\n', "line 2: 'system' is none of load"),
        ('glyphc-code 2 ckks\n{"load":{"target":0,"name":["x"]}}\n', "line 2: Load: name"),
    ],
)
def test_hostile_code_is_refused(text: str, message: str, run: Path) -> None:
    with ProgramFile(run / "server" / PROGRAM) as program:
        text = text.replace("STATE", program.outline.state[0][0])
    forged(run / "server" / PROGRAM, text)
    with pytest.raises(ArtifactError, match=rf"part code/000000: .*{message}"):
        run_training(run / "server")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step_batches": [0, 1, 2, 0, 9]}, "a step has no batch"),
        ({"step_codes": [0, 0, 0, 0, 99]}, "a step has no code"),
        ({"step_codes": [0]}, "its steps are not as many as their batches"),
        ({"step_codes": [], "step_batches": []}, "its steps are not as many"),
        ({"state": []}, "there is no state"),
        ({"data": [["a", 1], ["a", 1]]}, "named twice"),
        ({"data": [["a", 1000]]}, "too many"),
        ({"data": [["a", 5]]}, "a ciphertext has no limbs, or too many"),
        ({"data": [["a", 0]]}, "a ciphertext has no limbs, or too many"),
        ({"periods": [2 * RING]}, "beyond the ring"),
        ({"periods": [64, 48]}, "no power of two"),
        ({"periods": [0]}, "no power of two"),
        ({"data": [["a"]]}, "1 values where 2 belong"),
        ({"periods": [2**50]}, "no power of two"),
        ({"batches": "3"}, "not an integer"),
        ({"earlier": [{"program": "0", "steps": 6, "batches": 3}]}, "more in common with an earlier program"),
        ({"earlier": [{"program": "0", "steps": 5, "batches": 4}]}, "more in common with an earlier program"),
        ({"earlier": [{"program": "0", "steps": -1, "batches": 0}]}, "more in common with an earlier program"),
        ({"earlier": [{"program": "0", "steps": 1}]}, "Earlier has the fields"),
        ({"more": 1}, "Outline has the fields"),
    ],
)
def test_hostile_outlines_are_refused(changes: dict[str, object], message: str, run: Path) -> None:
    forged(run / "server" / PROGRAM, **changes)
    with pytest.raises(ArtifactError, match=f"its outline is unreadable .*{message}"):
        run_training(run / "server")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ring=1024", "ring=1099511627776", "out of range"),
        ("ring=1024", "ring=1000", "not a power of two"),
        ("slots=", "slots=1", "neither 0 nor a power of two"),
        ("degree=", "degree=9", "out of range"),
        ("Parameters(", "Layout(", "parameters are unreadable"),
        ("level_budget=[2", "level_budget=[-2", "out of range"),
        ("level_budget=[2", "level_budget=[0", "out of range"),
        ("decoded_limbs=", "decoded_limbs=1", "leave more limbs than there are"),
        ("linear_bits=", "linear_bits=1", "out of range"),
        ("levels_kept=1", "levels_kept=9", "leaves too many levels"),
        # OpenFHE would end the process
        ("levels_kept=1", "levels_kept=0", "leave too few levels for their results"),
    ],
)
def test_hostile_parameters_are_refused(old: str, new: str, message: str, run: Path) -> None:
    path = run / "server" / PROGRAM
    with Reader(path, TrainingProgramHeader) as reader:
        text = reader.header.parameters
    assert old in text
    forged(path, parameters=text.replace(old, new, 1))
    with pytest.raises(ArtifactError, match=message):
        run_training(run / "server")


# Of what a server has to know, what is the same for all steps.
_KNOWN = ("parameters", "periods", "data_names", "state_names", "kept_names", "statistic_limbs")


@pytest.mark.parametrize("optimizer", [SGD(20.0), SGD(0.001, 0.9, True, 0.01, Cosine(100, 0.001))])
@pytest.mark.parametrize(
    ("widths", "end", "batch"),
    [
        ((4, 1), "sigmoid", 13),
        ((30, 3), "softmax", 4),
        ((200, 2), "sigmoid", 3),
        ((4, 4, 2), "sigmoid", 8),
        ((40, 16, 8, 4), "sigmoid", 8),
        ((8, 8, 4), "softmax", 8),
    ],
)
def test_the_programs_of_plans_are_well_inside_the_bounds(
    widths: tuple[int, ...], end: str, batch: int, optimizer: SGD, tmp_path: Path
) -> None:
    """Of every kind of layer: what is asked of strangers' programs refuses none of ours, up to the last step."""
    loss = "softmax-cross-entropy" if end == "softmax" else "binary-cross-entropy"
    plan = make_plan(chain(widths, end), LOSSES[loss], optimizer, batch, 4.0, (), 2048)
    later = SimpleNamespace(
        **{n: getattr(plan.server, n) for n in (*_KNOWN, "fresh_limbs")},
        code=lambda step: plan.server.code(step * 50),
    )
    TrainingProgram.of(later, (0, 0, 0)).save(tmp_path / "program", 0)
    with ProgramFile(tmp_path / "program") as program:
        code = program.code(2)
    assert code == plan.server.code(100)
    assert max((abs(i.factor) for i in code if isinstance(i, Scaled)), default=0) < 2.0**30
    assert max((abs(i.value) for i in code if isinstance(i, Raise)), default=0) < 2.0**16


@functools.cache
def job_parameters() -> Parameters:
    return plan_steps(job())[0].parameters


ALLOWED = {
    "linear_bits": range(20, 61),
    "scaling_bits": range(20, 61),
    "large_digits": range(1, 17),
    "levels_kept": range(7),
    "linear_limbs": range(3, 17),
    "decoded_limbs": range(1, 5),
}


@settings(deadline=None)
@given(st.sampled_from(sorted(ALLOWED)), st.integers(-3, 100))
def test_parameters_are_accepted_within_bounds_alone(name: str, value: int) -> None:
    start = replace(job_parameters(), linear_limbs=4, decoded_limbs=3)
    p = {f.name: getattr(start, f.name) for f in fields(start)} | {name: value}
    headroom = (p["levels_kept"] + 1) * p["scaling_bits"] - p["linear_bits"] * (p["decoded_limbs"] - 1)
    # some values make no parameters at all
    with nullcontext() if value in ALLOWED[name] and headroom >= 8 else pytest.raises((IRError, ValueError)):
        check_parameters(replace(start, **{name: value}))


@settings(deadline=None)
@given(st.tuples(st.integers(-1, 10), st.integers(-1, 10)))
def test_both_transforms_have_levels(budget: tuple[int, int]) -> None:
    with nullcontext() if min(budget) >= 1 and max(budget) <= 8 else pytest.raises((IRError, ValueError)):
        check_parameters(replace(job_parameters(), level_budget=budget))


def test_parameters_that_openfhe_refuses_are_an_error(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds some of them only when it has made its contexts."""
    from glyphc.backends.kernels import training_load

    def refuse(*arguments: object) -> None:
        raise RuntimeError("no such transform")

    monkeypatch.setattr(training_load, "make_linear_contexts", refuse)
    with pytest.raises(ParameterError, match="OpenFHE cannot execute this training program: no such transform"):
        run_training(run / "server")


def test_a_bomb_of_code_is_not_unpacked(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from glyphc.exchange import code_parts

    monkeypatch.setattr(code_parts, "MOST_BYTES", 1000)
    with pytest.raises(ArtifactError, match="inflates to more than"):
        run_training(run / "server")


def test_what_openfhe_refuses_in_the_middle_is_an_error(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from glyphc.backends.kernels.ckks_linear import LinearKernels

    def refuse(*arguments: object) -> None:
        raise RuntimeError("no such key")

    monkeypatch.setattr(LinearKernels, "product", refuse)
    with pytest.raises(ParameterError, match="OpenFHE cannot execute this training program: no such key"):
        run_training(run / "server")
