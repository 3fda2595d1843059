"""The server's half: instructions that a stranger may have written, without a name of the model's."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_chunks import mlp

import glyphc
from glyphc.analysis.cost import CostModel
from glyphc.backends.base import execute
from glyphc.backends.cleartext import CleartextMachine
from glyphc.codec import decode, encode
from glyphc.errors import ArtifactError
from glyphc.exchange.artifacts import ServerProgram, Specification, save_names
from glyphc.exchange.split import Halves, load_halves, split
from glyphc.ir.encodings import Labels
from glyphc.ir.errors import IRError
from glyphc.ir.instructions import (
    Code,
    ConjugateDot,
    Conjugates,
    Dot,
    EncryptedDot,
    Evaluate,
    Free,
    FromTorus,
    Instruction,
    Load,
    Polynomials,
    Powers,
    Schedule,
    Split,
    Store,
    ToTorus,
)
from glyphc.ir.instructions.check import check_polynomials, check_schedule
from glyphc.ir.instructions.numbered import Names
from glyphc.ir.instructions.partial import for_samples
from glyphc.ir.instructions.text import COEFFICIENTS, SLOTS, code_text, parse_code
from glyphc.storage.container import Reader, Writer
from glyphc.storage.headers import NamesHeader, ProgramHeader
from tests.roles import environment

RING = 1024
# No word of the project's own is among them.
WORDS = {
    "nodes": ("zebra_gemm", "okapi_relu", "tapir_sum", "lemur_gemm", "civet_gemm"),
    "weights": ("walrus_w", "walrus_b", "narwhal_w", "narwhal_b", "dugong_w", "dugong_b"),
    "inner": ("gazelle", "ibex", "oryx"),
    "ports": ("patient_age", "patient_dose", "diagnosis_code", "survival_days"),
}


def model(path: Path) -> Path:
    """Two inputs, two outputs, a nonlinearity; every tensor and node has a name that says something."""
    random = np.random.default_rng(5)
    shapes = {"walrus_w": (6, 8), "walrus_b": (8,), "narwhal_w": (8, 3), "narwhal_b": (3,), "dugong_w": (8, 2)}
    constants = {n: random.normal(size=shape) / 3 for n, shape in shapes.items()} | {"dugong_b": np.zeros(2)}
    nodes = [
        helper.make_node("Add", ["patient_age", "patient_dose"], ["gazelle"], name="tapir_sum"),
        helper.make_node("Gemm", ["gazelle", "walrus_w", "walrus_b"], ["ibex"], name="zebra_gemm"),
        helper.make_node("Relu", ["ibex"], ["oryx"], name="okapi_relu"),
        helper.make_node("Gemm", ["oryx", "narwhal_w", "narwhal_b"], ["diagnosis_code"], name="lemur_gemm"),
        helper.make_node("Gemm", ["oryx", "dugong_w", "dugong_b"], ["survival_days"], name="civet_gemm"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "giraffe",
        [value(name, TensorProto.FLOAT, ["n", 6]) for name in WORDS["ports"][:2]],
        [value(name, TensorProto.FLOAT, ["n", size]) for name, size in zip(WORDS["ports"][2:], (3, 2), strict=True)],
        [numpy_helper.from_array(v.astype(np.float32), name) for name, v in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


SAMPLES = {name: np.random.default_rng(n).normal(size=(200, 6)) for n, name in enumerate(WORDS["ports"][:2])}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, glyphc.Program]:
    path = model(tmp_path_factory.mktemp("model") / "okapi.onnx")
    ways = {"glyph": {}, "encrypted": {"encrypt_weights": "narwhal_w,dugong_b"}, "slots": {"strategy": "slots"}}
    return {
        way: glyphc.compile(path, SAMPLES, 8, insecure_ring=RING, cost=CostModel(), **options)  # type: ignore[arg-type]
        for way, options in ways.items()
    }


@pytest.fixture(scope="module")
def chunked() -> glyphc.Program:
    """A batch in four chunks."""
    x = np.random.default_rng(3).normal(size=(200, 8))
    return glyphc.compile(mlp(8, 64, 16, 4, function="tanh"), x, 64, insecure_ring=RING, cost=CostModel())


# -- names --


def contents(path: Path) -> bytes:
    """A file, and behind it all its parts inflated."""
    found = [path.read_bytes()]
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            data = archive.read(name)
            found += [name.encode(), data]
            if name.startswith(("code/", "weights/")):
                found.append(zlib.decompress(data))
    return b"\n".join(found)


@pytest.mark.parametrize("way", ["glyph", "encrypted", "slots"])
def test_no_name_of_the_model_is_in_either_half(way: str, programs: dict[str, glyphc.Program], tmp_path: Path) -> None:
    program = programs[way]
    halves = split(program.graph)
    halves.server.save(tmp_path / "p.server")
    halves.server.specification.save(tmp_path / "p.spec")
    known = {word for words in WORDS.values() for word in words} | {"giraffe", "okapi"}
    known |= {name for graph in program.stages.values() for name in graph.constants}
    known |= {part for graph in program.stages.values() for n in graph for part in n.location.split("|") if part}
    assert {"walrus_w", "patient_age"} <= known
    for path in (tmp_path / "p.server", tmp_path / "p.spec"):
        held = contents(path)
        assert [name for name in sorted(known) if name.encode() in held] == []
    # the search finds names where they are
    program.save(tmp_path / "p.glyphc")
    with zipfile.ZipFile(tmp_path / "p.glyphc") as archive:
        whole = b"".join(map(archive.read, archive.namelist()))
    assert all(name.encode() in whole for name in WORDS["ports"])


def test_a_client_that_has_the_names_uses_them(programs: dict[str, glyphc.Program], tmp_path: Path) -> None:
    programs["glyph"].save(tmp_path / "p.glyphc")
    halves = load_halves(tmp_path / "p.glyphc")
    assert halves.names is not None
    spec, path = halves.server.specification, tmp_path / "client.names"
    assert [p.name for p in (*spec.client.inputs, *spec.client.outputs)] == ["in0", "in1", "out0", "out1"]
    assert spec.named(path) == spec
    save_names(path, spec.program, halves.names)
    assert spec.named(path).client == replace(programs["glyph"].client, encrypted=spec.client.encrypted), (
        "but for numbers of weights, what the compiler knows"
    )
    # of another program they are no use
    assert replace(spec, program="0" * 64).named(path).client == spec.client
    ports = '[{"name":"a"},{"name":"b"}]'
    for names, message in (
        ('{"inputs":[{"name":"a"}],"outputs":' + ports + "}", "2 tensors cannot"),
        ('{"inputs":[{"name":"a"},{"name":"b","columns":["c"]}],"outputs":' + ports + "}", "1 columns of 'b'"),
        ('{"inputs":' + ports + ',"outputs":[{"name":"a"},{"name":"b","labels":["c"]}]}', "1 labels of 'b'"),
        ("{", "unreadable"),
    ):
        with Writer(path, NamesHeader(spec.program)) as writer:
            writer.add("names", names.encode())
        with pytest.raises(ArtifactError, match=message):
            spec.named(path)


def test_columns_and_labels_do_not_travel_either(programs: dict[str, glyphc.Program], tmp_path: Path) -> None:
    """Labels that are texts: a client without names gets the numbers of classes. Integers are results and stay."""
    schedule, columns = programs["glyph"].schedule, tuple(f"aardvark{n}" for n in range(6))
    texts, integers = Labels(texts=("malignant", "benign")), Labels(integers=(7, 40))
    client = replace(
        schedule.client,
        inputs=tuple(replace(port, columns=columns) for port in schedule.client.inputs),
        outputs=tuple(replace(p, labels=of) for p, of in zip(schedule.client.outputs, (texts, integers), strict=True)),
    )
    noise = {port.name: 1.0 for port in client.outputs}
    half = ServerProgram.of(replace(schedule, client=client), noise)
    half.save(tmp_path / "p.server")
    spec = ServerProgram.load(tmp_path / "p.server").specification
    spec.save(tmp_path / "p.spec")
    for path in (tmp_path / "p.server", tmp_path / "p.spec"):
        held = contents(path)
        assert not [word for word in (*columns, *texts.texts) if word.encode() in held]
    assert [port.labels for port in spec.client.outputs] == [Labels(integers=(0, 1)), integers]
    save_names(tmp_path / "client.names", half.fingerprint, Names.of(client))
    assert spec.named(tmp_path / "client.names").client == client


# -- what is loaded is what was compiled --


def loaded(halves: Halves, folder: Path) -> ServerProgram:
    halves.server.save(folder / "p.server")
    return ServerProgram.load(folder / "p.server")


@pytest.mark.parametrize("way", ["glyph", "encrypted", "slots"])
def test_a_file_holds_the_schedule(way: str, programs: dict[str, glyphc.Program], tmp_path: Path) -> None:
    halves = split(programs[way].graph)
    half = loaded(halves, tmp_path)
    assert half.fingerprint == halves.server.fingerprint
    assert half.schedule.client == halves.server.schedule.client
    assert half.schedule.instructions == halves.server.schedule.instructions
    assert half.noise == halves.server.noise
    assert list(half.schedule.polynomials) == list(halves.server.schedule.polynomials)
    for name, polynomials in halves.server.schedule.polynomials.items():
        again = half.schedule.polynomials[name]
        for field in ("offsets", "exponents", "values"):
            np.testing.assert_array_equal(getattr(again, field), getattr(polynomials, field))
            assert getattr(again, field).dtype == getattr(polynomials, field).dtype
    before = programs[way].schedule
    assert [type(i) for i in half.schedule.instructions] == [type(i) for i in before.instructions]
    assert [i.reads + i.writes for i in half.schedule.instructions] == [i.reads + i.writes for i in before.instructions]


@pytest.mark.parametrize("count", [1, 17, 33, 50, 64])
def test_a_loaded_half_computes_what_the_program_does(count: int, chunked: glyphc.Program, tmp_path: Path) -> None:
    """On plain polynomials, for full batches and others: empty chunks are dropped from the instructions alone."""
    half = loaded(split(chunked.graph), tmp_path)
    x = np.random.default_rng(7).normal(size=(count, 8)) / 2
    client, code = half.schedule.client, half.partial(count).instructions
    assert (len(code) < len(half.schedule.instructions)) == (count <= 48)
    machine, places = CleartextMachine(half.schedule), client.places(count)
    (port,), (out,) = client.inputs, client.outputs
    ciphertexts = list(map(machine.encrypt, encode(port, x, places)))
    results = execute(code, machine, {port.name: ciphertexts[: client.chunks_for(count) * port.layout.parts]})
    found = decode(out, np.array([machine.decrypt(c) for c in results[out.name]]), count, places)
    np.testing.assert_array_equal(found, chunked.run(x, "clear"))


def test_the_server_needs_no_compiler(chunked: glyphc.Program, tmp_path: Path) -> None:
    """A process that loads a half, checks it and takes a part of it has imported nothing that makes one."""
    loaded(split(chunked.graph), tmp_path)
    script = f"""
