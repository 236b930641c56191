"""Webhooks: Stripe's events as they came in, and what each one did."""

from __future__ import annotations

from collections.abc import Sequence

from credits_plugin.payments.queries import InboxLine
from credits_plugin.payments.states import InboxStatus

from .. import sources
from ..actions import Where, bindings
from ..feeds import Source
from ..formats import time_text
from ..widgets.virtual_table import Cell, Column, Tone
from .base import TableScreen
from .columns import status_text
from .details import DetailsDialog, event_fields
from .replay import open_replay


class WebhooksScreen(TableScreen[InboxLine]):
    """The inbox, the latest event first."""

    WHERE = Where.WEBHOOKS
    TAB = "Webhooks"
    EMPTY = "No event has come in: check the endpoint in Stripe's dashboard."
    BINDINGS = bindings(Where.WEBHOOKS, Where.SCREEN)

    def source(self, filter_text: str = "") -> Source[InboxLine]:  # noqa: ARG002 - this list has no filter
        """Return all events."""
        return sources.inbox()

    def columns(self) -> Sequence[Column[InboxLine]]:
        """Return the columns; status and type never go."""
        return (
            Column("received", 12, self._received),
            Column("status", 12, lambda row: Cell(status_text(row.status), _tone(row.status))),
            Column("type", 30, lambda row: Cell(row.type)),
            Column("detail", 16, lambda row: Cell(row.detail or "", Tone.MUTED), grows=True),
            Column("object", 20, lambda row: Cell(row.object_id or "", Tone.MUTED), drop=1),
            Column("tries", 5, lambda row: Cell(str(row.attempts)), right=True, drop=2),
        )

    def title_text(self) -> str:
        """Name the list."""
        return "Webhooks"

    def id_of(self, row: InboxLine) -> str:
        """Return the event's id."""
        return row.event_id

    def choose(self, row: InboxLine) -> None:
        """Show everything about an event."""
        self.app.push_screen(DetailsDialog("Event", list(event_fields(row))))

    def action_replay(self) -> None:
        """Rehearse the event under the cursor, and offer to do it."""
        if self.table.current is not None:
            open_replay(self, self.backend, self.table.current.event_id)

    def _received(self, row: InboxLine) -> Cell:
        return Cell(time_text(row.received_at_ms, now_ms=self.backend.clock()), Tone.MUTED)


def _tone(status: InboxStatus) -> Tone:
    match status:
        case InboxStatus.PROCESSED:
            return Tone.GOOD
        case InboxStatus.FAILED | InboxStatus.QUARANTINED:
            return Tone.BAD
        case _:
            return Tone.MUTED
