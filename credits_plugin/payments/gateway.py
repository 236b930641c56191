"""What the payments need of Stripe: a protocol and plain values. Amounts are in minor units, times Unix milliseconds.

The one implementation is ``gateways/stripe_api.py``. Nothing here mirrors Stripe's objects: only ids, and what our own
decisions depend on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, TypeAlias

from .states import DisputeStatus, RefundStatus


class RefundReason(StrEnum):
    """Why money goes back, in Stripe's words."""

    DUPLICATE = "duplicate"
    FRAUDULENT = "fraudulent"
    REQUESTED_BY_CUSTOMER = "requested_by_customer"


@dataclass(frozen=True, slots=True)
class CheckoutOrder:
    """What a hosted payment page is made of; every figure comes from our own payment row.

    ``customer_id`` is Stripe's, of an earlier purchase; ``email`` fills in the page where there is none.
    """

    payment_id: int
    external_id: str
    package_id: int
    package_name: str
    credits: int
    amount_minor: int
    currency: str
    success_url: str
    cancel_url: str
    customer_id: str | None = None
    email: str | None = field(default=None, repr=False)
    allows_discounts: bool = False
    taxed: bool = False


@dataclass(frozen=True, slots=True)
class CheckoutSession:
    """A hosted payment page and what became of it. ``status``: open, complete, expired; metadata is never trusted.

    ``amount_subtotal_minor`` is the price of what is bought, before discounts, tax and shipping.
    """

    id: str
    status: str | None
    payment_status: str
    amount_subtotal_minor: int | None
    amount_total_minor: int | None
    discount_minor: int
    tax_minor: int
    shipping_minor: int
    currency: str | None
    livemode: bool
    client_reference_id: str | None
    payment_intent_id: str | None
    customer_id: str | None
    url: str | None
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False)
    email: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class PaymentIntent:
    """One attempt to take money. ``failure`` says why the last card was declined or the intent canceled."""

    id: str
    status: str
    amount_minor: int
    amount_received_minor: int
    currency: str
    livemode: bool
    charge_id: str | None
    receipt_url: str | None
    failure: str | None


@dataclass(frozen=True, slots=True)
class Charge:
    """Money taken from a card; ``amount_refunded_minor`` is cumulative."""

    id: str
    payment_intent_id: str | None
    amount_refunded_minor: int
    currency: str
    receipt_url: str | None


@dataclass(frozen=True, slots=True)
class RefundOrder:
    """Money to send back; ``refund_id`` is our row's, carried along so that Stripe's copy can be matched to it."""

    refund_id: int
    payment_intent_id: str
    amount_minor: int
    reason: RefundReason


@dataclass(frozen=True, slots=True)
class RefundResult:
    """A refund as Stripe has it. ``own_refund_id`` is our row's id where we asked for it; a claim, to be checked."""

    id: str
    status: RefundStatus
    amount_minor: int
    currency: str
    payment_intent_id: str | None
    own_refund_id: int | None
    reason: str | None
    failure: str | None
    created_at_ms: int


@dataclass(frozen=True, slots=True)
class DisputeResult:
    """A dispute as Stripe has it. ``withdrawals`` and ``reinstatements``: how often it moved the money each way."""

    id: str
    status: DisputeStatus
    amount_minor: int
    currency: str
    charge_id: str | None
    payment_intent_id: str | None
    reason: str
    withdrawals: int
    reinstatements: int
    evidence_due_at_ms: int | None
    created_at_ms: int


@dataclass(frozen=True, slots=True)
class EventPage:
    """Some of Stripe's events, newest first. ``last_id``, of the oldest, asks for those before it; None at the end."""

    events: Sequence[StripeEvent]
    last_id: str | None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An event's object in a shape that this version does not know: to be quarantined, never guessed at."""

    reason: str


EventObject: TypeAlias = CheckoutSession | PaymentIntent | Charge | RefundResult | DisputeResult | Unreadable | None


class Listing(StrEnum):
    """Stripe's lists that our books are compared with; charges at last, whose sums follow from the refunds."""

    SESSIONS = "checkout_sessions"
    INTENTS = "payment_intents"
    REFUNDS = "refunds"
    DISPUTES = "disputes"
    CHARGES = "charges"


@dataclass(frozen=True, slots=True)
class Listed:
    """An object of one of Stripe's lists, as it is at Stripe now."""

    id: str
    object: EventObject


@dataclass(frozen=True, slots=True)
class ObjectPage:
    """Some objects of a list, newest first. ``last_id``, of the oldest, asks for those before it; None at the end."""

    objects: Sequence[Listed]
    last_id: str | None


@dataclass(frozen=True, slots=True)
class StripeEvent:
    """A verified event. ``object`` is None where this version has no use for its kind; ``payload`` is the raw JSON."""

    id: str
    type: str
    api_version: str | None
    livemode: bool
    connected_account: str | None
    created_at_ms: int
    object_id: str | None
    object: EventObject
    payload: str = field(repr=False)


class PaymentGateway(Protocol):
    """Every call that leaves the house.

    Raises:
        GatewayError: Stripe refused (``retryable`` is false), or failed for now (true).
        GatewayOutcomeUnknown: a call that changes something got no answer; repeat it with the same idempotency key.
    """

    async def create_session(self, order: CheckoutOrder, *, idempotency_key: str) -> CheckoutSession:
        """Make a payment page. The key was committed before."""

    async def session(self, session_id: str) -> CheckoutSession:
        """Fetch a payment page's state."""

    async def session_of_intent(self, payment_intent_id: str) -> CheckoutSession | None:
        """Fetch the payment page that a payment intent came from; None for intents made in another way."""

    async def payment_intent(self, payment_intent_id: str) -> PaymentIntent:
        """Fetch a payment intent with its latest charge and receipt."""

    async def refunds_of_intent(self, payment_intent_id: str) -> list[RefundResult]:
        """Fetch all refunds of a payment intent, oldest first."""

    async def charge(self, charge_id: str) -> Charge:
        """Fetch a charge."""

    async def events_page(
        self, *, created_from_ms: int, types: Sequence[str] = (), before_id: str | None = None
    ) -> EventPage:
        """Fetch events since a time, from below ``before_id``; Stripe keeps them for 30 days. At most 20 types."""

    async def objects_page(
        self, listing: Listing, *, created_from_ms: int | None = None, before_id: str | None = None
    ) -> ObjectPage:
        """Fetch objects made since a time, or all of them, from below ``before_id``."""

    async def find_object(self, listing: Listing, object_id: str) -> EventObject:
        """Fetch one object of a list by its id; None where Stripe has no such object."""

    async def create_refund(self, order: RefundOrder, *, idempotency_key: str) -> RefundResult:
        """Send money back. The key was committed before."""

    def read_event(self, raw: bytes, signature: str, *, secrets: Sequence[str], now_ms: int) -> StripeEvent:
        """Verify a webhook's raw body and translate it.

        Raises:
            ForgedEvent: not signed with one of the secrets, too old, from the future, or not an event.
        """

    def stored_event(self, payload: str) -> StripeEvent:
        """Translate the JSON of an event that was verified when it came in, or that Stripe itself listed.

        Raises:
            ForgedEvent: it is no event.
        """

    async def close(self) -> None:
        """Give up open connections; the gateway may be used again afterwards."""