import sys
from pathlib import Path
import glyphc.service.worker
from glyphc.exchange.artifacts import ServerProgram
from glyphc.analysis.estimate import estimate
from glyphc.analysis import cost_file
half = ServerProgram.load(Path({str(tmp_path / "p.server")!r}))
assert half.partial(1).instructions and estimate(half.schedule, cost_file.current()).memory_bytes
rooms = ("compiler", "frontends", "passes", "ways", "slots", "train", "program", "artifact", "exchange.split")
loaded = [m for m in sys.modules if any(f"{{m}}.".startswith(f"glyphc.{{room}}.") for room in rooms)]
assert not loaded, loaded
assert "onnx" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# -- what a stranger may have written --

Change = Callable[[Instruction], Instruction | None]


def changed(schedule: Schedule, kind: type, number: int = 0, **fields: object) -> Code:
    """The code with one instruction of a kind changed: fields get values, or what functions make of it."""
    places = [at for at, i in enumerate(schedule.instructions) if type(i) is kind]
    at = places[number]
    before = schedule.instructions[at]
    values = {name: value(before) if callable(value) else value for name, value in fields.items()}
    instruction = replace(before, **values)  # type: ignore[type-var]
    return (*schedule.instructions[:at], instruction, *schedule.instructions[at + 1 :])


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (Load, {"part": 99}, r"\(load\) loads part 99 of 'in0', which is not there"),
        (Load, {"part": -1}, "loads part -1"),
        (Load, {"name": "in7"}, "of 'in7', which is not there"),
        (Load, {"target": -3}, "writes register -3"),
        (Load, {"number": -1, "target": 0}, "a second time"),
        (Dot, {"weights": "w99"}, "0 polynomials of 'w99'"),
        (Dot, {"sources": ()}, "multiplies 0 ciphertexts"),
        (Dot, {"sources": lambda i: i.sources[:1] * 999}, "multiplies 999 ciphertexts"),
        (Dot, {"total": 10**6}, "reads register 1000000, which holds nothing"),
        (Conjugates, {"parts": 3}, "has no powers of two"),
        (Conjugates, {"parts": 1 << 40}, "parts at stride"),
        (Conjugates, {"parts": 2}, "4 baby steps of 2 conjugates"),
        (Conjugates, {"stride": 64}, "for which there are no keys"),
        (Conjugates, {"stride": 0}, "has no powers of two"),
        (Conjugates, {"targets": ()}, "which holds nothing"),
        (Conjugates, {"source": 0}, "reads register 0"),
        (ConjugateDot, {"parts": 0}, "has no powers of two"),
        (ConjugateDot, {"babies": 1 << 40}, "baby steps"),
        (ConjugateDot, {"babies": 2}, "that are no conjugates of register"),
        (ConjugateDot, {"stride": 2}, "that are no conjugates of register|no keys"),
        (ConjugateDot, {"parts": 64}, "for which there are no keys"),
        (ConjugateDot, {"sources": ()}, "reads 0 ciphertexts"),
        (ConjugateDot, {"sources": lambda i: i.sources[:-1]}, "where each source has 4"),
        (ConjugateDot, {"sources": lambda i: i.sources[::-1]}, "that are no conjugates of register"),
        (ConjugateDot, {"sources": lambda i: i.sources * 2}, "multiplies 16 parts with 9 polynomials"),
        (ConjugateDot, {"weights": "w99"}, "with 0 polynomials of 'w99'"),
        (ToTorus, {"slots": 2}, "is for 2 slots"),
        (Powers, {"slots": 2}, "is for 2 slots"),
        (Powers, {"degree": 10**9}, "has the degree 1000000000"),
        (Evaluate, {"divisor": 0}, "divides by 0"),
        (FromTorus, {"source": 0}, "reads register 0"),
        (Store, {"part": 5}, "stores part 5 of 'out0' where 0 is next"),
        (Store, {"name": "out9"}, "which is no output"),
        (Free, {"registers": (0, 0)}, "frees"),
    ],
)
def test_instructions_that_cannot_be_executed_are_refused(
    kind: type, fields: dict[str, object], message: str, chunked: glyphc.Program
) -> None:
    schedule = split(chunked.graph).server.schedule
    check_schedule(schedule)
    with pytest.raises(IRError, match=message):
        check_schedule(replace(schedule, instructions=changed(schedule, kind, **fields)))  # type: ignore[arg-type]


