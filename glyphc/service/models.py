"""What requests and answers look like (and, through FastAPI, the OpenAPI description)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Path, Query
from pydantic import BaseModel, Field

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="SHA-256 of a file's manifest")]
DigestPath = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]
IdPath = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]
Offset = Annotated[int, Query(ge=0, le=1 << 50, description="Bytes that the server has already")]
ChunkHash = Annotated[str, Query(pattern="^[0-9a-f]{64}$", description="SHA-256 of the chunk")]
Wait = Annotated[float, Query(ge=0, le=30, description="Seconds to wait for a change of state")]


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class Problem(BaseModel):
    """Why a request was refused; a list of what is wrong where for one that does not fit this description."""

    detail: str | list[dict[str, Any]]


class ProgramInfo(BaseModel):
    program: Digest
    name: str
    security: str
    batch: int
    inputs: list[str]
    outputs: list[str]


class NewKey(BaseModel):
    digest: Digest
    size: int = Field(ge=1, le=1 << 50, description="Of the whole file, in bytes")


class KeyInfo(BaseModel):
    digest: Digest
    size: int
    offset: int = Field(description="Bytes received so far")
    state: Literal["uploading", "checking", "ready", "refused"]
    error: str = ""


class JobInfo(BaseModel):
    id: str
    program: Digest
    key: Digest
    request: Digest
    samples: int
    state: Literal["queued", "running", "stalled", "waiting", "done", "failed"]
    error: str = ""
    what: str = ""
    share: float = Field(0.0, description="Of the current stage, 0 to 1")
    attempts: int
    created: float
    started: float
    finished: float
