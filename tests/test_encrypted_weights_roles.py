"""Encrypted weights in files: artifacts, keys, both roles, the commands and the service; none holds a value."""

from __future__ import annotations

import base64
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples, graphs

import glyphc
from glyphc.cli import main
from glyphc.errors import ArtifactError
from glyphc.exchange.artifacts import ServerProgram
from glyphc.exchange.client import generate
from glyphc.exchange.key_checks import check_keys
from glyphc.exchange.server import Evaluator
from glyphc.exchange.split import load_halves, split
from glyphc.ir.errors import IRError
from glyphc.ir.graph import Graph, with_constants
from glyphc.ir.ops import Linear
from glyphc.ir.text import parse, to_text
from glyphc.program import Program
from glyphc.storage.container import Reader, Writer
from glyphc.storage.headers import BINDING, KeysHeader
from tests.roles import MODELS, Setting, compiled, make_setting, samples
from tests.services import Place

# -- files --


def decompressed(path: Path) -> Iterator[tuple[str, bytes]]:
    """Everything in an archive: its own bytes, its parts, unpacked where they are, and constants in graphs' texts."""
    yield "archive", path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            content = archive.read(name)
            yield name, content
            with suppress(zlib.error):
                yield name, zlib.decompress(content)
            for data in re.findall(rb'const "[^"]*" \w+ \[[^\]]*\] "([^"]*)"', content):
                yield name, zlib.decompress(base64.b64decode(data))


def forms(values: npt.NDArray[np.generic]) -> list[bytes]:
    """Some elements of a tensor in the ways that they might be written."""
    flat = values.ravel()
    some = flat[np.argsort(-np.abs(flat))[:3]]
    found = [v.astype(kind).tobytes() for v in some for kind in (np.float64, np.float32)]
    found += [flat[:4].astype(np.int64).tobytes()] if values.dtype.kind == "i" else []
    return found + [repr(float(v)).encode() for v in some if values.dtype.kind == "f"]


def test_files_hold_no_values(tmp_path: Path) -> None:
    program = compiled(encrypt_weights="fc1.weight,fc1.bias")
    program.save(tmp_path / "p.glyphc")
    program.save_weights(tmp_path / "p.weights")
    load_halves(tmp_path / "p.glyphc").server.save(tmp_path / "p.server")
    assert (tmp_path / "p.weights").stat().st_mode & 0o077 == 0
    secrets = []
    for graph in program.stages.values():
        for holder in graph:
            if "fc1" in holder.location:
                secrets += [form for n in holder.op.constant_names() for form in forms(graph.constant(n))]
    secrets += [p.values[:4].tobytes() for p in program.schedule.secret.values()]
    assert len(secrets) > 50
    plain = compiled()
    plain.save(tmp_path / "plain.glyphc")
    for name in ("p.glyphc", "p.server"):
        content = b"\n".join(part for _, part in decompressed(tmp_path / name))
        assert [s for s in secrets if s in content] == []
    # the search finds them where they are
    content = b"\n".join(part for _, part in decompressed(tmp_path / "plain.glyphc"))
    assert sum(s in content for s in secrets) > 20


def test_an_artifact_and_its_weights_are_the_program(tmp_path: Path) -> None:
    program = compiled(encrypt_weights="fc2.weight")
    program.save(tmp_path / "p.glyphc")
    program.save_weights(tmp_path / "p.weights")
    loaded = Program.load(tmp_path / "p.glyphc")
    assert all(g == program.public_stages[name] for name, g in loaded.stages.items())
    whole = Program.load(tmp_path / "p.glyphc", tmp_path / "p.weights")
    assert whole.stages == program.stages
    assert loaded.fingerprint == whole.fingerprint == program.fingerprint
    assert loaded.schedule.instructions == program.schedule.instructions
    assert loaded.client == program.client
    assert loaded.schedule.secret == {}
    x = samples(3)
    np.testing.assert_array_equal(whole.run(x, mode="simulate"), program.run(x, mode="simulate"))
    for mode in ("clear", "simulate", "encrypted"):
        with pytest.raises(ArtifactError, match="its file is without them: give the file of weights"):
            loaded.run(x, mode=mode)
    with pytest.raises(ArtifactError, match="its file is without them"):
        loaded.save_weights(tmp_path / "w")
    with pytest.raises(ArtifactError, match="no encrypted weights"):
        compiled().save_weights(tmp_path / "w")
    # the server's half is the same, whoever makes it
    assert split(program.graph).server.fingerprint == load_halves(tmp_path / "p.glyphc").server.fingerprint


