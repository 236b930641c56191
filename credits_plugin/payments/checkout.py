"""A purchase from our side: start it, fulfil it, show it to its buyer."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ..errors import GatewayError, NotFound
from ..ledger.ids import account_key
from ..ledger.work import Transaction
from ..models import Account, Payment
from ..money import MICROCREDITS_PER_CREDIT
from .fulfilment import (
    Fulfilled,
    Fulfilment,
    claimed_payment,
    name_in_session,
    session_problem,
    settle_session,
    state_of_unpaid,
)
from .gateway import CheckoutOrder, CheckoutSession, PaymentIntent
from .packages import Package
from .queries import PaymentView, payment, payment_of_session
from .records import change_payment, lock_payment, note_receipt
from .shop import Shop
from .states import PaymentStatus, later_payment_status

logger = logging.getLogger(__name__)

_EMAIL: Final = re.compile(r"[A-Za-z0-9_%+-]+(\.[A-Za-z0-9_%+-]+)*@([A-Za-z0-9-]+\.)+[A-Za-z]{2,}")


@dataclass(frozen=True, slots=True)
class Purchase:
    """A purchase that waits for its buyer at ``payment_url``."""

    payment_id: int
    session_id: str
    payment_url: str


@dataclass(frozen=True, slots=True)
class SessionView:
    """A Checkout Session as its owner may see it; figures and metadata are those of our own order."""

    id: str
    payment_status: str
    customer_email: str | None = field(repr=False)
    amount_total: int
    currency: str
    metadata: Mapping[str, str]
    payment_intent: str | None
    payment: PaymentView

    def as_json(self) -> dict[str, Any]:
        """Return the public part, as the HTTP contract fixes it."""
        return {
            "id": self.id,
            "payment_status": self.payment_status,
            "customer_email": self.customer_email,
            "amount_total": self.amount_total,
            "currency": self.currency,
            "metadata": dict(self.metadata),
            "payment_intent": self.payment_intent,
        }


async def start_purchase(shop: Shop, *, account_id: str, package_id: int, email: str | None = None) -> Purchase:
    """Commit a payment row with its idempotency key, then make the payment page.

    ``account_id`` is the host's; ``email`` only fills in the page.

    Raises:
        NotFound: no such package; the message names those there are.
        InvalidValue: ``account_id`` is none.
        GatewayError: Stripe refused or failed; nothing will be charged.
    """
    package = _package(shop, package_id)
    key = account_key(account_id)
    payment_id = shop.new_id()
    row = _payment_row(shop, package, payment_id=payment_id, account_id=key, email=_usable_email(email))

    def open_payment(tx: Transaction) -> str | None:
        values = {**row, "created_at_ms": tx.at_ms, "updated_at_ms": tx.at_ms}
        Payment.insert(values).on_conflict_ignore().execute(tx.database)  # a replayed batch may have it already
        return _customer_of(tx, key)

    order = CheckoutOrder(
        payment_id,
        account_id,
        package.id,
        package.name,
        package.credits,
        package.price_minor,
        package.currency,
        shop.settings.success_url,
        shop.settings.cancel_url,
        customer_id=await shop.writer.work([key], open_payment),
        email=row["email"],
        allows_discounts=shop.settings.promotion_codes,
        taxed=shop.settings.automatic_tax,
    )
    session = await _create_session(shop, order, account_key=key, idempotency_key=row["idempotency_key"])
    logger.info("Created Stripe checkout session %s for user %s", session.id, account_id)
    return Purchase(payment_id, session.id, session.url or "")


async def fulfil(shop: Shop, session: CheckoutSession, *, unpaid: PaymentStatus | None = None) -> Fulfilment:
    """Grant what a paid session bought, exactly once; idempotent, so webhook and success page both call it.

    Raises:
        GatewayError: Stripe had to be asked for more and failed; nothing was written.
    """
    order = await find_order(shop, session)
    if order.payment is None:
        return Fulfilment(Fulfilled.UNKNOWN, detail=order.problem)
    payment_id, known = order.payment.id, order.session
    intent = await receipt_of(shop, order.payment, known)
    state = unpaid or state_of_unpaid(known)
    result = await shop.writer.work(
        [order.payment.account_id],
        lambda tx: settle_session(
            tx, known, payment_id=payment_id, packages=shop.packages, unpaid=state, intent=intent
        ),
    )
    log_fulfilment(result)
    return result


async def find_session(shop: Shop, *, account_id: str, session_id: str) -> SessionView:
    """Show a session to its owner. While it is not granted Stripe is asked, and a paid one is fulfilled.

    Raises:
        NotFound: there is none, or it is another's: both look the same.
    """
    key = account_key(account_id)
    ours = await shop.reads.run(lambda database: payment_of_session(database, session_id))
    if ours is None or ours.account_id != key:
        msg = "there is no such checkout session"
        raise NotFound(msg)
    status = "paid"
    if ours.is_granted:
        ours = await with_receipt(shop, ours)
    else:
        status = await _ask_and_fulfil(shop, session_id)
        ours = await _payment_again(shop, ours.id)
    return _session_view(ours, session_id=session_id, payment_status=status, account_id=account_id)


@dataclass(frozen=True, slots=True)
class Order:
    """A session and the payment of ours that it pays; ``problem`` says why there is none."""

    session: CheckoutSession
    payment: PaymentView | None
    problem: str | None = None


async def find_order(shop: Shop, session: CheckoutSession) -> Order:
    """Find the payment of a session: by its id, or after a crash before that was stored by the payment it names."""
    ours = await shop.reads.run(lambda database: payment_of_session(database, session.id))
    if ours is None:
        ours = await shop.reads.run(lambda database: claimed_payment(database, session))
    if ours is None:
        return Order(session, None, f"session {session.id} is no payment of ours")
    if name_in_session(ours, session) is None and session_problem(ours, session) is None:
        session = await _original(shop, session)
    return Order(session, ours)


async def with_receipt(shop: Shop, ours: PaymentView) -> PaymentView:
    """Return a granted payment with its charge and receipt, fetched once if its event left them out.

    Without them where Stripe cannot be asked now: whoever needs them next asks again.
    """
    if not ours.is_granted or ours.receipt_url is not None or ours.payment_intent_id is None:
        return ours
    try:
        intent = await shop.gateway.payment_intent(ours.payment_intent_id)
    except GatewayError as error:
        logger.warning("No receipt for Stripe payment %s: %s", ours.payment_intent_id, error)
        return ours
    return await shop.writer.work(
        [ours.account_id],
        lambda tx: note_receipt(tx, ours.id, charge_id=intent.charge_id, receipt_url=intent.receipt_url),
    )


async def receipt_of(shop: Shop, ours: PaymentView, session: CheckoutSession) -> PaymentIntent | None:
    """Fetch the charge and receipt of a payment that is about to be granted; it is granted without them, too."""
    if ours.is_granted or session.payment_status != "paid" or session.payment_intent_id is None:
        return None
    try:
        return await shop.gateway.payment_intent(session.payment_intent_id)
    except GatewayError as error:
        logger.warning("No receipt for Stripe payment %s: %s", session.payment_intent_id, error)
        return None


def log_fulfilment(result: Fulfilment) -> None:
    """Write the line that an operator looks for; call it after the commit."""
    if result.outcome is Fulfilled.GRANTED:
        logger.info(
            "Successfully added %d credits to user %s from Stripe payment %s",
            result.microcredits // MICROCREDITS_PER_CREDIT,
            result.external_id,
            result.payment_intent_id,
        )
    elif result.outcome is Fulfilled.QUARANTINED:
        logger.error("Payment %s needs an operator: %s", result.payment_id, result.detail)


async def _original(shop: Shop, session: CheckoutSession) -> CheckoutSession:
    """Fetch Stripe's own copy of a session whose copy in an event does not name its account."""
    try:
        return await shop.gateway.session(session.id)
    except GatewayError as error:
        if error.retryable:
            raise
        return session


