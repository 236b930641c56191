"""A stand-in for Stripe on loopback: the official library talks to it, a buyer pays on its hosted page.

It speaks one API version (see `API_VERSION` in `objects.py`), refuses what it does not support in Stripe's own error
shape, and never reaches out to the internet. It is meant for the demo, development and tests; it takes no real money
and stores no card numbers.

Beside the API and the hosted pages, `Sandbox` has a method for everything that a bank, a buyer or a person at Stripe's
dashboard does; each takes and returns what Stripe's API would (ids, then the whole object), emits Stripe's events, and
raises `sandbox.errors.StripeError` when it is too late or impossible. They are plain functions: call them in the event
loop's thread.

* Disputes: `dispute(charge_id, reason=…, inquiry=False, amount=None)`, `escalate_dispute(dispute_id)`,
  `close_dispute(dispute_id, won=True)`. Evidence goes through the API.
* Refunds: `refund(charge_id, amount=None, reason=None)` as from the dashboard, `fail_refund(refund_id)`,
  `succeed_refund(refund_id)`, `cancel_refund(refund_id)`, `start_refunds_as("pending")`.
* Payments: `complete_delayed_payment(session_id, succeed=True)` for bank debits, `authenticate(intent_id,
  succeed=True)` for 3-D Secure, `expire_session(session_id)`.
* Webhooks: `set_webhook(url, secret)`, `rotate_webhook_secret(secret, keep_old_s=…)`, `drain()`, `deliver_pending()`,
  `await deliver(event_id, …)` in the order given and as often as given, `release_events(newest_first=False)`.
* Faults: `add_fault(kind, match="*", times=1)` and `clear_faults()`. Over events (`match` is a pattern over their
  type): duplicate, second_event, drop, never_created, delay (`seconds`), hold, reorder (`size`), older_version,
  newer_version, wrong_livemode, bad_signature. Over requests (`match` is a pattern over `METHOD /path`): rate_limited,
  locked, conflict, server_error, hang_up, timeout, and after their effect error_after_effect, answer_lost,
  answer_stalled.

The same by HTTP, for other languages: `POST /sandbox/api/NAME` with the parameters of `actions.ACTIONS` in a form and
the secret key as bearer. `GET /sandbox` is the page for people.

This module imports nothing heavy: aiohttp is loaded when a sandbox is created.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from aiohttp import web

    from credits_plugin.sandbox.state import State
    from credits_plugin.sandbox.webhooks import Deliveries

__all__ = ["Sandbox", "SandboxSettings", "WebhookEndpoint", "create_sandbox"]


@dataclass(frozen=True, slots=True)
class WebhookEndpoint:
    """Where events are delivered, and the secret they are signed with (`whsec_…`)."""

    url: str
    secret: str


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """Everything a sandbox needs to know; every field has a working default.

    `data_path` is a SQLite file that survives a restart (None keeps everything in memory). `retry_base_s` is the pause
    after the first failed delivery; it doubles with every attempt, up to `max_delivery_attempts` attempts.
    `latency_s` delays every API answer after the request was accepted, so that a key can be met in flight (409).
    `tax_percent` is what automatic tax adds, wherever the buyer lives. `bank_debits` lets buyers pay USD and EUR from a
    bank account, as an account's dashboard would; such money arrives, or fails to, after the session is complete.
    """

    secret_key: str = "sk_test_sandbox"  # noqa: S105 - the well-known key of the sandbox, it protects nothing
    webhook_url: str | None = None
    webhook_secret: str = "whsec_sandbox"  # noqa: S105 - as above
    data_path: Path | None = None
    retry_base_s: float = 1.0
    merchant_name: str = "Credits Sandbox"
    more_webhooks: tuple[WebhookEndpoint, ...] = ()
    max_delivery_attempts: int = 8
    latency_s: float = 0.0
    tax_percent: int = 20
    bank_debits: bool = True

    def endpoints(self) -> tuple[WebhookEndpoint, ...]:
        """All webhook endpoints, the main one first; empty when none is configured."""
        main = (WebhookEndpoint(self.webhook_url, self.webhook_secret),) if self.webhook_url else ()
        return main + self.more_webhooks


def create_sandbox(settings: SandboxSettings, *, clock: Callable[[], float] | None = None) -> web.Application:
    """Build the sandbox as an aiohttp application; deliveries start and stop with it.

    `clock` returns seconds since the epoch and defaults to the system's. The application must be served at the root of
    its host, since Stripe's paths are absolute.
    """
    from credits_plugin.sandbox.app import create_app  # noqa: PLC0415 - aiohttp's server is heavy, load it when it runs

    return create_app(settings, clock=clock)


class Sandbox:
    """A running sandbox on 127.0.0.1: `async with Sandbox() as sandbox: … sandbox.url …`.

    Port 0 takes a free port. Closing cancels what is still being delivered; with a `data_path` those deliveries go on
    when the sandbox starts again.
    """

    def __init__(
        self, settings: SandboxSettings | None = None, *, port: int = 0, clock: Callable[[], float] | None = None
    ) -> None:
        self.settings = settings or SandboxSettings()
        self._port = port
        self._clock = clock
        self._runner: web.AppRunner | None = None

    def application(self) -> web.Application:
        """The application that start() serves; tests override this to watch every answer."""
        return create_sandbox(self.settings, clock=self._clock)

    async def start(self) -> None:
        """Listen; raises OSError when the port is taken."""
        from aiohttp import web  # noqa: PLC0415 - as in create_sandbox

        runner = web.AppRunner(self.application(), access_log=None, shutdown_timeout=2.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", self._port).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner

    async def close(self) -> None:
        """Stop listening and delivering; safe to call twice."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    @property
    def url(self) -> str:
        """Base address without a trailing slash, for `base_addresses={"api": sandbox.url}`."""
        host, port = self._running().addresses[0][:2]
        return f"http://{host}:{port}"

    def set_webhook(self, url: str, secret: str) -> None:
        """Deliver to this endpoint alone from now on; what is still pending goes there too."""
        self._deliveries().set_endpoints((WebhookEndpoint(url, secret),))

    def rotate_webhook_secret(self, secret: str, *, keep_old_s: float = 0) -> None:
        """Sign with a new secret from now on, and for `keep_old_s` seconds with the old one as well."""
        self._deliveries().rotate_secret(secret, keep_old_s=keep_old_s)

    async def deliver(self, *event_ids: str) -> list[int]:
        """Send stored events to the endpoints now, one after the other; returns the statuses (0: no answer)."""
        return [status for event_id in event_ids for status in await self._deliveries().deliver_event(event_id)]

    def release_events(self, *, newest_first: bool = False) -> int:
        """Deliver what faults hold back, one after the other; returns how many deliveries that are."""
        return int(self._act("release_events", newest_first=newest_first)["released"])

    def add_fault(
        self, kind: str, *, match: str = "*", times: int = 1, seconds: int = 60, size: int = 2
    ) -> dict[str, Any]:
        """Spoil the next `times` matching events or requests; see the module's docstring and `faults.ABOUT`."""
        return self._act("add_fault", kind=kind, match=match, times=times, seconds=seconds, size=size)

    def clear_faults(self) -> None:
        """From now on everything goes well; what is held stays held."""
        self._act("clear_faults")

    async def drain(self) -> None:
        """Wait until every delivery has arrived or was given up, pauses between attempts included."""
        await self._deliveries().drain()

    async def deliver_pending(self) -> int:
        """Attempt every undelivered event once, now, also those given up; returns how many remain undelivered."""
        return await self._deliveries().deliver_now()

    def dispute(
        self, charge_id: str, *, reason: str = "fraudulent", inquiry: bool = False, amount: int | None = None
    ) -> dict[str, Any]:
        """The buyer's bank takes `amount` (minor units, default: what was not refunded) back, or only inquires."""
        return self._act("dispute", charge=charge_id, reason=reason, inquiry=inquiry, amount=amount)

    def escalate_dispute(self, dispute_id: str) -> dict[str, Any]:
        """An open inquiry becomes a chargeback, and the money goes."""
        return self._act("escalate_dispute", dispute=dispute_id)

    def close_dispute(self, dispute_id: str, *, won: bool = True) -> dict[str, Any]:
        """The bank decides; an inquiry is closed either way. A lost dispute can still be won."""
        return self._act("close_dispute", dispute=dispute_id, won=won)

    def refund(self, charge_id: str, *, amount: int | None = None, reason: str | None = None) -> dict[str, Any]:
        """Somebody refunds `amount` (minor units, default: what is left) at Stripe's dashboard."""
        return self._act("refund", charge=charge_id, amount=amount, reason=reason)

    def start_refunds_as(self, status: str) -> None:
        """Later refunds begin as `pending` or `requires_action`; `succeeded` is the usual."""
        self._act("start_refunds_as", status=status)

    def succeed_refund(self, refund_id: str) -> dict[str, Any]:
        """A waiting refund arrives."""
        return self._act("succeed_refund", refund=refund_id)

    def fail_refund(self, refund_id: str, *, reason: str = "expired_or_canceled_card") -> dict[str, Any]:
        """The bank sends a refund back, even one that has succeeded."""
        return self._act("fail_refund", refund=refund_id, reason=reason)

    def cancel_refund(self, refund_id: str) -> dict[str, Any]:
        """Somebody cancels a refund at the dashboard."""
        return self._act("cancel_refund", refund=refund_id)

    def complete_delayed_payment(self, session_id: str, *, succeed: bool = True) -> dict[str, Any]:
        """The bank debit of a completed, unpaid session arrives or fails; returns the session."""
        return self._act("complete_delayed_payment", session=session_id, succeed=succeed)

    def authenticate(self, payment_intent_id: str, *, succeed: bool = True) -> dict[str, Any]:
        """The cardholder answers a payment in `requires_action`; returns the payment intent."""
        return self._act("authenticate", payment_intent=payment_intent_id, succeed=succeed)

    def expire_session(self, session_id: str) -> dict[str, Any]:
        """An open session runs out now."""
        return self._act("expire_session", session=session_id)

    def _act(self, name: str, **values: Any) -> dict[str, Any]:
        from credits_plugin.sandbox.actions import act  # noqa: PLC0415 - as in create_sandbox

        return act(self._state(), name, **values)

    def _deliveries(self) -> Deliveries:
        return self._state().deliveries

    def _state(self) -> State:
        from credits_plugin.sandbox.app import STATE  # noqa: PLC0415 - as in create_sandbox

        return self._running().app[STATE]

    def _running(self) -> web.AppRunner:
        if self._runner is None:
            raise RuntimeError("The sandbox is not running: use `async with Sandbox()` or await start() first.")
        return self._runner

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
