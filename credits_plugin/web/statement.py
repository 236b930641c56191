"""Balance and history in words, as the account page shows them."""

from __future__ import annotations

from typing import Any, Final

from hookspecs import Usage

from ..ledger.entries import Code
from ..ledger.queries import Balance, TransferLine
from ..money import MICROCREDITS_PER_CREDIT, ceil_div, format_credits, format_money
from ..payments.queries import PaymentView
from .history import HistoryLine, HistoryPage
from .rendering import shown_credits, signed_credits

_TITLES: Final = {
    Code.PURCHASE: "Purchase",
    Code.USAGE: "AI request",
    Code.REFUND: "Refund",
    Code.REFUND_FAILED: "Refund returned",
    Code.DISPUTE: "Disputed payment",
    Code.DISPUTE_WON: "Dispute resolved",
    Code.PROMOTION: "Gift",
    Code.EXPIRY: "Expired",
    Code.ADJUSTMENT_IN: "Adjustment",
    Code.ADJUSTMENT_OUT: "Adjustment",
    Code.ROLLED_OUT: "Carried over",
    Code.ROLLED_IN: "Carried over",
}


def balance_view(balance: Balance | None) -> dict[str, Any]:
    """Return what the balance section shows; ``debt`` is in whole credits, rounded up, 0 where there is none."""
    debt = max(-balance.balance, 0) if balance else 0
    available, point, fraction = shown_credits(balance.available if balance else 0).partition(".")
    return {
        "available": available,
        "fraction": point + fraction,
        "total": shown_credits(balance.balance if balance else 0),
        "held": format_credits(balance.held if balance else 0),
        "next_expiry": balance.next_expiry_at_ms if balance else None,
        "debt": f"{ceil_div(debt, MICROCREDITS_PER_CREDIT):,}" if debt else "",
    }


def history_view(page: HistoryPage, *, is_first: bool) -> dict[str, Any]:
    """Return what the history section shows."""
    return {
        "lines": [_line_view(line) for line in page.lines],
        "older": page.older,
        "newer": not is_first,
        "archived": f"{page.archived:,}" if page.archived and page.older is None else "",
    }


def _line_view(line: HistoryLine) -> dict[str, Any]:
    transfer = line.transfer
    return {
        "at_ms": transfer.at_ms,
        "title": _TITLES[transfer.code],
        "amount": signed_credits(transfer.amount),
        "incoming": transfer.amount > 0,
        "balance_after": shown_credits(transfer.balance_after),
        "details": _details(transfer, line.payment),
        "expires": line.expires_at_ms,
    }


def _details(transfer: TransferLine, payment: PaymentView | None) -> list[tuple[str, str]]:
    if payment is not None:
        money = format_money(payment.whole_minor, payment.currency)
        details = [("", payment.package_name), ("", money), ("Payment", payment.payment_intent_id), ("", payment.email)]
    elif transfer.usage is not None:
        details = [("", transfer.model), *_usage_details(transfer.usage)]
    else:
        details = [("Reference", transfer.reference)]
    return [(label, text) for label, text in details if text]


def _usage_details(usage: Usage) -> list[tuple[str, str | None]]:
    """Return tokens as a person reads them: in (of which cached), out (of which reasoning)."""
    cached = f" ({usage.cache_read:,} cached)" if usage.cache_read else ""
    reasoning = f" ({usage.reasoning:,} reasoning)" if usage.reasoning else ""
    return [
        ("", f"{usage.input + usage.cache_read + usage.cache_write:,} tokens in{cached}"),
        ("", f"{usage.output + usage.reasoning:,} out{reasoning}"),
    ]
