"""What the writer takes from its queue at a time, and how it answers those who wait."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

_ANSWERS_AT_ONCE: Final = 256
"""Callers answered in one go. 512 were measured to hold the loop up for 10 ms; after 64 the writer takes what they sent
at once, and makes four small commits of one."""

Item: TypeAlias = tuple[Any, Any, asyncio.AbstractEventLoop | None]
"""Command or unit of work, its future (asyncio's or concurrent.futures': both have done and set_result), its loop."""


@dataclass(slots=True)
class Batch:
    """Commands, or units of work, and what became of each; the first ``done`` were run, the others are for the next."""

    items: list[Item]
    of_work: bool
    done: int = 0
    answers: list[Any] = field(default_factory=list)
    errors: dict[int, BaseException] = field(default_factory=dict)

    def start(self) -> None:
        """Forget what an attempt that did not count had answered."""
        self.done = 0
        self.answers = [None] * len(self.items)
        self.errors = {}

    def fail(self, error: BaseException) -> None:
        """Give every item this error."""
        self.errors = dict.fromkeys(range(len(self.items)), error)
        self.done = len(self.items)

    def fail_one(self, index: int, error: BaseException) -> None:
        """Give one item this error and leave the others, in their order, for the next."""
        self.items.insert(0, self.items.pop(index))
        self.start()
        self.errors[0] = error
        self.done = 1


def answer_callers(batch: Batch) -> None:
    """Answer every caller: one call into each event loop, whatever the number of its callers."""
    for loop in {item[2] for item in batch.items[: batch.done]}:
        if loop is None:
            _resolve(batch, loop, 0, batch.done)
        else:
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits there any more
                loop.call_soon_threadsafe(_resolve_slice, batch, loop, 0)


def _resolve_slice(batch: Batch, loop: asyncio.AbstractEventLoop, start: int) -> None:
    """Answer some callers, and let the loop do other things before the next."""
    end = min(start + _ANSWERS_AT_ONCE, batch.done)
    _resolve(batch, loop, start, end)
    if end < batch.done:
        loop.call_soon(_resolve_slice, batch, loop, end)


def _resolve(batch: Batch, loop: asyncio.AbstractEventLoop | None, start: int, end: int) -> None:
    """Answer those callers of one loop; who was cancelled does not wait any more."""
    errors = batch.errors
    if errors:
        for index in errors.keys() & range(start, end):
            _, future, owner = batch.items[index]
            if owner is loop and not future.done():
                future.set_exception(errors[index])
    for (_, future, owner), answer in zip(batch.items[start:end], batch.answers[start:end], strict=True):
        if owner is loop and not future.done():
            future.set_result(answer)
