"""Turning a paid Checkout Session into credits: exactly once per payment, for what our own row says.

Everything here runs inside a unit of work: SQL and the ledger's rules, no network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import peewee

from ..errors import InvalidValue
from ..ledger.entries import Code, LotTerms, PostTransfer
from ..ledger.ids import account_key
from ..ledger.work import Transaction
from ..models import Account
from ..notify.outbox import put_event
from ..prepared import Prepared
from .claw_back import Cause, take_back
from .gateway import CheckoutSession, PaymentIntent
from .packages import Package
from .queries import PaymentView, disputes_of, payment, payment_of_intent
from .records import change_payment, claim_payment, lock_payment
from .states import PaymentStatus, later_payment_status


class Fulfilled(StrEnum):
    """What came of a look at a Checkout Session."""

    GRANTED = "granted"
    ALREADY = "already"
    WAITING = "waiting"
    QUARANTINED = "quarantined"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Fulfilment:
    """The answer of ``fulfil``. ``detail`` says why nothing was granted; ``microcredits`` what was, if it was now."""

    outcome: Fulfilled
    payment_id: int | None = None
    detail: str | None = None
    external_id: str | None = None
    microcredits: int = 0
    payment_intent_id: str | None = None


def session_problem(payment: PaymentView, session: CheckoutSession) -> str | None:
    """Say why a session cannot be this payment's; None where it matches our row in everything that counts."""
    expected: tuple[tuple[str, object, object], ...] = (
        ("session", payment.session_id or session.id, session.id),
        ("price", payment.amount_minor, price_of(session)),
        ("currency", payment.currency, session.currency),
        ("livemode", payment.livemode, session.livemode),
    )
    for what, ours, theirs in expected:
        if ours != theirs:
            return f"the {what} of session {session.id} is {theirs}, but ours is {ours}"
    paid_by = (payment.payment_intent_id, session.payment_intent_id)
    if None not in paid_by and paid_by[0] != paid_by[1]:
        return f"session {session.id} is paid by {paid_by[1]}, but ours by {paid_by[0]}"
    reference = session.client_reference_id
    if reference is not None and not is_name_of(payment.account_id, reference):
        return f"session {session.id} was made for another account"
    if session.payment_status == "paid" and session.payment_intent_id is None:
        return f"session {session.id} is paid without a payment intent"
    return total_problem(payment, session)


def price_of(session: CheckoutSession) -> int | None:
    """Return what is compared with our order: the price before discounts, tax and shipping."""
    subtotal = session.amount_subtotal_minor
    return session.amount_total_minor if subtotal is None else subtotal


def total_problem(payment: PaymentView, session: CheckoutSession) -> str | None:
    """Say why what the buyer pays does not follow from the price; None where it does.

    A discount counts only on an order that allowed promotion codes. Tax comes on top, or is inside the price. Free is
    not paid: an order that a code pays in full is for an operator to grant.
    """
    total, price = session.amount_total_minor, price_of(session)
    if total is None or price is None:
        return f"session {session.id} has no amount"
    if session.discount_minor and not payment.allows_discounts:
        return f"session {session.id} has a discount of {session.discount_minor}, but our order allowed none"
    reduced = price - session.discount_minor + session.shipping_minor
    if total not in {reduced, reduced + session.tax_minor}:
        return (
            f"the amount of session {session.id} is {total}, but {price} less a discount of {session.discount_minor} "
            f"with tax of {session.tax_minor} is another"
        )
    if session.payment_status == "no_payment_required":
        return f"session {session.id} was completed without a payment: grant its credits by hand if that is meant"
    return None


def claimed_payment(database: peewee.Database, session: CheckoutSession) -> PaymentView | None:
    """Return the payment that the session's metadata names, if a crash kept the session's id from it.

    A claim only: whether the session can be this payment's is for ``session_problem``.
    """
    claimed = _claimed_payment_id(session)
    ours = payment(database, claimed) if claimed is not None else None
    return ours if ours is not None and ours.session_id is None else None


def claim_of(session: CheckoutSession) -> tuple[int, int] | None:
    """Return the account's and the payment's id that a session claims: where to look first, and no more than that."""
    payment_id = _claimed_payment_id(session)
    if payment_id is None or session.client_reference_id is None:
        return None
    try:
        return account_key(session.client_reference_id), payment_id
    except InvalidValue:
        return None


