"""Client and server as files: keys, encrypted inputs and outputs, mix-ups, secrets (small rings)."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

import glyphc as package
from glyphc.backends.kernels import selftest
from glyphc.backends.openfhe.ckks_client import TrainingClient
from glyphc.backends.openfhe.client import ClientKeys
from glyphc.cli import main
from glyphc.errors import ArtifactError, DataError, GlyphcError, ParameterError, SecretError
from glyphc.exchange.artifacts import ServerProgram, Specification
from glyphc.exchange.client import SECRET_FILE, Account, check_security, load_account
from glyphc.exchange.key_checks import check_keys, keys_modulus
from glyphc.exchange.requests import check_request
from glyphc.exchange.secret import Secret, needs_passphrase
from glyphc.exchange.server import Evaluator
from glyphc.exchange.split import load_halves, split
from glyphc.ir.instructions.numbered import numbered
from glyphc.ir.parameters import SECURE
from glyphc.storage.container import MANIFEST, Reader, Writer
from glyphc.storage.headers import InputsHeader, KeysHeader, OutputsHeader, ProgramHeader, SpecHeader
from tests.roles import MODELS, Setting, compiled, make_setting, samples


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return make_setting(tmp_path_factory.mktemp("roles"), compiled())


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, setting: Setting) -> Setting:
    """Another client of the same program."""
    return make_setting(tmp_path_factory.mktemp("other"), setting.program)


@pytest.fixture
def evaluator(setting: Setting, other: Setting) -> Iterator[Evaluator]:
    with Evaluator(setting.half, setting.keys) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def request_file(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six samples: a full pass and half of one."""
    path = tmp_path_factory.mktemp("request") / "in"
    setting.account.encrypt(samples(6), path)
    return path


def test_a_round_trip_gives_what_a_run_gives(
    setting: Setting, evaluator: Evaluator, request_file: Path, tmp_path: Path
) -> None:
    report = evaluator.evaluate(request_file, tmp_path / "out", tmp_path / "checkpoint")
    assert (report.samples, report.passes, report.resumed) == (6, 2, 0)
    (logits,) = setting.account.decrypt(tmp_path / "out", check_inputs_digest(request_file)).values()
    x = samples(6)
    clear, simulated = (np.asarray(setting.program.run(x, mode=m)) for m in ("clear", "simulate"))
    deviation = np.sqrt(np.mean((simulated - clear) ** 2))
    assert np.sqrt(np.mean((logits - clear) ** 2)) < 2 * deviation + 1e-3 * np.ptp(clear)
    assert not (tmp_path / "checkpoint").exists()


def test_a_client_outlives_other_uses_of_openfhe(setting: Setting, request_file: Path, tmp_path: Path) -> None:
    """A whole run in the same process releases OpenFHE's contexts; one set of evaluation keys is held at a time."""
    with Evaluator(setting.half, setting.keys) as evaluator:
        evaluator.evaluate(request_file, tmp_path / "out")
        for attempt in (
            lambda: Evaluator(setting.half, setting.keys),
            lambda: make_setting(tmp_path / "more", setting.program),
            lambda: setting.program.run(samples(1)),
        ):
            with pytest.raises(GlyphcError, match="this process holds evaluation keys already"):
                attempt()
    (before,) = setting.account.decrypt(tmp_path / "out").values()
    setting.program.run(samples(1))
    (after,) = setting.account.decrypt(tmp_path / "out").values()
    assert np.array_equal(before, after)


def check_inputs_digest(path: Path) -> str:
    with Reader(path, InputsHeader) as reader:
        return reader.digest


