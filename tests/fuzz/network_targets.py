"""Networks, graphs and programs: what makes and what reads them."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

import glyphc
from glyphc.analysis.cost import CostModel
from glyphc.analysis.estimate import estimate
from glyphc.backends.engine import best_engine
from glyphc.compiler import for_ring
from glyphc.errors import ArtifactError
from glyphc.exchange.artifacts import ServerProgram, Specification
from glyphc.exchange.client import check_security
from glyphc.exchange.parts import input_places, output_places
from glyphc.frontends.from_dsl import parse_glyph, read_glyph
from glyphc.frontends.from_onnx import read_onnx
from glyphc.ir.graph import Graph, Rewriter
from glyphc.ir.ops import Input
from glyphc.ir.text import record_text
from glyphc.ir.types import Level
from glyphc.passes.base import Context
from glyphc.passes.pipeline import DEFAULT, parse_pipeline, run_pipeline
from glyphc.passes.schedule import schedule
from glyphc.program import Program
from glyphc.sources import read_model
from glyphc.storage.artifact import VERSION as ARTIFACT_VERSION
from glyphc.storage.headers import ProgramHeader, SpecHeader

from . import seeds
from .glyph_texts import random_text
from .mutate import mutated_bytes, mutated_text
from .onnx_graphs import random_model
from .target import Reached, Target, json_value, random_of

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


def _onnx_graph(data: bytes, folder: Path, reached: Reached) -> None:
    graph = read_onnx(data)
    reached("read")
    _compile(graph, random_of(data), reached)


def _onnx_bytes(data: bytes, folder: Path, reached: Reached) -> None:
    read_onnx(data, batch_axis=random_of(data).random() < 0.8)
    reached("read")


def _make_onnx_bytes(random: Random) -> bytes:
    known = seeds.models()
    return mutated_bytes(random, random.choice(known), known)


def _glyph_graph(data: bytes, folder: Path, reached: Reached) -> None:
    network = parse_glyph(data.decode(), folder=folder)
    reached("read")
    _compile(network.graph, random_of(data), reached)


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
    elif graph.level is Level.SOURCE or random_of(data).random() < 0.1:
        _compile(graph, random_of(data), reached)


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
        manifest[random.choice(list(manifest))] = json_value(random)
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


NETWORKS = (
    Target("onnx-graph", lambda r: random_model(r).SerializeToString(), _onnx_graph, 20, slow=True),
    Target("onnx-bytes", _make_onnx_bytes, _onnx_bytes, 100),
    Target("glyph-graph", lambda r: random_text(r).encode(), _glyph_graph, 12, slow=True),
    Target("glyph-text", _make_glyph_text, _glyph_text, 12),
    Target("glyph-weights", lambda r: mutated_bytes(r, r.choice(seeds.arrays()[:2])), _weights_file, 10),
    Target("gir", _make_gir, _gir, 4, slow=True),
    Target("artifact", _make_artifact, _artifact, 4, slow=True),
    Target("spec", _make_spec, _spec, 6),
    Target("server-program", _make_server_program, _server_program, 3, slow=True),
)
