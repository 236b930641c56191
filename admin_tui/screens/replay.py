"""The replay dialog: what a stored event would do now, and doing it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Static
from textual.worker import Worker, WorkerState

from ..backend import Backend
from ..safe_text import safe_text
from .base import TableScreen, failure_text

if TYPE_CHECKING:
    from credits_plugin.payments.replay import Preview


class ReplayDialog(ModalScreen[None]):
    """Shows a rehearsal; its one dangerous button carries it out, once."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "close", "close", show=False)]

    def __init__(self, backend: Backend, preview: Preview) -> None:
        super().__init__()
        self._backend = backend
        self._preview = preview

    def compose(self) -> ComposeResult:
        """Yield the rehearsal; Close comes first, so focus starts on it."""
        with Vertical(classes="dialog", id="replay") as dialog:
            dialog.border_title = Content(safe_text(f"Replay ▸ {self._preview.event_id}"))
            yield Static(Content("\n").join(Content(safe_text(line)) for line in preview_lines(self._preview)))
            yield Static("", id="outcome", markup=False)
            with Horizontal(classes="buttons"):
                yield Button("Close", id="close", compact=True)
                yield Button("Do it", id="apply", variant="error", compact=True)

    def on_mount(self) -> None:
        """Start on the button that does nothing."""
        self.query_one("#close").focus()

    @on(Button.Pressed, "#close")
    def action_close(self) -> None:
        """Close the dialog."""
        self.dismiss(None)

    @on(Button.Pressed, "#apply")
    def _apply(self) -> None:
        self.query_one("#apply", Button).disabled = True
        self._say("… at work")
        self.run_worker(self._backend.replay_event(self._preview.event_id), exit_on_error=False)

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """Show what came of it."""
        if event.state is WorkerState.SUCCESS:
            receipt: Any = event.worker.result
            self._say(f"✓ {receipt.status}{f': {receipt.detail}' if receipt.detail else ''}")
        elif event.state is WorkerState.ERROR:
            self._say(f"✗ {failure_text(event.worker.error)}")
        else:
            return
        self.query_one("#close").focus()

    def _say(self, text: str) -> None:
        self.query_one("#outcome", Static).update(Content(safe_text(text)))


def preview_lines(preview: Preview) -> list[str]:
    """Return what the event would come to and change, a line each."""
    lines = [preview.type, f"would be {preview.status}{f': {preview.detail}' if preview.detail else ''}", ""]
    changes = [f"{change.what:<12}{change.before} → {change.after}" for change in preview.changes]
    return [*lines, *(changes or ["nothing would change"])]


def open_replay(screen: TableScreen[Any], backend: Backend, event_id: str) -> None:
    """Rehearse an event and open the dialog over ``screen``, or say why it cannot be done from here."""
    obstacle = backend.obstacle("replay")
    if obstacle is not None:
        screen.notify(safe_text(obstacle), title="No replay from here", severity="warning", markup=False, timeout=12)
        return
    screen.begin(_ask(screen, backend, event_id), group="replay")


async def _ask(screen: TableScreen[Any], backend: Backend, event_id: str) -> None:
    preview = await backend.preview_event(event_id)
    screen.app.push_screen(ReplayDialog(backend, preview), lambda _: screen.refresh_soon())
