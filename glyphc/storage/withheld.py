"""Programs without the values of weights that are to be encrypted, and the file that keeps those values.

A program with encrypted weights is saved in two files: the artifact, with which a server may do its part, and the
weights in the clear, for their owner: to encrypt them when keys are made, and to look into the program.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path

import numpy as np

from glyphc.ir import memory
from glyphc.ir.graph import Graph, with_constants
from glyphc.ir.ops import Linear
from glyphc.storage.container import Reader, Writer
from glyphc.storage.headers import WeightsHeader


def without_secrets(stages: Mapping[str, Graph]) -> dict[str, Graph]:
    """The stages of a program without the weights that its last one encrypts.

    From the stage on that says which maps these are, their constants are withheld; of the stages before, where weights
    have not become these maps yet, all constants are.
    """
    final = list(stages.values())[-1]
    if not any(op.encrypted for _, op in final.of(Linear)):
        return dict(stages)
    return {name: with_constants(graph, withheld=_secret(graph)) for name, graph in stages.items()}


def _secret(graph: Graph) -> frozenset[str]:
    maps = [op for _, op in graph.of(Linear) if op.encrypted]
    if not maps:
        return frozenset(graph.constants)
    return frozenset(name for op in maps for name in op.constant_names())


def save_secrets(path: Path, stages: Mapping[str, Graph], public: Mapping[str, Graph], program: str) -> None:
    """Write what ``public`` lacks of ``stages``, with mode 0600. program: the fingerprint."""
    with Writer(path, WeightsHeader(program), secret=True) as writer:
        for part, stage, name in _places(public):
            values = np.ascontiguousarray(stages[stage].constant(name))
            writer.add(part, zlib.compress(values.astype(values.dtype.newbyteorder("<")).tobytes(), 6))


def load_secrets(path: Path, public: Mapping[str, Graph], program: str) -> dict[str, Graph]:
    """The stages with the values from a file; ArtifactError when it is damaged or another program's."""
    with Reader(path, WeightsHeader) as reader:
        if reader.header.program != program:
            raise reader.damaged("it holds the weights of another program")
        values: dict[str, dict[str, np.ndarray]] = {stage: {} for stage in public}  # type: ignore[type-arg]
        for part, stage, name in _places(public):
            known = public[stage].constants[name]
            values[stage][name] = _unpacked(reader, part, known.dtype, known.shape)
    return {stage: with_constants(graph, values=values[stage]) for stage, graph in public.items()}


def _unpacked(
    reader: Reader[WeightsHeader], part: str, dtype: np.dtype[np.generic], shape: tuple[int, ...]
) -> np.ndarray:  # type: ignore[type-arg]
    data = reader.read(part)
    try:
        size = prod(shape) * dtype.itemsize
        stored = np.frombuffer(memory.inflated(data, size), dtype=dtype.newbyteorder("<"))
        return stored.astype(dtype).reshape(shape)
    except ValueError as e:
        raise reader.damaged(f"part {part} is unreadable ({e})") from None


def _places(public: Mapping[str, Graph]) -> Iterator[tuple[str, str, str]]:
    """(name of the part, stage, constant) of everything that is withheld."""
    for number, (stage, graph) in enumerate(public.items()):
        for at, name in enumerate(n for n in graph.constants if n in graph.withheld):
            yield f"{number:02d}/{at:05d}", stage, name
