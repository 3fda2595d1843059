"""Good files of every format, small, to be mutated; made once in a process."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import numpy as np
from onnx import helper

import glyphc
from glyphc.analysis.cost import CostModel
from glyphc.analysis.cost_file import to_json
from glyphc.exchange.artifacts import ServerProgram
from glyphc.exchange.split import split
from glyphc.exchange.training_client import plan_steps
from glyphc.exchange.training_files import TrainingProgram
from glyphc.files import EPOCH
from glyphc.frontends.dsl_network import Network
from glyphc.frontends.from_dsl import parse_glyph
from glyphc.ir.parameters import INSECURE, Parameters
from glyphc.ir.text import record_text, to_text
from glyphc.program import Program
from glyphc.storage.container import Header, Reader, Writer
from glyphc.storage.headers import HEADERS, ProgramHeader, WeightsHeader
from glyphc.storage.withheld import save_secrets
from glyphc.train.job import Job, Options, make_job
from glyphc.train.linear_models import linear_model
from glyphc.train.optimizers import SGD
from glyphc.train.plan import Plan

RING = 1024
TEXTS = (
    "weights he_normal(seed=0)\nbatch 2\ninput x: encrypted [3]\n"
    "y = x -> dense(4) as a -> tanh -> dense(2) as b\noutput y\n",
    "weights he_normal(seed=1)\ninput x: encrypted [1, 4, 4]\n"
    "h = x -> conv(2, 3, padding=1) as c -> relu -> avg_pool(2) -> flatten\n"
    "y = h -> dense(3) as d -> softmax\noutput y\n",
    "weights he_normal(seed=2)\nactivation gate(x) on [-8, 8] = x * sigmoid(1.702 * x)\ninput x: [4]\n"
    "h = x / [1, 2, 3, 4] -> dense(3) as fc1 -> gate\nz = max(h, 0.5) * h\n"
    "y = z -> dense(2) as fc2 -> argmax\noutput y\n"
    "quantize { activation_bits = 12  gate1: 14 bits }\n"
    "training { loss cross_entropy(h) optimizer sgd(learning_rate=0.05, momentum=0.9) "
    "schedule step(every=5, factor=0.5) epochs 20 freeze fc1 }\n",
)


def network(text: str) -> Network:
    return parse_glyph(text)


@lru_cache(maxsize=1)
def programs() -> tuple[Program, ...]:
    """Compiled ones, with ranges of random samples; the second one with encrypted weights."""
    found = []
    for text, hidden in ((TEXTS[0], None), (TEXTS[0], "all"), (TEXTS[1], None)):
        graph = network(text).graph
        (x,) = graph.inputs
        samples = np.random.default_rng(3).normal(size=(20, *x.type.shape))
        found.append(glyphc.compile(graph, samples, 2, insecure_ring=RING, cost=CostModel(), encrypt_weights=hidden))
    return tuple(found)


@lru_cache(maxsize=1)
def graph_texts() -> tuple[bytes, ...]:
    """At every level."""
    return tuple(to_text(g).encode() for p in programs()[:2] for g in p.stages.values())


@lru_cache(maxsize=1)
def artifacts() -> tuple[bytes, ...]:
    return tuple(p.to_bytes() for p in programs()[:2])


@lru_cache(maxsize=1)
def halves() -> tuple[ServerProgram, ...]:
    return tuple(split(p.graph).server for p in programs())


def parts_of(half: ServerProgram) -> dict[str, bytes]:
    """The parts of a server's half, as they are in its file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.server"
        half.save(path)
        with Reader(path, ProgramHeader) as reader:
            return {name: reader.read(name) for name in reader.parts}


@lru_cache(maxsize=1)
def secret_parts() -> Mapping[str, bytes]:
    """Of the file with the weights of the second program."""
    program = programs()[1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "w"
        save_secrets(path, program.stages, program.public_stages, program.fingerprint)
        with Reader(path, WeightsHeader) as reader:
            return {name: reader.read(name) for name in reader.parts}


@lru_cache(maxsize=1)
def job() -> Job:
    x = np.random.default_rng(3).normal(2.0, 3.0, size=(60, 4))
    options = Options(SGD(0.5, 0.5), 2, 24, insecure_ring=RING)
    return make_job(linear_model(x, 1, "sigmoid"), x, (x.sum(axis=1) > 8).astype(np.int64), options)


@lru_cache(maxsize=1)
def _planned() -> tuple[Plan, TrainingProgram]:
    return plan_steps(job())


def plan() -> Plan:
    return _planned()[0]


def training() -> TrainingProgram:
    return _planned()[1]


@lru_cache(maxsize=1)
def cost_text() -> bytes:
    return to_json(CostModel()).encode()


@lru_cache(maxsize=1)
def arrays() -> tuple[bytes, ...]:
    """Files of numpy's."""
    found = []
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(buffer, x=np.arange(12.0).reshape(3, 4), y=np.ones(3, dtype=np.int32))
        found.append(buffer.getvalue())
    buffer = io.BytesIO()
    np.save(buffer, np.ones((2, 3), dtype=np.float32))
    return (*found, buffer.getvalue())


def container(header: Header, parts: Mapping[str, bytes]) -> bytes:
    """A whole container as it is in a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f"
        with Writer(path, header) as writer:
            for name, data in parts.items():
                writer.add(name, data)
        return path.read_bytes()


@lru_cache(maxsize=1)
def containers() -> tuple[bytes, ...]:
    """One of each kind, with plausible headers and small parts."""
    parameters = record_text(Parameters(RING, 20, 40, slots=8, degree=13, security=INSECURE))
    usual = {"program": "0" * 64, "key": "1" * 64, "request": "2" * 64, "seed": "3" * 64, "parameters": parameters}
    found = []
    for kind in HEADERS:
        values = {name: usual.get(name, "" if hint == "str" else 1) for name, hint in kind.__annotations__.items()}
        for base in kind.__mro__[1:]:
            for name, hint in getattr(base, "__annotations__", {}).items():
                if "ClassVar" not in str(hint):
                    values.setdefault(name, usual.get(name, "" if hint == "str" else 1))
        header = kind(**values)
        assert asdict(header)
        found.append(container(header, {"a": b"abc", "b/0": bytes(100), "secret": bytes(RING)}))
    return tuple(found)


def zipped(entries: Mapping[str, bytes], compressed: bool = False) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in entries.items():
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
            archive.writestr(entry, data)
    return buffer.getvalue()


@lru_cache(maxsize=1)
def models() -> tuple[bytes, ...]:
    """ONNX files."""
    import random

    from .onnx_graphs import random_model

    found = [random_model(random.Random(seed), hostile=False).SerializeToString() for seed in range(40)]
    x = helper.make_tensor_value_info("x", 1, ["N", 4])
    y = helper.make_tensor_value_info("y", 1, ["N", 4])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    found.append(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())
    return tuple(found)


def warm() -> None:
    """Make all of them, before processes are forked that would each make their own."""
    for make in (
        programs,
        graph_texts,
        artifacts,
        halves,
        _planned,
        cost_text,
        arrays,
        containers,
        models,
        secret_parts,
    ):
        make()
    for half in halves():
        assert half.fingerprint and half.schedule.instructions