async def _create_session(
    shop: Shop, order: CheckoutOrder, *, account_key: int, idempotency_key: str
) -> CheckoutSession:
    try:
        session = await shop.gateway.create_session(order, idempotency_key=idempotency_key)
    except GatewayError as error:
        detail, refused = str(error), not error.retryable
        forget = error.fields.get("param") == "customer"
        await shop.writer.work(
            [account_key], lambda tx: _note_refusal(tx, order, detail=detail, refused=refused, forget_customer=forget)
        )
        raise
    await shop.writer.work([account_key], lambda tx: _note_session(tx, order.payment_id, session))
    return session


def _note_session(tx: Transaction, payment_id: int, session: CheckoutSession) -> None:
    ours = lock_payment(tx, payment_id)  # its webhook may have been faster
    change_payment(
        tx,
        payment_id,
        stripe_session_id=session.id,
        payment_url=session.url,
        status=later_payment_status(ours.status, PaymentStatus.OPEN),
    )


def _note_refusal(tx: Transaction, order: CheckoutOrder, *, detail: str, refused: bool, forget_customer: bool) -> None:
    """Say on the payment what happened; a customer that was deleted in Stripe must not block the next purchase."""
    ours = lock_payment(tx, order.payment_id)
    status = PaymentStatus.FAILED if refused else PaymentStatus.CREATED
    change_payment(tx, order.payment_id, status=later_payment_status(ours.status, status), detail=detail)
    if forget_customer and order.customer_id is not None:
        query = Account.update(stripe_customer_id=None)
        query.where(Account.id == ours.account_id, Account.stripe_customer_id == order.customer_id).execute(tx.database)


