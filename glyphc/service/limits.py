"""Bodies of bounded size that arrive in bounded time."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Any

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import metrics

# Bodies of all other requests are small JSON objects.
_SMALL = 64 << 10


class BodyError(Exception):
    """A body that is refused while it arrives. status: of the answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class BodyLimit:
    """ASGI middleware: refuses bodies that say they are too large, cuts off those that turn out to be; counts answers.

    chunk: bytes of a piece of evaluation keys; inputs: of a file of encrypted inputs.
    """

    def __init__(self, app: ASGIApp, chunk: int, inputs: int) -> None:
        self._app, self._chunk, self._inputs = app, chunk, inputs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limit(scope["method"], scope["path"])
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > limit:
            await _refuse(send, f"a body of at most {limit} bytes is taken here")
            return
        received = 0

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise BodyError(413, f"a body of at most {limit} bytes is taken here")
            return message

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                metrics.REQUESTS.labels(scope["method"], str(message["status"])).inc()
            await send(message)

        await self._app(scope, bounded, counted)

    def _limit(self, method: str, path: str) -> int:
        if method == "PATCH" and path.startswith("/v1/keys/"):
            return self._chunk
        return self._inputs if method == "POST" and path == "/v1/jobs" else _SMALL


async def _refuse(send: Send, reason: str) -> None:
    body = b'{"detail":"' + reason.encode() + b'"}'
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def receive_file(request: Request, path: Path, seconds: float) -> str:
    """Stream a body into a new file; its SHA-256. BodyError (408) when nothing arrives for ``seconds``."""
    digest = hashlib.sha256()
    with open(path, "xb", opener=_private) as file:
        async for block in _blocks(request, seconds):
            digest.update(block)
            await asyncio.to_thread(file.write, block)
    return digest.hexdigest()


async def _blocks(request: Request, seconds: float) -> Any:
    stream = request.stream().__aiter__()
    while True:
        try:
            block = await asyncio.wait_for(stream.__anext__(), seconds)
        except StopAsyncIteration:
            return
        except ClientDisconnect:
            raise BodyError(400, "the client went away") from None
        except asyncio.TimeoutError:
            raise BodyError(408, f"nothing arrived for {seconds:g} s") from None
        metrics.RECEIVED.inc(len(block))
        yield block


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
