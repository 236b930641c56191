"""The two ends between hosts: a peer takes commands to their leader, and a desk executes what other hosts bring.

Both live in the router's event loop; only ``Peer.put`` may be called from other threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

from ..errors import Overloaded
from ..ledger.entries import Command, PlaceHold
from .channel import Channel, accept_channel, open_channel
from .leases import Lease
from .wire import NotUnderstood, answer_message, command_message, command_of, error_message, outcome_of, pack, unpack

logger = logging.getLogger(__name__)

_BATCH: Final = 512
_HANDSHAKE_S: Final = 2.0
RunHere: TypeAlias = Callable[[Command], "asyncio.Future[Any]"]
"""Queues a command for this host's own writer, in the running event loop."""
_BROKEN: Final = (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError, LookupError, TypeError)
"""The connection ended, or the other side does not speak as we do: it may run another version."""


@dataclass(slots=True)
class Call:
    """A command whose caller waits: in ``loop``, or in a thread when that is None."""

    command: Command
    loop: asyncio.AbstractEventLoop | None
    future: asyncio.Future[Any] | Future[Any]
    sent_at: float = 0.0


class Peer:
    """The way to another host. When it breaks, every unanswered command runs here, with the same ids: it converges."""

    def __init__(
        self, lease: Lease, *, secret: bytes, run_here: RunHere, queue_limit: int, answer_within_s: float
    ) -> None:
        self.lease = lease
        self.usable = False
        self.forwarded = 0
        self._secret = secret
        self._run_here = run_here
        self._queue_limit = queue_limit
        self._answer_within_s = answer_within_s
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Call] = deque()
        self._waiting: dict[int, Call] = {}
        self._taken_back: set[asyncio.Future[Any]] = set()
        self._wake = asyncio.Event()
        self._woken = threading.Event()
        self._number = 0
        self._other_version = False

    def put(self, call: Call) -> None:
        """Queue a command for the other host; safe from any thread.

        Raises:
            Overloaded: too many commands wait for that host already.
        """
        if len(self._queue) + len(self._waiting) >= self._queue_limit:
            msg = f"{self._queue_limit} commands wait for host {self.lease.address}; nothing was written, try again"
            raise Overloaded(msg)
        self._queue.append(call)
        try:
            if not self.usable:  # it broke a moment ago, and may have taken back its queue before this call was in it
                self._loop.call_soon_threadsafe(self._take_back)
            elif not self._woken.is_set():
                self._woken.set()
                self._loop.call_soon_threadsafe(self._wake.set)
        except RuntimeError as error:
            msg = "the ledger's writer is closed; nothing was written"
            raise Overloaded(msg) from error

    async def run(self, on_change: Callable[[], None]) -> None:
        """Connect, then carry commands and answers until it breaks; ``on_change`` hears when ``usable`` has changed."""
        host, _, port = self.lease.address.rpartition(":")
        channel: Channel | None = None
        try:
            async with asyncio.timeout(_HANDSHAKE_S):
                channel = await open_channel(host, int(port), secret=self._secret)
            self.usable = True
            on_change()
            await self._carry(channel)
        except _BROKEN as error:
            logger.warning("host %s is left: %s", self.lease.address, error or type(error).__name__)
        finally:
            self.usable = False
            if channel is not None:
                channel.close()
            self._take_back()
            on_change()

    async def _carry(self, channel: Channel) -> None:
        receiving = asyncio.ensure_future(self._receive(channel))
        sending = asyncio.ensure_future(self._send(channel))
        try:
            done, _ = await asyncio.wait({receiving, sending}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            receiving.cancel()
            sending.cancel()
            await asyncio.gather(receiving, sending, return_exceptions=True)

    async def _send(self, channel: Channel) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._answer_within_s / 4):
                    await self._wake.wait()
            self._wake.clear()
            self._woken.clear()
            self._require_answers()
            while self._queue:
                calls = [self._queue.popleft() for _ in range(min(len(self._queue), _BATCH))]
                channel.send(pack([self._note(call) for call in calls]))
                async with asyncio.timeout(self._answer_within_s):
                    await channel.drain()

    def _note(self, call: Call) -> list[Any]:
        self._number += 1
        self.forwarded += 1
        call.sent_at = self._loop.time()
        self._waiting[self._number] = call
        return command_message(self._number, call.command)

    def _require_answers(self) -> None:
        oldest = next(iter(self._waiting.values()), None)
        if oldest is not None and self._loop.time() - oldest.sent_at > self._answer_within_s:
            msg = f"no answer within {self._answer_within_s} s"
            raise TimeoutError(msg)

    async def _receive(self, channel: Channel) -> None:
        while True:
            by_loop: dict[asyncio.AbstractEventLoop | None, list[tuple[Call, Any]]] = {}
            try:
                for message in unpack(await channel.receive()):
                    self._sort(message, by_loop)
            finally:
                for loop, told in by_loop.items():
                    _tell(loop, told)

    def _sort(
        self, message: list[Any], by_loop: dict[asyncio.AbstractEventLoop | None, list[tuple[Call, Any]]]
    ) -> None:
        """Take a call off the waiting ones: to those that are told together, or to this host's own writer."""
        call = self._waiting[message[0]]
        try:
            outcome = outcome_of(message)
        except NotUnderstood as error:
            self._note_version(error)
            self._run_calls_here([call])
        else:
            by_loop.setdefault(call.loop, []).append((call, outcome))
        del self._waiting[message[0]]

    def _note_version(self, error: NotUnderstood) -> None:
        if not self._other_version:
            self._other_version = True
            text = "host %s runs another version (%s); what it does not understand runs here"
            logger.warning(text, self.lease.address, error)

    async def settled(self) -> None:
        """Wait until what was taken back has been executed here."""
        if self._taken_back:
            await asyncio.wait(self._taken_back)

    def _take_back(self) -> None:
        """Run here what was not answered. The other host may have done it, or may still do it: the ids are the same."""
        calls = [*self._waiting.values(), *self._queue]
        self._waiting.clear()
        self._queue.clear()
        self._run_calls_here(calls)

    def _run_calls_here(self, calls: Iterable[Call]) -> None:
        for call in calls:
            try:
                future = self._run_here(_lasting(call.command))
            except Overloaded as error:
                _tell(call.loop, [(call, error)])
            else:
                self._taken_back.add(future)
                future.add_done_callback(self._taken_back.discard)
                future.add_done_callback(partial(_relay, call))


