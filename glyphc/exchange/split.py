"""Splitting a compiled program: for whoever has the whole of it, so with a compiler. Never imported by a server."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from glyphc.errors import ArtifactError, ParameterError
from glyphc.ir.graph import Graph
from glyphc.ir.instructions.numbered import Names
from glyphc.ir.integer_parameters import IntegerParameters
from glyphc.ir.ops import Output
from glyphc.ir.word_parameters import WordParameters
from glyphc.passes.schedule import schedule
from glyphc.program import Program
from glyphc.slots.integer_noise import integer_noise
from glyphc.storage.archive import ArchiveError
from glyphc.storage.artifact import is_artifact
from glyphc.storage.withheld import without_secrets
from glyphc.ways.noise import predicted_noise

from .artifacts import SPEC_SUFFIX, ServerProgram, Specification


@dataclass(frozen=True, eq=False)
class Halves:
    """The server's half, which has the client's in it, and the names that both are without; None: of neither known."""

    server: ServerProgram
    names: Names | None


def split(graph: Graph) -> Halves:
    """From a program's final graph, with or without the values of weights that are to be encrypted."""
    if isinstance(graph.parameters, WordParameters):
        raise ParameterError(
            "a program on words of encrypted bits (tbmpnet) has no files for two machines yet: 'glyphc run' plays both "
            "sides in one process"
        )
    graph = stripped(graph)
    whole = schedule(graph)
    if isinstance(whole.parameters, IntegerParameters):
        exact = integer_noise(whole.instructions, whole.parameters)
        server = ServerProgram.of(whole, exact.outputs, exact.shown)
    else:
        server = ServerProgram.of(whole, output_noise(graph))
    return Halves(server, Names.of(whole.client))


def stripped(graph: Graph) -> Graph:
    """The graph without the values of weights that are to be encrypted, and without calibration data.

    The noise that is predicted from it, which the server learns, says nothing of the samples.
    """
    graph = without_secrets({"": graph})[""]
    out = Graph(graph.level, graph.batch, graph.parameters)
    for name in graph.constants:
        out.take_constant(graph, name)
    for node in graph:
        operands = tuple(out.node(o) for o in node.operands)
        out.add(node.op, operands, replace(node.type, calibration=None), node.location)
    return out


def output_noise(graph: Graph) -> dict[str, float]:
    """Predicted standard deviation of the ciphertext and bootstrap noise of each output, in its integers."""
    noise = predicted_noise(graph)
    out = {}
    for node, op in graph.of(Output):
        while node.id not in noise:
            node = graph.operands(node)[0]
        found = noise[node.id]
        out[op.name] = (found.white**2 + found.bootstrap**2) ** 0.5
    return out


def load_halves(path: Path) -> Halves:
    """From a compiled program (``.glyphc``), or a server's half as it is."""
    if _is_artifact(path):
        return split(Program.load(path).graph)
    return Halves(ServerProgram.load(path), None)


def specification(path: Path) -> Specification:
    """A client specification from its own file, or split off from a program."""
    if path.suffix == SPEC_SUFFIX:
        return Specification.load(path)
    return load_halves(path).server.specification


def _is_artifact(path: Path) -> bool:
    """Whether a file is a compiled program as 'glyphc compile' writes it; other errors are left to its reader."""
    try:
        with open(path, "rb") as file:
            return is_artifact(file)
    except OSError as e:
        raise ArtifactError(f"cannot read {os.fspath(path)!r}: {e.strerror}") from None
    except ArchiveError:  # damaged; its reader says how
        return path.suffix == ".glyphc"
