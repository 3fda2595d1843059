"""Jobs: submit encrypted inputs, follow the evaluation, fetch encrypted outputs."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import FileResponse

from glyphc.errors import ArtifactError
from glyphc.exchange.key_checks import keys_modulus
from glyphc.exchange.requests import check_request
from glyphc.exchange.trips import check_answer
from glyphc.storage.container import Reader
from glyphc.storage.headers import InputsHeader, TrainingRequestHeader

from .context import BODY, OCTETS, UPLOAD, ClientDep, Service, ServiceDep, busy, problems
from .limits import receive_file
from .models import IdPath, JobInfo, Wait
from .store import DONE, QUEUED, READY, RUNNING, STALLED, WAITING, Job, QuotaError, Store
from .trained import is_request

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
_RETRY_SECONDS = 10
_POLL_SECONDS = 0.1
_PROGRESS_SECONDS = 1.0


@router.post("", status_code=202, responses=problems(404, 408, 409, 413, 422, 429, 503), openapi_extra=BODY)
async def submit(request: Request, service: ServiceDep, client: ClientDep) -> JobInfo:
    """Submit a file of encrypted inputs, or a request to weights that were trained encrypted.

    The same file again is the same job: nothing is computed twice."""
    store = service.store
    await asyncio.to_thread(_check_room, service, client)
    path = store.incoming(client) / secrets.token_hex(8)
    try:
        await receive_file(request, path, service.settings.limits)
        job = await service.checks.run(client, _file, service, client, path)
    finally:
        path.unlink(missing_ok=True)
    service.scheduler.wake()
    return _info(service, job)


@router.get("", responses=problems())
def list_jobs(service: ServiceDep, client: ClientDep) -> list[JobInfo]:
    """Your jobs, oldest first."""
    return [_info(service, job) for job in service.store.jobs(client)]


@router.get("/{id}", responses=problems(404, 422))
async def one(id: IdPath, service: ServiceDep, client: ClientDep, wait: Wait = 0.0) -> JobInfo:
    """One job. With ``wait``, the answer comes when its state changes, after so many seconds at the latest.

    News of its progress comes too, once in a second.
    """
    first = now = _info(service, await asyncio.to_thread(_find, service.store, client, id))
    start = time.monotonic()
    while first.state in (QUEUED, RUNNING, STALLED) and time.monotonic() < start + wait:
        if now.state != first.state or (now != first and time.monotonic() > start + _PROGRESS_SECONDS):
            break
        await asyncio.sleep(_POLL_SECONDS)
        now = _info(service, await asyncio.to_thread(_find, service.store, client, id))
    return now


@router.get("/{id}/result", response_class=FileResponse, responses=problems(404, 409, 422) | {200: {"content": OCTETS}})
def result(id: IdPath, service: ServiceDep, client: ClientDep) -> FileResponse:
    """The file of encrypted outputs of a job that is done."""
    job = _find(service.store, client, id)
    path = service.store.job_folder(job) / "outputs"
    if job.state != DONE or not path.is_file():
        raise HTTPException(409, f"the job is {job.state}{f': {job.error}' if job.error else ''}")
    return FileResponse(path, media_type="application/octet-stream")


@router.get(
    "/{id}/question", response_class=FileResponse, responses=problems(404, 409, 422) | {200: {"content": OCTETS}}
)
def question(id: IdPath, service: ServiceDep, client: ClientDep) -> FileResponse:
    """What a job that is ``waiting`` asks its client: a file of encrypted intermediate values."""
    job = _find(service.store, client, id)
    path = service.store.job_folder(job) / "question"
    if job.state != WAITING or not path.is_file():
        raise HTTPException(409, f"the job asks nothing: it is {job.state}")
    return FileResponse(path, media_type="application/octet-stream")


@router.put("/{id}/answer", status_code=202, responses=problems(404, 408, 409, 413, 422, 503), openapi_extra=BODY)
async def answer(id: IdPath, request: Request, service: ServiceDep, client: ClientDep) -> JobInfo:
    """Answer what a job asks; it goes on when a worker is free. An answer to another question is refused."""
    store = service.store
    job = await asyncio.to_thread(_find, store, client, id)
    if job.state != WAITING:
        raise HTTPException(409, f"the job asks nothing: it is {job.state}")
    path = store.incoming(client) / secrets.token_hex(8)
    try:
        await receive_file(request, path, service.settings.limits)
        await service.checks.run(client, _answered, service, job, path)
    finally:
        path.unlink(missing_ok=True)
    service.scheduler.wake()
    return _info(service, await asyncio.to_thread(_find, store, client, id))


@router.delete("/{id}", status_code=204, responses=problems(404, 422))
async def remove(id: IdPath, service: ServiceDep, client: ClientDep) -> Response:
    """Stop a job if it runs, and forget it with its inputs and outputs."""
    job = await asyncio.to_thread(_find, service.store, client, id)
    await service.scheduler.cancel(job.id)
    await asyncio.to_thread(service.store.remove_job, job)
    return Response(status_code=204)


def _find(store: Store, client: str, id: str) -> Job:
    job = store.job(client, id)
    if job is None:
        raise HTTPException(404, "no such job")
    return job


def _check_room(service: Service, client: str) -> None:
    """Before a body is received: back-pressure."""
    try:
        service.store.check_room(client, service.settings.limits)
    except QuotaError as e:
        raise _refusal(e) from None


def _refusal(error: QuotaError) -> HTTPException:
    if error.status in (429, 503):
        return busy(error.status, str(error), _RETRY_SECONDS)
    return HTTPException(error.status, str(error))


def _file(service: Service, client: str, path: Path) -> Job:
    """Check the inputs as a whole, and put the job into the queue."""
    store = service.store
    kind: type[InputsHeader | TrainingRequestHeader]
    kind = TrainingRequestHeader if service.trained and is_request(path) else InputsHeader
    try:
        with Reader(path, kind, UPLOAD) as reader:
            header, digest = reader.header, reader.digest
        known = next((j for j in store.jobs(client) if j.request == digest), None)
        if known is not None:
            return known
        if isinstance(header, InputsHeader):
            _check_inputs(service, client, header, path)
            samples = header.samples
        else:
            samples = _passes(service, client, header, path)
    except ArtifactError as e:
        raise HTTPException(422, _without_paths(service, str(e))) from None
    now = time.time()
    id = secrets.token_hex(16)
    job = Job(id, client, header.program, header.key, digest, samples, QUEUED, "", now, 0, 0, 0)
    try:
        return store.add_job(job, path, service.settings.limits)
    except QuotaError as e:
        raise _refusal(e) from None


def _check_inputs(service: Service, client: str, header: InputsHeader, path: Path) -> None:
    store = service.store
    if header.program not in service.programs:
        raise HTTPException(404, "there is no such program here")
    key = store.key(client, header.key)
    if key is None or key.state != READY:
        raise HTTPException(409, f"upload the evaluation keys {header.key} first")
    _, program = service.programs[header.program]
    check_request(path, program, header.key, keys_modulus(store.key_path(client, header.key)), UPLOAD)


def _passes(service: Service, client: str, header: TrainingRequestHeader, path: Path) -> int:
    """Of a request to trained weights, checked."""
    known = service.trained.get((client, header.program, header.key))
    if known is None:
        raise HTTPException(404, "there are no such trained weights of yours here")
    return known[1].check(path, UPLOAD).passes


def _without_paths(service: Service, error: str) -> str:
    """Clients learn nothing of the server's folders."""
    return error.replace(os.fspath(service.settings.trained), "") if service.settings.trained else error


def _answered(service: Service, job: Job, path: Path) -> None:
    """Check an answer as a whole, and queue its job."""
    _, program = service.programs[job.program]
    try:
        check_answer(path, service.store.job_folder(job) / "question", program.schedule.client, UPLOAD)
    except ArtifactError as e:
        raise HTTPException(422, str(e)) from None
    if not service.store.answer_job(job, path):
        raise HTTPException(409, "the job was answered already")


def _info(service: Service, job: Job) -> JobInfo:
    progress = service.scheduler.progress(job.id, job.state)
    share = 1.0 if job.state == DONE else progress.share
    return JobInfo.model_validate(vars(job) | {"what": progress.what, "share": share})