def _claimed_payment_id(session: CheckoutSession) -> int | None:
    text = session.metadata.get("payment_id", "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None


def name_in_session(payment: PaymentView, session: CheckoutSession) -> str | None:
    """Return the host's name of the payment's account, as far as the session knows it.

    Before its first grant an account has no row that could tell. What the session says is taken only where it is the
    name that our payment row's account id was derived from, so nobody can be named into another's money.
    """
    names = (payment.external_id, session.client_reference_id, session.metadata.get("user_id"))
    return next((name for name in names if name is not None and is_name_of(payment.account_id, name)), None)


def is_name_of(account_id: int, external_id: str) -> bool:
    """Whether this is the external id that the ledger's key was derived from."""
    try:
        return account_key(external_id) == account_id
    except InvalidValue:
        return False


def settle_session(
    tx: Transaction,
    session: CheckoutSession,
    *,
    payment_id: int,
    packages: Mapping[int, Package],
    unpaid: PaymentStatus,
    intent: PaymentIntent | None = None,
) -> Fulfilment:
    """Bring our payment in line with its session; grants its credits if it is paid and they were not granted yet.

    ``packages`` are those for sale now, for the terms of the credits. ``unpaid`` is the payment's state if the session
    is not paid. ``intent`` adds the charge and the receipt.
    """
    ours = lock_payment(tx, payment_id)
    return settle_locked(tx, ours, session, packages=packages, unpaid=unpaid, intent=intent)


def settle_locked(
    tx: Transaction,
    payment: PaymentView,
    session: CheckoutSession,
    *,
    packages: Mapping[int, Package],
    unpaid: PaymentStatus,
    intent: PaymentIntent | None = None,
) -> Fulfilment:
    """Do as ``settle_session`` does, with a payment that this transaction has locked."""
    problem = session_problem(payment, session) or _intent_problem(tx, payment, session)
    external_id = name_in_session(payment, session)
    if problem is None and external_id is None:
        problem = f"session {session.id} does not name the account that the payment was made for"
    if problem is not None or external_id is None:
        change_payment(tx, payment.id, detail=problem)
        return Fulfilment(Fulfilled.QUARANTINED, payment.id, problem)
    adopted = _adopted(payment, session, intent)
    if payment.is_granted:
        if adopted:
            change_payment(tx, payment.id, **adopted)
        return Fulfilment(Fulfilled.ALREADY, payment.id, external_id=external_id)
    if session.payment_status != "paid":
        change_payment(tx, payment.id, **adopted, status=later_payment_status(payment.status, unpaid))
        return Fulfilment(Fulfilled.WAITING, payment.id, f"the session is {session.payment_status}")
    if intent is not None and intent.status != "succeeded":
        change_payment(tx, payment.id, **adopted)
        return Fulfilment(Fulfilled.WAITING, payment.id, f"{intent.id} is {intent.status}")
    captured = captured_part(payment, session, intent)
    if isinstance(captured, str):
        change_payment(tx, payment.id, **adopted, detail=captured)
        return Fulfilment(Fulfilled.QUARANTINED, payment.id, captured)
    terms = _terms(packages, payment.package_id, granted_at_ms=tx.at_ms)
    return _grant(tx, payment, session, captured, terms=terms, external_id=external_id, adopted=adopted)


@dataclass(frozen=True, slots=True)
class Captured:
    """What was really taken of a payment, and the credits that it bought."""

    paid_minor: int
    microcredits: int


def captured_part(payment: PaymentView, session: CheckoutSession, intent: PaymentIntent | None) -> Captured | str:
    """Return the captured part of a paid session and its credits, rounded down; or why it fits no order. Pure.

    Without the intent, which Stripe could not give, the session's amount was taken: our pages capture on their own.
    """
    total = session.amount_total_minor or 0
    if intent is None or intent.amount_received_minor == total:
        return Captured(total, payment.microcredits)
    if intent.currency != payment.currency or not 0 < intent.amount_received_minor < total:
        return f"{intent.id} received {intent.amount_received_minor} {intent.currency}, the session says {total}"
    part = payment.microcredits * intent.amount_received_minor // total
    if not part:
        return f"{intent.id} received {intent.amount_received_minor} of {total}, which buys no credit"
    return Captured(intent.amount_received_minor, part)


def _terms(packages: Mapping[int, Package], package_id: int, *, granted_at_ms: int) -> LotTerms:
    """Return the terms of the package as it is sold now; credits of one that is sold no more never expire."""
    package = packages.get(package_id)
    return LotTerms() if package is None else package.terms(granted_at_ms=granted_at_ms)


def state_of_unpaid(session: CheckoutSession) -> PaymentStatus:
    """Return the payment's state as its unpaid session shows it: a completed one waits for a slow payment method."""
    match session.status:
        case "expired":
            return PaymentStatus.EXPIRED
        case "complete":
            return PaymentStatus.PROCESSING
        case _:
            return PaymentStatus.OPEN


def _intent_problem(tx: Transaction, payment: PaymentView, session: CheckoutSession) -> str | None:
    if session.payment_intent_id is None:
        return None
    other = payment_of_intent(tx.database, session.payment_intent_id)
    if other is not None and other.id != payment.id:
        return f"{session.payment_intent_id} has already paid payment {other.id}"
    return None


def _adopted(payment: PaymentView, session: CheckoutSession, intent: PaymentIntent | None) -> dict[str, Any]:
    """Return what the session and its charge add to our row; a crash may have kept even the session's id from it.

    What our row has already is left out: a column that is written costs its index, whatever is written.
    """
    charge_id, receipt_url = (intent.charge_id, intent.receipt_url) if intent is not None else (None, None)
    columns = (
        ("stripe_session_id", payment.session_id, session.id),
        ("payment_intent_id", payment.payment_intent_id, payment.payment_intent_id or session.payment_intent_id),
        ("payment_url", payment.payment_url, payment.payment_url or session.url),
        ("email", payment.email, session.email or payment.email),
        ("charge_id", payment.charge_id, charge_id or payment.charge_id),
        ("receipt_url", payment.receipt_url, receipt_url or payment.receipt_url),
    )
    return {column: now for column, before, now in columns if now != before}


def _grant(
    tx: Transaction,
    payment: PaymentView,
    session: CheckoutSession,
    captured: Captured,
    *,
    terms: LotTerms,
    external_id: str,
    adopted: Mapping[str, Any],
) -> Fulfilment:
    transfer_id = tx.new_id()
    posted = tx.decide(
        PostTransfer(
            payment.account_id,
            external_id,
            transfer_id,
            Code.PURCHASE,
            captured.microcredits,
            tx.at_ms,
            reference=session.payment_intent_id,
            payment_id=payment.id,
            terms=terms,
        )
    )
    claim_payment(
        tx,
        payment.id,
        **adopted,
        grant_transfer_id=transfer_id,
        paid_minor=captured.paid_minor,
        granted_microcredits=captured.microcredits,
        status=PaymentStatus.PAID,
        detail=None,
        paid_at_ms=tx.at_ms,
    )
    _remember_customer(tx, payment.account_id, customer_id=session.customer_id, email=session.email or payment.email)
    put_event(
        tx,
        account_id=payment.account_id,
        kind="purchased",
        data={
            "payment_id": str(payment.id),
            "payment_intent": session.payment_intent_id,
            "package_id": payment.package_id,
            "microcredits": posted.amount,
            "amount_minor": captured.paid_minor,
            "currency": payment.currency,
            "balance": posted.balance,
        },
    )
    _catch_up(tx, payment, reference=session.payment_intent_id or session.id)
    return Fulfilment(
        Fulfilled.GRANTED,
        payment.id,
        external_id=external_id,
        microcredits=captured.microcredits,
        payment_intent_id=session.payment_intent_id,
    )


def _catch_up(tx: Transaction, payment: PaymentView, *, reference: str) -> None:
    """Take back at once what went back, or freeze what is disputed, before the grant."""
    if payment.refunded_minor or disputes_of(tx.database, payment.id):
        cause = Cause.REFUND if payment.refunded_minor else Cause.DISPUTE
        take_back(tx, payment_id=payment.id, cause=cause, reference=reference)


def _remember_customer(tx: Transaction, account_id: int, *, customer_id: str | None, email: str | None) -> None:
    """Keep Stripe's customer for the next purchase, and where to write to; the first customer stays."""
    if customer_id is not None:
        _KEEP_CUSTOMER.execute(tx.database, account_id, customer_id)
    if email is not None:
        _KEEP_EMAIL.execute(tx.database, account_id, email)


_KEEP_CUSTOMER: Final = Prepared(
    lambda account_id, customer_id: Account.update(stripe_customer_id=customer_id).where(
        Account.id == account_id, Account.stripe_customer_id.is_null()
    )
)
_KEEP_EMAIL: Final = Prepared(
    lambda account_id, email: Account.update(email=email).where(
        Account.id == account_id, Account.email.is_null() | (Account.email != email)
    )
)