def test_splits_that_cannot_be_executed_are_refused() -> None:
    """Where weights are encrypted, the parts themselves are needed."""
    from test_chunks import mlp

    x = np.random.default_rng(3).normal(size=(200, 8))
    hidden = glyphc.compile(mlp(8, 16, 16, 4), x, 16, insecure_ring=RING, cost=CostModel(), encrypt_weights="all")
    schedule = split(hidden.graph).server.schedule
    check_schedule(schedule)
    for fields, message in (
        ({"parts": 3}, "of 3 parts"),
        ({"parts": 1 << 40}, "parts"),
        ({"stride": 3}, "for which there are no keys"),
        ({"targets": ()}, "which holds nothing"),
    ):
        with pytest.raises(IRError, match=message):
            check_schedule(replace(schedule, instructions=changed(schedule, Split, **fields)))  # type: ignore[arg-type]


def test_weights_are_used_in_one_way(chunked: glyphc.Program) -> None:
    """An engine encodes them once, for the instructions that multiply with them."""
    schedule = split(chunked.graph).server.schedule
    dot = next(i for i in schedule.instructions if isinstance(i, ConjugateDot))
    rows = len(schedule.polynomials[dot.weights])
    at = schedule.instructions.index(dot)
    last = max(r for i in schedule.instructions for r in i.writes)
    for other in (Dot(last + 1, dot.sources[:1] * rows, dot.weights, None, dot.node),):
        code = (*schedule.instructions[: at + 1], other, *schedule.instructions[at + 1 :])
        with pytest.raises(IRError, match="in another way than before"):
            check_schedule(replace(schedule, instructions=code))


