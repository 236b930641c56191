"""``GET balance`` and ``GET transactions``: the caller's own account."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from ..ledger.ids import account_key
from ..ledger.queries import account_balance
from ..payments.queries import PaymentView
from .amounts import amount_json, time_json
from .history import HistoryLine, history_page
from .identity import require_account
from .query import cursor_of
from .service import CREDITS


async def show_balance(request: web.Request) -> web.Response:
    """Answer with the balance; an account that never had credits has zeros."""
    key = account_key(await require_account(request))
    balance = await request.app[CREDITS].reads.run(lambda database: account_balance(database, key))
    return web.json_response(
        {
            "success": True,
            "balance": amount_json(balance.balance if balance else 0),
            "held": amount_json(balance.held if balance else 0),
            "available": amount_json(balance.available if balance else 0),
            "next_expiry_at": time_json(balance.next_expiry_at_ms if balance else None),
        }
    )


async def list_transactions(request: web.Request) -> web.Response:
    """Answer with one page of the history, newest first."""
    key = account_key(await require_account(request))
    before_seq = cursor_of(request)
    page = await request.app[CREDITS].reads.run(lambda database: history_page(database, key, before_seq=before_seq))
    return web.json_response(
        {
            "success": True,
            "transactions": [_transaction_json(line) for line in page.lines],
            "next_cursor": str(page.older) if page.older is not None else None,
            "archived": page.archived,
        }
    )


def _transaction_json(line: HistoryLine) -> dict[str, Any]:
    transfer, payment = line.transfer, line.payment
    return {
        "id": str(transfer.id),
        "type": transfer.code.name.lower(),
        "amount": amount_json(transfer.amount),
        "balance_after": amount_json(transfer.balance_after),
        "created_at": time_json(transfer.at_ms),
        "expires_at": time_json(line.expires_at_ms),
        "reference": transfer.reference,
        "model": transfer.model,
        "usage": transfer.usage.to_json() if transfer.usage else None,
        "payment_id": payment.payment_intent_id if payment else None,
        "metadata": _metadata_json(payment) if payment else None,
    }


def _metadata_json(payment: PaymentView) -> dict[str, Any]:
    return {
        "provider": "stripe",
        "package_id": payment.package_id,
        "package_name": payment.package_name,
        "session_id": payment.session_id,
        "customer_email": payment.email,
        "amount_total": payment.whole_minor,
        "currency": payment.currency,
    }
