"""What is fuzzed: for every format, how an input is made and what reads it.

``feed`` raises one of ``refusals`` for an input that is refused, returns for one that is accepted, and calls
``reached`` on its way: "read" behind the reader, "compiled" behind the passes. Everything else is a failure.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

import glyphc
from glyphc.analysis import cost_file
from glyphc.analysis.cost import CostModel
from glyphc.analysis.estimate import estimate
from glyphc.backends.engine import best_engine
from glyphc.commands.arrays import load_arrays
from glyphc.compiler import for_ring
from glyphc.errors import ArtifactError, GlyphcError
from glyphc.exchange.artifacts import ServerProgram, Specification
from glyphc.exchange.client import check_security
from glyphc.exchange.parts import check_count, input_places, output_places
from glyphc.exchange.secret import Secret
from glyphc.exchange.server import check_keys, check_request
from glyphc.exchange.training_client import TrainingClientFiles
from glyphc.exchange.training_files import ProgramFile
from glyphc.frontends.from_dsl import parse_glyph, read_glyph
from glyphc.frontends.from_onnx import read_onnx
from glyphc.ir.errors import IRError
from glyphc.ir.graph import Graph, Rewriter
from glyphc.ir.instructions.ckks import check
from glyphc.ir.instructions.ckks_operands import check_operands
from glyphc.ir.instructions.text import CKKS, parse_code
from glyphc.ir.ops import Input
from glyphc.ir.text import record_text
from glyphc.ir.types import Level
from glyphc.passes.base import Context
from glyphc.passes.pipeline import DEFAULT, parse_pipeline, run_pipeline
from glyphc.passes.schedule import schedule
from glyphc.program import Program
from glyphc.service.settings import load_tokens
from glyphc.sources import read_model
from glyphc.storage.artifact import VERSION as ARTIFACT_VERSION
from glyphc.storage.container import Reader
from glyphc.storage.headers import HEADERS, ProgramHeader, SpecHeader, TrainingProgramHeader
from glyphc.storage.withheld import load_secrets

from . import seeds
from .glyph_texts import random_text
from .mutate import integer, mutated_bytes, mutated_text, real
from .onnx_graphs import random_model

Reached = Callable[[str], None]


@dataclass(frozen=True)
class Target:
    """weight: inputs in a thousand of a run's, or about. slow: an input takes tens of milliseconds and more."""

    name: str
    make: Callable[[Random], bytes]
    feed: Callable[[bytes, Path, Reached], None]
    weight: float
    slow: bool = False
    refusals: tuple[type[Exception], ...] = (GlyphcError,)


# -- networks --


_UP_TO_LAYOUT = [
    for_ring(p, seeds.RING) for p in parse_pipeline(DEFAULT.partition(",assign-budget")[0]) if p.name != "merge"
]


def _batched(graph: Graph, batch: int) -> Graph:
    if graph.level is not Level.SOURCE:
        return graph
    rewriter = Rewriter(graph, batch=batch)
    for node in graph:
        rewriter.keep(node)
    return rewriter.new


def _compile(graph: Graph, random: Random, reached: Reached) -> None:
    """All passes, on a small ring, and the numbers that come out of the quantized graph."""
    samples = {}
    for node in graph.inputs:
        assert isinstance(node.op, Input)
        # most networks are made for samples of one sign or of both; a few for none that there are
        draw = np.random.default_rng(random.randrange(1 << 30)).normal(0.5, 1.0, size=(6, *node.op.shape))
        samples[node.op.name] = np.abs(draw) + 0.1 if random.random() < 0.4 else draw
    if graph.level is Level.SOURCE and random.random() < 0.93:
        # series take two thirds of the time, and nothing behind them depends on the network's structure
        run_pipeline(_batched(graph, random.choice((1, 2, 5))), _UP_TO_LAYOUT, Context(samples, source=graph))
        reached("compiled")
        return
    hidden = "all" if random.random() < 0.1 else None
    program = glyphc.compile(
        graph, samples, random.choice((1, 2, 5)), insecure_ring=seeds.RING, cost=CostModel(), encrypt_weights=hidden
    )
    reached("compiled")
    if random.random() < 0.2:
        program.run(samples, random.choice(("clear", "simulate")))


def _random_of(data: bytes) -> Random:
    """What is drawn while an input is read follows from the input, so that it can be read again."""
    return Random(zlib.crc32(data))


def _onnx_graph(data: bytes, folder: Path, reached: Reached) -> None:
    graph = read_onnx(data)
    reached("read")
    _compile(graph, _random_of(data), reached)


