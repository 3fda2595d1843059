"""The server's own frozen weights, in the clear: added to the zeros that a client has encrypted where they belong.

A ciphertext of zero plus a public message is a ciphertext of the message. What leaves the server (checkpoints, trained
states) has the client's zeros again, so whoever decrypts it learns nothing of these weights from them. Nothing but the
offer's own instructions meets the weights: its training program, and forward passes, whose hashes are beside the
weights. Others could store the weights themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from glyphc.errors import ArtifactError
from glyphc.storage.container import Reader
from glyphc.storage.headers import TrainingBackboneHeader

from .training_engines import Machine
from .training_files import BACKBONE, ProgramFile, part_name

REQUESTS = "requests"
_DIGEST_BYTES = 32


def check_kept(folder: Path, program: ProgramFile) -> None:
    """ArtifactError for a file of weights that is missing, damaged, or of another program, where there is to be one."""
    if program.outline.kept:
        with _opened(folder, program) as reader:
            reader.verify()


def kept_weights(folder: Path, program: ProgramFile, machine: Machine, state: dict[str, Any]) -> dict[str, Any]:
    """Ciphertexts of the server's weights by name, from those of zeros in a state; none where the program has none.

    ArtifactError as of :func:`check_kept`, and for numbers that are none, or too large.
    """
    if not program.outline.kept:
        return {}
    found = {}
    with _opened(folder, program) as reader:
        for at, name in enumerate(program.outline.kept):
            message = np.frombuffer(reader.read(part_name(at)), dtype="<f8")
            try:
                if not np.isfinite(message).all():
                    raise ValueError("it has numbers that are none")
                found[name] = machine.with_public(state[name], message)
            except ValueError as e:
                raise reader.damaged(f"part {part_name(at)}: {e}") from None
    return found


def check_request(folder: Path, program: ProgramFile, step: int, code: str, name: str) -> None:
    """ArtifactError unless a request for the weights after ``step`` steps has the instructions of the offer's forward
    pass, where the server keeps weights. code: their SHA-256."""
    if not program.outline.kept:
        return
    with _opened(folder, program) as reader:
        known = reader.read(REQUESTS)
    at = step * _DIGEST_BYTES
    if known[at : at + _DIGEST_BYTES].hex() != code:
        raise ArtifactError(
            f"{name} asks for other instructions than the offer's forward pass, and the server's weights are not for "
            "others; make it with 'glyphc training request'"
        )


def requests_part(codes: Iterable[str]) -> bytes:
    """What :func:`check_request` reads. codes: SHA-256 of forward passes with the weights after 0, 1, ... steps."""
    return b"".join(map(bytes.fromhex, codes))


def _opened(folder: Path, program: ProgramFile) -> Reader[TrainingBackboneHeader]:
    path, names = folder / BACKBONE, program.outline.kept
    if not path.is_file():
        raise ArtifactError(
            f"this program computes with frozen weights of the server's, and {str(path)!r} is missing: put the file "
            "there that 'glyphc training offer' wrote beside the offer"
        )
    reader = Reader(path, TrainingBackboneHeader)
    try:
        if reader.header.program != program.fingerprint:
            raise ArtifactError(f"{reader.name} belongs to another training program than the client accepted")
        parts = [(part_name(at), 8 * program.parameters.ring) for at in range(len(names))]
        reader.expect([*parts, (REQUESTS, _DIGEST_BYTES * (program.outline.steps + 1))])
    except BaseException:
        reader.close()
        raise
    return reader