def test_weights_of_others_are_refused(tmp_path: Path) -> None:
    for batch in (1, 4):
        program = compiled(batch, encrypt_weights="all")
        program.save(tmp_path / f"{batch}.glyphc")
        program.save_weights(tmp_path / f"{batch}.weights")
    with pytest.raises(ArtifactError, match="the weights of another program"):
        Program.load(tmp_path / "1.glyphc", tmp_path / "4.weights")
    with pytest.raises(ArtifactError, match="cannot read"):
        Program.load(tmp_path / "1.glyphc", tmp_path / "none.weights")
    damaged = bytearray((tmp_path / "1.weights").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "1.weights").write_bytes(damaged)
    with pytest.raises(ArtifactError, match=r"1\.weights' is not usable"):
        Program.load(tmp_path / "1.glyphc", tmp_path / "1.weights")


@examples(25)
@given(graphs(max_steps=4), st.data())
def test_withheld_constants_have_a_text(graph: Graph, data: st.DataObject) -> None:
    # weights alone are withheld, no places of sparse matrices and the like
    places = {c.name for n in graph for c in (getattr(n.op, "indices", None), getattr(n.op, "indptr", None)) if c}
    weights = sorted(set(graph.constants) - places)
    names = data.draw(st.sets(st.sampled_from(weights))) if weights else set()
    public = with_constants(graph, names)
    assert public.withheld == names
    assert parse(to_text(public)) == public
    assert (public == graph) is not bool(names)
    assert with_constants(public, (), {n: graph.constant(n) for n in names}) == graph
    for name in names:
        with pytest.raises(IRError, match="encrypted weights"):
            public.constant(name)
        assert public.constants[name].shape == graph.constants[name].shape