def test_series_weights_and_stores_that_cannot_be_are_refused(programs: dict[str, glyphc.Program]) -> None:
    schedule = split(programs["glyph"].graph).server.schedule
    evaluate = next(i for i in schedule.instructions if isinstance(i, Evaluate))
    series = evaluate.series
    for change, message in (
        ({"real": series.real[:-1]}, "unequal parts"),
        ({"real": series.real[:-1], "imag": series.imag[:-1]}, "on powers up to"),
        ({"real": (1e300, *series.real[1:])}, "beyond what is computed with"),
    ):
        code = changed(schedule, Evaluate, series=replace(series, **change))  # type: ignore[arg-type]
        with pytest.raises(IRError, match=message):
            check_schedule(replace(schedule, instructions=code))
    without = tuple(i for i in schedule.instructions if not isinstance(i, Store))
    with pytest.raises(IRError, match="0 ciphertexts of output 'out0' are stored, not 1"):
        check_schedule(replace(schedule, instructions=without))
    source = next(i.target for i in schedule.instructions if isinstance(i, ToTorus))
    torus = tuple(i for i in schedule.instructions if not isinstance(i, Free))
    at = next(n for n, i in enumerate(torus) if isinstance(i, Store))
    stores = (*torus[:at], replace(torus[at], source=source), *torus[at + 1 :])  # type: ignore[type-var]
    with pytest.raises(IRError, match="stores phases on the torus"):
        check_schedule(replace(schedule, instructions=stores))
    hidden = split(programs["encrypted"].graph).server.schedule
    with pytest.raises(IRError, match="0 encrypted polynomials of"):
        check_schedule(replace(hidden, client=replace(hidden.client, encrypted=())))
    twice = (*hidden.client.encrypted, replace(hidden.client.encrypted[0], name="w77"))
    with pytest.raises(IRError, match="not those that its instructions use"):
        check_schedule(replace(hidden, client=replace(hidden.client, encrypted=twice)))
    with pytest.raises(IRError, match="encrypted polynomials of"):
        check_schedule(replace(hidden, instructions=changed(hidden, EncryptedDot, weights="w77")))