def _lasting(command: Command) -> Command:
    """Give a hold without a request id one, so that its row outlives its settle.

    The lost leader may place the same hold late, after it was settled here. The row that stays refuses that.
    """
    if isinstance(command, PlaceHold) and command.request_id is None:
        return command._replace(request_id=f"retried {command.hold_id}")
    return command


def _relay(call: Call, done: asyncio.Future[Any]) -> None:
    _tell(call.loop, [(call, done.exception() or done.result())])


def _tell(loop: asyncio.AbstractEventLoop | None, outcomes: list[tuple[Call, Any]]) -> None:
    if loop is None:
        _resolve(outcomes)
    else:
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits there any more
            loop.call_soon_threadsafe(_resolve, outcomes)


def _resolve(outcomes: list[tuple[Call, Any]]) -> None:
    for call, outcome in outcomes:
        if call.future.done():
            continue
        if isinstance(outcome, BaseException):
            call.future.set_exception(outcome)
        else:
            call.future.set_result(outcome)


class Desk:
    """Executes what other hosts bring, and answers as its commits are on disk. Never forwards."""

    def __init__(self, *, secret: bytes, run_here: RunHere) -> None:
        self._secret = secret
        self._run_here = run_here
        self._connections: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it ends; nothing is executed before a frame proved the secret."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - we are inside it
        self._connections[task] = writer
        try:
            async with asyncio.timeout(_HANDSHAKE_S):
                channel = await accept_channel(reader, writer, secret=self._secret)
            answers = _Answers(channel)
            while True:
                for message in unpack(await channel.receive()):
                    self._execute(message, answers)
                await channel.drain()
        except _BROKEN as error:
            logger.info("a host's connection ended: %s", error or type(error).__name__)
        finally:
            del self._connections[task]
            writer.transport.abort()

    async def close(self) -> None:
        """End every connection."""
        for writer in self._connections.values():
            writer.transport.abort()
        if self._connections:
            await asyncio.wait(self._connections)

    def _execute(self, message: list[Any], answers: _Answers) -> None:
        number = message[0]
        try:
            future = self._run_here(command_of(message))
        except (Overloaded, NotUnderstood) as error:
            answers.add(error_message(number, error))
        else:
            future.add_done_callback(partial(answers.add_done, number))


class _Answers:
    """Answers of one connection; those of one batch leave in one frame."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._ready: list[list[Any]] = []

    def add_done(self, number: int, done: asyncio.Future[Any]) -> None:
        error = done.exception()
        self.add(error_message(number, error) if error is not None else answer_message(number, done.result()))

    def add(self, message: list[Any]) -> None:
        if not self._ready:
            asyncio.get_running_loop().call_soon(self._flush)
        self._ready.append(message)

    def _flush(self) -> None:
        messages, self._ready = self._ready, []
        self._channel.send(pack(messages))
