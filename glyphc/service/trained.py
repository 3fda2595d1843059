"""Networks that were trained on ciphertexts and serve so: folders as 'glyphc training run' leaves them."""

from __future__ import annotations

import os
from pathlib import Path

from glyphc.errors import ArtifactError
from glyphc.exchange.training_files import KEYS, PROGRAM
from glyphc.exchange.training_infer import Answerer
from glyphc.storage.container import Reader
from glyphc.storage.headers import TrainingRequestHeader

from .settings import CLIENT_NAME, ServiceError, Settings

# Folders with what checks requests to them, by the client who may ask, the fingerprint of the program and the digest of
# the keys.
Trained = dict[tuple[str, str, str], tuple[Path, Answerer]]


def load_trained(settings: Settings) -> Trained:
    """The folders CLIENT/RUN in that of ``settings``. ServiceError when there is none, one that protects nothing or
    that is nobody's, or where outputs are to be flooded."""
    if settings.trained is None:
        return {}
    if settings.sanitize:
        raise ServiceError(
            "--sanitize floods results of compiled programs and nothing else: answers of trained weights would leave "
            "as they are. Leave --sanitize or --trained out, or start a service for each"
        )
    within = settings.trained
    found: Trained = {}
    for folder in sorted((*within.glob("*"), *within.glob("*/*"))):
        if not ((folder / PROGRAM).is_file() and (folder / KEYS).is_file()):
            continue
        client = folder.parent.name
        if folder.parent == within or not CLIENT_NAME.fullmatch(client):
            raise ServiceError(
                f"nobody may ask the weights in {os.fspath(folder)!r}: put it into a folder that has the name of its "
                f"client, as in 'glyphc token CLIENT', in {os.fspath(within)!r}"
            )
        answerer = Answerer(folder)
        if not answerer.program.parameters.secure and not settings.insecure:
            raise ServiceError(
                f"{os.fspath(folder)!r} was trained with a small ring, for tests only, and protects nothing; remove "
                "it, or say --insecure"
            )
        known = found.setdefault((client, answerer.program.fingerprint, answerer.key), (folder, answerer))
        if known[0] != folder:
            raise ServiceError(f"{os.fspath(folder)!r} is the run of {os.fspath(known[0])!r}; leave one of them there")
    if not found:
        raise ServiceError(
            f"there is no training server's folder in {os.fspath(within)!r}: put one that 'glyphc training run' has "
            "trained in into a folder with the name of the client who may ask it"
        )
    return found


def is_request(path: Path) -> bool:
    """Whether a file says that it is a request to trained weights."""
    try:
        Reader(path, TrainingRequestHeader).close()
    except ArtifactError:
        return False
    return True
