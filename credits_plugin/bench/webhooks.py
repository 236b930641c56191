"""Signed ``checkout.session.completed`` deliveries that one host grants per second, over HTTP, on SQLite.

The host is a process of its own that runs the real application. The payments are committed before; each delivery is of
another payment, and answered after its grant is on disk. Where the host asks Stripe for more, this process answers at
once: what Stripe's own answers would take is not measured.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

import aiohttp
import peewee

from ..bootstrap import Credits, build
from ..ledger.ids import account_key
from ..ledger.work import Transaction
from ..models import Payment
from ..payments.checkout import start_purchase
from ..payments.states import PaymentStatus
from ..sandbox import Sandbox
from ..sandbox.visitor import TEST_CARD
from ..sandbox.webhooks import signature_header
from ..settings import Settings
from .environment import Bench, Scale
from .host_process import host_process
from .ledger import account_name, require_clean
from .report import Bar, at_least, bar
from .rounds import interleave
from .webhook_wire import Delivery, deliver_all, serve_intents

_SECRET: Final = "whsec_bench"  # noqa: S105 - of a host that lives for a minute on loopback
_PATH: Final = "/api/credits/webhook"
_CONNECTIONS: Final = 64
_CARD: Final = {"card_number": TEST_CARD, "exp": "12 / 34", "cvc": "123", "name": "Anna", "email": "anna@example.com"}


@dataclass(frozen=True, slots=True)
class Purchase:
    """A paid purchase as the sandbox made it: the shape of all others."""

    session: dict[str, Any]
    intent: dict[str, Any]
    payment: dict[str, Any]


def measure_webhooks(bench: Bench) -> list[Bar]:
    """Deliver thousands of events over 64 connections, in rounds."""
    url = bench.sqlite()
    credits, purchase = asyncio.run(_buy_once(url))
    try:
        rounds = interleave(
            bench.scale.rounds,
            lambda: asyncio.run(_deliver(credits, url, purchase, bench.scale)),
        )
        require_clean(credits.database)
    finally:
        credits.close_sync()
    return [
        bar("Webhooks: granted, one host, SQLite", rounds.median("granted"), "/s", at_least(1_500)),
        bar("Webhooks: CPU a delivery in the host's process", rounds.median("cpu") * 1_000_000, "µs"),
    ]


async def _buy_once(url: str) -> tuple[Credits, Purchase]:
    """Buy one package in the sandbox, the way a person does."""
    async with Sandbox() as sandbox, aiohttp.ClientSession() as http:
        credits = build(
            Settings(
                database_url=url,
                stripe_secret_key=sandbox.settings.secret_key,
                stripe_webhook_secrets=(_SECRET,),
                stripe_api_base=sandbox.url,
            )
        )
        assert credits.shop is not None  # noqa: S101 - it has keys
        bought = await start_purchase(credits.shop, account_id=account_name(0), package_id=1)
        async with http.post(bought.payment_url, data=_CARD, allow_redirects=False) as answer:
            await answer.read()
        session = await _fetch(http, sandbox, f"checkout/sessions/{bought.session_id}")
        intent = await _fetch(http, sandbox, f"payment_intents/{session['payment_intent']}?expand[]=latest_charge")
        row = await credits.reads.run(lambda database: _payment_row(database, bought.payment_id))
        await credits.shop.gateway.close()
    return credits, Purchase(session, intent, row)


async def _fetch(http: aiohttp.ClientSession, sandbox: Sandbox, path: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {sandbox.settings.secret_key}"}
    async with http.get(f"{sandbox.url}/v1/{path}", headers=headers) as answer:
        answer.raise_for_status()
        found: dict[str, Any] = await answer.json()
        return found


def _payment_row(database: peewee.Database, payment_id: int) -> dict[str, Any]:
    row: dict[str, Any] = Payment.select().where(Payment.id == payment_id).dicts().execute(database)[0]
    return row


async def _deliver(credits: Credits, url: str, purchase: Purchase, scale: Scale) -> dict[str, float]:
    """Return how many deliveries were granted per second, and the host's CPU time for each.

    Raises:
        AssertionError: a delivery failed, or a payment was not granted.
    """
    buyers = [account_name(number % scale.accounts) for number in range(scale.deliveries)]
    rows = [_next_payment(purchase, buyer, payment_id=credits.new_id()) for buyer in buyers]
    await credits.writer.work([], lambda tx: _insert(tx, rows))
    deliveries = [_delivery(purchase, row, buyer) for row, buyer in zip(rows, buyers, strict=True)]
    async with await serve_intents(purchase.intent) as stripe:
        stripe_url = f"http://127.0.0.1:{stripe.sockets[0].getsockname()[1]}"
        async with host_process("webhook_host", url, stripe_url, _SECRET) as host:
            await deliver_all(host.port, _PATH, deliveries[:1], connections=1)  # the first delivery loads the library
            started, cpu = time.perf_counter(), host.cpu_s()
            await deliver_all(host.port, _PATH, deliveries[1:], connections=_CONNECTIONS)
            elapsed, cpu = time.perf_counter() - started, host.cpu_s() - cpu
    granted = await credits.reads.run(lambda database: _granted(database, rows))
    if granted != len(rows):
        raise AssertionError(granted, len(rows))
    return {"granted": (len(rows) - 1) / elapsed, "cpu": cpu / (len(rows) - 1)}


def _next_payment(purchase: Purchase, buyer: str, *, payment_id: int) -> dict[str, Any]:
    """Return the row that another purchase would have left, before its webhook."""
    unique = uuid4().hex
    return {
        **purchase.payment,
        "id": payment_id,
        "account_id": account_key(buyer),
        "status": PaymentStatus.OPEN,
        "idempotency_key": f"bench-{unique}",
        "stripe_session_id": f"cs_test_{unique}",
    }


def _insert(tx: Transaction, rows: Sequence[dict[str, Any]]) -> None:
    for batch in peewee.chunked(rows, 100):
        Payment.insert_many(batch).on_conflict_ignore().execute(tx.database)


def _delivery(purchase: Purchase, row: dict[str, Any], buyer: str) -> Delivery:
    session = {
        **purchase.session,
        "id": row["stripe_session_id"],
        "payment_intent": f"pi_{uuid4().hex}",
        "client_reference_id": buyer,
        "metadata": {**purchase.session["metadata"], "user_id": buyer, "payment_id": str(row["id"])},
    }
    event = {
        "id": f"evt_{uuid4().hex}",
        "object": "event",
        "api_version": "2026-10-28.endive",
        "created": int(time.time()),
        "livemode": False,
        "pending_webhooks": 1,
        "request": None,
        "type": "checkout.session.completed",
        "data": {"object": session},
    }
    body = json.dumps(event, indent=2).encode()
    return Delivery(body, signature_header(body, _SECRET, timestamp=int(time.time())))


def _granted(database: peewee.Database, rows: Sequence[dict[str, Any]]) -> int:
    query = Payment.select().where(Payment.id >= rows[0]["id"], Payment.grant_transfer_id.is_null(False))
    count: int = query.count(database)
    return count
