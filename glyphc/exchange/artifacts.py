"""Splitting a compiled program: a specification for the client, and what the server executes.

The specification holds no weights and no instructions, the server's half nothing that calibration saw (ranges and
histograms of real samples) and none of the compiler's reasons.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from glyphc.analysis.predicted import predicted_noise
from glyphc.archive import ArchiveError
from glyphc.artifact import is_artifact, read_stages
from glyphc.errors import ArtifactError
from glyphc.ir import memory
from glyphc.ir.errors import IRError
from glyphc.ir.graph import Graph
from glyphc.ir.instructions import ClientSpec, Schedule
from glyphc.ir.layout import next_power_of_two
from glyphc.ir.ops import Output
from glyphc.ir.parameters import Parameters
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.ir.text import parse, parse_parameters, parse_record, record_text, to_text
from glyphc.ir.types import Encoding, Level
from glyphc.ir.verify import verify
from glyphc.passes.schedule import schedule
from glyphc.withheld import without_secrets

from .container import Reader, Writer
from .headers import ProgramHeader, SpecHeader

SPEC_SUFFIX = ".spec"
PROGRAM_SUFFIX = ".server"
# Names in the folders that 'glyphc keygen' fills.
SPEC_FILE = "client.spec"
PROGRAM_FILE = "program.server"
KEYS_FILE = "evaluation.keys"
# Beyond this, integers are none in the float64 that slots are encoded from.
_MOST_STEPS = 1 << 52


@dataclass(frozen=True)
class Specification:
    """All of a program that a client needs, and the fingerprint of that program."""

    program: str
    client: ClientSpec

    def save(self, path: Path) -> None:
        with Writer(path, SpecHeader(self.program)) as writer:
            writer.add("spec", record_text(self.client).encode())

    @staticmethod
    def load(path: Path) -> Specification:
        with Reader(path, SpecHeader) as reader:
            data = reader.read("spec")
            reader.expect([("spec", len(data))])
            try:
                client = parse_record(data.decode(), ClientSpec)
                _check_ports(client)
            except (IRError, ValueError) as e:
                raise reader.damaged(f"its specification is unreadable ({e})") from None
            return Specification(reader.header.program, client)


@dataclass(frozen=True, eq=False)
class ServerProgram:
    """What the server executes. graph: the final graph, see :func:`stripped`."""

    graph: Graph

    @cached_property
    def text(self) -> str:
        return to_text(self.graph)

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @cached_property
    def schedule(self) -> Schedule:
        return schedule(self.graph)

    @property
    def specification(self) -> Specification:
        return Specification(self.fingerprint, self.schedule.client)

    def output_noise(self) -> dict[str, float]:
        """Predicted standard deviation of the ciphertext and bootstrap noise of each output, in its integers."""
        noise = predicted_noise(self.graph)
        out = {}
        for node, op in self.graph.of(Output):
            while node.id not in noise:
                node = self.graph.operands(node)[0]
            found = noise[node.id]
            out[op.name] = (found.white**2 + found.bootstrap**2) ** 0.5
        return out

    def save(self, path: Path) -> None:
        with Writer(path, ProgramHeader(self.fingerprint)) as writer:
            writer.add("graph", self.text.encode())

    @staticmethod
    def load(path: Path) -> ServerProgram:
        """From a ``.server`` file, or a whole ``.glyphc`` artifact (which a server does not need but may have)."""
        if _is_artifact(path):
            stages, _ = read_stages(path.read_bytes(), os.fspath(path))
            graph = list(stages.values())[-1]
            _check_graph(graph, repr(os.fspath(path)))
            return ServerProgram(stripped(graph))
        with Reader(path, ProgramHeader) as reader:
            data = reader.read("graph")
            reader.expect([("graph", len(data))])
            try:
                graph = parse(data.decode())
                verify(graph)
            except (IRError, UnicodeDecodeError) as e:
                raise reader.damaged(f"its graph is unreadable ({e})") from None
            _check_graph(graph, reader.name)
            program = ServerProgram(graph)
            if program.fingerprint != reader.header.program:
                raise reader.damaged("its fingerprint is not that of its graph")
            return program


def specification(path: Path) -> Specification:
    """A client specification from its own file, or split off from a program."""
    if path.suffix == SPEC_SUFFIX:
        return Specification.load(path)
    return ServerProgram.load(path).specification


def stripped(graph: Graph) -> Graph:
    """The graph without calibration data, decisions, and the values of weights that are to be encrypted."""
    graph = without_secrets({"": graph})[""]
    out = Graph(graph.level, graph.batch, graph.parameters)
    for name in graph.constants:
        out.take_constant(graph, name)
    for node in graph:
        operands = tuple(out.node(o) for o in node.operands)
        out.add(node.op, operands, replace(node.type, calibration=None), node.location)
    return out


def read_parameters(text: str, reader: Reader[Any]) -> Parameters:
    """Parameters as they stand in a header of training."""
    try:
        parameters = parse_record(text, Parameters)
        parameters.check_powers()
        return parameters
    except (IRError, ValueError) as e:
        raise reader.damaged(f"its parameters are unreadable ({e})") from None


def read_program_parameters(text: str, reader: Reader[Any]) -> Parameters | SlotParameters:
    """Parameters of a program as they stand in a header."""
    try:
        parameters = parse_parameters(text)
        parameters.check_powers()
        return parameters
    except (IRError, ValueError) as e:
        raise reader.damaged(f"its parameters are unreadable ({e})") from None


def read_seed(text: str, reader: Reader[Any]) -> bytes:
    """A seed as it stands in a header."""
    try:
        seed = bytes.fromhex(text)
    except ValueError:
        seed = b""
    if len(seed) != 32:
        raise reader.damaged("its seed is not one of 32 bytes")
    return seed


def _check_ports(client: ClientSpec) -> None:
    """IRError or ValueError for a specification that no compiler made.

    A stranger's must not make a client allocate what it likes.
    """
    parameters = client.parameters
    parameters.check_powers()
    in_slots = isinstance(parameters, SlotParameters)
    bound = _MOST_STEPS if isinstance(parameters, SlotParameters) else parameters.plaintext_modulus
    positions = parameters.slots if isinstance(parameters, SlotParameters) else parameters.ring
    if not client.inputs or not client.outputs:
        raise IRError("it has no input or no output")
    if client.batch < 1:
        raise IRError(f"its batch is {client.batch}")
    for port in (*client.inputs, *client.outputs):
        # the tensor as it is given, in fixed point, and where its elements stand
        memory.require(4 * 8 * client.batch * port.layout.features, f"a batch of {port.name!r}")
    for port in (*client.inputs, *client.outputs):
        layout, fixed = port.layout, port.fixed
        if (port.encoding is Encoding.SLOTS) is not in_slots:
            raise IRError(f"{port.name!r} is encoded for another scheme than the parameters'")
        if in_slots and (layout.parts, layout.chunks, layout.stride) != (layout.features, 1, 1):
            raise IRError(f"{port.name!r} does not have one ciphertext for each feature")
        if layout.ring != positions or layout.batch != client.batch:
            raise IRError(f"{port.name!r} is laid out for another ring or batch")
        if port.ranks is not None:
            port.ranks.check(prod(port.shape))
        if len(port.columns) not in (0, prod(port.shape)):
            raise IRError(f"{port.name!r} has {len(port.columns)} names for the elements of {list(port.shape)}")
        if layout.features != port.size or layout.parts > next_power_of_two(layout.features):
            raise IRError(f"the layout of {port.name!r} has another size than its tensor")
        if client.chunks % layout.chunks or layout.chunks > layout.batch:
            raise IRError(f"the chunks of {port.name!r} do not fit the batch or those of other tensors")
        if len(fixed.scale) not in (1, layout.features):
            raise IRError(f"the number format of {port.name!r} does not fit its tensor")
        if max(abs(fixed.lo), abs(fixed.hi)) > bound:
            raise IRError(f"the values of {port.name!r} do not fit the plaintext modulus")


def _is_artifact(path: Path) -> bool:
    """Whether a file is a compiled program as 'glyphc compile' writes it; other errors are left to its reader."""
    try:
        with open(path, "rb") as file:
            return is_artifact(file)
    except OSError as e:
        raise ArtifactError(f"cannot read {os.fspath(path)!r}: {e.strerror}") from None
    except ArchiveError:  # damaged; its reader says how
        return path.suffix == ".glyphc"


def _check_graph(graph: Graph, name: str) -> None:
    if graph.level is not Level.LAIDOUT or graph.parameters is None:
        raise ArtifactError(f"{name} holds no whole program: its final graph with parameters is missing")
