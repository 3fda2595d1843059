"""Programs on numbers in slots between a client and a server as files (small rings)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner

import glyphc
from glyphc.analysis.cost import CostModel
from glyphc.analysis.slot_cost import slot_estimate
from glyphc.cli import main
from glyphc.errors import ArtifactError, ParameterError
from glyphc.exchange.artifacts import Specification
from glyphc.exchange.client import check_security
from glyphc.exchange.key_checks import check_keys
from glyphc.exchange.server import Evaluator
from glyphc.ir.parameters import SECURE
from glyphc.progress import Silent
from glyphc.runtime import run
from glyphc.storage.container import MANIFEST, Reader, Writer
from glyphc.storage.headers import KEY_PART, KeysHeader
from tests.pass_networks import SAMPLES, mlp
from tests.roles import MODELS, Setting, make_setting


@pytest.fixture(scope="module", params=["openfhe", "kernels"])
def setting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    program = glyphc.compile(mlp("relu"), SAMPLES, 4, insecure_ring=1024, strategy="slots")
    return make_setting(tmp_path_factory.mktemp("slots"), program, request.param)


def exact(setting: Setting, x: npt.NDArray[np.float64]) -> npt.NDArray[np.floating]:
    (y,) = run(setting.program, x, "clear").outputs.values()
    return y


class _CutError(Exception):
    pass


class _Cutting(Silent):
    """Ends an evaluation after so many instructions."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, amount: float, what: str = "") -> None:
        self.left -= 1
        if not self.left:
            raise _CutError


def test_an_evaluation_that_was_cut_short_is_taken_up(setting: Setting, tmp_path: Path) -> None:
    """Six samples: a full pass and half of one. The first is cut among polynomials, with registers on all levels."""
    digest = setting.account.encrypt(SAMPLES[:6], tmp_path / "in")
    files = (tmp_path / "in", tmp_path / "out", tmp_path / "checkpoint")
    with Evaluator(setting.half, setting.keys) as evaluator:
        with pytest.raises(_CutError):
            evaluator.evaluate(*files, reporter=_Cutting(24), checkpoint_seconds=0.0)
        report = evaluator.evaluate(*files, checkpoint_seconds=1e9)
    assert report.resumed > 16
    (y,) = setting.account.decrypt(tmp_path / "out", digest).values()
    assert np.abs(y - exact(setting, SAMPLES[:6])).max() < 2.0**-10 * np.ptp(y)


def test_files_are_as_large_as_predicted(setting: Setting, tmp_path: Path) -> None:
    """Ciphertexts to the byte; what names them and says where they lie comes on top."""
    setting.account.encrypt(SAMPLES[:4], tmp_path / "in")
    with Evaluator(setting.half, setting.keys) as evaluator:
        evaluator.evaluate(tmp_path / "in", tmp_path / "out")
    predicted = slot_estimate(setting.program.schedule, CostModel())
    for name, size in (("in", predicted.upload_bytes), ("out", predicted.download_bytes)):
        with ZipFile(tmp_path / name) as file:
            parts = [part.file_size for part in file.infolist() if part.filename != MANIFEST]
        assert sum(parts) == size
        assert size < (tmp_path / name).stat().st_size < size + 512 * (len(parts) + 2)


def test_outputs_are_flooded_on_request(setting: Setting, tmp_path: Path) -> None:
    """Noise of 2^6 times the predicted deviation; what is there is about as large as predicted."""
    setting.account.encrypt(SAMPLES[:4], tmp_path / "in")
    errors = []
    with Evaluator(setting.half, setting.keys) as evaluator:
        for bits in (0, 6):
            evaluator.evaluate(tmp_path / "in", tmp_path / "out", flooding_bits=bits)
            (y,) = setting.account.decrypt(tmp_path / "out").values()
            errors.append(float(np.std(y - exact(setting, SAMPLES[:4]))))
    assert 16 < errors[1] / errors[0] < 256


def test_keys_of_the_other_engine_are_refused(setting: Setting, tmp_path: Path) -> None:
    with Reader(setting.keys, KeysHeader) as reader:
        header = reader.header
        assert all(KEY_PART.fullmatch(part) for part in reader.parts)
    check_keys(setting.keys, setting.half, engine=header.engine)
    other = {"openfhe": "kernels", "kernels": "openfhe"}[header.engine]
    with pytest.raises(ArtifactError, match=f"keys for the engine '{header.engine}', not for '{other}'"):
        check_keys(setting.keys, setting.half, engine=other)
    with Writer(tmp_path / "changed", replace(header, engine=other)):
        pass
    with pytest.raises(ArtifactError, match="in another form than this glyphc's"):
        check_keys(tmp_path / "changed", setting.half)


def test_keys_of_the_other_family_are_refused(setting: Setting, tmp_path: Path) -> None:
    other = glyphc.compile(mlp(), SAMPLES, 4, insecure_ring=1024)
    with pytest.raises(ArtifactError, match="other parameters"):
        Evaluator(make_setting(tmp_path, other).half, setting.keys)


def test_clients_refuse_moduli_that_are_too_large(setting: Setting) -> None:
    spec = setting.half.specification
    parameters = replace(spec.client.parameters, security=SECURE)
    with pytest.raises(ParameterError, match="not 128-bit secure"):
        check_security(Specification(spec.program, replace(spec.client, parameters=parameters)))


def test_what_a_user_sees(tmp_path: Path) -> None:
    """The commands on a program in slots: compile, inspect in all forms, run in all modes, both roles."""
    data = MODELS / "data"
    train, x = np.load(data / "breast-cancer-train.npy"), np.load(data / "breast-cancer-test.npy")
    files = {name: str(tmp_path / f"{name}.npy") for name in ("train", "x", "y", "labels", "out", "clear")}
    np.save(files["train"], train)
    np.save(files["x"], x[:8])
    np.save(files["labels"], np.load(data / "breast-cancer-test-labels.npy")[:8])
    program, client, server = str(tmp_path / "p.glyphc"), str(tmp_path / "client"), str(tmp_path / "server")

    def call(*arguments: str) -> str:
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
        return result.output

    said = call(
        "compile", str(MODELS / "breast-cancer-mlp.onnx"), "--calibration", files["train"], "--batch", "8",
        "--insecure-ring", "1024", "--strategy", "slots", "-o", program,
    )  # fmt: skip
    assert "polynomial for tanh" in said
    assert "held-out" in said
    assert "CKKS, ring 1024, 512 slots" in said
    assert "upload" in said
    assert "product" in call("inspect", program, "--stage", "schedule")
    assert "fit-polynomials chose" in call("inspect", program, "--why", "tanh1")
    assert "simulated" in call("inspect", program, "--accuracy", files["x"], files["labels"])
    for form in ("html", "json", "dot"):
        call("inspect", program, "--format", form, "-o", str(tmp_path / f"report.{form}"))
    for mode in ("clear", "simulate", "encrypted"):
        output = files["clear" if mode == "clear" else "out"]
        call("run", program, "--input", files["x"], "--output", output, "--mode", mode)
        np.testing.assert_allclose(np.load(output), np.load(files["clear"]), atol=2e-3)
    call("keygen", program, "--client", client, "--server", server)
    call("encrypt", "--client", client, "--input", files["x"], "--output", str(tmp_path / "in"))
    call("eval", "--server", server, "--input", str(tmp_path / "in"), "--output", str(tmp_path / "results"))
    call("decrypt", "--client", client, "--input", str(tmp_path / "results"), "--output", files["y"])
    np.testing.assert_allclose(np.load(files["y"]), np.load(files["clear"]), atol=2e-3)
