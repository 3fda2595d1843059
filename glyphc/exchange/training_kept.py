"""The server's own frozen weights, in the clear: added to the zeros that a client has encrypted where they belong.

A ciphertext of zero plus a public message is a ciphertext of the message. What leaves the server (checkpoints, trained
states) has the client's zeros again, so whoever decrypts it learns nothing of these weights from them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from glyphc.errors import ArtifactError
from glyphc.storage.container import Reader
from glyphc.storage.headers import TrainingBackboneHeader

from .training_files import BACKBONE, ProgramFile, part_name

if TYPE_CHECKING:
    from glyphc.backends.openfhe.ckks_evaluator import OpenFHECKKS


def kept_weights(folder: Path, program: ProgramFile, machine: OpenFHECKKS, state: dict[str, Any]) -> dict[str, Any]:
    """Ciphertexts of the server's weights by name, from those of zeros in a state; none where the program has none.

    ArtifactError for a file that is missing, damaged, or of another program.
    """
    names, ring = program.outline.kept, program.parameters.ring
    if not names:
        return {}
    path = folder / BACKBONE
    if not path.is_file():
        raise ArtifactError(
            f"this program computes with frozen weights of the server's, and {str(path)!r} is missing: put the file "
            "there that 'glyphc training offer' wrote beside the offer"
        )
    with Reader(path, TrainingBackboneHeader) as reader:
        if reader.header.program != program.fingerprint:
            raise ArtifactError(f"{reader.name} belongs to another training program than the client accepted")
        reader.expect([(part_name(at), 8 * ring) for at in range(len(names))])
        reader.verify()
        found = {}
        for at, name in enumerate(names):
            message = np.frombuffer(reader.read(part_name(at)), dtype="<f8")
            if not np.isfinite(message).all():
                raise reader.damaged(f"part {part_name(at)} has numbers that are none")
            try:
                found[name] = machine.with_public(state[name], message)
            except ValueError as e:
                raise reader.damaged(f"part {part_name(at)}: {e}") from None
    return found
