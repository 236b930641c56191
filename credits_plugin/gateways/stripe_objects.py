"""Stripe's JSON into our values. Strict: what is not in the expected shape is refused, never guessed at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from ..payments.gateway import (
    Charge,
    CheckoutSession,
    DisputeResult,
    EventObject,
    PaymentIntent,
    RefundResult,
    Unreadable,
)
from ..payments.states import DisputeStatus, RefundStatus

Json = Mapping[str, Any]
OWN_REFUND_ID: Final = "refund_id"
"""The metadata key under which our refunds carry their row's id."""
_LARGEST: Final = 2**62


class UnreadableObject(ValueError):
    """An object lacks a field or has it in another type than this version knows."""


def read_object(data: Json) -> EventObject:
    """Translate an event's object by its own ``object`` field; None for kinds that nothing is done with."""
    translate = _TRANSLATORS.get(str(data.get("object")))
    if translate is None:
        return None
    try:
        return translate(data)
    except UnreadableObject as error:
        return Unreadable(str(error))


def checkout_session(data: Json) -> CheckoutSession:
    """Translate a Checkout Session."""
    details, totals = _table(data, "customer_details"), _table(data, "total_details")
    return CheckoutSession(
        id=_text(data, "id"),
        status=_text_or_none(data, "status"),
        payment_status=_text(data, "payment_status"),
        amount_subtotal_minor=_whole_or_none(data, "amount_subtotal"),
        amount_total_minor=_whole_or_none(data, "amount_total"),
        discount_minor=_whole_or_none(totals, "amount_discount") or 0,
        tax_minor=_whole_or_none(totals, "amount_tax") or 0,
        shipping_minor=_whole_or_none(totals, "amount_shipping") or 0,
        currency=_text_or_none(data, "currency"),
        livemode=_flag(data, "livemode"),
        client_reference_id=_text_or_none(data, "client_reference_id"),
        payment_intent_id=_id_of(data, "payment_intent"),
        customer_id=_id_of(data, "customer"),
        url=_text_or_none(data, "url"),
        metadata=_metadata(data),
        email=_text_or_none(details, "email") or _text_or_none(data, "customer_email"),
    )


def payment_intent(data: Json) -> PaymentIntent:
    """Translate a payment intent; its latest charge may be an id or the charge itself."""
    charge = _table(data, "latest_charge") if isinstance(data.get("latest_charge"), Mapping) else {}
    return PaymentIntent(
        id=_text(data, "id"),
        status=_text(data, "status"),
        amount_minor=_whole(data, "amount"),
        amount_received_minor=_whole(data, "amount_received"),
        currency=_text(data, "currency"),
        livemode=_flag(data, "livemode"),
        charge_id=_id_of(data, "latest_charge"),
        receipt_url=_text_or_none(charge, "receipt_url"),
        failure=_failure(data),
    )


def charge(data: Json) -> Charge:
    """Translate a charge."""
    return Charge(
        id=_text(data, "id"),
        payment_intent_id=_id_of(data, "payment_intent"),
        amount_refunded_minor=_whole(data, "amount_refunded"),
        currency=_text(data, "currency"),
        receipt_url=_text_or_none(data, "receipt_url"),
    )


def refund(data: Json) -> RefundResult:
    """Translate a refund."""
    amount = _whole(data, "amount")
    if amount <= 0:
        msg = f"a refund's amount is {amount}"
        raise UnreadableObject(msg)
    return RefundResult(
        id=_text(data, "id"),
        status=_refund_status(_text(data, "status")),
        amount_minor=amount,
        currency=_text(data, "currency"),
        payment_intent_id=_id_of(data, "payment_intent"),
        own_refund_id=_own_id(_metadata(data).get(OWN_REFUND_ID, "")),
        reason=_text_or_none(data, "reason"),
        failure=_text_or_none(data, "failure_reason"),
        created_at_ms=_whole(data, "created") * 1000,
    )


