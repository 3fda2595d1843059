"""What is asked of a request before anything is done for it: a token, and a body of bounded size in bounded time."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import metrics
from .connections import Guard
from .settings import Limits, TokenError, Tokens

# Bodies of all other requests are small JSON objects.
_SMALL = 64 << 10
# What is received is written and hashed in pieces of this size.
_PIECE = 1 << 20
_RETRY_SECONDS = 5


class BodyError(Exception):
    """A body that is refused while it arrives. status: of the answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class _Kind:
    """What a request's body may be. large: keys or ciphertexts, which are streamed into files."""

    limit: int
    large: bool


class Gate:
    """ASGI middleware: no token, no body.

    Before the first byte of a body is read, it refuses what has no valid token, or says that it is too large; it cuts
    off bodies that turn out to be, and counts answers.

    Only ``/v1`` needs a token. A token that is withdrawn meanwhile is none any more when the body is complete and when
    the answer begins.
    """

    def __init__(self, app: ASGIApp, limits: Limits, tokens: Tokens, guard: Guard) -> None:
        self._app, self._limits, self._tokens, self._guard = app, limits, tokens, guard
        self._receiving: dict[str, int] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Request(self, scope, receive, send)
        kind = self._kind(scope["method"], scope["path"])
        try:
            client = self._client(scope)
            if client is not None and not self._guard.introduce(_peer(scope), client):
                raise BodyError(429, f"{self._limits.connections_each} of your connections are open")
            _check_length(scope, kind)
            if client is not None and kind.large and self._receiving.get(client, 0) >= self._limits.bodies_each:
                raise BodyError(429, f"{self._limits.bodies_each} of your uploads are on their way")
        except (TokenError, BodyError) as e:
            await request.refuse(e)
            return
        if client is None or not kind.large:
            await request.run(self._app, kind)
            return
        self._receiving[client] = self._receiving.get(client, 0) + 1
        try:
            await request.run(self._app, kind)
        finally:
            self._receiving[client] -= 1
            if not self._receiving[client]:
                del self._receiving[client]

    def _client(self, scope: Scope) -> str | None:
        """Who asks; nobody where no token is needed. TokenError without a valid one."""
        if not scope["path"].startswith("/v1"):
            return None
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        if scheme.lower() != b"bearer":
            raise TokenError("a valid token is needed")
        return self._tokens.client(token.decode("latin-1").strip())

    def _kind(self, method: str, path: str) -> _Kind:
        if method == "PATCH" and path.startswith("/v1/keys/"):
            return _Kind(self._limits.chunk, True)
        answer = method == "PUT" and path.startswith("/v1/jobs/") and path.endswith("/answer")
        if answer or (method == "POST" and path == "/v1/jobs"):
            return _Kind(self._limits.inputs, True)
        return _Kind(_SMALL, False)

    def recheck(self, scope: Scope) -> None:
        """TokenError unless the token that let the request in is still valid."""
        self._client(scope)

    @property
    def head_seconds(self) -> float:
        return self._limits.head_seconds


class _Request:
    """One request on its way through the gate."""

    def __init__(self, gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
        self._gate, self._scope, self._receive, self._send = gate, scope, receive, send
        self._refused = False

    async def run(self, app: ASGIApp, kind: _Kind) -> None:
        received = 0
        end = time.monotonic() + self._gate.head_seconds

        async def bounded() -> Message:
            nonlocal received
            if kind.large:  # has time-outs of its own, see ``receive_file``
                message = await self._receive()
            else:
                message = await self._in_time(end)
            received += len(message.get("body", b""))
            if received > kind.limit:
                raise BodyError(413, f"a body of at most {kind.limit} bytes is taken here")
            if message["type"] == "http.request" and not message.get("more_body", False):
                self._recheck()
            return message

        await app(self._scope, bounded, self._answer)

    async def _in_time(self, end: float) -> Message:
        try:
            return await asyncio.wait_for(self._receive(), max(0.0, end - time.monotonic()))
        except asyncio.TimeoutError:
            raise BodyError(408, "the body did not arrive in time") from None

    def _recheck(self) -> None:
        try:
            self._gate.recheck(self._scope)
        except TokenError as e:
            raise BodyError(401, str(e)) from None

    async def _answer(self, message: Message) -> None:
        if self._refused:
            return
        if message["type"] == "http.response.start":
            if message["status"] < 400:
                try:
                    self._gate.recheck(self._scope)
                except TokenError as e:
                    self._refused = True
                    await self.refuse(e)
                    return
            metrics.count(self._scope["method"], message["status"])
        await self._send(message)

    async def refuse(self, error: TokenError | BodyError) -> None:
        """Answer, and close: nobody reads the body."""
        status = error.status if isinstance(error, BodyError) else 401
        body = json.dumps({"detail": str(error)}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers.append((b"connection", b"close"))
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if status == 429:
            headers.append((b"retry-after", str(_RETRY_SECONDS).encode()))
        metrics.count(self._scope["method"], status)
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


def _peer(scope: Scope) -> tuple[str, int] | None:
    peer = scope.get("client")
    return None if peer is None else (str(peer[0]), int(peer[1]))


def _check_length(scope: Scope, kind: _Kind) -> None:
    declared = dict(scope["headers"]).get(b"content-length", b"0")
    if not declared.isdigit() or int(declared) > kind.limit:
        raise BodyError(413, f"a body of at most {kind.limit} bytes is taken here")


async def receive_file(request: Request, path: Path, limits: Limits) -> str:
    """Stream a body into a new file; its SHA-256.

    BodyError (408) when nothing arrives for ``receive_seconds``, or less than ``receive_rate`` on average over such a
    time. OSError as from the file system; then, as after any other error, there is no file.
    """
    digest = hashlib.sha256()
    try:
        file = await asyncio.to_thread(open, path, "xb", buffering=0, opener=_private)
        with file:
            async for piece in _pieces(request, limits):
                await asyncio.to_thread(_keep, file, digest, piece)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return digest.hexdigest()


def _keep(file: BinaryIO, digest: hashlib._Hash, piece: bytes) -> None:
    rest = memoryview(piece)
    while rest:
        rest = rest[file.write(rest) :]
    digest.update(piece)


async def _pieces(request: Request, limits: Limits) -> AsyncIterator[bytes]:
    """The body in pieces that are worth a visit to another thread."""
    stream = request.stream().__aiter__()
    gathered, counted, since = bytearray(), 0, time.monotonic()
    while True:
        try:
            block = await asyncio.wait_for(stream.__anext__(), limits.receive_seconds)
        except StopAsyncIteration:
            break
        except ClientDisconnect:
            raise BodyError(400, "the client went away") from None
        except asyncio.TimeoutError:
            raise BodyError(408, f"nothing arrived for {limits.receive_seconds:g} s") from None
        metrics.RECEIVED.inc(len(block))
        gathered += block
        counted += len(block)
        now = time.monotonic()
        if now - since > limits.receive_seconds:
            if counted < limits.receive_rate * (now - since):
                raise BodyError(408, f"less than {limits.receive_rate} bytes arrived in a second")
            counted, since = 0, now
        if len(gathered) >= _PIECE:
            yield bytes(gathered)
            gathered.clear()
    if gathered:
        yield bytes(gathered)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
