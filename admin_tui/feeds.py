"""Between a list in the database and the table that shows it: which rows to read, and when.

A feed reads, so its methods are awaited from a screen's workers; the table only ever gets finished rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any, Final, Generic, TypeVar

import peewee

from credits_plugin.ledger.keysets import COUNT_CAP, KeyWindow

from .widgets.virtual_table import BLOCK, VirtualTable

Row = TypeVar("Row")
_TO: Final = "\N{EN DASH}"
_EMPTY: Final = KeyWindow(0, False, (None,))


class End(Enum):
    """The end of a list at which a window starts."""

    FIRST = auto()
    LAST = auto()


@dataclass(frozen=True, slots=True)
class Source(Generic[Row]):
    """A list in the database. ``page`` returns the rows after a key, ``window`` where pages start after a key.

    ``key`` is the key after which the rows following a row come. A list that grows at its top has ``key_above``, the
    key after which that row itself comes, and ``newer``, which counts the rows above it.
    """

    page: Callable[[peewee.Database, Any], Sequence[Row]]
    window: Callable[[peewee.Database, Any, End], KeyWindow]
    key: Callable[[Row], Any]
    key_above: Callable[[Row], Any] | None = None
    newer: Callable[[peewee.Database, Row], int] | None = None


class TableFeed(Generic[Row]):
    """Keeps a table filled from a source, and fresh, without moving what an operator looks at."""

    def __init__(
        self, table: VirtualTable[Row], source: Source[Row], read: Callable[[Callable[..., Any]], Awaitable[Any]]
    ) -> None:
        self._table = table
        self._read = read
        self._lock = asyncio.Lock()
        self.source = source
        self.window = _EMPTY
        self.shows = End.FIRST
        self.new_rows = 0
        self._top: Row | None = None

    async def reload(self, end: End = End.FIRST) -> None:
        """Read the list anew from one of its ends, and go there."""
        async with self._lock:
            window, blocks = await self._read(lambda database: _open(database, self.source, end))
            self.window, self.shows, self.new_rows = window, end, 0
            self._top = _first_row(blocks)
            self._table.show_window(window.rows, blocks)
            self._table.move_to(0 if end is End.FIRST else window.rows - 1)
        await self.load()

    async def show(self, source: Source[Row]) -> None:
        """Show another list from its start."""
        async with self._lock:  # whoever is reading finishes with the list that it began
            self.source = source
        await self.reload()

    async def load(self) -> None:
        """Read what is missing in view, until nothing is."""
        async with self._lock:
            while missing := self._table.missing_blocks():
                source, key = self.source, self.window.keys[missing[0]]
                rows = await self._read(lambda database, s=source, k=key: s.page(database, k))
                self._table.put_block(missing[0], rows)

    async def refresh(self) -> None:
        """Bring the rows in view up to date. At the top new rows appear; elsewhere they are counted, nothing moves."""
        if self._table.is_at_top and self.shows is End.FIRST:
            await self._follow()
        else:
            await self._refresh_in_place()

    async def extend(self) -> None:
        """Let a list longer than its window go on behind the last row."""
        async with self._lock:
            last = self._table.row_at(self.window.rows - 1)
            if not self.window.capped or self.shows is End.LAST or last is None:
                return
            more = await self._read(lambda database: self.source.window(database, self.source.key(last), End.FIRST))
            known = self.window
            rows, keys = known.rows + more.rows, (*known.keys, *more.keys)
            self.window = replace(known, rows=rows, capped=more.capped, keys=keys)
            self._table.extend_window(rows)
        await self.load()

    @property
    def position(self) -> str:
        """Where the operator is in the list: ``rows 1-22 of >10,000``, and how many rows are new above."""
        if not self.window.rows:
            return "no rows"
        first, last = self._table.rows_in_view
        total = f"{'>' if self.window.capped else ''}{max(self.window.rows, 1):,}"
        if self.window.capped and self.shows is End.LAST:
            text = f"last {self.window.rows - first:,} to {self.window.rows - last:,} of {total}"
        else:
            text = f"rows {first + 1:,}{_TO}{last + 1:,} of {total}"
        news = f"{'>' if self.new_rows >= COUNT_CAP else ''}{self.new_rows:,}"
        return f"+{news} new (g)  {text}" if self.new_rows else text

    async def _follow(self) -> None:
        async with self._lock:
            window, blocks = await self._read(lambda database: _open(database, self.source, End.FIRST))
            if self._table.is_at_top:
                self.window, self.new_rows, self._top = window, 0, _first_row(blocks)
                self._table.show_window(window.rows, blocks)
        await self.load()

    async def _refresh_in_place(self) -> None:
        async with self._lock:
            source, keys = self.source, self.window.keys
            for block in self._table.blocks_in_view():
                rows = await self._read(lambda database, k=keys[block]: source.page(database, k))
                self._table.put_block(block, rows)
            newer, top = source.newer, self._top
            if newer is not None and top is not None and self.shows is End.FIRST:
                self.new_rows = await self._read(lambda database: newer(database, top))


def _first_row(blocks: Mapping[int, Sequence[Row]]) -> Row | None:
    return blocks[0][0] if blocks.get(0) else None


def _open(database: peewee.Database, source: Source[Row], end: End) -> tuple[KeyWindow, dict[int, Sequence[Row]]]:
    """Read a window and its first block. The first row pins the window: rows that arrive meanwhile shift nothing."""
    if end is End.LAST:
        return source.window(database, None, end), {}
    first = source.page(database, None)
    start = source.key_above(first[0]) if first and source.key_above is not None else None
    return source.window(database, start, end), {0: first[:BLOCK]}