def _onnx_bytes(data: bytes, folder: Path, reached: Reached) -> None:
    read_onnx(data, batch_axis=_random_of(data).random() < 0.8)
    reached("read")


def _make_onnx_bytes(random: Random) -> bytes:
    known = seeds.models()
    return mutated_bytes(random, random.choice(known), known)


def _glyph_graph(data: bytes, folder: Path, reached: Reached) -> None:
    network = parse_glyph(data.decode(), folder=folder)
    reached("read")
    _compile(network.graph, _random_of(data), reached)


def _glyph_text(data: bytes, folder: Path, reached: Reached) -> None:
    path = folder / "net.glyph"
    path.write_bytes(data)
    read_glyph(path)
    reached("read")


_WORDS = b"""
    input output network weights batch encrypted public activation quantize training as stored on table x y h
    dense conv relu -> = + - * / ** none true same softmax argmax gather reshape concat scale transpose uniform
    normal constant loss sgd step cosine epochs freeze mse
""".split()


def _make_glyph_text(random: Random) -> bytes:
    base = random_text(random).encode() if random.random() < 0.5 else random.choice(seeds.TEXTS).encode()
    return mutated_text(random, base, _WORDS)


def _weights_file(data: bytes, folder: Path, reached: Reached) -> None:
    (folder / "w.npz").write_bytes(data)
    text = 'weights "w.npz"\ninput x: [4]\ny = x -> dense(weight=x, bias=none)\noutput y\n'
    parse_glyph(text.replace("weight=x", 'weight="x"'), folder=folder)
    reached("read")


# -- graphs, programs, specifications --


def _gir(data: bytes, folder: Path, reached: Reached) -> None:
    path = folder / "g.gir"
    path.write_bytes(data)
    graph = read_model(path).graph
    reached("read")
    if graph.level is Level.LAIDOUT and graph.parameters is not None:
        schedule(graph)
    elif graph.level is Level.SOURCE or _random_of(data).random() < 0.1:
        _compile(graph, _random_of(data), reached)


_PLACES = re.compile(rb"(?:ring|batch|features|parts|stride|grid|chunks|slots|divisor|degree|%)=?(\d+)")


