"""A dispute's evidence as one ZIP file: what was bought, what its credits were used for, and who signed in.

Everything is text that a person can read before it goes to the bank. The figures are the ledger's own.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

import peewee

from ..errors import NotFound
from ..ledger.attribution import PaidUsage, usage_paid_by
from ..money import format_credits, format_money
from .checkout import with_receipt
from .queries import DisputeView, PaymentView, RefundView, dispute_of_stripe, payment, refunds_of
from .shop import Shop

_COLUMNS: Final = (
    "time_utc", "credits", "model", "input", "cache_read", "cache_write", "output", "reasoning", "request_id",
    "transfer_id",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class EvidenceCase:
    """What our books know of a disputed payment, of one moment each."""

    dispute: DisputeView
    payment: PaymentView
    refunds: Sequence[RefundView]
    usage: Sequence[PaidUsage]


async def export_evidence(shop: Shop, stripe_dispute_id: str) -> bytes:
    """Return the ZIP file: summary.txt, receipt.json, usage.csv, sign_in.json.

    Raises:
        NotFound: there is no such dispute, or its account's oldest transfers were archived.
    """
    case = await shop.reads.run(lambda database: read_case(database, stripe_dispute_id))
    case = replace(case, payment=await with_receipt(shop, case.payment))
    hooks, ours = shop.hooks(), case.payment
    known = await hooks.dispute_evidence(ours.external_id or "", str(ours.id)) if hooks is not None else {}
    return pack(case, sign_in=known)


def read_case(database: peewee.Database, stripe_dispute_id: str) -> EvidenceCase:
    """Read everything about a dispute.

    Raises:
        NotFound: there is no such dispute, or its account's oldest transfers were archived.
    """
    dispute = dispute_of_stripe(database, stripe_dispute_id)
    if dispute is None:
        msg = f"there is no dispute {stripe_dispute_id!r:.80}; `credits disputes list` shows those there are"
        raise NotFound(msg)
    ours = payment(database, dispute.payment_id)
    assert ours is not None  # noqa: S101 - payments are never deleted
    usage = usage_paid_by(database, ours.account_id, ours.id) if ours.is_granted else []
    return EvidenceCase(dispute, ours, refunds_of(database, ours.id), usage)


def pack(case: EvidenceCase, *, sign_in: Mapping[str, Any]) -> bytes:
    """Write the files of a case into one ZIP file. Pure; ``sign_in`` is what the host told."""
    files = {
        "summary.txt": "\n".join(f"{name}: {value}" for name, value in summary_of(case).items()) + "\n",
        "receipt.json": json.dumps(receipt_of(case), indent=2, ensure_ascii=False) + "\n",
        "usage.csv": usage_csv(case.usage),
        "sign_in.json": json.dumps(dict(sign_in), indent=2, ensure_ascii=False, default=str) + "\n",
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return packed.getvalue()


def summary_of(case: EvidenceCase) -> dict[str, str]:
    """Return the facts on one page: the sale, what of it was used before the dispute, and what it asks for."""
    dispute, ours = case.dispute, case.payment
    before = [one for one in case.usage if one.at_ms // 1000 <= dispute.created_at_ms // 1000]  # Stripe's are seconds
    return {
        "dispute": f"{dispute.stripe_dispute_id}, {dispute.reason}, {dispute.status}",
        "disputed amount": format_money(dispute.amount_minor, dispute.currency),
        "opened": _time(dispute.created_at_ms),
        "evidence due": _time(dispute.evidence_due_at_ms),
        "account": ours.external_id or "none: nothing was granted",
        "e-mail": ours.email or "unknown",
        "bought": f"{ours.package_name}: {format_credits(ours.credited)} credits",
        "paid": f"{format_money(ours.whole_minor, ours.currency)} at {_time(ours.paid_at_ms)}",
        "delivered": "at once: the credits were on the account when the payment was confirmed",
        "used before the dispute": f"{_credits(before)} credits in {len(before)} requests",
        "used in all": f"{_credits(case.usage)} credits in {len(case.usage)} requests",
        "first and last use": f"{_time(_first(case.usage))}, {_time(_first(reversed(case.usage)))}",
        "taken back": f"{format_credits(ours.clawed_back)} credits",
    }


def receipt_of(case: EvidenceCase) -> dict[str, Any]:
    """Return what was ordered, paid and refunded, with Stripe's ids and the receipt that the buyer got."""
    ours = case.payment
    return {
        "payment": str(ours.id),
        "payment_intent": ours.payment_intent_id,
        "charge": ours.charge_id,
        "checkout_session": ours.session_id,
        "receipt_url": ours.receipt_url,
        "package": ours.package_name,
        "credits": format_credits(ours.credited),
        "ordered_at": _time(ours.created_at_ms),
        "paid_at": _time(ours.paid_at_ms),
        "amount": format_money(ours.whole_minor, ours.currency),
        "refunds": [
            {"id": row.stripe_refund_id, "status": row.status, "amount": format_money(row.amount_minor, row.currency)}
            for row in case.refunds
        ],
    }


def usage_csv(usage: Iterable[PaidUsage]) -> str:
    """Return one line for each request that the payment's credits paid for, as far as they did."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(_COLUMNS)
    for one in usage:
        tokens = one.usage
        lines.writerow(
            [
                _time(one.at_ms),
                format_credits(one.microcredits).replace(",", ""),
                _inert(one.model),
                tokens.input,
                tokens.cache_read,
                tokens.cache_write,
                tokens.output,
                tokens.reasoning,
                _inert(one.request_id or ""),
                one.transfer_id,
            ]
        )
    return text.getvalue()


def _inert(text: str) -> str:
    """Keep a spreadsheet from taking text of others for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _credits(usage: Iterable[PaidUsage]) -> str:
    return format_credits(sum(one.microcredits for one in usage))


def _first(usage: Iterable[PaidUsage]) -> int | None:
    return next((one.at_ms for one in usage), None)


def _time(at_ms: int | None) -> str:
    return "never" if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
