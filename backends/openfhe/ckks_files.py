"""The server's half of a training run as files: public key, evaluation keys, ciphertexts. No secret."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from glyphc.ir.parameters import Parameters

from ..errors import BackendError
from .ckks_contexts import make_training_contexts, setup_training_bootstrap
from .ckks_evaluator import TrainingKeys
from .library import fhe

_PUBLIC, _ZERO = "public-key.bin", "zero.bin"
_PRODUCTS, _AUTOMORPHISMS = "product-key.bin", "automorphism-keys.bin"
_BOOTSTRAP, _LINEAR = "bootstrap", "linear"


def save_keys(folder: Path, keys: TrainingKeys) -> None:
    """Write all evaluation keys (gigabytes at N = 65536) to a folder that exists; the public key last."""
    c = keys.contexts
    for kind, context, tag in (
        (_BOOTSTRAP, c.torus, keys.public_key.GetKeyTag()),
        (_LINEAR, c.linear, keys.zero.GetKeyTag()),
    ):
        for name, save in (
            (_PRODUCTS, context.SerializeEvalMultKey),
            (_AUTOMORPHISMS, context.SerializeEvalAutomorphismKey),
        ):
            path = str(folder / f"{kind}-{name}")
            if not save(path, fhe.BINARY, tag):
                raise BackendError(f"OpenFHE cannot write {path!r}; is the disk full?")
    write(folder / _ZERO, to_bytes(keys.zero))
    write(folder / _PUBLIC, fhe.Serialize(keys.public_key, fhe.BINARY))


def load_keys(folder: Path, parameters: Parameters) -> TrainingKeys:
    """The inverse of :func:`save_keys`; sets the bootstrap up. BackendError when files are missing or damaged."""
    contexts = make_training_contexts(parameters)
    try:
        public_key = fhe.DeserializePublicKeyString((folder / _PUBLIC).read_bytes(), fhe.BINARY)
        zero = from_bytes((folder / _ZERO).read_bytes())
        for kind, context in ((_BOOTSTRAP, contexts.torus), (_LINEAR, contexts.linear)):
            if not (
                context.DeserializeEvalMultKey(str(folder / f"{kind}-{_PRODUCTS}"), fhe.BINARY)
                and context.DeserializeEvalAutomorphismKey(str(folder / f"{kind}-{_AUTOMORPHISMS}"), fhe.BINARY)
            ):
                raise RuntimeError("OpenFHE does not read them")
    except (OSError, RuntimeError) as e:
        raise BackendError(f"cannot load the evaluation keys in {str(folder)!r}: {e}") from None
    setup_training_bootstrap(contexts, public_key)
    return TrainingKeys(contexts, public_key, zero)


def to_bytes(ciphertext: Any) -> bytes:
    return bytes(fhe.Serialize(ciphertext, fhe.BINARY))


def from_bytes(data: bytes) -> Any:
    """A ciphertext of a context that exists in this process; BackendError for anything else."""
    try:
        return fhe.DeserializeCiphertextString(data, fhe.BINARY)
    except RuntimeError as e:
        raise BackendError(f"this is no ciphertext of this run: {e}") from None


def write(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file that appears whole or not at all."""
    temporary = path.with_name(path.name + ".part")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
