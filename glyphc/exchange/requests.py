"""Encrypted inputs as a file: what a server asks of it before any work, and where their parts are read from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from glyphc.errors import ArtifactError
from glyphc.storage.container import Reader
from glyphc.storage.headers import InputsHeader

from .artifacts import ServerProgram, read_seed
from .engines import input_size
from .parts import check_count, input_places, pass_count


@dataclass(frozen=True)
class Request:
    """What an evaluation is about: checked before any work. digest: of the file of inputs."""

    inputs: Path
    program: str
    key: str
    samples: int
    seed: bytes
    digest: str


class Source(Protocol):
    """Where the parts of encrypted inputs come from."""

    def read(self, name: str) -> bytes:
        """One part."""

    def damaged(self, reason: str) -> ArtifactError:
        """That a part cannot be what it says."""


def check_request(path: Path, program: ServerProgram, key: str, modulus: int, label: str | None = None) -> Request:
    """Check a file of encrypted inputs as a whole: binding, number, sizes, hashes. ArtifactError says what is wrong.

    key: digest of the evaluation keys; modulus: of the BGV context, as the keys' header says.
    """
    client = program.specification.client
    with Reader(path, InputsHeader, label) as reader:
        header = reader.header
        if header.program != program.fingerprint:
            raise ArtifactError(f"{reader.name} was encrypted for another program")
        if header.key != key:
            raise ArtifactError(f"{reader.name} was encrypted with other keys than these evaluation keys belong to")
        seed = read_seed(header.seed, reader)
        check_count(reader, header.samples, client, input_places)
        size = input_size(client, modulus)
        passes = range(pass_count(client, header.samples))
        reader.expect([(p.name, size) for number in passes for p in input_places(client, header.samples, number)])
        reader.verify()
        program.partial(min(header.samples, client.batch))
        if header.samples % client.batch:
            program.partial(header.samples % client.batch)
        return Request(path, header.program, header.key, header.samples, seed, reader.digest)
