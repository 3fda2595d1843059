"""Which parts a file of encrypted inputs or outputs has, and where in an output the useful values stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.instructions import ClientSpec, Port
from glyphc.storage.container import Reader

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Place:
    """One ciphertext: which pass, which input or output, which of its ciphertexts. taken: the places in the batch
    where the pass's samples stand."""

    pass_number: int
    port: Port
    port_number: int
    number: int
    taken: I64

    @property
    def name(self) -> str:
        """Name of the part."""
        return f"{self.pass_number:06d}/{self.port_number:03d}/{self.number:05d}"

    @property
    def positions(self) -> I64:
        """Exponents of the useful values."""
        layout = self.port.layout
        chunk, part = divmod(self.number, layout.parts)
        return layout.positions(part, self.taken[self.taken % layout.chunks == chunk] // layout.chunks).ravel()


def pass_count(client: ClientSpec, samples: int) -> int:
    """Passes that so many samples take."""
    return -(-samples // client.batch)


def rows(client: ClientSpec, samples: int, pass_number: int) -> slice:
    """The samples of a pass."""
    first = pass_number * client.batch
    return slice(first, min(first + client.batch, samples))


def input_places(client: ClientSpec, samples: int, pass_number: int) -> Iterator[Place]:
    """The ciphertexts of one pass's inputs: of the chunks that hold samples."""
    return _places(client, client.inputs, samples, pass_number)


def output_places(client: ClientSpec, samples: int, pass_number: int) -> Iterator[Place]:
    """The ciphertexts of one pass's outputs: those that hold a value."""
    places = _places(client, client.outputs, samples, pass_number)
    return (p for p in places if p.number % p.port.layout.parts < p.port.layout.features)


def _places(client: ClientSpec, ports: Sequence[Port], samples: int, pass_number: int) -> Iterator[Place]:
    part = rows(client, samples, pass_number)
    count = part.stop - part.start
    taken = client.places(count)
    for port_number, port in enumerate(ports):
        for number in range(chunks_of(client, port, count) * port.layout.parts):
            yield Place(pass_number, port, port_number, number, taken)


def chunks_of(client: ClientSpec, port: Port, samples: int) -> int:
    """Chunks of an input or output that hold any of so many samples of a pass: the first ones."""
    return min(client.chunks_for(samples), port.layout.chunks)


def check_count(
    reader: Reader[Any], samples: int, client: ClientSpec, places: Callable[[ClientSpec, int, int], Iterator[Place]]
) -> None:
    """ArtifactError when the number of parts is not that of so many samples; before anything is done for each.

    places: :func:`input_places` or :func:`output_places`.
    """
    wanted = 0
    if samples > 0:
        full, rest = divmod(samples, client.batch)
        wanted = full * sum(1 for _ in places(client, client.batch, 0))
        wanted += sum(1 for _ in places(client, rest, 0)) if rest else 0
    if samples < 1 or len(reader.parts) != wanted:
        raise reader.damaged(f"it has {len(reader.parts)} parts, {samples} samples take {wanted}")
