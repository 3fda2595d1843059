"""Long work off the event loop, in few threads, with clients taking turns."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


class FairPool:
    """So many threads; each client has one at most, and whoever waits gets one in turn.

    A client that asks for much waits for itself: another one's first request begins as soon as any thread is free.
    """

    def __init__(self, threads: int) -> None:
        self._free = threads
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="check")
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._served: set[str] = set()
        # when each client was served last, in turns
        self._last: dict[str, int] = {}
        self._turns = 0

    async def run(self, client: str, function: Callable[_P, _T], *args: _P.args, **more: _P.kwargs) -> _T:
        """The function's result, or what it raises."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.setdefault(client, deque()).append(turn)
        self._next()
        try:
            await turn
            return await loop.run_in_executor(self._threads, partial(function, *args, **more))
        finally:
            if turn.done() and not turn.cancelled():
                self._served.discard(client)
                self._free += 1
            self._next()

    def close(self) -> None:
        """Wait for what runs."""
        self._threads.shutdown(cancel_futures=True)

    def _next(self) -> None:
        """Give free threads to those whose turn it is: who was served longest ago, or never."""
        while self._free and (candidates := [c for c in self._waiting if c not in self._served]):
            client = min(candidates, key=lambda c: self._last.get(c, 0))
            turns = self._waiting[client]
            turn = turns.popleft()
            if not turns:
                del self._waiting[client]
            if turn.cancelled():
                continue
            self._free -= 1
            self._turns += 1
            self._last[client] = self._turns
            self._served.add(client)
            turn.set_result(None)