def _make_gir(random: Random) -> bytes:
    """Half of them with other layouts and operands, which is what is executed later on."""
    text = random.choice(seeds.graph_texts())
    if random.random() < 0.5:
        return mutated_text(random, text)
    for _ in range(random.choice((1, 1, 2, 3))):
        match = random.choice(list(_PLACES.finditer(text)))
        usual = (int(match[1]) * 2, int(match[1]) // 2, random.randrange(9), 1 << random.randrange(12))
        text = text[: match.start(1)] + str(random.choice(usual)).encode() + text[match.end(1) :]
    return text


def _artifact(data: bytes, folder: Path, reached: Reached) -> None:
    program = Program.from_bytes(data, "a.glyphc")
    reached("read")
    assert program.schedule.client.batch


def _make_artifact(random: Random) -> bytes:
    """Half of them with hashes that are right again."""
    if random.random() < 0.5:
        return mutated_bytes(random, random.choice(seeds.artifacts()), seeds.artifacts())
    last = random.choice(seeds.programs()[:2])
    stages = [t for t in seeds.graph_texts() if b"level laidout" in t and b"parameters" in t]
    part = mutated_text(random, random.choice(stages))
    manifest: dict[str, Any] = {
        "format": "glyphc-program",
        "version": ARTIFACT_VERSION,
        "batch": last.requested_batch,
        "security": "insecure",
        "parts": {"stages/00-final.gir": hashlib.sha256(part).hexdigest()},
    }
    if random.random() < 0.2:
        manifest[random.choice(list(manifest))] = _json_value(random)
    return seeds.zipped({"manifest.json": json.dumps(manifest).encode(), "stages/00-final.gir": part}, True)


def _spec(data: bytes, folder: Path, reached: Reached) -> None:
    path = folder / "client.spec"
    path.write_bytes(data)
    spec = Specification.load(path)
    reached("read")
    client = spec.client
    places = sum(1 for _ in input_places(client, min(client.batch, 5), 0))
    assert places
    sum(1 for _ in output_places(client, min(client.batch, 5), 0))
    best_engine(client.parameters, here=False)
    check_security(spec)


def _make_spec(random: Random) -> bytes:
    text = record_text(random.choice(seeds.halves()).specification.client).encode()
    return seeds.container(SpecHeader("0" * 64), {"spec": mutated_text(random, text)})


def _server_program(data: bytes, folder: Path, reached: Reached) -> None:
    path = folder / "program.server"
    path.write_bytes(data)
    program = ServerProgram.load(path)
    reached("read")
    assert program.specification.client.batch
    with suppress(ArtifactError):
        program.partial(1)
    estimate(program.schedule, CostModel())


def _make_server_program(random: Random) -> bytes:
    """Any part changed, the instructions most often; three in four with hashes that are right again."""
    parts = seeds.parts_of(random.choice(seeds.halves()))
    name = random.choice(["code/000000", "code/000000", *parts])
    raw = name.startswith(("code/", "weights/"))
    old = zlib.decompress(parts[name]) if raw else parts[name]
    new = mutated_bytes(random, old) if name.startswith("weights/") else mutated_text(random, old)
    parts[name] = zlib.compress(new) if raw else new
    if random.random() < 0.75:
        digests = [hashlib.sha256(data).hexdigest().encode() for data in (old, new)]
        parts["outline"] = parts["outline"].replace(*digests)
    fingerprint = hashlib.sha256(parts["spec"] + b"\n" + parts["outline"]).hexdigest()
    return seeds.container(ProgramHeader(fingerprint), parts)


# -- containers of the roles --


def _container(data: bytes, folder: Path, reached: Reached) -> None:
    path = folder / "f"
    path.write_bytes(data)
    kind = _random_of(data).choice(HEADERS)
    for header in HEADERS:
        if header.kind.encode() in data:
            kind = header
    with Reader(path, kind) as reader:
        reached("read")
        reader.verify()


def _make_container(random: Random) -> bytes:
    """Half of them raw bytes, half with another manifest."""
    data = random.choice(seeds.containers())
    if random.random() < 0.5:
        return mutated_bytes(random, data, seeds.containers())
    start = data.index(b'{\n "format"')
    end = data.index(b"}\n", data.index(b'"parts"')) + 2
    return _with_manifest(mutated_text(random, data[start:end]))


def _with_manifest(text: bytes) -> bytes:
    return seeds.zipped({"a": b"abc", "b/0": bytes(100), "secret": bytes(seeds.RING), "manifest.json": text})


def _secret(data: bytes, folder: Path, reached: Reached) -> None:
    path = folder / "secret.key"
    path.write_bytes(data)
    Secret.load(path)
    reached("read")


def _header_of(random: Random, kind: type[Any], **usual: Any) -> Any:
    """A header, one of its fields perhaps hostile."""
    values = {f.name: usual.get(f.name, "") for f in dataclasses.fields(kind)}
    if random.random() < 0.7:
        name = random.choice(list(values))
        old = values[name]
        if isinstance(old, int):
            values[name] = abs(integer(random))
        else:
            values[name] = mutated_text(random, str(old).encode()).decode(errors="replace")
    return kind(**values)


def _make_secret(random: Random) -> bytes:
    from glyphc.storage.headers import SecretHeader

    parameters = record_text(seeds.halves()[0].specification.client.parameters)
    header = _header_of(random, SecretHeader, key="1" * 64, parameters=parameters, scrypt_log2_cost=0)
    data = bytes(random.choice((0, 1, 2, 255)) for _ in range(8)) + bytes(seeds.RING - 8)
    return seeds.container(header, {"secret": data[: random.choice((seeds.RING, seeds.RING, 10, 0))]})


def _inputs(data: bytes, folder: Path, reached: Reached) -> None:
    path = folder / "x.enc"
    path.write_bytes(data)
    half = seeds.halves()[0]
    check_request(path, half, "1" * 64, (1 << 40) - 87)
    reached("read")


def _make_inputs(random: Random) -> bytes:
    from glyphc.storage.headers import InputsHeader

    half = seeds.halves()[0]
    samples = random.choice((1, 2, 3, 4, 5))
    header = _header_of(random, InputsHeader, program=half.fingerprint, key="1" * 64, samples=samples, seed="3" * 64)
    client = half.specification.client
    passes = -(-samples // client.batch)
    names = [p.name for n in range(passes) for p in input_places(client, samples, n)]
    size = seeds.RING * 5 if random.random() < 0.8 else abs(integer(random)) % 10_000
    return seeds.container(header, {n: bytes(size) for n in names})


def _keys(data: bytes, folder: Path, reached: Reached) -> None:
    path = folder / "evaluation.keys"
    path.write_bytes(data)
    check_keys(path, seeds.halves()[_random_of(data).randrange(3)])
    reached("read")


def _make_keys(random: Random) -> bytes:
    from glyphc.storage.headers import KeysHeader

    half = random.choice(seeds.halves())
    parameters = record_text(half.specification.client.parameters)
    header = _header_of(random, KeysHeader, parameters=parameters, modulus=(1 << 40) - 87, seed="3" * 64)
    parts = {"a": bytes(10), "weights/program": random.choice((half.fingerprint.encode(), b"\xff", b""))}
    return seeds.container(header, parts)


def _outputs(data: bytes, folder: Path, reached: Reached) -> None:
    from glyphc.storage.headers import OutputsHeader

    path = folder / "y.enc"
    path.write_bytes(data)
    with Reader(path, OutputsHeader) as reader:
        check_count(reader, reader.header.samples, seeds.halves()[0].specification.client, output_places)
        reached("read")
        reader.verify()


def _make_outputs(random: Random) -> bytes:
    from glyphc.storage.headers import OutputsHeader

    usual = {"program": "0" * 64, "key": "1" * 64, "request": "2" * 64, "samples": 2}
    header = _header_of(random, OutputsHeader, **usual, modulus_bits=30, flooding_bits=0)
    return seeds.container(header, {f"000000/000/{n:05d}": b"abc" for n in range(random.randint(1, 3))})


def _weights(data: bytes, folder: Path, reached: Reached) -> None:
    path = folder / "m.weights"
    path.write_bytes(data)
    program = seeds.programs()[1]
    load_secrets(path, program.public_stages, program.fingerprint)
    reached("read")


def _make_weights(random: Random) -> bytes:
    from glyphc.storage.headers import WeightsHeader

    parts = dict(seeds.secret_parts())
    name = random.choice(list(parts))
    match random.randrange(3):
        case 0:
            parts[name] = mutated_bytes(random, parts[name])
        case 1:
            parts[name] = zlib.compress(bytes(random.choice((0, 1, 1 << 10, 1 << 20))))
        case _:
            parts[name] = zlib.compress(mutated_bytes(random, zlib.decompress(parts[name])))
    return seeds.container(WeightsHeader(seeds.programs()[1].fingerprint), parts)


# -- training --


def _ckks(data: bytes, folder: Path, reached: Reached) -> None:
    code = parse_code(data.decode(), CKKS)
    reached("read")
    program = seeds.training()
    check_operands(code, program.parameters, program.outline.periods)
    check(code, program.outline.limbs, program.parameters.decoded_limbs - 1, program.parameters.slot_levels)


def _make_ckks(random: Random) -> bytes:
    text = zlib.decompress(random.choice(seeds.training().codes))
    lines = text.split(b"\n")[1:-1]
    start = random.randrange(len(lines))
    piece = lines[start : start + random.randint(1, 8)]
    body = b"\n".join([CKKS.head.encode(), *piece]) + b"\n"
    return mutated_text(random, body, [b"load", b"scaled", b"product", b"sum", b"target", b"source", b"free", b"pack"])


def _training_program(data: bytes, folder: Path, reached: Reached) -> None:
    path = folder / "program.training"
    path.write_bytes(data)
    with ProgramFile(path) as program:
        reached("read")
        for step in range(min(program.outline.steps, 3)):
            program.code(step)


def _make_training_program(random: Random) -> bytes:
    program = seeds.training()
    outline = json.loads(json.dumps(dataclasses.asdict(program.outline)))
    parameters = record_text(program.parameters).encode()
    codes = [zlib.decompress(c) for c in program.codes]
    match random.randrange(3):
        case 0:
            parameters = mutated_text(random, parameters)
        case 1:
            at = random.randrange(len(codes))
            codes[at] = mutated_text(random, codes[at])
        case _:
            outline[random.choice(list(outline))] = _json_value(random)
    outline["codes"] = [hashlib.sha256(c).hexdigest() for c in codes]
    text = json.dumps(outline, separators=(",", ":")).encode()
    if random.random() < 0.3:
        text = mutated_text(random, text)
    declared = parameters.decode(errors="replace")
    fingerprint = hashlib.sha256(f"{declared}\n".encode() + text).hexdigest()
    parts = {"outline": text, **{f"code/{i:06d}": zlib.compress(c, 1) for i, c in enumerate(codes)}}
    return seeds.container(TrainingProgramHeader(fingerprint, declared, 1000), parts)


def _training_job(data: bytes, folder: Path, reached: Reached) -> None:
    path = folder / "training.job"
    path.write_bytes(data)
    TrainingClientFiles.load(path)
    reached("read")


def _make_training_job(random: Random) -> bytes:
    from glyphc.exchange.training_client import _JSON, JobRecord
    from glyphc.ir.text import to_text
    from glyphc.storage.headers import TrainingJobHeader

    job = seeds.job()
    record = JobRecord(job.options, job.loss.name, 60, 24, seeds.plan().ranges)
    network = to_text(job.network).encode()
    text = _JSON.text(record, JobRecord).encode()
    if random.random() < 0.6:
        text = mutated_text(random, text)
    else:
        network = mutated_text(random, network)
    header = TrainingJobHeader(seeds.training().fingerprint, "1" * 64)
    return seeds.container(header, {"network": network, "job": text})


# -- small files --


def _cost(data: bytes, folder: Path, reached: Reached) -> None:
    path = folder / "cost.json"
    path.write_bytes(data)
    cost_file.load(path)
    reached("read")


def _make_cost(random: Random) -> bytes:
    if random.random() < 0.5:
        return mutated_text(random, seeds.cost_text())
    tree = json.loads(seeds.cost_text())
    place = tree
    while isinstance(place, dict | list) and place and random.random() < 0.9:
        key = random.choice(list(place)) if isinstance(place, dict) else random.randrange(len(place))
        if random.random() < 0.4 or not isinstance(place[key], dict | list):
            place[key] = _json_value(random)
            break
        place = place[key]
    return json.dumps(tree).encode()


def _tokens(data: bytes, folder: Path, reached: Reached) -> None:
    path = folder / "tokens"
    path.write_bytes(data)
    load_tokens(path)
    reached("read")


def _make_tokens(random: Random) -> bytes:
    names = ("alice", "bob-2", "x" * 64, "Ünï", "a b", "")
    ends = ("2030-01-01T00:00:00Z", "2000-01-01T12:34:56Z", "2030-01-01T00:00:00Z", "never", "9999-99-99", "")
    lines = [
        f"{random.choice(names)} {random.randbytes(32).hex()} {random.choice(ends)}"
        for _ in range(random.randint(1, 4))
    ]
    text = "\n".join(["# tokens", *lines, ""]).encode()
    return mutated_text(random, text) if random.random() < 0.8 else text


def _array(data: bytes, folder: Path, reached: Reached) -> None:
    path = folder / "x.npy"
    path.write_bytes(data)
    load_arrays(str(path), "input")
    reached("read")


def _make_array(random: Random) -> bytes:
    data = random.choice(seeds.arrays())
    if random.random() < 0.4:
        shape = tuple(abs(integer(random)) for _ in range(random.randint(0, 3)))
        kind = random.choice(("<f8", "<f4", "|O", "<M8[s]", "|S5", "<f99"))
        header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
        padded = header.encode().ljust(117) + b"\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + bytes(random.randint(0, 64))
    return mutated_bytes(random, data, seeds.arrays())


def _json_value(random: Random) -> Any:
    return random.choice(
        (
            *(None, True, "", "x" * 300, [], {}, [[]], [None], {"a": 1}, integer(random), real(random)),
            *([integer(random)] * 2, [["a", integer(random)]], [["STATE", 1], ["STATE", 2]]),
        )
    )


TARGETS: dict[str, Target] = {
    t.name: t
    for t in (
        Target("onnx-graph", lambda r: random_model(r).SerializeToString(), _onnx_graph, 20, slow=True),
        Target("onnx-bytes", _make_onnx_bytes, _onnx_bytes, 100),
        Target("glyph-graph", lambda r: random_text(r).encode(), _glyph_graph, 12, slow=True),
        Target("glyph-text", _make_glyph_text, _glyph_text, 12),
        Target("glyph-weights", lambda r: mutated_bytes(r, r.choice(seeds.arrays()[:2])), _weights_file, 10),
        Target("gir", _make_gir, _gir, 4, slow=True),
        Target("artifact", _make_artifact, _artifact, 4, slow=True),
        Target("spec", _make_spec, _spec, 6),
        Target("server-program", _make_server_program, _server_program, 3, slow=True),
        Target("container", _make_container, _container, 200),
        Target("secret", _make_secret, _secret, 8),
        Target("inputs", _make_inputs, _inputs, 10),
        Target("keys", _make_keys, _keys, 8),
        Target("outputs", _make_outputs, _outputs, 10),
        Target("weights", _make_weights, _weights, 2, slow=True),
        Target("ckks", _make_ckks, _ckks, 280, refusals=(IRError, UnicodeDecodeError)),
        Target("training-program", _make_training_program, _training_program, 3, slow=True),
        Target("training-job", _make_training_job, _training_job, 1, slow=True),
        Target("cost-file", _make_cost, _cost, 20),
        Target("tokens", _make_tokens, _tokens, 200),
        Target("arrays", _make_array, _array, 120),
    )
}
