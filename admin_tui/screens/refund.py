"""The refund dialog: amount, reason, note, preview, confirmation by typing the amount; the outcome in its place."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import Any, ClassVar, Final
from uuid import uuid4

import peewee
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, Select, Static
from textual.worker import Worker, WorkerState

from credits_plugin.errors import CreditsError, GatewayError, InvalidValue
from credits_plugin.ledger.queries import account_balance
from credits_plugin.money import format_money
from credits_plugin.payments.gateway import RefundReason
from credits_plugin.payments.queries import RefundView, payment, refunds_of

from ..backend import Backend, RefundDecision
from ..formats import credits_text, plain_money
from ..safe_text import safe_text
from ..widgets.panels import content_of
from .base import TableScreen, failure_text
from .refund_preview import RefundCase, preview_lines

_MAX_NOTE: Final = 500


class Stage(Enum):
    """How far a dialog is. From ``SENT`` on its fields are fixed: its key belongs to that refund."""

    EDITING = auto()
    SENT = auto()
    UNKNOWN = auto()
    REFUSED = auto()
    DONE = auto()


class RefundDialog(ModalScreen[RefundDecision | None]):
    """Returns the decision that was carried out, or None. ``submit`` carries it out and may be asked again."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "cancel", "cancel", show=False)]

    def __init__(self, case: RefundCase, submit: Callable[[RefundDecision], Awaitable[RefundView]]) -> None:
        super().__init__()
        self._case = case
        self._submit = submit
        self._key = f"admin-refund-{uuid4()}"
        self._stage = Stage.EDITING
        self._decision: RefundDecision | None = None

    def compose(self) -> ComposeResult:
        """Yield the form; Cancel comes first, so focus starts on it."""
        paid, left = self._case.payment, self._case.left_minor
        currency = paid.currency.upper()
        with Vertical(classes="dialog", id="refund") as dialog:
            dialog.border_title = Content(safe_text(f"Refund ▸ {paid.external_id or paid.email or paid.id}"))
            yield Static(self._summary(), markup=False)
            with Horizontal(classes="field apart"):
                yield Label("Amount")
                yield Input(plain_money(left, paid.currency), id="amount", compact=True)
                yield Label(f"{currency}, at most {plain_money(left, paid.currency)}", classes="hint")
            with Horizontal(classes="field"):
                yield Label("Reason")
                yield Select(_reasons(), allow_blank=False, value=RefundReason.REQUESTED_BY_CUSTOMER, compact=True)
            with Horizontal(classes="field"):
                yield Label("Note")
                yield Input(placeholder="why, for the audit", id="note", compact=True, max_length=_MAX_NOTE)
            yield Static("", id="preview", markup=False)
            with Horizontal(classes="field apart"):
                yield Label("Confirm")
                yield Input(placeholder="type the amount again", id="confirm", compact=True)
            yield Static("", id="outcome", markup=False)
            with Horizontal(classes="buttons"):
                yield Button("Cancel", id="cancel", compact=True)
                yield Button("Refund", id="send", variant="error", compact=True, disabled=True)

    def on_mount(self) -> None:
        """Start on the button that does nothing."""
        self.query_one("#cancel").focus()
        self._show()

    def action_cancel(self) -> None:
        """Leave, unless Stripe is being asked right now."""
        if self._stage is not Stage.SENT:
            self.dismiss(self._decision if self._stage is Stage.DONE else None)

    @on(Button.Pressed, "#cancel")
    def _cancel(self) -> None:
        self.action_cancel()

    @on(Input.Submitted)
    def _next_field(self) -> None:
        self.focus_next()

    @on(Input.Changed)
    def _show(self) -> None:
        if self._stage is not Stage.EDITING:
            return
        amount = self._typed_amount()
        send, outcome = self.query_one("#send", Button), self.query_one("#outcome", Static)
        send.disabled = isinstance(amount, str) or self._confirmed_amount() != amount
        if isinstance(amount, str):
            outcome.update(Content.assemble(("✗ ", "bold"), safe_text(amount)))
            self.query_one("#preview", Static).update("")
            send.label = "Refund"
            return
        outcome.update("")
        send.label = f"Refund {format_money(amount, self._case.payment.currency)}"
        lines = preview_lines(self._case, amount)
        self.query_one("#preview", Static).update(Content("\n").join(content_of(line) for line in lines))

    @on(Button.Pressed, "#send")
    def _send(self) -> None:
        if self._decision is None:
            amount = self._typed_amount()
            if isinstance(amount, str) or self._confirmed_amount() != amount:
                return
            self._decision = RefundDecision(
                self._case.payment.id, amount, self._reason(), self._note(), idempotency_key=self._key
            )
        self._enter(Stage.SENT, "… asking Stripe")
        self.run_worker(self._carry_out(self._decision), exit_on_error=False)

    async def _carry_out(self, decision: RefundDecision) -> RefundView:
        return await self._submit(decision)

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """Show the outcome; only an unknown one may be tried again, with the same key."""
        if event.state is WorkerState.SUCCESS:
            self._enter(Stage.DONE, self._success(event.worker.result))  # type: ignore[arg-type]  # a worker that succeeded has one
        elif event.state is WorkerState.ERROR:
            error = event.worker.error
            retryable = (isinstance(error, GatewayError) and error.retryable) or not isinstance(error, CreditsError)
            self._enter(Stage.UNKNOWN if retryable else Stage.REFUSED, f"✗ {failure_text(error)}")

    def _enter(self, stage: Stage, text: str) -> None:
        self._stage = stage
        for field in self.query("Input, Select"):
            field.disabled = True
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

    def _success(self, made: RefundView) -> str:
        taken = credits_text(self._case.credits_for(made.amount_minor))
        money = format_money(made.amount_minor, made.currency)
        return f"✓ {money} {made.status.replace('_', ' ')} · {taken} credits taken back · {made.stripe_refund_id}"

    def _typed_amount(self) -> int | str:
        """Return the amount, or what is wrong with it."""
        try:
            return self._case.parse_amount(self.query_one("#amount", Input).value)
        except InvalidValue as error:
            return error.message

    def _confirmed_amount(self) -> int | None:
        try:
            return self._case.parse_amount(self.query_one("#confirm", Input).value)
        except InvalidValue:
            return None

    def _reason(self) -> str:
        return str(self.query_one(Select).value)

    def _note(self) -> str:
        return safe_text(self.query_one("#note", Input).value).strip()

    def _summary(self) -> str:
        paid = self._case.payment
        return safe_text(
            f"{paid.package_name}: {credits_text(paid.credited)} credits for "
            f"{format_money(paid.whole_minor, paid.currency)} · {paid.payment_intent_id}"
        )