def softmax_of_a_linear_map(path: Path) -> Path:
    """A network without a bootstrap, whose softmax the client computes."""
    random = np.random.default_rng(0)
    constants = {"w": random.normal(size=(64, 10)) / 16, "b": random.normal(size=10)}
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"]), helper.make_node("Softmax", ["y"], ["p"], axis=1)],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def test_a_program_without_bootstraps(tmp_path: Path) -> None:
    """And with a client's tail. Tensors in chunks have a test beside those of partial batches."""
    train = np.load(MODELS / "data" / "digits-train.npy")
    program = package.compile(softmax_of_a_linear_map(tmp_path / "linear.onnx"), train, 4, insecure_ring=1024)
    setting = make_setting(tmp_path / "setting", program)
    setting.account.encrypt(samples(6), tmp_path / "in")
    with Evaluator(setting.half, setting.keys) as evaluator:
        evaluator.evaluate(tmp_path / "in", tmp_path / "out", tmp_path / "checkpoint")
    (found,) = setting.account.decrypt(tmp_path / "out").values()
    assert np.abs(found - np.asarray(program.run(samples(6), mode="clear"))).max() < 1e-9


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("layout=Layout(ring=1024", "layout=Layout(ring=2048", "another ring or batch"),
        ("batch=4)", "batch=5)", "another ring or batch"),
        ("features=64", "features=63", "another size than its tensor"),
        ("hi=4095", "hi=999999999999", "do not fit the plaintext modulus"),
        ("ClientSpec(", "Layout(", "expected ClientSpec"),
        ("shape=[64]", "shape=[[64]]", "unreadable"),
        ("inputs=[", "inputs=[] (", "unexpected text"),
    ],
)
def test_specifications_that_no_compiler_made_are_refused(
    old: str, new: str, message: str, setting: Setting, tmp_path: Path
) -> None:
    with Reader(setting.client / "client.spec", SpecHeader) as reader:
        text, header = reader.read("spec").decode(), reader.header
    assert old in text
    with Writer(tmp_path / "bad.spec", header) as writer:
        writer.add("spec", text.replace(old, new, 1).encode())
    with pytest.raises(ArtifactError, match=message):
        Specification.load(tmp_path / "bad.spec")


@pytest.mark.parametrize("changes", [{"security": "insecure"}, {"level_budget": (9, 9), "scaling_bits": 55}])
def test_a_client_checks_security_itself(changes: dict[str, object], setting: Setting) -> None:
    secure = replace(setting.account.spec.client.parameters, ring=65536, security=SECURE)
    check_security(Specification("0" * 64, replace(setting.account.spec.client, parameters=secure)))
    weak = replace(secure, **changes)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match=r"protect nothing|not 128-bit secure"):
        check_security(Specification("0" * 64, replace(setting.account.spec.client, parameters=weak)))


# -- what goes where, and how much --


def test_the_client_gets_no_weights_and_the_server_no_calibration(setting: Setting, tmp_path: Path) -> None:
    whole = tmp_path / "whole.glyphc"
    setting.program.save(whole)
    assert (setting.client / "client.spec").stat().st_size < 4096
    spec = Specification.load(setting.client / "client.spec")
    assert spec.client == numbered(setting.program.schedule).client
    assert load_halves(whole).server.specification == spec
    assert ServerProgram.load(setting.server / "program.server").specification == spec
    with Reader(setting.client / "client.spec", SpecHeader) as reader:
        text = reader.read("spec")
    assert b"const" not in text and b"series" not in text and b"Calibration" not in text
    assert any(n.type.calibration is not None for n in setting.program.graph)
    # what the server has are instructions: there is no graph that calibration could stand in
    with Reader(setting.server / "program.server", ProgramHeader) as reader:
        kinds = {name.partition("/")[0] for name in reader.parts}
        assert kinds == {"spec", "outline", "noise", "code", "weights"}
        assert zlib.decompress(reader.read("code/000000")).startswith(b"glyphc-code")


def test_files_are_compact(setting: Setting, request_file: Path, evaluator: Evaluator, tmp_path: Path) -> None:
    """Against OpenFHE's own serialised objects: keys at most 45 %, inputs 50 %, outputs 45 %."""
    from glyphc.backends.openfhe import keys as backend
    from glyphc.backends.openfhe.library import fhe

    with Reader(setting.keys, KeysHeader) as reader:
        torus = sum(p.size for p in reader.parts.values() if p.name.startswith("torus/"))
    assert torus < 0.45 * backend.bootstrap_key_bytes(evaluator.engine._keys)  # type: ignore[attr-defined]
    raw = len(fhe.Serialize(setting.account.engine.keys.encrypt(np.zeros(1024, dtype=np.int64)), fhe.BINARY))
    with Reader(request_file, InputsHeader) as inputs:
        assert all(p.size < raw / 2 for p in inputs.parts.values())
    evaluator.evaluate(request_file, tmp_path / "out")
    with Reader(tmp_path / "out", OutputsHeader) as outputs:
        assert all(p.size < 0.45 * raw for p in outputs.parts.values())


def test_modes_of_files(setting: Setting) -> None:
    assert stat.S_IMODE((setting.client / SECRET_FILE).stat().st_mode) == 0o600


# -- mix-ups, each found before anything is computed --


