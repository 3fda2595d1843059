"""glyphc as a library: compile, run, save, load, and errors that a caller can catch."""

from __future__ import annotations

import errno
import stat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import glyphc
from glyphc import errors
from glyphc.frontends.from_onnx import read_onnx
from glyphc.ir.graph import Graph
from glyphc.passes.pipeline import PASSES
from glyphc.program import InsecureWarning, Program
from glyphc.runtime import Mode, run

MODELS = Path(__file__).resolve().parents[1] / "models"
DIGITS = MODELS / "digits-mlp.onnx"
F64 = npt.NDArray[np.floating[Any]]
# tests use small rings on purpose; one of them checks that this is said
pytestmark = pytest.mark.filterwarnings("ignore:NOT SECURE")


def network(name: str = "x") -> ModelProto:
    """Two outputs of different shapes, one of them computed by the client at the end."""
    random = np.random.default_rng(5)
    weights = {
        "w": random.normal(size=(6, 4)).astype(np.float32),
        "v": random.normal(size=(4, 3)).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", [name, "w"], ["h"]),
        helper.make_node("Tanh", ["h"], ["features"]),
        helper.make_node("MatMul", ["features", "v"], ["z"]),
        helper.make_node("Softmax", ["z"], ["probabilities"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "two-outputs",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 6])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3]),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 4]),
        ],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


SAMPLES = np.random.default_rng(6).uniform(-1, 1, (40, 6)).astype(np.float32)


def reference(model: ModelProto | Path, x: F64) -> dict[str, F64]:
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source)
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(None, {session.get_inputs()[0].name: x.astype(np.float32)}), strict=True))


@pytest.fixture(scope="module")
def x() -> F64:
    return np.asarray(np.load(MODELS / "data" / "digits-test.npy"))


@pytest.fixture(scope="module")
def train() -> F64:
    return np.asarray(np.load(MODELS / "data" / "digits-train.npy"))


@pytest.fixture(scope="module")
def digits(train: F64) -> Program:
    return glyphc.compile(str(DIGITS), calibration=train, batch=128)


@pytest.fixture(scope="module")
def two() -> Program:
    return glyphc.compile(network(), calibration=SAMPLES, batch=16, insecure_ring=1024)


# -- compile and run ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["clear", "simulate", Mode.CLEAR, Mode.SIMULATE])
def test_run_returns_an_array_for_one_output(mode: Mode | str, digits: Program, x: F64) -> None:
    y = digits.run(x, mode=mode)
    assert isinstance(y, np.ndarray)
    assert (y.shape, y.dtype) == ((512, 10), np.float64)
    expected = reference(DIGITS, x)["logits"]
    assert np.mean(y.argmax(axis=1) == expected.argmax(axis=1)) >= 0.99
    assert np.abs(y - expected).max() < 0.05 * np.ptp(expected)


@pytest.mark.parametrize("mode", ["clear", "simulate", "encrypted"])
def test_run_returns_a_dictionary_for_several_outputs(mode: str, two: Program) -> None:
    y = two.run(SAMPLES, mode=mode)
    assert isinstance(y, dict)
    expected = reference(network(), SAMPLES)
    assert list(y) == list(expected) == ["probabilities", "features"]
    for name, values in expected.items():
        assert y[name].shape == values.shape
        assert np.abs(y[name] - values).max() < 0.02
    np.testing.assert_allclose(y["probabilities"].sum(axis=1), 1, atol=1e-9)


def test_encrypted_is_the_default(two: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    from glyphc.backends.kernels import client

    made = []
    genuine = client.generate_keys
    monkeypatch.setattr(client, "generate_keys", lambda parameters: made.append(1) or genuine(parameters))
    for mode in ("clear", "simulate"):
        two.run(SAMPLES[:1], mode=mode)
    assert made == []
    two.run(SAMPLES[:1])
    assert made == [1]
    assert run(two, SAMPLES[:1]).mode is Mode.ENCRYPTED
    assert made == [1, 1]


def test_insecure_programs_warn_python_users() -> None:
    """At compile time and whenever data is encrypted."""
    with pytest.warns(InsecureWarning, match="NOT SECURE"):
        program = glyphc.compile(network(), SAMPLES, insecure_ring=1024)
    with pytest.warns(InsecureWarning, match="NOT SECURE"):
        program.run(SAMPLES[:1])


def test_simulations_can_be_repeated(digits: Program, x: F64) -> None:
    first, second = (digits.run(x[:200], mode="simulate") for _ in range(2))
    assert isinstance(first, np.ndarray)
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - digits.run(x[:200], mode="clear")).max() > 1e-6, "it adds noise"


