"""Two clients of Redis that pipeline what concurrent callers ask: the library, as its users would, and the least.

What is asked is a script with an integer for its answer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol, TypeAlias

from redis.asyncio import Redis

_LONGEST_PIPELINE: Final = 128
"""Two for 256 callers, so that client and server work at the same time."""

Words: TypeAlias = tuple[str | int, ...]
"""What follows EVALSHA: the script's digest, the number of its keys, keys, arguments."""


class Client(Protocol):
    """What the benchmark needs of a client."""

    def ask(self, *words: str | int) -> asyncio.Future[int]:
        """Run a script; returns its answer."""

    async def close(self) -> None:
        """End every connection."""


class LibraryClient:
    """redis-py with hiredis: what is asked in one turn of the event loop is sent at its end, in pipelines."""

    def __init__(self, path: str) -> None:
        self._redis = Redis(unix_socket_path=path)
        self._asked: list[tuple[Words, asyncio.Future[int]]] = []
        self._running: set[asyncio.Task[None]] = set()

    def ask(self, *words: str | int) -> asyncio.Future[int]:
        """See :class:`Client`."""
        loop = asyncio.get_running_loop()
        if not self._asked:
            loop.call_soon(self._send)
        future: asyncio.Future[int] = loop.create_future()
        self._asked.append((words, future))
        return future

    async def close(self) -> None:
        """See :class:`Client`."""
        await self._redis.aclose()

    def _send(self) -> None:
        asked, self._asked = self._asked, []
        for start in range(0, len(asked), _LONGEST_PIPELINE):
            pipeline = asyncio.create_task(self._run(asked[start : start + _LONGEST_PIPELINE]))
            self._running.add(pipeline)
            pipeline.add_done_callback(self._running.discard)

    async def _run(self, asked: Sequence[tuple[Words, asyncio.Future[int]]]) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for (script, keys, *others), _ in asked:
            pipeline.evalsha(str(script), int(keys), *others)
        try:
            for (_, future), answer in zip(asked, await pipeline.execute(), strict=True):
                future.set_result(answer)
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of it
            for _, future in asked:
                if not future.done():
                    future.set_exception(error)


class LeastClient(asyncio.Protocol):
    """A protocol written by hand for such scripts alone: no library that people use is faster than this."""

    def __init__(self) -> None:
        self._asked: list[bytes] = []
        self._waiting: deque[asyncio.Future[int]] = deque()
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def connect(cls, path: str) -> LeastClient:
        """Connect to the server."""
        return (await asyncio.get_running_loop().create_unix_connection(cls, path))[1]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a Unix socket's is one
        self._transport = transport

    def ask(self, *words: str | int) -> asyncio.Future[int]:
        """See :class:`Client`."""
        loop = asyncio.get_running_loop()
        if not self._asked:
            loop.call_soon(self._send)
        texts = [b"EVALSHA", *(str(word).encode() for word in words)]
        parts = [b"*%d\r\n" % len(texts), *(b"$%d\r\n%b\r\n" % (len(text), text) for text in texts)]
        self._asked.append(b"".join(parts))
        future: asyncio.Future[int] = loop.create_future()
        self._waiting.append(future)
        return future

    async def close(self) -> None:
        """See :class:`Client`."""
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Answer whoever has waited longest, line by line: ``:1``."""
        *lines, self._rest = (self._rest + data).split(b"\r\n")
        for line in lines:
            self._waiting.popleft().set_result(int(line.removeprefix(b":")))

    def _send(self) -> None:
        assert self._transport is not None  # noqa: S101 - connected before it is used
        self._transport.write(b"".join(self._asked))
        self._asked.clear()
