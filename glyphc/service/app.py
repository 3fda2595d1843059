"""The HTTP interface: programs here, evaluation keys in ``keys``, jobs in ``routes_jobs``. Nothing in it decrypts."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import sqlite3
from collections.abc import AsyncIterator

from fastapi import APIRouter, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse

from glyphc.exchange.artifacts import Specification

from . import keys, metrics, routes_jobs
from .connections import ConnectionLimits, Guard
from .context import OCTETS, ClientDep, Service, ServiceDep, problems
from .fair import FairPool
from .limits import BodyError, Gate
from .models import DigestPath, Health, ProgramInfo
from .scheduler import Scheduler
from .settings import ServiceError, Settings, Tokens, load_programs
from .store import Store, no_room
from .trained import load_trained

router = APIRouter()


def make_app(settings: Settings) -> FastAPI:
    """The application; ServiceError when programs, tokens or the data folder are unusable."""
    programs, trained, tokens = load_programs(settings), load_trained(settings), Tokens(settings.tokens)
    try:
        store = Store(settings.data)
        store.recover()
    except (sqlite3.Error, OSError) as e:
        raise ServiceError(f"cannot use {os.fspath(settings.data)!r}: {e}") from None
    limits = settings.limits
    most = ConnectionLimits(limits.connections, limits.connections_each, limits.head_seconds, limits.receive_seconds)
    guard, checks = Guard(most), FairPool(limits.checks)
    places = {fingerprint: path for fingerprint, (path, _) in programs.items()}
    scheduler = Scheduler(settings, store, places, {run: folder for run, (folder, _) in trained.items()})

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        scheduler.start()
        yield
        await scheduler.stop()
        await asyncio.to_thread(checks.close)
        store.close()

    app = FastAPI(
        title="glyphc",
        version="1",
        summary="Neural networks on encrypted data",
        lifespan=lifespan,
        # the interactive pages load scripts from elsewhere
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = Service(settings, programs, tokens, store, scheduler, guard, checks, trained)
    app.add_middleware(Gate, limits=limits, tokens=tokens, guard=guard)
    app.add_exception_handler(BodyError, _body_error)
    app.add_exception_handler(OSError, _storage_error)
    app.add_exception_handler(sqlite3.OperationalError, _storage_error)
    for part in (router, keys.router, routes_jobs.router):
        app.include_router(part)
    return app


async def _body_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, BodyError)
    return JSONResponse({"detail": str(error)}, error.status, {"Connection": "close"})


async def _storage_error(request: Request, error: Exception) -> Response:
    if no_room(error):
        return JSONResponse({"detail": "the service has no room left on its disk"}, 507, {"Connection": "close"})
    raise error


@router.get("/health", tags=["service"])
def health() -> Health:
    """Whether the service answers. Needs no token."""
    return Health()


@router.get("/metrics", tags=["service"], response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def figures(service: ServiceDep) -> Response:
    """Figures for Prometheus, without names of clients. Needs no token."""
    return Response(metrics.text(service.store.counts()), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/v1/programs", tags=["programs"], responses=problems())
def list_programs(service: ServiceDep, client: ClientDep) -> list[ProgramInfo]:
    """The programs that can be evaluated."""
    out = []
    for fingerprint, (path, program) in service.programs.items():
        spec = program.schedule.client
        info = {
            "program": fingerprint,
            "name": path.stem,
            "security": spec.parameters.security,
            "batch": spec.batch,
            "inputs": [p.name for p in spec.inputs],
            "outputs": [p.name for p in spec.outputs],
        }
        out.append(ProgramInfo.model_validate(info))
    return out


@router.get(
    "/v1/programs/{program}/client",
    tags=["programs"],
    response_class=Response,
    responses=problems(404, 422) | {200: {"content": OCTETS}},
)
def client_specification(program: DigestPath, service: ServiceDep, client: ClientDep) -> Response:
    """The client specification of a program, as 'glyphc split' writes it: all that a client needs to know."""
    if program not in service.programs:
        raise HTTPException(404, "there is no such program here")
    data = _specification(service.programs[program][1].specification)
    return Response(data, media_type="application/octet-stream", headers={"ETag": hashlib.sha256(data).hexdigest()})


def _specification(spec: Specification) -> bytes:
    """Its file's contents."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "client.spec"
        spec.save(path)
        return path.read_bytes()
