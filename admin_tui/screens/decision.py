"""What dialogs share that change something: note, preview, confirmation by typing the amount, the outcome in place."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from enum import Enum, auto
from typing import Any, ClassVar, Final, Generic, TypeVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Button, Input, Label, Select, Static
from textual.worker import Worker, WorkerState

from credits_plugin.errors import CreditsError, DatabaseError, GatewayError, InvalidValue, OutcomeUnknown, Overloaded

from ..safe_text import safe_text
from ..widgets.panels import Line, content_of
from .base import failure_text

D = TypeVar("D")
R = TypeVar("R")

_MAX_NOTE: Final = 500
_SENDING: Final = "sending"


class Stage(Enum):
    """How far a dialog is. From ``SENT`` on its fields are fixed: its key belongs to that change."""

    EDITING = auto()
    SENT = auto()
    UNKNOWN = auto()
    REFUSED = auto()
    DONE = auto()


class DecisionDialog(ModalScreen[D | None], Generic[D, R]):
    """Returns the decision that was carried out, or None. ``submit`` carries it out and may be asked again.

    Subclasses say what is decided (``D``) and how its outcome (``R``) reads.
    """

    VERB: ClassVar[str]
    SENT: ClassVar[str] = "… at work"
    CONFIRM: ClassVar[str] = "type the amount again"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "cancel", "cancel", show=False)]

    def __init__(self, submit: Callable[[D], Awaitable[R]]) -> None:
        super().__init__()
        self._submit = submit
        self._stage = Stage.EDITING
        self._decision: D | None = None

    # What a subclass says

    @abstractmethod
    def heading(self) -> str:
        """Return what stands on the frame."""

    @abstractmethod
    def summary(self) -> str:
        """Return one line on what it is about; empty where the form says it."""

    @abstractmethod
    def form(self) -> Iterable[Widget]:
        """Return the fields before the note; see :func:`field`."""

    @abstractmethod
    def parse_amount(self, text: str) -> int:
        """Read what was typed as amount or confirmation.

        Raises:
            InvalidValue: it is none.
        """

    @abstractmethod
    def decide(self) -> D:
        """Return the decision that the form makes.

        Raises:
            InvalidValue: it makes none; the message says what is wrong.
        """

    @abstractmethod
    def amount_of(self, decision: D) -> int:
        """Return the amount that has to be typed again."""

    @abstractmethod
    def preview(self, decision: D) -> Sequence[Line]:
        """Return what would change."""

    @abstractmethod
    def success(self, result: R) -> str:
        """Say what was done."""

    def label(self, decision: D) -> str:  # noqa: ARG002 - subclasses may look
        """Return what stands on the dangerous button."""
        return self.VERB

    # Its life

    def compose(self) -> ComposeResult:
        """Yield the form; Cancel comes first among the buttons, so focus starts on it."""
        with Vertical(classes="dialog") as dialog:
            dialog.border_title = Content(safe_text(self.heading()))
            if summary := self.summary():
                yield Static(safe_text(summary), markup=False)
            yield from self.form()
            yield field("Note", Input(placeholder="why, for the audit", id="note", compact=True, max_length=_MAX_NOTE))
            yield Static("", id="preview", markup=False)
            yield field("Confirm", Input(placeholder=self.CONFIRM, id="confirm", compact=True), apart=True)
            yield Static("", id="outcome", markup=False)
            with Horizontal(classes="buttons"):
                yield Button("Cancel", id="cancel", compact=True)
                yield Button(self.VERB, id="send", variant="error", compact=True, disabled=True)

    def on_mount(self) -> None:
        """Start on the button that does nothing."""
        self.query_one("#cancel").focus()
        self.show_decision()

    def action_cancel(self) -> None:
        """Leave, unless the change is under way right now."""
        if self._stage is not Stage.SENT:
            self.dismiss(self._decision if self._stage is Stage.DONE else None)

    def note(self) -> str:
        """Return what was typed as a note."""
        return safe_text(self.query_one("#note", Input).value).strip()

    def typed_amount(self) -> int:
        """Return what was typed as the amount.

        Raises:
            InvalidValue: it is none.
        """
        return self.parse_amount(self.query_one("#amount", Input).value)

    @on(Button.Pressed, "#cancel")
    def _cancel(self) -> None:
        self.action_cancel()

    @on(Input.Submitted)
    def _next_field(self) -> None:
        self.focus_next()

    @on(Input.Changed)
    @on(Select.Changed)
    def show_decision(self) -> None:
        """Show what the form decides and would change, or what is wrong with it."""
        if self._stage is not Stage.EDITING:
            return
        send, outcome, preview = self.query_one("#send", Button), self.query_one("#outcome", Static), self._preview
        try:
            decision = self.decide()
        except InvalidValue as error:
            send.disabled, send.label = True, self.VERB
            outcome.update(Content.assemble(("✗ ", "bold"), safe_text(error.message)))
            preview.update("")
            return
        send.disabled, send.label = not self._is_confirmed(decision), Content(safe_text(self.label(decision)))
        outcome.update("")
        preview.update(Content("\n").join(content_of(line) for line in self.preview(decision)))

    @property
    def _preview(self) -> Static:
        return self.query_one("#preview", Static)

    def _is_confirmed(self, decision: D) -> bool:
        try:
            return self.parse_amount(self.query_one("#confirm", Input).value) == self.amount_of(decision)
        except InvalidValue:
            return False

    @on(Button.Pressed, "#send")
    def _send(self) -> None:
        if self._decision is None:
            try:
                decision = self.decide()
            except InvalidValue:
                return
            if not self._is_confirmed(decision):
                return
            self._decision = decision
        self._enter(Stage.SENT, self.SENT)
        self.run_worker(self._carry_out(self._decision), group=_SENDING, exit_on_error=False)

    async def _carry_out(self, decision: D) -> R:
        return await self._submit(decision)

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """Show the outcome; only an unknown one may be tried again, with the same key."""
        sent, error = event.worker.group == _SENDING, event.worker.error
        if event.state is WorkerState.SUCCESS and sent:
            result: Any = event.worker.result
            self._enter(Stage.DONE, self.success(result))
        elif event.state is WorkerState.ERROR and sent:
            self._enter(Stage.UNKNOWN if _may_repeat(error) else Stage.REFUSED, f"✗ {failure_text(error)}")
        elif event.state is WorkerState.ERROR:
            self.query_one("#outcome", Static).update(Content(safe_text(f"✗ {failure_text(error)}")))

    def _enter(self, stage: Stage, text: str) -> None:
        self._stage = stage
        for one in self.query("Input, Select"):
            one.disabled = True
        send, cancel = self.query_one("#send", Button), self.query_one("#cancel", Button)
        send.disabled = stage is not Stage.UNKNOWN
        send.display = stage in {Stage.SENT, Stage.UNKNOWN}
        send.label = "Try again" if stage is Stage.UNKNOWN else send.label
        cancel.label = "Cancel" if stage is Stage.SENT else "Close"
        cancel.disabled = stage is Stage.SENT
        if stage is not Stage.SENT:
            cancel.focus()
        outcome = self.query_one("#outcome", Static)
        outcome.update(Content(safe_text(text)))
        outcome.set_class(stage is Stage.DONE, "-good")
        outcome.set_class(stage in {Stage.UNKNOWN, Stage.REFUSED}, "-bad")


def field(label: str, widget: Widget, hint: str = "", *, apart: bool = False) -> Horizontal:
    """Return a line of a form; ``apart`` leaves one empty above it."""
    hints = [Label(hint, markup=False, classes="hint")] if hint else []
    return Horizontal(Label(label), widget, *hints, classes="field apart" if apart else "field")


def _may_repeat(error: BaseException | None) -> bool:
    match error:
        case GatewayError():
            return error.retryable
        case OutcomeUnknown() | Overloaded() | DatabaseError():
            return True
        case _:
            return not isinstance(error, CreditsError)
