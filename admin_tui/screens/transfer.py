"""Everything about one transfer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Static

from credits_plugin.ledger.entries import SYSTEM_ACCOUNTS
from credits_plugin.ledger.queries import TransferLine

from ..formats import NOTHING, code_text, credits_text, full_time_text, signed_credits
from ..safe_text import safe_text


class TransferDialog(ModalScreen[None]):
    """Shows a transfer's fields; any of Esc, Enter and q closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,h", "close", "close", show=False)]

    def __init__(self, line: TransferLine, *, external_id: str) -> None:
        super().__init__()
        self._line = line
        self._external_id = external_id

    def compose(self) -> ComposeResult:
        """Yield the fields and a button."""
        with Vertical(classes="dialog") as dialog:
            dialog.border_title = f"Transfer no. {self._line.seq:,}"
            lines = (
                Content.assemble((f"{name:<12}", "$text-muted"), safe_text(value)) for name, value in self._fields()
            )
            yield Static(Content("\n").join(lines), markup=False)
            yield Button("Close", compact=True, id="close")

    def _fields(self) -> Iterator[tuple[str, str]]:
        line = self._line
        yield "customer", self._external_id
        yield "kind", f"{code_text(line.code)} ({'from' if line.amount > 0 else 'to'} {SYSTEM_ACCOUNTS[line.code]})"
        yield "amount", f"{signed_credits(line.amount)} credits"
        yield "balance", f"{credits_text(line.balance_after)} credits after it"
        yield "time", full_time_text(line.at_ms)
        yield "reference", line.reference or NOTHING
        yield "id", str(line.id)
        if line.usage is not None:
            yield "model", line.model or "unknown"
            for name in ("input", "cache_read", "cache_write", "output", "reasoning"):
                yield name.replace("_", " "), f"{getattr(line.usage, name):,} tokens"

    @on(Button.Pressed)
    def action_close(self) -> None:
        """Close the dialog."""
        self.dismiss(None)
