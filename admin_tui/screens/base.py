"""What every screen with a list shares: the bars, the table and its feed, the filter line, and what fails."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Generic, TypeVar

import peewee
from textual import on
from textual.app import ComposeResult
from textual.content import Content
from textual.message import Message
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Input
from textual.worker import Worker, WorkerState

from credits_plugin.errors import CreditsError

from ..actions import Where, actions_in
from ..backend import Backend
from ..feeds import End, Source, TableFeed
from ..safe_text import safe_text
from ..widgets.bars import KeyBar, TopBar
from ..widgets.panels import FailurePanel
from ..widgets.virtual_table import Column, VirtualTable

Row = TypeVar("Row")

TABS: Final = (("2", "Customers"), ("3", "Ledger"), ("4", "Payments"), ("7", "Webhooks"))
REFRESH_S: Final = 1.0
_READS: Final = "reads"


@dataclass
class AccountChosen(Message):
    """The operator wants to see this customer; the app opens it."""

    account_id: int
    external_id: str


class TableScreen(Screen[None], Generic[Row]):
    """A screen around one list. Subclasses say which list, which columns, and what Enter does."""

    WHERE: ClassVar[Where]
    TAB: ClassVar[str]
    EMPTY: ClassVar[str]
    FILTER_HINT: ClassVar[str] = ""

    def __init__(self, backend: Backend) -> None:
        super().__init__()
        self.backend = backend
        self.table: VirtualTable[Row] = VirtualTable(self.columns(), empty=self.EMPTY, id="table")
        self.feed: TableFeed[Row] = TableFeed(self.table, self.source(), backend.read)
        self.failure = FailurePanel()
        self._refreshing: Worker[Any] | None = None

    # What a subclass says

    @abstractmethod
    def source(self, filter_text: str = "") -> Source[Row]:
        """Return the list, narrowed by what stands in the filter line."""

    @abstractmethod
    def columns(self) -> Sequence[Column[Row]]:
        """Return the table's columns."""

    @abstractmethod
    def title_text(self) -> str:
        """Return what stands on the table's frame."""

    @abstractmethod
    def id_of(self, row: Row) -> str:
        """Return what the copy key copies of a row."""

    def above(self) -> Iterable[Widget]:
        """Return the widgets above the table."""
        return ()

    @abstractmethod
    def choose(self, row: Row) -> None:
        """Open a row."""

    async def refresh_view(self) -> None:
        """Bring everything in view up to date; runs every second while the screen is open."""
        await self.feed.refresh()
        self.show_titles()

    # Its life

    def compose(self) -> ComposeResult:
        """Yield bars, table, filter line."""
        backend = self.backend
        rights = "RO" if backend.is_read_only else "RW"
        keys = () if backend.settings.stripe_secret_key else ("no Stripe keys",)
        facts = (*keys, backend.database.name, f"admin:{backend.actor} {rights}")
        yield TopBar(TABS, current=self.TAB, facts=facts, live=backend.settings.livemode)
        yield self.failure
        yield from self.above()
        yield self.table
        yield Input(placeholder=self.FILTER_HINT, id="filter", compact=True)
        yield KeyBar(actions_in(self.WHERE, Where.SCREEN, Where.ANYWHERE))

    def on_mount(self) -> None:
        """Read for the first time, then every second."""
        self.set_class(self.backend.settings.livemode, "-live")
        self.query_one("#filter").display = False
        self.table.focus()
        self.show_titles()
        self.begin(self.feed.reload())
        self.set_interval(REFRESH_S, self.refresh_soon)

    def on_screen_resume(self) -> None:
        """Show what has happened while another screen was open."""
        self.refresh_soon()

    def begin(self, work: Coroutine[Any, Any, None], *, group: str = _READS) -> Worker[Any]:
        """Run ``work`` beside the screen; what it raises becomes the failure panel."""
        return self.run_worker(work, group=group, exclusive=group != _READS, exit_on_error=False)

    def refresh_soon(self) -> None:
        """Refresh, unless the last refresh is still at work or another screen is on top."""
        idle = self._refreshing is None or self._refreshing.is_finished
        if idle and self.is_current and self.feed.window.keys:
            self._refreshing = self.begin(self.refresh_view())

    def show_titles(self) -> None:
        """Write the table's frame anew."""
        self.table.border_title = Content(safe_text(self.title_text()))
        self.table.border_subtitle = Content(self.feed.position)

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """Show what failed; hide it when a later read has succeeded."""
        if event.state is WorkerState.ERROR:
            self.failure.show_failure(failure_text(event.worker.error))
        elif event.state is WorkerState.SUCCESS:
            self.failure.clear()

    # The table

    @on(VirtualTable.BlocksMissing)
    def _load(self) -> None:
        self.begin(self.feed.load())

    @on(VirtualTable.CursorMoved)
    def _moved(self) -> None:
        self.show_titles()

    @on(VirtualTable.TopWanted)
    def _to_top(self) -> None:
        self.begin(self.feed.reload())

    @on(VirtualTable.EndPassed)
    def _past_end(self, event: VirtualTable.EndPassed) -> None:
        if self.feed.window.capped:
            self.begin(self.feed.reload(End.LAST) if event.to_end else self.feed.extend())

    @on(VirtualTable.RowChosen)
    def action_inspect(self) -> None:
        """Open the row under the cursor."""
        row = self.table.current
        if row is not None:
            self.choose(row)

    def action_copy(self) -> None:
        """Copy the id of the row under the cursor."""
        row = self.table.current
        if row is not None:
            self.copy_text(self.id_of(row))

    def copy_text(self, value: str) -> None:
        """Put ``value`` on the terminal's clipboard."""
        text = safe_text(value)
        self.app.copy_to_clipboard(text)
        self.notify(f"copied {text}", markup=False, timeout=2)

    def action_reload(self) -> None:
        """Read again, from the top."""
        self.begin(self.feed.reload())
        self.refresh_soon()

    def action_back(self) -> None:
        """End the filter; else leave a screen that was opened from another one."""
        line = self.query_one("#filter", Input)
        if line.display or line.value:
            line.value = ""
            line.display = False
            self.table.focus()
        elif len(self.app.screen_stack) > 1:
            self.app.pop_screen()

    # The filter line

    def action_filter(self) -> None:
        """Open the filter line."""
        line = self.query_one("#filter", Input)
        line.display = True
        line.focus()

    @on(Input.Changed, "#filter")
    def _filter(self, event: Input.Changed) -> None:
        self.begin(self.feed.show(self.source(event.value.strip())), group="filter")

    @on(Input.Submitted, "#filter")
    def _keep_filter(self, event: Input.Submitted) -> None:
        event.input.display = bool(event.value)
        self.table.focus()


def failure_text(error: BaseException | None) -> str:
    """Say in one line what went wrong."""
    match error:
        case CreditsError():
            return error.message
        case peewee.PeeweeException():
            return f"cannot read the database: {error}"
        case _:
            return f"{type(error).__name__}: {error}"