def dispute(data: Json) -> DisputeResult:
    """Translate a dispute; its balance transactions say which way its money went, in whatever currency."""
    amount = _whole(data, "amount")
    if amount <= 0:
        msg = f"a dispute's amount is {amount}"
        raise UnreadableObject(msg)
    moved = _moved_amounts(data)
    due = _whole_or_none(_table(data, "evidence_details"), "due_by")
    return DisputeResult(
        id=_text(data, "id"),
        status=_dispute_status(_text(data, "status")),
        amount_minor=amount,
        currency=_text(data, "currency"),
        charge_id=_id_of(data, "charge"),
        payment_intent_id=_id_of(data, "payment_intent"),
        reason=_text_or_none(data, "reason") or "general",
        withdrawals=sum(one < 0 for one in moved),
        reinstatements=sum(one > 0 for one in moved),
        evidence_due_at_ms=due * 1000 if due else None,
        created_at_ms=_whole(data, "created") * 1000,
    )


_TRANSLATORS: Final[Mapping[str, Callable[[Json], EventObject]]] = MappingProxyType(
    {
        "checkout.session": checkout_session,
        "payment_intent": payment_intent,
        "charge": charge,
        "refund": refund,
        "dispute": dispute,
    }
)


def _dispute_status(text: str) -> DisputeStatus:
    try:
        return DisputeStatus(text)
    except ValueError:
        msg = f"a dispute's status is {text!r:.40}"
        raise UnreadableObject(msg) from None


def _moved_amounts(data: Json) -> list[int]:
    """Return the signed amounts of a dispute's balance transactions; older API versions may lack the list."""
    rows = data.get("balance_transactions")
    if rows is None:
        return []
    if not isinstance(rows, list):
        raise _unreadable("balance_transactions", rows)
    amounts = [row.get("amount") for row in rows if isinstance(row, Mapping)]
    whole = [amount for amount in amounts if type(amount) is int]
    if len(whole) != len(rows):
        msg = "a dispute's balance transaction has no amount"
        raise UnreadableObject(msg)
    return whole


def _refund_status(text: str) -> RefundStatus:
    try:
        status = RefundStatus(text)
    except ValueError:
        status = RefundStatus.REQUESTED
    if status is RefundStatus.REQUESTED:  # ours alone; Stripe never says it
        msg = f"a refund's status is {text!r:.40}"
        raise UnreadableObject(msg)
    return status


def _failure(data: Json) -> str | None:
    """Say why a payment intent failed or was canceled: code, the bank's own code, and Stripe's sentence."""
    error = _table(data, "last_payment_error")
    if error:
        codes = (_text_or_none(error, "code"), _text_or_none(error, "decline_code"))
        named = "/".join(code for code in codes if code)
        return ": ".join(part for part in (named, _text_or_none(error, "message")) if part)
    canceled = _text_or_none(data, "cancellation_reason")
    return f"canceled: {canceled}" if canceled else None


def _own_id(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 19 else None


def _metadata(data: Json) -> dict[str, str]:
    table = _table(data, "metadata")
    return {_clean(key): _clean(value) for key, value in table.items() if isinstance(value, str)}


def _table(data: Json, name: str) -> Json:
    value = data.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _unreadable(name, value)
    return value


def _id_of(data: Json, name: str) -> str | None:
    """Return the id of a related object, which comes as itself or as its id."""
    value = data.get(name)
    return _text(value, "id") if isinstance(value, Mapping) else _text_or_none(data, name)


def _text(data: Json, name: str) -> str:
    value = data.get(name)
    if not isinstance(value, str) or not value:
        raise _unreadable(name, value)
    return _clean(value)


def _text_or_none(data: Json, name: str) -> str | None:
    return None if data.get(name) in (None, "") else _text(data, name)


def _whole(data: Json, name: str) -> int:
    value = data.get(name)
    if type(value) is not int or not 0 <= value <= _LARGEST:
        raise _unreadable(name, value)
    return value


def _whole_or_none(data: Json, name: str) -> int | None:
    return None if data.get(name) is None else _whole(data, name)


def _flag(data: Json, name: str) -> bool:
    value = data.get(name)
    if not isinstance(value, bool):
        raise _unreadable(name, value)
    return value


def _clean(text: str) -> str:
    """Drop what no text column and no terminal should see: control characters and lone surrogates."""
    if text.isprintable():  # nearly always
        return text
    return "".join(character for character in text if character.isprintable())


def _unreadable(name: str, value: object) -> UnreadableObject:
    kind = "missing" if value is None else f"of type {type(value).__name__} or out of range"
    return UnreadableObject(f"field {name} is {kind}")