@pytest.mark.parametrize(
    ("offsets", "exponents", "values", "message"),
    [
        ([], [], [], "one row behind the other"),
        ([1, 2], [0, 0], [1, 1], "one row behind the other"),
        ([0, 2, 1], [0, 0], [1, 1], "one row behind the other"),
        ([0, 3], [0, 0], [1, 1], "as many exponents as values"),
        ([0, 1], [RING], [1], "beyond the ring"),
        ([0, 1], [-1], [1], "beyond the ring"),
        ([0, 1], [0], [1 << 62], "do not fit the plaintext modulus"),
        ([0, 1], [0], [-(1 << 63)], "do not fit the plaintext modulus"),
    ],
)
def test_weights_that_are_none_are_refused(
    offsets: list[int], exponents: list[int], values: list[int], message: str, programs: dict[str, glyphc.Program]
) -> None:
    parameters = programs["glyph"].graph.parameters
    assert isinstance(parameters, glyphc.ir.parameters.Parameters)
    rows = Polynomials(np.array(offsets, np.int64), np.array(exponents, np.int32), np.array(values, np.int64))
    with pytest.raises(IRError, match=message):
        check_polynomials("w0", rows, parameters)


def test_chunks_that_are_mixed_are_refused(chunked: glyphc.Program) -> None:
    """Such instructions can be executed on a full batch, but not on fewer samples."""
    schedule = split(chunked.graph).server.schedule
    loads = [i for i in schedule.instructions if isinstance(i, Load)]
    other = next(i for i in loads if i.part >= chunked.client.inputs[0].layout.parts)
    mixed = changed(schedule, Load, 0, part=other.part)
    check_schedule(replace(schedule, instructions=mixed))
    half = replace(split(chunked.graph).server, schedule=replace(schedule, instructions=mixed))
    with pytest.raises(ArtifactError, match="cannot be executed on 1 samples"):
        half.partial(1)
    with pytest.raises(IRError):
        for_samples(half.schedule, 1)


