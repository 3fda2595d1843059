"""Connections that cost the service little: bounded in number and in the time that they may be of no use.

A connection is a *stranger's* until a request on it has shown a valid token. Strangers have little time, and make room
for one another: where too many come from one address, or in all, those that have waited longest are closed. So
whoever opens connections and says nothing, or says it slowly, disturbs nobody that has a token. uvicorn has no such
limits (its ``limit_concurrency`` refuses everybody, its time-outs begin after the first request); its protocol and the
socket that it listens on are extended here, so that TLS handshakes count too.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import resource
import socket
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

# A stranger is not asked to leave before: many clients may come at the same moment.
_GRACE_SECONDS = 1.0
KEEP_ALIVE_SECONDS = 30
# What a connection has to do in time: show a token, make room for more of an answer.
_TOKEN, _ROOM = "token", "room"
# Connections that wait to be accepted.
_BACKLOG = 2048

Peer = tuple[str, int]


@dataclass(frozen=True)
class ConnectionLimits:
    """all: connections at most; each: of one address without a token, or of one client; head_seconds: for a request's
    head and token to arrive, TLS handshake included; stall_seconds: for a client that takes nothing of its answer."""

    all: int
    each: int
    head_seconds: float
    stall_seconds: float


class Connection(socket.socket):
    """An accepted connection. client: who has shown a token on it."""

    guard: Guard
    peer: Peer
    origin: str
    since: float
    client: str | None = None
    _timers: dict[str, asyncio.TimerHandle]

    def expect(self, what: str, seconds: float) -> None:
        """This has to happen within this time (see ``calm``), or the connection is dropped."""
        self.calm(what)
        self._timers[what] = asyncio.get_running_loop().call_later(seconds, self.drop)

    def calm(self, what: str) -> None:
        """It has happened."""
        timer = self._timers.pop(what, None)
        if timer is not None:
            timer.cancel()

    def drop(self) -> None:
        """Both directions end at once; the transport notices, and closes."""
        with contextlib.suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)
        self.guard.forget(self)

    def close(self) -> None:
        for what in list(self._timers):
            self.calm(what)
        self.guard.forget(self)
        super().close()


class Guard:
    """All open connections of a service. Used by the event loop's thread only."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        # files and workers need descriptors too
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = limits.all if descriptors == resource.RLIM_INFINITY else min(limits.all, descriptors // 2)
        self._open: dict[Peer, Connection] = {}
        self._strangers: dict[str, OrderedDict[Peer, Connection]] = {}
        self._clients: dict[str, int] = {}

    def admit(self, connection: Connection) -> bool:
        """Whether a new connection may stay; others may have to go for it."""
        now = time.monotonic()
        mine = self._strangers.setdefault(connection.origin, OrderedDict())
        while len(mine) >= self.limits.each and now - next(iter(mine.values())).since > _GRACE_SECONDS:
            next(iter(mine.values())).drop()
        if len(self._open) >= self._most:
            busiest = max(self._strangers.values(), key=len)
            if not busiest:  # all of them have shown a token
                del self._strangers[connection.origin]
                return False
            next(iter(busiest.values())).drop()
        # the last one of an address takes the entry with it
        self._strangers.setdefault(connection.origin, OrderedDict())[connection.peer] = connection
        self._open[connection.peer] = connection
        connection.expect(_TOKEN, self.limits.head_seconds)
        return True

    def find(self, peer: Peer | None) -> Connection | None:
        return None if peer is None else self._open.get(peer)

    def introduce(self, peer: Peer | None, client: str) -> bool:
        """A connection has shown a client's token; whether the client may have one more."""
        connection = self.find(peer)
        if connection is None:  # dropped meanwhile; nobody hears the answer
            return True
        if connection.client != client:
            if self._clients.get(client, 0) >= self.limits.each:
                return False
            self._leave(connection)
            connection.client = client
            self._clients[client] = self._clients.get(client, 0) + 1
        connection.calm(_TOKEN)
        return True

    def forget(self, connection: Connection) -> None:
        """It is closed, or about to be."""
        if self._open.get(connection.peer) is connection:
            del self._open[connection.peer]
            self._leave(connection)

    def _leave(self, connection: Connection) -> None:
        """Out of the number of strangers, or of those of its client."""
        if connection.client is None:
            mine = self._strangers.get(connection.origin, OrderedDict())
            mine.pop(connection.peer, None)
            if not mine:
                self._strangers.pop(connection.origin, None)
        else:
            self._clients[connection.client] -= 1
            if not self._clients[connection.client]:
                del self._clients[connection.client]


class Listener(socket.socket):
    """A listening socket whose connections a guard admits."""

    guard: Guard

    def accept(self) -> tuple[socket.socket, Any]:
        """As a socket's; ConnectionAbortedError, which event loops pass over, for one that is not admitted."""
        plain, address = super().accept()
        connection = Connection(plain.family, plain.type, plain.proto, fileno=plain.detach())
        connection._timers = {}
        connection.guard, connection.peer = self.guard, (str(address[0]), int(address[1]))
        connection.origin, connection.since = _origin(connection.peer[0]), time.monotonic()
        if not self.guard.admit(connection):
            connection.close()
            raise ConnectionAbortedError
        return connection, address


def _origin(host: str) -> str:
    """What counts as one address: of IPv6, a network of 64 bits, which is what one customer gets."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped or ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def listen(host: str, port: int, guard: Guard) -> list[Listener]:
    """Bound sockets for every address of a host; OSError when one cannot be had."""
    found: list[Listener] = []
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            listener = Listener(family, kind, protocol)
            found.append(listener)
            listener.guard = guard
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
            listener.setblocking(False)
    except OSError:
        for listener in found:
            listener.close()
        raise
    return found


def protocol(guard: Guard) -> type[asyncio.Protocol]:
    """uvicorn's protocol for HTTP/1.1, whose connections the guard watches."""

    class Guarded(H11Protocol):
        """What it adds: the times between requests, and of answers that are not taken."""

        def _connection(self) -> Connection | None:
            address = self.transport.get_extra_info("peername")
            return guard.find((str(address[0]), int(address[1]))) if address else None

        def on_response_complete(self) -> None:
            # before the next request of the same connection begins, which may be there already
            connection = self._connection()
            if connection is not None:
                connection.expect(_TOKEN, KEEP_ALIVE_SECONDS + guard.limits.head_seconds)
            if self.conn.their_state is h11.SEND_BODY:
                self.transport.close()  # nobody reads the rest of this body
            super().on_response_complete()

        def pause_writing(self) -> None:
            super().pause_writing()
            connection = self._connection()
            if connection is not None:
                connection.expect(_ROOM, guard.limits.stall_seconds)

        def resume_writing(self) -> None:
            super().resume_writing()
            connection = self._connection()
            if connection is not None:
                connection.calm(_ROOM)

    return Guarded
