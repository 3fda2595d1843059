"""What every route may use: the running service, and who asks."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from weakref import WeakValueDictionary

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from glyphc.exchange.artifacts import ServerProgram

from .connections import Guard
from .fair import FairPool
from .models import Problem
from .scheduler import Scheduler
from .settings import Settings, TokenError, Tokens
from .store import Store
from .trained import Trained

_bearer = HTTPBearer(auto_error=False, description="A token that 'glyphc token' made")

OCTETS: dict[str, Any] = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
BODY: dict[str, Any] = {"requestBody": {"required": True, "content": OCTETS}}
# What errors call the file that a client has sent.
UPLOAD = "the upload"


@dataclass(frozen=True, eq=False)
class Service:
    """One running service."""

    settings: Settings
    programs: dict[str, tuple[Path, ServerProgram]]
    tokens: Tokens
    store: Store
    scheduler: Scheduler
    guard: Guard
    checks: FairPool
    trained: Trained = field(default_factory=dict)
    writers: WeakValueDictionary[tuple[str, str], asyncio.Lock] = field(default_factory=WeakValueDictionary)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(_service)]


def _client(service: ServiceDep, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> str:
    # the gate has asked already; no route depends on that
    try:
        return service.tokens.client("" if given is None else given.credentials)
    except TokenError as e:
        raise HTTPException(401, str(e), {"WWW-Authenticate": "Bearer"}) from None


ClientDep = Annotated[str, Depends(_client)]


def problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of a route, for the OpenAPI description."""
    return {code: {"model": Problem} for code in (401, *codes)}


def busy(status: int, reason: str, seconds: int) -> HTTPException:
    """Back-pressure: 429 for the client's own share, 503 for everybody's; says when to come again."""
    return HTTPException(status, reason, {"Retry-After": str(seconds)})
