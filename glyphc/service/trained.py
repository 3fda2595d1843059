"""Networks that were trained on ciphertexts and serve so: folders as 'glyphc training run' leaves them."""

from __future__ import annotations

import os
from pathlib import Path

from glyphc.errors import ArtifactError
from glyphc.exchange.training_files import KEYS, PROGRAM
from glyphc.exchange.training_infer import Answerer
from glyphc.storage.container import Reader
from glyphc.storage.headers import TrainingRequestHeader

from .settings import ServiceError, Settings

# Folders by the fingerprints of their programs, with what checks requests to them.
Trained = dict[str, tuple[Path, Answerer]]


def load_trained(settings: Settings) -> Trained:
    """The folders in that of ``settings``; ServiceError when there is none, or one that protects nothing."""
    if not settings.trained:
        return {}
    within = Path(settings.trained)
    found: Trained = {}
    for folder in sorted(within.iterdir()) if within.is_dir() else []:
        if not ((folder / PROGRAM).is_file() and (folder / KEYS).is_file()):
            continue
        answerer = Answerer(folder)
        if not answerer.program.parameters.secure and not settings.insecure:
            raise ServiceError(
                f"{os.fspath(folder)!r} was trained with a small ring, for tests only, and protects nothing; remove "
                "it, or say --insecure"
            )
        found[answerer.program.fingerprint] = (folder, answerer)
    if not found:
        raise ServiceError(
            f"there is no training server's folder in {os.fspath(within)!r}: put one there that 'glyphc training run' "
            "has trained in"
        )
    return found


def is_request(path: Path) -> bool:
    """Whether a file says that it is a request to trained weights."""
    try:
        Reader(path, TrainingRequestHeader).close()
    except ArtifactError:
        return False
    return True