def open_refund(screen: TableScreen[Any], backend: Backend, payment_id: int) -> None:
    """Open the dialog for a payment over ``screen``, or say why it cannot be refunded."""
    obstacle = backend.obstacle("refund")
    if obstacle is not None:
        screen.notify(safe_text(obstacle), title="No refund from here", severity="warning", markup=False, timeout=12)
        return
    screen.begin(_ask(screen, backend, payment_id), group="refund")


async def _ask(screen: TableScreen[Any], backend: Backend, payment_id: int) -> None:
    case = await backend.read(lambda database: read_case(database, payment_id))
    obstacle = case.obstacle()
    if obstacle is not None:
        screen.notify(safe_text(obstacle), title="No refund", severity="warning", markup=False)
        return
    screen.app.push_screen(RefundDialog(case, backend.refund), lambda _decision: screen.refresh_soon())


def read_case(database: peewee.Database, payment_id: int) -> RefundCase:
    """Read a payment with its refunds and its customer's balance."""
    paid = payment(database, payment_id)
    if paid is None:
        msg = f"there is no payment {payment_id}"
        raise InvalidValue(msg)
    return RefundCase(paid, refunds_of(database, payment_id), account_balance(database, paid.account_id))


def _reasons() -> list[tuple[str, RefundReason]]:
    return [(reason.replace("_", " "), reason) for reason in RefundReason]
