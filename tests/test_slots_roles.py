"""Programs on numbers in slots between a client and a server as files (small rings)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import glyphc
from glyphc.errors import ArtifactError, ParameterError
from glyphc.ir.parameters import SECURE
from glyphc.roles.artifacts import Specification
from glyphc.roles.client import check_security
from glyphc.roles.server import Evaluator
from glyphc.runtime import run
from tests.roles import MODELS, Setting, make_setting, samples


def in_slots(batch: int = 4) -> glyphc.Program:
    train = np.load(MODELS / "data" / "digits-train.npy")
    return glyphc.compile(MODELS / "digits-mlp.onnx", train, batch, insecure_ring=1024, strategy="slots")


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return make_setting(tmp_path_factory.mktemp("slots"), in_slots())


def test_a_round_trip_gives_what_the_program_computes(setting: Setting, tmp_path: Path) -> None:
    """Six samples: a full pass and half of one; cut short in the middle and taken up at the checkpoint."""
    x = samples(6)
    digest = setting.account.encrypt(x, tmp_path / "in")

    class Cut(Exception):
        pass

    class Cutting(glyphc.progress.Silent):
        steps = 0

        def advance(self, amount: float, what: str = "") -> None:
            Cutting.steps += 1
            if Cutting.steps == 200:
                raise Cut

    with Evaluator(setting.half, setting.keys) as evaluator:
        with pytest.raises(Cut):
            evaluator.evaluate(
                tmp_path / "in", tmp_path / "out", tmp_path / "cp", reporter=Cutting(), checkpoint_seconds=0.0
            )
        assert (tmp_path / "cp").exists()
        report = evaluator.evaluate(tmp_path / "in", tmp_path / "out", tmp_path / "cp", checkpoint_seconds=1e9)
    assert report.resumed > 0
    (y,) = setting.account.decrypt(tmp_path / "out", digest).values()
    (exact,) = run(setting.program, x, "clear").outputs.values()
    assert np.abs(y - exact).max() < 2.0**-10 * np.ptp(exact)


def test_outputs_are_flooded_on_request(setting: Setting, tmp_path: Path) -> None:
    x = samples(4)
    setting.account.encrypt(x, tmp_path / "in")
    (exact,) = run(setting.program, x, "clear").outputs.values()
    errors = []
    with Evaluator(setting.half, setting.keys) as evaluator:
        for bits in (0, 6):
            evaluator.evaluate(tmp_path / "in", tmp_path / "out", flooding_bits=bits)
            (y,) = setting.account.decrypt(tmp_path / "out").values()
            errors.append(float(np.std(y - exact)))
    assert 16 < errors[1] / errors[0] < 256


def test_keys_of_the_other_family_are_refused(setting: Setting, tmp_path: Path) -> None:
    train = np.load(MODELS / "data" / "digits-train.npy")
    other = glyphc.compile(MODELS / "digits-mlp.onnx", train, 4, insecure_ring=1024)
    with pytest.raises(ArtifactError, match="other parameters"):
        Evaluator(make_setting(tmp_path, other).half, setting.keys)


def test_clients_refuse_moduli_that_are_too_large(setting: Setting) -> None:
    spec = setting.half.specification
    from dataclasses import replace

    parameters = replace(spec.client.parameters, security=SECURE)
    with pytest.raises(ParameterError, match="not 128-bit secure"):
        check_security(Specification(spec.program, replace(spec.client, parameters=parameters)))
