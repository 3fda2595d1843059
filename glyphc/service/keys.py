"""Evaluation keys: uploaded once, in chunks, resumable and checked before they are used."""

from __future__ import annotations

import asyncio
import os
import secrets
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request, Response

from glyphc.errors import ArtifactError
from glyphc.exchange.key_checks import check_keys
from glyphc.storage.container import Reader
from glyphc.storage.headers import KEY_PART, KeysHeader

from .context import BODY, UPLOAD, ClientDep, Service, ServiceDep, problems
from .limits import receive_file
from .models import ChunkHash, DigestPath, KeyInfo, NewKey, Offset
from .store import CHECKING, READY, REFUSED, UPLOADING, Key, QuotaError, Store

router = APIRouter(prefix="/v1/keys", tags=["keys"])


@router.post("", status_code=201, responses=problems(409, 413, 422))
def begin(new: NewKey, service: ServiceDep, client: ClientDep) -> KeyInfo:
    """Begin an upload, or find out how far an earlier one of the same file came."""
    store, limits = service.store, service.settings.limits
    try:
        key = store.add_key(client, new.digest, new.size, limits)
    except QuotaError as e:
        raise HTTPException(e.status, str(e)) from None
    if key.size != new.size:
        raise HTTPException(409, f"an upload of these keys says that they have {key.size} bytes")
    return _info(store, key)


@router.get("", responses=problems())
def list_keys(service: ServiceDep, client: ClientDep) -> list[KeyInfo]:
    """Your evaluation keys."""
    return [_info(service.store, key) for key in service.store.keys(client)]


@router.get("/{digest}", responses=problems(404, 422))
def one(digest: DigestPath, service: ServiceDep, client: ClientDep) -> KeyInfo:
    """One upload: how much of it is there, and whether it may be used."""
    return _info(service.store, _find(service.store, client, digest))


@router.patch("/{digest}", responses=problems(404, 408, 409, 413, 422), openapi_extra=BODY)
async def append(
    digest: DigestPath, offset: Offset, sha256: ChunkHash, request: Request, service: ServiceDep, client: ClientDep
) -> KeyInfo:
    """Append a chunk at ``offset``. The last one starts the check of the whole, which the answer waits for."""
    store = service.store
    key = await asyncio.to_thread(_find, store, client, digest)
    chunk = store.incoming(client) / secrets.token_hex(8)
    try:
        found = await receive_file(request, chunk, service.settings.limits)
        if found != sha256:
            raise HTTPException(422, "the chunk's SHA-256 is another one: it was damaged on its way")
        async with _one_writer(service, client, digest):
            key = await asyncio.to_thread(_find, store, client, digest)
            if await service.checks.run(client, _append, store, key, offset, chunk):
                await service.checks.run(client, _check, service, key)
    finally:
        chunk.unlink(missing_ok=True)
    return _info(store, await asyncio.to_thread(_find, store, client, digest))


@router.delete("/{digest}", status_code=204, responses=problems(404, 409, 422))
async def remove(digest: DigestPath, service: ServiceDep, client: ClientDep) -> Response:
    """Forget keys. Not while a job needs them."""
    store = service.store
    async with _one_writer(service, client, digest):
        await asyncio.to_thread(_find, store, client, digest)
        if await asyncio.to_thread(store.uses_key, client, digest):
            raise HTTPException(409, "a job that is not finished needs these keys")
        await asyncio.to_thread(store.remove_key, client, digest)
    return Response(status_code=204)


def _find(store: Store, client: str, digest: str) -> Key:
    key = store.key(client, digest)
    if key is None:
        raise HTTPException(404, "no such keys")
    return key


def _info(store: Store, key: Key) -> KeyInfo:
    path = store.key_path(key.client, key.digest)
    offset = path.stat().st_size if path.exists() else 0
    return KeyInfo.model_validate(
        {"digest": key.digest, "size": key.size, "offset": offset, "state": key.state, "error": key.error}
    )


def _append(store: Store, key: Key, offset: int, chunk: Path) -> bool:
    """Append; whether the file is complete."""
    path = store.key_path(key.client, key.digest)
    if key.state != UPLOADING:
        raise HTTPException(409, f"these keys are {key.state}: {key.error or 'nothing is missing'}")
    present, size = path.stat().st_size, chunk.stat().st_size
    if offset != present:
        raise HTTPException(409, f"{present} bytes are here; go on from there")
    if present + size > key.size:
        raise HTTPException(413, f"the chunk goes beyond the {key.size} bytes that were announced")
    try:
        with open(path, "ab") as target, open(chunk, "rb") as source:
            while block := source.read(1 << 20):
                target.write(block)
    except OSError:
        os.truncate(path, present)
        raise
    return present + size == key.size


def _check(service: Service, key: Key) -> None:
    """Check the whole file: container, its name, parameters of a program that is served here; hashes at last."""
    store = service.store
    store.set_key(key.client, key.digest, CHECKING)
    path = store.key_path(key.client, key.digest)
    try:
        with Reader(path, KeysHeader, UPLOAD) as reader:
            if reader.digest != key.digest:
                raise reader.damaged("its digest is not the one that was announced")
            stranger = next((name for name in reader.parts if not KEY_PART.fullmatch(name)), None)
            if stranger is not None:
                raise reader.damaged(f"part {stranger} does not belong there")
            _check_use(service, path)
            reader.verify()
    except OSError:
        store.set_key(key.client, key.digest, UPLOADING)
        raise
    except ArtifactError as e:
        store.set_key(key.client, key.digest, REFUSED, str(e))
        raise HTTPException(422, str(e)) from None
    store.set_key(key.client, key.digest, READY)


def _check_use(service: Service, path: Path) -> None:
    refusals = []
    for _, program in service.programs.values():
        try:
            check_keys(path, program, UPLOAD)
            return
        except ArtifactError as e:
            refusals.append(e)
    raise refusals[0]


def _one_writer(service: Service, client: str, digest: str) -> asyncio.Lock:
    """One chunk of a file at a time."""
    # locks last as long as somebody holds or awaits them
    return service.writers.setdefault((client, digest), asyncio.Lock())