def _package(shop: Shop, package_id: object) -> Package:
    if type(package_id) is int and package_id in shop.packages:
        return shop.packages[package_id]
    known = ", ".join(str(identifier) for identifier in shop.packages)
    msg = f"there is no package {package_id!r:.40}; there are {known}"
    raise NotFound(msg, packages=list(shop.packages))


def _payment_row(
    shop: Shop, package: Package, *, payment_id: int, account_id: int, email: str | None
) -> dict[str, Any]:
    return {
        "id": payment_id,
        "account_id": account_id,
        "status": PaymentStatus.CREATED,
        "package_id": package.id,
        "package_name": package.name,
        "microcredits": package.microcredits,
        "amount_minor": package.price_minor,
        "currency": package.currency,
        "livemode": int(shop.settings.livemode),
        "idempotency_key": f"purchase-{payment_id}-{secrets.token_hex(8)}",
        "email": email,
        "allows_discounts": int(shop.settings.promotion_codes),
    }


def _customer_of(tx: Transaction, account_id: int) -> str | None:
    query = Account.select(Account.stripe_customer_id).where(Account.id == account_id)
    return next((row["stripe_customer_id"] for row in query.dicts().execute(tx.database)), None)


def _usable_email(email: str | None) -> str | None:
    """Return the address if Stripe will take it to fill in its page; a bad one must not stop the purchase."""
    return email if email is not None and len(email) <= 254 and _EMAIL.fullmatch(email) else None


async def _ask_and_fulfil(shop: Shop, session_id: str) -> str:
    """Return the session's payment status, after fulfilling it if it is paid; unpaid while Stripe cannot be asked."""
    try:
        session = await shop.gateway.session(session_id)
        await fulfil(shop, session)
    except GatewayError as error:
        logger.warning("Could not look up session %s: %s", session_id, error)
        return "unpaid"
    return session.payment_status


async def _payment_again(shop: Shop, payment_id: int) -> PaymentView:
    ours = await shop.reads.run(lambda database: payment(database, payment_id))
    assert ours is not None  # noqa: S101 - payments are never deleted
    return ours


def _session_view(ours: PaymentView, *, session_id: str, payment_status: str, account_id: str) -> SessionView:
    return SessionView(
        session_id,
        "paid" if ours.is_granted else payment_status,
        ours.email,
        ours.whole_minor,
        ours.currency,
        {
            "user_id": account_id,
            "package_id": str(ours.package_id),
            "credits": str(ours.microcredits // MICROCREDITS_PER_CREDIT),
        },
        ours.payment_intent_id,
        ours,
    )