def swapped(path: Path, target: Path, **header: object) -> Path:
    """A copy whose header says something else."""
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    manifest = json.loads(entries[MANIFEST])
    manifest["header"].update(header)
    entries[MANIFEST] = json.dumps(manifest).encode()
    with zipfile.ZipFile(target, "w") as new:
        for name, content in entries.items():
            new.writestr(name, content)
    return target


def test_inputs_for_another_program_or_key_are_refused(
    setting: Setting, other: Setting, request_file: Path, tmp_path: Path
) -> None:
    keys = check_keys(other.keys, setting.half)
    with pytest.raises(ArtifactError, match="encrypted with other keys"):
        check_request(request_file, setting.half, keys, keys_modulus(other.keys))
    stranger = split(compiled(2).graph).server
    with pytest.raises(ArtifactError, match="encrypted for another program"):
        check_request(request_file, stranger, check_keys(setting.keys, setting.half), keys_modulus(setting.keys))
    for changes, message in (
        ({"samples": 9}, "it has 2 parts, 9 samples take 3"),
        ({"samples": 2**61}, "samples take"),
        ({"samples": 0}, "0 samples take"),
        ({"seed": "xy"}, "seed is not one of 32 bytes"),
        ({"seed": "00"}, "seed is not one of 32 bytes"),
    ):
        changed = swapped(request_file, tmp_path / "changed", **changes)
        with pytest.raises(ArtifactError, match=message):
            check_request(changed, setting.half, check_keys(setting.keys, setting.half), keys_modulus(setting.keys))


def test_keys_for_other_parameters_are_refused(setting: Setting) -> None:
    stranger = split(compiled(8, ring=2048).graph).server
    with pytest.raises(ArtifactError, match="made for other parameters"):
        check_keys(setting.keys, stranger)
    with pytest.raises(ArtifactError, match="made for other parameters"):
        Evaluator(stranger, setting.keys)
    with pytest.raises(ArtifactError, match="made for other parameters"):
        Account(stranger.specification, setting.account.secret)


