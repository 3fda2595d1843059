"""Which parts a file of encrypted inputs or outputs has, and where in an output the useful values stand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphc.ir.instructions import ClientSpec, Port

from .container import Reader

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Place:
    """One ciphertext: which pass, which input or output, which of its ciphertexts. samples: in its chunk."""

    pass_number: int
    port: Port
    port_number: int
    number: int
    samples: int

    @property
    def name(self) -> str:
        """Name of the part."""
        return f"{self.pass_number:06d}/{self.port_number:03d}/{self.number:05d}"

    @property
    def positions(self) -> I64:
        """Exponents of the useful values."""
        return self.port.layout.positions(self.number % self.port.layout.parts, self.samples).ravel()


def pass_count(client: ClientSpec, samples: int) -> int:
    """Passes that so many samples take."""
    return -(-samples // client.batch)


def rows(client: ClientSpec, samples: int, pass_number: int) -> slice:
    """The samples of a pass."""
    first = pass_number * client.batch
    return slice(first, min(first + client.batch, samples))


def input_places(client: ClientSpec, samples: int, pass_number: int) -> Iterator[Place]:
    """The ciphertexts of one pass's inputs."""
    for port_number, port in enumerate(client.inputs):
        for number in range(port.layout.ciphertexts):
            yield _place(client, samples, pass_number, port, port_number, number)


def output_places(client: ClientSpec, samples: int, pass_number: int) -> Iterator[Place]:
    """The ciphertexts of one pass's outputs: those that hold a value."""
    for port_number, port in enumerate(client.outputs):
        for number in range(port.layout.ciphertexts):
            if number % port.layout.parts < port.layout.features:
                yield _place(client, samples, pass_number, port, port_number, number)


def _place(client: ClientSpec, samples: int, pass_number: int, port: Port, port_number: int, number: int) -> Place:
    part = rows(client, samples, pass_number)
    count = len(range(number // port.layout.parts, part.stop - part.start, port.layout.chunks))
    return Place(pass_number, port, port_number, number, count)


def check_count(reader: Reader[Any], samples: int, per_pass: int, client: ClientSpec) -> None:
    """ArtifactError when the number of parts is not that of so many samples; before anything is done for each."""
    wanted = pass_count(client, samples) * per_pass
    if samples < 1 or len(reader.parts) != wanted:
        raise reader.damaged(f"it has {len(reader.parts)} parts, {samples} samples take {wanted}")
