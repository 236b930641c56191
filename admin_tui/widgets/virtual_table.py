"""A table for lists of any length: it draws the rows in view and keeps a few blocks of them; the rest is not there."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Final, Generic, TypeVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.events import Click, Resize
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from ..actions import Where, bindings
from ..safe_text import safe_text

Row = TypeVar("Row")

BLOCK: Final = 50
"""Rows that are read at once."""
_KEPT_BLOCKS: Final = 24
_GAP: Final = 2
_MARKER: Final = "▸ "
_MISSING: Final = "····"


class Tone(StrEnum):
    """What a cell means beside its text. The text alone says it too: a tone may be invisible."""

    PLAIN = "plain"
    MUTED = "muted"
    STRONG = "strong"
    GOOD = "good"
    BAD = "bad"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell's text, cleaned by the table before it is drawn, and its tone."""

    text: str
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True, slots=True)
class Column(Generic[Row]):
    """A column of fixed width. Where space lacks, columns with the highest ``drop`` go first; 0 never goes.

    At most one column has ``grows``: it takes the space that is left.
    """

    title: str
    width: int
    cell: Callable[[Row], Cell]
    drop: int = 0
    right: bool = False
    grows: bool = False


class VirtualTable(ScrollView, Generic[Row], can_focus=True):
    """Draws rows by number out of blocks that its screen hands it; asks for missing ones by a message."""

    BINDINGS = bindings(Where.LIST)
    COMPONENT_CLASSES: ClassVar[set[str]] = {"table--header", "table--cursor", *(f"table--{tone}" for tone in Tone)}

    cursor: reactive[int] = reactive(0, repaint=False)

    @dataclass
    class BlocksMissing(Message):
        """Rows came into view that the table does not have; see :meth:`missing_blocks`."""

        table: VirtualTable[Any]

    @dataclass
    class RowChosen(Message):
        """The row under the cursor was clicked twice."""

        table: VirtualTable[Any]

    @dataclass
    class CursorMoved(Message):
        """The cursor stands on another row, or the rows in view have changed."""

        table: VirtualTable[Any]

    @dataclass
    class EndPassed(Message):
        """The operator went to the last row and wants to go on; ``to_end`` asks for the list's very end."""

        table: VirtualTable[Any]
        to_end: bool

    @dataclass
    class TopWanted(Message):
        """The operator went to the first row: the list's start is wanted, with what is new."""

        table: VirtualTable[Any]

    def __init__(self, columns: Sequence[Column[Row]], *, empty: str, id: str | None = None) -> None:
        super().__init__(id=id)
        self._columns = tuple(columns)
        self._shown: tuple[tuple[Column[Row], int], ...] = ()
        self._fitted_width = -1
        self._blocks: OrderedDict[int, Sequence[Row]] = OrderedDict()
        self._empty = empty
        self._loaded = False
        self.row_count = 0

    # What the screen hands in and asks for

    def show_window(self, row_count: int, blocks: Mapping[int, Sequence[Row]]) -> None:
        """Replace everything known: the list has ``row_count`` rows, ``blocks`` are those read already."""
        self._blocks = OrderedDict(blocks)
        self.row_count = row_count
        self._loaded = True
        self.virtual_size = Size(self.size.width, row_count + 1)
        self.cursor = max(0, min(self.cursor, row_count - 1))
        self._ask_for_missing()
        self.refresh()
        self.post_message(self.CursorMoved(self))

    def extend_window(self, row_count: int) -> None:
        """Let the list go on below; what is known stays."""
        self.row_count = row_count
        self.virtual_size = Size(self.size.width, row_count + 1)
        self._ask_for_missing()
        self.refresh()
        self.post_message(self.CursorMoved(self))

    def put_block(self, block: int, rows: Sequence[Row]) -> None:
        """Take rows ``block * BLOCK`` and on; the least recently used blocks are forgotten."""
        self._blocks[block] = rows
        self._blocks.move_to_end(block)
        while len(self._blocks) > _KEPT_BLOCKS:
            self._blocks.popitem(last=False)
        self.refresh()
        self.post_message(self.CursorMoved(self))

    def missing_blocks(self) -> list[int]:
        """Return the blocks in view that are not there, the topmost first."""
        return [block for block in self.blocks_in_view() if block not in self._blocks]

    def blocks_in_view(self) -> list[int]:
        """Return the blocks that the rows in view belong to, the topmost first."""
        if not self.row_count:
            return []
        first, last = self.rows_in_view
        return list(range(first // BLOCK, last // BLOCK + 1))

    @property
    def rows_in_view(self) -> tuple[int, int]:
        """Numbers of the first and the last row in view, from 0."""
        first = min(self.scroll_offset.y, max(self.row_count - 1, 0))
        return first, max(first, min(first + self._page - 1, self.row_count - 1))

    @property
    def is_at_top(self) -> bool:
        """Whether the operator has left the list where it opens: there it may follow what is new."""
        return self.cursor == 0 and self.scroll_offset.y == 0

    def row_at(self, number: int) -> Row | None:
        """Return a row, or None where it is not there."""
        rows = self._blocks.get(number // BLOCK, ())
        place = number % BLOCK
        return rows[place] if 0 <= number < self.row_count and place < len(rows) else None

    @property
    def current(self) -> Row | None:
        """The row under the cursor."""
        return self.row_at(self.cursor)

    # Moving

    @property
    def _page(self) -> int:
        return max(self.scrollable_content_region.height - 1, 1)

    def move_to(self, number: int) -> None:
        """Put the cursor on a row and bring it into view."""
        self.cursor = max(0, min(number, self.row_count - 1))
        top, page = self.scroll_offset.y, self._page
        wanted = min(max(top, self.cursor - page + 1), self.cursor)
        if wanted != top:
            self.scroll_to(y=wanted, animate=False, immediate=True)

    def watch_cursor(self) -> None:
        """Redraw and tell the screen."""
        self.refresh()
        self.post_message(self.CursorMoved(self))

    def action_cursor_up(self) -> None:
        """One row up."""
        self.move_to(self.cursor - 1)

    def action_cursor_down(self) -> None:
        """One row down."""
        self._move_down(1)

    def action_page_up(self) -> None:
        """One page up."""
        self.move_to(self.cursor - self._page)

    def action_page_down(self) -> None:
        """One page down."""
        self._move_down(self._page)

    def action_first_row(self) -> None:
        """To the first row."""
        self.move_to(0)
        self.post_message(self.TopWanted(self))

    def action_last_row(self) -> None:
        """To the last row."""
        self.move_to(self.row_count - 1)
        self.post_message(self.EndPassed(self, to_end=True))

    def _move_down(self, rows: int) -> None:
        was_last = self.cursor >= self.row_count - 1
        self.move_to(self.cursor + rows)
        if was_last:
            self.post_message(self.EndPassed(self, to_end=False))

    def on_click(self, event: Click) -> None:
        """Put the cursor where the mouse is; the second click opens the row."""
        number = self.scroll_offset.y + event.get_content_offset_capture(self).y - 1
        if event.y < 1 or not 0 <= number < self.row_count:
            return
        self.move_to(number)
        if event.chain > 1:
            self.post_message(self.RowChosen(self))

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Draw the rows that came into view; ask for those that are not there."""
        super().watch_scroll_y(old_value, new_value)
        if round(old_value) != round(new_value):
            self._ask_for_missing()
            self.post_message(self.CursorMoved(self))

    def on_resize(self, event: Resize) -> None:
        """Fit the columns to the new width."""
        self.virtual_size = Size(event.size.width, self.row_count + 1)
        self.move_to(self.cursor)
        self._ask_for_missing()
        self.post_message(self.CursorMoved(self))

    def _fitted(self, width: int) -> tuple[tuple[Column[Row], int], ...]:
        if width != self._fitted_width:
            self._shown, self._fitted_width = fit_columns(self._columns, width), width
        return self._shown

    def _ask_for_missing(self) -> None:
        if self.missing_blocks():
            self.post_message(self.BlocksMissing(self))

    # Drawing

    def render_line(self, y: int) -> Strip:
        """Draw the header, a row or nothing."""
        width = self.scrollable_content_region.width
        if y == 0:
            cells = [(_fit(column.title, size, right=column.right), Tone.PLAIN) for column, size in self._fitted(width)]
            return self._strip(cells, width, style=self._style("header"))
        number = self.scroll_offset.y + y - 1
        if number >= self.row_count:
            text = self._empty if y == 2 and self._loaded and not self.row_count else ""
            return self._strip([(text, Tone.MUTED)], width)
        row = self.row_at(number)
        if row is None:
            return self._strip([(_MISSING, Tone.MUTED)], width)
        cursor = number == self.cursor
        return self._strip(
            self._cells(row, width), width, marked=cursor, style=self._style("cursor") if cursor else None
        )

    def _cells(self, row: Row, width: int) -> list[tuple[str, Tone]]:
        cells = ((column.cell(row), column, size) for column, size in self._fitted(width))
        return [(_fit(safe_text(cell.text), size, right=column.right), cell.tone) for cell, column, size in cells]

    def _strip(
        self, cells: Sequence[tuple[str, Tone]], width: int, *, marked: bool = False, style: Style | None = None
    ) -> Strip:
        plain = style or self.rich_style
        segments = [Segment(_MARKER if marked else " " * len(_MARKER), plain)]
        for text, tone in cells:
            own = plain if style or tone is Tone.PLAIN else self._style(tone)
            segments += [Segment(text, own), Segment(" " * _GAP, plain)]
        return Strip(segments).adjust_cell_length(width, plain)

    def _style(self, name: str) -> Style:
        return self.get_component_rich_style(f"table--{name}")


def fit_columns(columns: Sequence[Column[Row]], width: int) -> tuple[tuple[Column[Row], int], ...]:
    """Choose the columns that fit into ``width`` cells, and their widths; the growing one takes what is left."""
    kept = list(columns)
    while _needed(kept) > width and any(column.drop for column in kept):
        kept.remove(max(reversed(kept), key=lambda column: column.drop))
    spare = max(width - _needed(kept), 0)
    return tuple((column, column.width + (spare if column.grows else 0)) for column in kept)


def _needed(columns: Sequence[Column[Row]]) -> int:
    return len(_MARKER) + sum(column.width for column in columns) + _GAP * max(len(columns) - 1, 0)


def _fit(text: str, width: int, *, right: bool) -> str:
    """Pad or cut to ``width`` cells. What is cut ends in an ellipsis; a right-aligned text loses its start instead."""
    size = cell_len(text)
    if size > width:
        return "…" + set_cell_size(text[-(width - 1) :], width - 1) if right else set_cell_size(text, width - 1) + "…"
    padding = " " * (width - size)
    return padding + text if right else text + padding