def test_outputs_of_others_are_refused(
    setting: Setting, other: Setting, evaluator: Evaluator, request_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    evaluator.evaluate(request_file, out)
    with pytest.raises(ArtifactError, match="made with other keys"):
        other.account.decrypt(out)
    with pytest.raises(ArtifactError, match="outputs of other inputs"):
        setting.account.decrypt(out, "0" * 64)
    for changes, message in (
        ({"program": "0" * 64}, "another program"),
        ({"modulus_bits": 40}, "bytes, not"),
        ({"modulus_bits": 63}, "not one that outputs have"),
        ({"samples": 5}, "bytes, not"),
    ):
        with pytest.raises(ArtifactError, match=message):
            setting.account.decrypt(swapped(out, tmp_path / "changed", **changes))


def test_kinds_of_files_are_not_confused(setting: Setting, request_file: Path) -> None:
    with pytest.raises(ArtifactError, match="holds encrypted inputs; a file of evaluation keys is needed"):
        check_keys(request_file, setting.half)
    with pytest.raises(ArtifactError, match="holds encrypted inputs; a file of encrypted outputs is needed"):
        setting.account.decrypt(request_file)
    with pytest.raises(ArtifactError, match="holds a secret key; a file of encrypted inputs is needed"):
        check_request(setting.client / SECRET_FILE, setting.half, "", 1)


def test_residues_out_of_range_never_reach_openfhe(
    setting: Setting, evaluator: Evaluator, request_file: Path, tmp_path: Path
) -> None:
    """A file whose hashes are right but whose numbers are not below the modulus."""
    bad = tmp_path / "bad"
    with Reader(request_file, InputsHeader) as reader, Writer(bad, reader.header) as writer:
        for part in reader.parts.values():
            writer.add(part.name, b"\xff" * part.size)
    with pytest.raises(ArtifactError, match="a residue is not below its modulus"):
        evaluator.evaluate(bad, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_flipped_bit_in_the_keys_is_found(setting: Setting, tmp_path: Path) -> None:
    damaged = tmp_path / "keys"
    whole = bytearray(setting.keys.read_bytes())
    whole[len(whole) // 2] ^= 1
    damaged.write_bytes(whole)
    with pytest.raises(ArtifactError, match=r"part torus/automorphism-\d+ is unreadable .*CRC"):
        Evaluator(setting.half, damaged)


# -- the secret --


def test_a_passphrase_protects_the_secret(setting: Setting, tmp_path: Path) -> None:
    secret = setting.account.secret
    path = tmp_path / "secret.key"
    secret.save(path, "correct horse")
    assert needs_passphrase(path)
    assert not needs_passphrase(setting.client / SECRET_FILE)
    assert secret.ternary.astype(np.int8).tobytes()[:200] not in path.read_bytes()
    assert np.array_equal(Secret.load(path, "correct horse").ternary, secret.ternary)
    with pytest.raises(SecretError, match="wrong passphrase"):
        Secret.load(path, "incorrect horse")
    with pytest.raises(SecretError, match="needs its passphrase"):
        Secret.load(path)
    with pytest.raises(SecretError, match="is not encrypted"):
        Secret.load(setting.client / SECRET_FILE, "correct horse")
    # what the encryption does not hide it still protects
    with pytest.raises(SecretError, match="wrong passphrase"):
        Secret.load(swapped(path, tmp_path / "changed", key="0" * 64), "correct horse")
    with pytest.raises(ArtifactError, match="unusual encryption"):
        Secret.load(swapped(path, tmp_path / "changed", scrypt_log2_cost=40), "correct horse")


def test_a_passphrase_is_one_however_it_is_typed(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Composed and decomposed letters, wide digits; and files made before this was so."""
    path, (composed, typed) = tmp_path / "secret.key", ("Zürich 12", "Zu\u0308rich \uff11\uff12")
    setting.account.secret.save(path, typed)
    for each in (composed, typed):
        assert np.array_equal(Secret.load(path, each).ternary, setting.account.secret.ternary)
    monkeypatch.setattr("glyphc.exchange.secret.normalized", str)
    setting.account.secret.save(path, typed)
    with pytest.raises(SecretError, match="wrong passphrase"):
        Secret.load(path, composed)
    monkeypatch.undo()
    assert np.array_equal(Secret.load(path, typed).ternary, setting.account.secret.ternary)


def test_no_core_dumps_where_a_secret_is_read(setting: Setting) -> None:
    """In a process of its own, since other tests have read one in this."""
    script = (
        "import ctypes, resource, sys; from pathlib import Path; from glyphc.exchange.secret import Secret; "
        "dumps = lambda: (resource.getrlimit(resource.RLIMIT_CORE)[0], ctypes.CDLL(None).prctl(3)); "
        "high = resource.getrlimit(resource.RLIMIT_CORE)[1]; resource.setrlimit(resource.RLIMIT_CORE, (high, high)); "
        "print(dumps() == (high, 1)); Secret.load(Path(sys.argv[1])); print(dumps())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, setting.client / SECRET_FILE], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:2] == ["True", "(0, 0)" if sys.platform == "linux" else "(0, 1)"]


def test_a_secret_that_others_may_read_is_refused(setting: Setting, tmp_path: Path) -> None:
    shutil.copytree(setting.client, tmp_path / "client")
    (tmp_path / "client" / SECRET_FILE).chmod(0o644)
    with pytest.raises(ArtifactError, match="chmod 600"):
        load_account(tmp_path / "client")
    with pytest.raises(DataError, match=r"no secret\.key"):
        load_account(tmp_path)


def test_encryption_is_fresh_and_hides_the_message(setting: Setting, tmp_path: Path) -> None:
    """The same samples twice give unrelated files (another seed, another error), with the same shape."""
    files = [tmp_path / "a", tmp_path / "b"]
    for path in files:
        setting.account.encrypt(samples(1), path)
    readers = [Reader(path, InputsHeader) for path in files]
    assert readers[0].header.seed != readers[1].header.seed
    first, second = (np.frombuffer(r.read(next(iter(r.parts))), dtype=np.uint8) for r in readers)
    assert np.mean(first == second) < 0.02  # 1 in 256 by chance, more in the top byte
    for reader in readers:
        reader.close()


# -- sanitized outputs --


def test_sanitized_outputs_are_noisier_and_rerandomised(
    setting: Setting, evaluator: Evaluator, request_file: Path, tmp_path: Path
) -> None:
    plain, flooded, again = (tmp_path / n for n in ("plain", "flooded", "again"))
    evaluator.evaluate(request_file, plain)
    evaluator.evaluate(request_file, flooded, flooding_bits=6)
    evaluator.evaluate(request_file, again, flooding_bits=6)
    (y,), (z,) = (setting.account.decrypt(p).values() for p in (plain, flooded))
    (port,) = setting.account.spec.client.outputs
    wanted = setting.half.noise[port.name] * 2.0**6 * port.fixed.scale[0]
    assert 0.7 * wanted < np.sqrt(np.mean((z - y) ** 2)) < 1.4 * wanted
    with Reader(flooded, OutputsHeader) as a, Reader(again, OutputsHeader) as b:
        assert a.header.flooding_bits == 6
        assert all(a.read(name) != b.read(name) for name in a.parts)
    # without it an evaluation is a function of its inputs
    evaluator.evaluate(request_file, again)
    with Reader(plain, OutputsHeader) as a, Reader(again, OutputsHeader) as b:
        assert all(a.read(name) == b.read(name) for name in a.parts)


def test_dropped_positions_cannot_be_read(
    setting: Setting, evaluator: Evaluator, request_file: Path, tmp_path: Path
) -> None:
    """Outputs carry c0 at the useful positions only: other sums of hidden values are not sent."""
    evaluator.evaluate(request_file, tmp_path / "out")
    with Reader(tmp_path / "out", OutputsHeader) as reader:
        width = reader.header.modulus_bits // 8
        sizes = [p.size for p in reader.parts.values()]
    assert sizes == [(1024 + 4 * 10) * width, (1024 + 2 * 10) * width]


def test_parameters_of_a_secret_are_checked(setting: Setting) -> None:
    secret = replace(setting.account.secret, parameters=replace(setting.account.secret.parameters, plaintext_bits=20))
    with pytest.raises(ArtifactError, match="other parameters"):
        Account(setting.account.spec, secret)


def test_no_repr_shows_a_secret(setting: Setting) -> None:
    ternary = np.array([1, -1, 0, 1])
    secret = Secret("digest", setting.program.client.parameters, ternary)
    for text in (repr(secret), str(secret)):
        assert "digest" in text
        assert "ternary" not in text
        assert str(ternary) not in text
    for holder in (ClientKeys, TrainingClient):
        shown = {f.name for f in fields(holder) if f.repr}
        assert shown == {"contexts"}


def test_files_of_the_roles_are_no_programs(setting: Setting, request_file: Path) -> None:
    """'glyphc inspect' and the like say what a file is, and what reads it."""
    for path, words in (
        (setting.server / "program.server", ["a server program", "'glyphc eval --program'", "glyphc serve"]),
        (setting.client / "client.spec", ["a client specification", "'glyphc encrypt --spec'"]),
        (setting.keys, ["evaluation keys", "'glyphc eval'"]),
        (setting.client / SECRET_FILE, ["a secret key", "'glyphc decrypt'"]),
        (request_file, ["encrypted inputs", "'glyphc eval --input'"]),
        (setting.server, ["is a folder", "eval --server"]),
    ):
        result = CliRunner().invoke(main, ["inspect", str(path)])
        assert result.exit_code == 2, result.output
        said = " ".join(result.output.split())
        assert all(word in said for word in [*words, "glyphc compile"]), said


def test_eval_says_where_programs_and_keys_come_from(setting: Setting, request_file: Path, tmp_path: Path) -> None:
    rest = ["--input", str(request_file), "--output", str(tmp_path / "out")]
    empty = tmp_path / "server"
    empty.mkdir()
    result = CliRunner().invoke(main, ["eval", "--server", str(empty), *rest])
    assert result.exit_code == 2
    said = " ".join(result.output.split())
    for word in ("program.server", "glyphc keygen PROGRAM.glyphc", "glyphc split", "--program"):
        assert word in said
    shutil.copy(setting.server / "program.server", empty)
    result = CliRunner().invoke(main, ["eval", "--server", str(empty), *rest])
    assert result.exit_code == 2
    assert "evaluation.keys" in result.output
    assert "glyphc keygen" in result.output
    assert not (tmp_path / "out").exists()


def test_keygen_says_which_engine_its_keys_serve(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting.program.save(tmp_path / "p.glyphc")
    monkeypatch.setattr(selftest, "problem", lambda: "no fused multiply-add here")
    folders = ["--client", str(tmp_path / "c"), "--server", str(tmp_path / "s")]
    result = CliRunner().invoke(main, ["keygen", str(tmp_path / "p.glyphc"), *folders])
    assert result.exit_code == 0, result.output
    assert "keys are for the engine openfhe (kernels: no fused multiply-add here)" in result.output
