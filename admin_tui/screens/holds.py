"""Holds report: how good the holds of each model were, as ``credits holds report`` prints it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from credits_plugin.metering.hold_report import ModelReport, report_of
from credits_plugin.metering.observation_rows import load

from .. import sources
from ..actions import Where, bindings
from ..feeds import Source
from ..formats import tokens_text
from ..widgets.virtual_table import Cell, Column, Tone
from .base import TableScreen
from .details import DetailsDialog, Field


class HoldsScreen(TableScreen[ModelReport]):
    """The models by name; read when it is opened, and with f5."""

    WHERE = Where.HOLDS
    TAB = "Ledger"
    EMPTY = "No hold has been counted yet."
    BINDINGS = bindings(Where.HOLDS, Where.SCREEN)

    def source(self, filter_text: str = "") -> Source[ModelReport]:  # noqa: ARG002 - this list has no filter
        """Return the report."""
        return sources.short_list(lambda database: report_of(load(database, ())))

    def columns(self) -> Sequence[Column[ModelReport]]:
        """Return the columns; what of a hold was charged never goes."""
        return (
            Column("model", 16, lambda row: Cell(row.model, Tone.STRONG), grows=True),
            Column("settled", 9, lambda row: Cell(f"{row.settled:,}"), right=True, drop=3),
            Column("charged 10/50/90 %", 18, lambda row: Cell("/".join(map(str, row.charged_percent))), right=True),
            Column("tokens 50/95 %", 14, lambda row: Cell("/".join(map(tokens_text, row.output_tokens))), right=True),
            Column("cut", 7, lambda row: _count(row.cut), right=True, drop=1),
            Column("extended", 8, lambda row: _count(row.extended), right=True, drop=2),
            Column("refused", 7, lambda row: _count(row.refused), right=True),
            Column("overrun", 7, lambda row: _count(row.overrun), right=True),
        )

    def title_text(self) -> str:
        """Name the list."""
        return "Ledger ▸ Holds report, all hosts"

    async def refresh_view(self) -> None:
        """Show where one is; the report itself is read again with f5, as its figures move slowly."""
        self.show_titles()

    def id_of(self, row: ModelReport) -> str:
        """Return the model's name."""
        return row.model

    def choose(self, row: ModelReport) -> None:
        """Say what the figures mean."""
        self.app.push_screen(DetailsDialog("Holds of a model", list(report_fields(row))))


def report_fields(row: ModelReport) -> Iterator[Field]:
    """Yield the figures of a model with their meaning."""
    low, middle, high = row.charged_percent
    usual, long = row.output_tokens
    yield "model", row.model
    yield "settled", f"{row.settled:,} completed calls with usage"
    yield "charged", f"{low} % of a hold or less in 10 of 100 calls, {middle} in 50, {high} in 90"
    yield "answers", f"{usual:,} tokens or less in 50 of 100 calls, {long:,} in 95"
    yield "cut", f"{row.cut:,} (held for less output than was asked for)"
    yield "extended", f"{row.extended:,} (raised while their call ran)"
    yield "refused", f"{row.refused:,}"
    yield "overrun", f"{row.overrun:,} (cost more than their hold)"


def _count(times: int) -> Cell:
    return Cell(f"{times:,}", Tone.PLAIN if times else Tone.MUTED)
