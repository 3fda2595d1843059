"""What every route may use: the running service, and who asks."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from glyphc.roles.artifacts import ServerProgram

from .jobs import Scheduler
from .models import Problem
from .settings import Settings, Tokens
from .store import Store

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
    writers: dict[tuple[str, str], asyncio.Lock] = field(default_factory=dict)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(_service)]


def _client(service: ServiceDep, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> str:
    name = None if given is None else service.tokens.client(given.credentials)
    if name is None:
        raise HTTPException(401, "a valid token is needed", {"WWW-Authenticate": "Bearer"})
    return name


ClientDep = Annotated[str, Depends(_client)]


def problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of a route, for the OpenAPI description."""
    return {code: {"model": Problem} for code in (401, *codes)}


def busy(status: int, reason: str, seconds: int) -> HTTPException:
    """Back-pressure: 429 for the client's own share, 503 for everybody's; says when to come again."""
    return HTTPException(status, reason, {"Retry-After": str(seconds)})