@pytest.mark.parametrize("count", [1, 127, 128, 129, 300])
def test_any_number_of_samples(count: int, digits: Program, x: F64) -> None:
    report = run(digits, x[:count], "simulate")
    assert report.samples == count
    assert report.passes == -(-count // 128)
    y = report.outputs["logits"]
    assert y.shape == (count, 10)
    # the order of samples survives the passes
    assert np.abs(y - digits.run(x[:count], mode="clear")).max() < 2.0


def test_samples_as_lists_mappings_and_other_dtypes(digits: Program, x: F64) -> None:
    expected = digits.run(x[:3], mode="clear")
    for given in (x[:3].tolist(), {"pixels": x[:3]}, x[:3].astype(np.uint8), x[:3].astype(np.float64)):
        np.testing.assert_array_equal(digits.run(given, mode="clear"), expected)


def test_the_model_in_every_form(train: F64, digits: Program) -> None:
    """Path, text, bytes, ModelProto and source graph give the same program."""
    expected = digits.to_bytes()
    proto = onnx.load(DIGITS)
    kept = proto.SerializeToString()
    for model in (DIGITS, DIGITS.read_bytes(), proto, read_onnx(DIGITS)):
        assert glyphc.compile(model, calibration=train, batch=128).to_bytes() == expected
    assert proto.SerializeToString() == kept, "the caller's model is left as it was"


def test_calibration_in_every_form(train: F64, digits: Program) -> None:
    expected = digits.to_bytes()
    for calibration in (train.astype(np.float64), {"pixels": train}, train.astype(np.uint8), train.tolist()):
        assert glyphc.compile(DIGITS, calibration, 128).to_bytes() == expected


def test_the_default_batch_is_one(train: F64, x: F64) -> None:
    program = glyphc.compile(DIGITS, train)
    assert (program.requested_batch, program.client.batch) == (1, 1)
    assert np.shape(program.run(x[:2], mode="simulate")) == (2, 10)


def test_calibration_samples_are_not_stored(train: F64, digits: Program) -> None:
    for graph in digits.stages.values():
        assert all(value.size < train.size // 10 for value in graph.constants.values())


def test_a_batch_of_more_than_one_pass(train: F64) -> None:
    """32 hidden values of 2048 samples fill a ciphertext, and a tensor may take sixteen of them."""
    program = glyphc.compile(DIGITS, train, batch=50000, strategy="glyph")
    assert program.requested_batch == 50000
    assert program.client.batch == 16 * 2048


def test_stages_in_order(train: F64) -> None:
    digits = glyphc.compile(DIGITS, train, 128, strategy="glyph")
    # there are no comparisons to encrypt as ranks
    others = ("validate-", "rank-")
    about = [p.name for p in PASSES.values() if p.slots is not True and p.only is None]
    taken = [name for name in about if not name.startswith(others)]
    assert list(digits.stages) == ["source", *taken]
    assert list(digits.stages)[1:3] == ["expand", "fold"]
    assert all(isinstance(graph, Graph) for graph in digits.stages.values())
    assert digits.graph == digits.stages["select-parameters"]
    assert digits.quantized == digits.stages["quantize"]
    assert digits.secure


# -- artifacts ----------------------------------------------------------------------------------------------


def test_save_and_load(digits: Program, x: F64, tmp_path: Path) -> None:
    path = tmp_path / "digits.glyphc"
    digits.save(path)
    simulated = digits.run(x[:140], mode="simulate")
    for loaded in (Program.load(path), glyphc.load(str(path)), Program.from_bytes(path.read_bytes())):
        assert list(loaded.stages.items()) == list(digits.stages.items())
        assert loaded.requested_batch == digits.requested_batch
        assert loaded.client == digits.client
        assert loaded.to_bytes() == path.read_bytes()
        np.testing.assert_array_equal(loaded.run(x[:140], mode="simulate"), simulated)


def test_an_insecure_program_stays_insecure(two: Program, tmp_path: Path) -> None:
    two.save(tmp_path / "two.glyphc")
    assert not two.secure
    assert not glyphc.load(tmp_path / "two.glyphc").secure


def test_saving_replaces_a_file_and_leaves_no_other(
    digits: Program, two: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.glyphc"
    two.save(path)
    digits.save(path)
    assert path.read_bytes() == digits.to_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["net.glyphc"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o444 == 0o444, "readable like other files"
    # a name without a folder is one in the current folder
    monkeypatch.chdir(tmp_path)
    two.save("here.glyphc")
    assert (tmp_path / "here.glyphc").read_bytes() == two.to_bytes()


@pytest.mark.parametrize("name", ["missing/net.glyphc", "folder"])
def test_saving_where_nothing_can_be_written(name: str, two: Program, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(errors.ArtifactError, match="cannot write"):
        two.save(tmp_path / name)
    assert [p.name for p in tmp_path.rglob("*")] == ["folder"]


def test_a_full_disk_leaves_the_older_file(
    two: Program, digits: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "net.glyphc"
    two.save(path)
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(errors.ArtifactError, match=r"cannot write .*: No space left on device"):
        digits.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["net.glyphc"]
    assert path.read_bytes() == two.to_bytes()


def test_devices_are_not_replaced_by_files(two: Program) -> None:
    with pytest.raises(errors.ArtifactError, match="not a regular file"):
        two.save("/dev/null")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


# -- errors -------------------------------------------------------------------------------------------------


def test_all_errors_have_one_base() -> None:
    found = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, Exception)]
    kinds = [kind for kind in found if not issubclass(kind, Warning)]
    assert len(kinds) >= 7
    for kind in kinds:
        assert issubclass(kind, glyphc.GlyphcError), kind
        assert kind("x").exit_code != 0


@pytest.mark.parametrize(
    ("keywords", "kind", "part"),
    [
        ({"model": "no.onnx"}, errors.ModelError, "'no.onnx' does not exist"),
        ({"model": b"bytes"}, errors.ModelError, "the given data"),
        ({"calibration": None}, errors.CalibrationError, "no calibration samples for input 'x'"),
        ({"calibration": {"y": SAMPLES}}, errors.CalibrationError, "unknown input.* y; inputs: x"),
        ({"calibration": SAMPLES[:, :5]}, errors.CalibrationError, r"shape \[40, 5\]"),
        ({"calibration": SAMPLES[:0]}, errors.CalibrationError, r"shape \[0, 6\]"),
        ({"calibration": SAMPLES.astype(str)}, errors.CalibrationError, "not numbers"),
        ({"calibration": SAMPLES * np.nan}, errors.CalibrationError, "40 of 40 .* NaN"),
        ({"batch": 0}, errors.GlyphcError, "batch must be at least 1, not 0"),
        ({"batch": -1}, errors.GlyphcError, "batch must be at least 1, not -1"),
        ({"insecure_ring": 1000}, errors.GlyphcError, "insecure_ring must be one of .* not 1000"),
        ({"insecure_ring": 65536}, errors.GlyphcError, "insecure_ring must be one of .* not 65536"),
        ({"passes": "fold,sort"}, errors.GlyphcError, "unknown pass 'sort'"),
        ({"passes": ""}, errors.GlyphcError, "end before parameters"),
    ],
)
def test_errors_of_compile(keywords: dict[str, Any], kind: type[Exception], part: str) -> None:
    arguments: dict[str, Any] = {"model": network(), "calibration": SAMPLES} | keywords
    with pytest.raises(kind, match=part):
        glyphc.compile(**arguments)


def test_ragged_calibration() -> None:
    with pytest.raises(errors.CalibrationError, match="'x'"):
        glyphc.compile(network(), calibration=[[1.0, 2.0], [3.0]])


def test_several_calibrations_for_one_input() -> None:
    with pytest.raises(errors.CalibrationError, match="two, zero; inputs: x"):
        glyphc.compile(network(), calibration={"zero": SAMPLES, "two": SAMPLES})


@pytest.mark.parametrize("mode", ["clear", "simulate", "encrypted"])
@pytest.mark.parametrize(
    ("given", "part"),
    [
        (SAMPLES[:, :5], r"shape \[40, 5\]; the network takes \(samples, 6\)"),
        (SAMPLES[0], r"shape \[6\]"),
        ([[1.0], [2.0, 3.0]], "inhomogeneous"),
        ("samples.npy", "of type <U"),
        (SAMPLES * np.inf, "NaN or infinity"),
        (SAMPLES * 1000, "outside the calibrated range"),
        ({"features": SAMPLES}, r"input\(s\) x; got features"),
    ],
)
def test_errors_of_run(given: Any, part: str, mode: str, two: Program) -> None:
    with pytest.raises(errors.DataError, match=part):
        two.run(given, mode=mode)


@pytest.mark.parametrize("mode", ["fast", "", "Clear", None, 3])
def test_unknown_modes(mode: Any, two: Program) -> None:
    with pytest.raises(errors.GlyphcError, match=r"unknown mode .*; known: encrypted, simulate, clear"):
        two.run(SAMPLES, mode=mode)


@pytest.mark.parametrize(("name", "message"), [("no.glyphc", "cannot read"), (".", "is a folder")])
def test_errors_of_load(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(errors.ArtifactError, match=message):
        glyphc.load(tmp_path / name)


def test_errors_carry_no_foreign_context(tmp_path: Path) -> None:
    """A caller who prints the traceback sees our message, not zipfile's."""
    with pytest.raises(errors.ArtifactError) as caught:
        Program.from_bytes(b"PK\x03\x04")
    assert caught.value.__suppress_context__


def test_the_package_has_no_other_names() -> None:
    own = ["Client", "activations", "register_activation", "unregister_activation"]
    assert sorted(glyphc.__all__) == sorted(["GlyphcError", "Program", "__version__", "compile", "load", *own])
    for name in glyphc.__all__:
        assert getattr(glyphc, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'compyle'"):
        glyphc.compyle  # noqa: B018


def test_dir_shows_what_is_public() -> None:
    assert set(glyphc.__all__) <= set(dir(glyphc))
