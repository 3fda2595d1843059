"""What the server holds: evaluation keys. Nothing here lets anyone decrypt."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..errors import BackendError
from .bridge import CiphertextMould
from .contexts import Contexts
from .library import fhe


@dataclass(frozen=True, eq=False)
class WeightKeys:
    """The encrypted weights of one step of a linear map (see ``weight_keys``).

    products: for each polynomial w the key-switching keys from w and from w*s to the secret s. bias: a BGV ciphertext.
    """

    products: tuple[tuple[Any, Any], ...]
    bias: Any | None


@dataclass(frozen=True, eq=False)
class EvaluationKeys:
    """Contexts, public key and evaluation keys of one client.

    The bootstrapping context's automorphism and multiplication keys live in OpenFHE's own tables, filed under the
    public
    key's tag; bgv_mould is made of an encryption of zero; bgv_automorphisms maps automorphism indices to keys of the
    BGV context (None when nothing is unpacked). bgv_public: the client's BGV public key, serialised, where outputs
    may have to be re-randomised. weights: the client's encrypted weights, by the names of ``ClientSpec.encrypted``.
    """

    contexts: Contexts
    public_key: Any | None
    bgv_automorphisms: Any | None
    bgv_mould: CiphertextMould
    bgv_public: bytes | None = None
    weights: Mapping[str, WeightKeys] = field(default_factory=dict)


def unpack_automorphism(ring: int, stride: int) -> int:
    """g with X -> X^g keeping exponents that are even multiples of ``stride`` and negating the odd ones."""
    return 1 + ring // stride


def bootstrap_key_bytes(keys: EvaluationKeys) -> int:
    """Size of all evaluation keys of the bootstrapping context, serialised; 0 without one."""
    context = keys.contexts.torus
    if context is None or keys.public_key is None:
        return 0
    tag = keys.public_key.GetKeyTag()
    # all have the size of the one for multiplication
    multiplication = context.GetEvalMultKeyVector(tag)
    count = len(context.GetExistingEvalAutomorphismKeyIndices(tag)) + len(multiplication)
    return count * len(fhe.Serialize(multiplication[0], fhe.BINARY))


_in_use = threading.Lock()
_holders: list[int] = []  # the thread that holds them
_releases = 0


@contextmanager
def key_tables(wait: bool = False) -> Iterator[None]:
    """Sole use of the tables in which OpenFHE keeps evaluation keys.

    They belong to the process, and can only be emptied as a whole: key generation would take the keys of an evaluation.
    wait: for runs in other threads to end; else BackendError when the tables are in use. A thread never waits for
    itself.
    """
    if not _in_use.acquire(blocking=wait and threading.get_ident() not in _holders):
        raise BackendError(
            "this process holds evaluation keys already, and OpenFHE's tables serve one set at a time; close the other "
            "evaluator first, or use another process"
        )
    _holders.append(threading.get_ident())
    try:
        yield
    finally:
        _holders.clear()
        _in_use.release()


def clear_keys(keys: EvaluationKeys) -> None:
    """Drop what makes evaluation keys large: automorphism keys and precomputed transforms. Contexts stay."""
    keys.contexts.bgv.ClearEvalAutomorphismKeys()
    if keys.contexts.torus is not None:
        keys.contexts.torus.ClearBootstrapPrecom()


def release_all_keys() -> None:
    """Drop every evaluation key and context that OpenFHE keeps in tables of this process (gigabytes).

    OpenFHE offers no way to drop those of one client alone, so this belongs where no other evaluation is going on.
    Objects made before do not go with objects made after it: see :func:`releases`.
    """
    global _releases
    _releases += 1
    fhe.ReleaseAllContexts()


def releases() -> int:
    """How often contexts were released so far."""
    return _releases