# -- roles --


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return make_setting(tmp_path_factory.mktemp("roles"), compiled(encrypt_weights="all"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return make_setting(tmp_path_factory.mktemp("plain"), compiled())


def test_a_round_trip_of_files(setting: Setting, tmp_path: Path) -> None:
    x = samples(6)  # two passes
    setting.account.encrypt(x, tmp_path / "in")
    half = ServerProgram.load(setting.server / "program.server")
    assert half.schedule.client.encrypted and half.schedule.secret == {}
    assert half.noise == setting.half.noise
    with Evaluator(half, setting.keys) as evaluator:
        evaluator.evaluate(tmp_path / "in", tmp_path / "out")
    (y,) = setting.account.decrypt(tmp_path / "out").values()
    clear = np.asarray(setting.program.run(x, mode="clear"))
    assert np.abs(y - clear).max() < 0.02 * np.ptp(clear)


def test_the_servers_folder_holds_no_weights(setting: Setting) -> None:
    folder = b"".join(part for path in setting.server.iterdir() for _, part in decompressed(path))
    graph = setting.program.graph
    for _, op in graph.of(Linear):
        for name in op.constant_names():
            value = graph.constant(name).ravel()[:8]
            assert value.astype(np.int64).tobytes() not in folder
    # nor do the keys show them: an encryption of the same weights is another one every time
    first = setting.program.schedule.secret[setting.program.client.encrypted[0].name]
    assert first.values[:8].tobytes() not in folder


def test_keys_and_programs_belong_together(setting: Setting, plain: Setting, tmp_path: Path) -> None:
    assert check_keys(setting.keys, setting.half) == setting.account.secret.key
    with pytest.raises(ArtifactError, match="comes without the program's encrypted weights"):
        check_keys(plain.keys, replace_parameters(setting.half, plain.half))
    with pytest.raises(ArtifactError, match="holds the encrypted weights of another program; this one has none"):
        check_keys(setting.keys, replace_parameters(plain.half, setting.half))
    other = compiled(encrypt_weights="fc1.weight")
    with pytest.raises(ArtifactError, match=r"holds the encrypted weights of another program$"):
        check_keys(setting.keys, replace_parameters(split(other.graph).server, setting.half))
    large = tmp_path / "large"
    with Reader(setting.keys, KeysHeader) as reader, Writer(large, reader.header) as writer:
        writer.add(BINDING, bytes(1 << 20))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reader, "read", lambda *a: pytest.fail("a part of a megabyte was read"))
        with pytest.raises(ArtifactError, match=r"holds the encrypted weights of another program$"):
            check_keys(large, setting.half)
    large.unlink()
    with pytest.raises(ArtifactError, match=r"the file of weights that 'glyphc compile' wrote"):
        generate(setting.half.specification, tmp_path / "s", tmp_path / "k", None, glyphc.progress.Silent())
    assert not list(tmp_path.iterdir())


def replace_parameters(half: ServerProgram, other: ServerProgram) -> ServerProgram:
    """The program with the other's parameters: keys are looked at for these first."""
    client = replace(half.schedule.client, parameters=other.schedule.parameters)
    return replace(half, schedule=replace(half.schedule, client=client))


@pytest.mark.slow
def test_the_service(setting: Setting, tmp_path: Path) -> None:
    """Encrypted weights are uploaded with the keys, once."""
    place = Place(tmp_path / "service", setting.half, "--insecure")
    x = samples(3)
    clear = np.asarray(setting.program.run(x, mode="clear"))
    with place.running() as service, service.client() as client:
        for keys in (setting.keys, None):
            (y,) = client.run(setting.account, x, keys).values()
            assert np.abs(y - clear).max() < 0.02 * np.ptp(clear)


def test_the_commands(tmp_path: Path) -> None:
    np.save(tmp_path / "train.npy", np.load(MODELS / "data" / "digits-train.npy"))
    np.save(tmp_path / "x.npy", samples(2))
    np.save(tmp_path / "labels.npy", np.load(MODELS / "data" / "digits-test-labels.npy")[:2])
    program, weights = tmp_path / "m.glyphc", tmp_path / "m.weights"
    runner = CliRunner()

    def command(*arguments: object, code: int = 0) -> str:
        result = runner.invoke(main, [*map(str, arguments)])
        assert result.exit_code == code, result.output
        return result.output

    model = (MODELS / "digits-mlp.onnx", "--calibration", tmp_path / "train.npy", "--batch", 2)
    output = command("compile", *model, "--insecure-ring", 1024, "--encrypt-weights", "all", "-o", program)
    assert "m.weights" in output and "not for the server" in output and "encrypted linear" in output
    folders = ("--client", tmp_path / "c", "--server", tmp_path / "s")
    assert "--weights" in command("keygen", program, *folders, code=2)
    assert not (tmp_path / "s").exists()
    command("split", program, "--client", tmp_path / "m.spec", "--server", tmp_path / "m.server")
    assert "--weights" in command("keygen", tmp_path / "m.spec", "--insecure", *folders, code=2)
    command("keygen", program, "--weights", weights, *folders)
    command("encrypt", "--client", tmp_path / "c", "--input", tmp_path / "x.npy", "--output", tmp_path / "in")
    command("eval", "--server", tmp_path / "s", "--input", tmp_path / "in", "--output", tmp_path / "out")
    command("decrypt", "--client", tmp_path / "c", "--input", tmp_path / "out", "--output", tmp_path / "y.npy")
    run = ("run", program, "--input", tmp_path / "x.npy", "--mode", "clear", "--output")
    assert "give the file of weights" in command(*run, tmp_path / "z.npy", code=2)
    command(*run, tmp_path / "z.npy", "--weights", weights)
    y, z = (np.load(tmp_path / f"{n}.npy") for n in "yz")
    assert np.abs(y - z).max() < 0.02 * np.ptp(z)
    assert "encrypted linear" in command("inspect", program)
    accuracy = ("inspect", program, "--accuracy", tmp_path / "x.npy", tmp_path / "labels.npy")
    assert "give the file of weights" in command(*accuracy, code=2)
    assert "simulated" in command(*accuracy, "--weights", weights)
    assert "withheld" in command("inspect", program, "--text", "--stage", "source")
    command("inspect", program, "--format", "html", "-o", tmp_path / "m.html")
    plain = tmp_path / "plain.glyphc"
    command("compile", *model, "--insecure-ring", 1024, "-o", plain)
    assert "leave out --weights" in command("keygen", plain, "--weights", weights, *folders, code=2)