@pytest.mark.parametrize(
    ("part", "old", "new", "message"),
    [
        ("code/000000", b'"slots":', b'"slots":7', "is for 7"),
        ("code/000000", b'{"dot":', b'{"system":', "line .*is none of load"),
        ("code/000000", b"glyphc-code 2 coefficients", b"glyphc-code 2 slots", "line 1"),
        ("spec", b"batch=8", b"batch=9", "does not fit into 1024 coefficients"),
        ("outline", b'"rows":', b'"rows":9', "its instructions are unusable"),
        ("outline", b'"terms":', b'"terms":99999999999999', "no size|memory limit"),
        ("outline", b'"w0"', b'"w1"', "two|twice"),
        ("noise", b"[", b"[1.0,", "its noise is not that of its outputs"),
    ],
)
def test_other_files_are_refused(
    part: str, old: bytes, new: bytes, message: str, programs: dict[str, glyphc.Program], tmp_path: Path
) -> None:
    """Changed by somebody who can make hashes: the error names the file and what is wrong in it."""
    split(programs["glyph"].graph).server.save(tmp_path / "p.server")
    with Reader(tmp_path / "p.server", ProgramHeader) as reader:
        parts = {name: reader.read(name) for name in reader.parts}
    packed = part.startswith("code/")
    before = zlib.decompress(parts[part]) if packed else parts[part]
    assert old in before
    after = before.replace(old, new, 1)
    parts[part] = zlib.compress(after) if packed else after
    digests = [hashlib.sha256(data).hexdigest().encode() for data in (before, after)]
    parts["outline"] = parts["outline"].replace(*digests)
    program = hashlib.sha256(parts["spec"] + b"\n" + parts["outline"]).hexdigest()
    with Writer(tmp_path / "bad.server", ProgramHeader(program)) as writer:
        for name, data in parts.items():
            writer.add(name, data)
    with pytest.raises(ArtifactError, match=message) as caught:
        ServerProgram.load(tmp_path / "bad.server")
    assert "bad.server" in str(caught.value)


def test_hashes_bind_the_parts(programs: dict[str, glyphc.Program], tmp_path: Path) -> None:
    split(programs["glyph"].graph).server.save(tmp_path / "p.server")
    with Reader(tmp_path / "p.server", ProgramHeader) as reader:
        header, parts = reader.header, {name: reader.read(name) for name in reader.parts}
    for name, message in (("code/000000", "not the code that"), ("weights/000000", "not hold the weights that")):
        data = bytearray(zlib.decompress(parts[name]))
        data[-2] ^= 1
        with Writer(tmp_path / "bad.server", header) as writer:
            for other, old in parts.items():
                writer.add(other, zlib.compress(bytes(data)) if other == name else old)
        with pytest.raises(ArtifactError, match=message):
            ServerProgram.load(tmp_path / "bad.server")
    with Writer(tmp_path / "bad.server", ProgramHeader("0" * 64)) as writer:
        for name, data_ in parts.items():
            writer.add(name, data_)
    with pytest.raises(ArtifactError, match="its fingerprint is not that of its outline"):
        ServerProgram.load(tmp_path / "bad.server")


def test_files_of_older_versions_are_refused_by_name(programs: dict[str, glyphc.Program], tmp_path: Path) -> None:
    halves = split(programs["glyph"].graph)
    halves.server.save(tmp_path / "p.server")
    halves.server.specification.save(tmp_path / "p.spec")
    for path, load in ((tmp_path / "p.server", ServerProgram.load), (tmp_path / "p.spec", Specification.load)):
        with zipfile.ZipFile(path) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        entries["manifest.json"] = entries["manifest.json"].replace(b'"version": 3', b'"version": 2')
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in entries.items():
                archive.writestr(name, data)
        with pytest.raises(ArtifactError, match="has format version 2; this glyphc reads version 3"):
            load(path)


def test_a_whole_program_is_not_for_the_server(programs: dict[str, glyphc.Program], tmp_path: Path) -> None:
    programs["glyph"].save(tmp_path / "p.glyphc")
    with pytest.raises(ArtifactError, match=r"p\.glyphc.*glyphc split"):
        ServerProgram.load(tmp_path / "p.glyphc")


# -- text --


@pytest.mark.parametrize(("way", "family"), [("glyph", COEFFICIENTS), ("encrypted", COEFFICIENTS), ("slots", SLOTS)])
def test_text_is_complete(way: str, family: object, programs: dict[str, glyphc.Program]) -> None:
    code = programs[way].schedule.instructions
    assert parse_code(code_text(code, family), family) == code  # type: ignore[arg-type]
