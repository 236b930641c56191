"""Disputes over HTTP: the sandbox's bank, its signed deliveries, the real webhook route, the real stripe library."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from dataclasses import replace

import pluggy
import pytest

from credits_plugin import PROJECT_NAME, CreditsSpecs, HookCaller, Usage, hookimpl
from credits_plugin.errors import NotFound
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.entries import Code, PlaceHold, SettleHold
from credits_plugin.ledger.ids import account_key, now_ms
from credits_plugin.ledger.queries import account_balance, account_transfers
from credits_plugin.models import PriceVersion
from credits_plugin.payments import queries
from credits_plugin.payments.evidence import export_evidence
from credits_plugin.payments.states import DisputeStatus, InboxStatus, PaymentStatus

MICRO = 1_000_000
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what does not depend on the database: a PostgreSQL database per test costs a third of a second."""
pytestmark = pytest.mark.usefixtures("endpoint")


async def bought(till, sandbox, card="4242424242424242"):
    purchase = await till.order()
    assert await till.pay(purchase, card=card) == 303
    await sandbox.drain()
    return await till.payment(purchase.payment_id)


async def use(till, microcredits, *, model="gpt-4o-mini"):
    """One metered request of anna's."""
    key, hold_id, at = account_key("anna"), till.shop.new_id(), now_ms()
    version = {"digest": model, "provider": "openai", "model": model, "record": "{}", "created_at_ms": at}

    def note(tx):
        PriceVersion.insert(version).on_conflict_ignore().execute(tx.database)
        query = PriceVersion.select(PriceVersion.id).where(PriceVersion.digest == model)
        return next(row[0] for row in query.tuples().execute(tx.database))

    price_version = await till.shop.writer.work([], note)
    await till.shop.writer.execute(PlaceHold(key, "anna", hold_id, microcredits, at, at + 60_000, price_version, 10))
    await till.shop.writer.execute(SettleHold(key, hold_id, microcredits, at, Usage(input=100, output=20)))


async def books(till):
    found = await till.shop.reads.run(lambda database: account_balance(database, account_key("anna")))
    return found.balance // MICRO, found.held // MICRO


async def codes(till):
    lines = await till.shop.reads.run(lambda database: account_transfers(database, account_key("anna")))
    return [(line.code, line.amount // MICRO) for line in reversed(lines)]


async def the_dispute(till, payment):
    [row] = await till.shop.reads.run(lambda database: queries.disputes_of(database, payment.id))
    return row


async def test_a_disputed_payment_loses_its_credits_and_gets_them_back_when_won(till, sandbox, database):
    payment = await bought(till, sandbox)
    dispute = sandbox.dispute(payment.charge_id)
    await sandbox.drain()
    assert await books(till) == (0, 0)
    assert (await till.payment(payment.id)).status is PaymentStatus.DISPUTED

    sandbox.close_dispute(dispute["id"], won=True)
    await sandbox.drain()
    assert await codes(till) == [(Code.PURCHASE, 1_000), (Code.DISPUTE, -1_000), (Code.DISPUTE_WON, 1_000)]
    assert (await the_dispute(till, payment)).status is DisputeStatus.WON
    assert await till.shop.reads.run(lambda db: queries.inbox_page(db, status=InboxStatus.QUARANTINED)) == []
    assert audit(database).findings == []


async def test_a_card_whose_owner_disputes_soon_ends_with_nothing(till, sandbox, sandbox_clock, database):
    payment = await bought(till, sandbox, card="4000000000000259")
    sandbox_clock.ahead_s = 6  # no more: what is signed in the future is refused
    await till.get("disputes")  # the sandbox does what is due when it is asked for anything
    await sandbox.drain()
    assert await books(till) == (0, 0)
    assert (await till.payment(payment.id)).clawed_back == 1_000 * MICRO
    assert audit(database).findings == []


async def test_spent_credits_become_debt_and_the_next_purchase_repays_it(till, sandbox, database):
    payment = await bought(till, sandbox)
    await use(till, 400 * MICRO)
    dispute = sandbox.dispute(payment.charge_id)
    await sandbox.drain()
    assert await books(till) == (-400, 0)

    await bought(till, sandbox)
    assert await books(till) == (600, 0)

    sandbox.close_dispute(dispute["id"], won=False)
    await sandbox.drain()
    assert await books(till) == (600, 0)
    assert (await the_dispute(till, payment)).status is DisputeStatus.LOST
    assert audit(database).findings == []


@ON_SQLITE
async def test_an_inquiry_moves_nothing_until_it_escalates(till, sandbox):
    payment = await bought(till, sandbox)
    dispute = sandbox.dispute(payment.charge_id, inquiry=True)
    await sandbox.drain()
    assert await books(till) == (1_000, 0)
    assert (await the_dispute(till, payment)).status is DisputeStatus.WARNING_NEEDS_RESPONSE

    sandbox.escalate_dispute(dispute["id"])
    await sandbox.drain()
    assert await books(till) == (0, 0)


@ON_SQLITE
async def test_a_refund_and_a_dispute_of_one_payment_take_its_credits_once(till, sandbox, database):
    payment = await bought(till, sandbox)
    sandbox.refund(payment.charge_id, amount=400)
    sandbox.dispute(payment.charge_id, amount=600)
    await sandbox.drain()
    after = await till.payment(payment.id)
    assert await books(till) == (0, 0)
    assert (after.refunded_minor, after.disputed_minor, after.clawed_back) == (400, 600, 1_000 * MICRO)
    assert audit(database).findings == []


@ON_SQLITE
async def test_a_late_win_after_a_loss_restores(till, sandbox):
    payment = await bought(till, sandbox)
    dispute = sandbox.dispute(payment.charge_id)
    sandbox.close_dispute(dispute["id"], won=False)
    sandbox.close_dispute(dispute["id"], won=True)
    await sandbox.drain()
    assert await books(till) == (1_000, 0)
    assert (await the_dispute(till, payment)).status is DisputeStatus.WON


class Host:
    @hookimpl
    def before_ai_request(self, request):
        return None

    @hookimpl
    async def dispute_evidence(self, account_id, payment_id):
        return {"account": account_id, "sign_ins": [{"at": "2026-11-01", "ip": "203.0.113.7"}]}


def hooks_of(*plugins):
    manager = pluggy.PluginManager(PROJECT_NAME)
    manager.add_hookspecs(CreditsSpecs)
    for plugin in plugins:
        manager.register(plugin)
    caller = HookCaller(manager)
    return lambda: caller


async def test_the_evidence_has_the_receipt_and_the_use_of_exactly_these_credits(till, sandbox):
    first = await bought(till, sandbox)
    await use(till, 900 * MICRO)
    payment = await bought(till, sandbox)
    await use(till, 300 * MICRO, model="=cmd|'/c calc'!A1")  # 100 of the first payment's, 200 of the second's
    await use(till, 50 * MICRO)
    dispute = sandbox.dispute(payment.charge_id)
    await sandbox.drain()

    shop = replace(till.shop, hooks=hooks_of(Host()))
    packed = zipfile.ZipFile(io.BytesIO(await export_evidence(shop, dispute["id"])))

    files = {name: packed.read(name).decode() for name in packed.namelist()}
    rows = list(csv.DictReader(io.StringIO(files["usage.csv"])))
    assert [(row["credits"], row["model"]) for row in rows] == [("200", "'=cmd|'/c calc'!A1"), ("50", "gpt-4o-mini")]
    receipt = json.loads(files["receipt.json"])
    assert (receipt["payment_intent"], receipt["amount"]) == (payment.payment_intent_id, "$10.00")
    assert receipt["receipt_url"].startswith("http")
    assert json.loads(files["sign_in.json"])["sign_ins"][0]["ip"] == "203.0.113.7"
    assert "used before the dispute: 250 credits in 2 requests" in files["summary.txt"]
    assert first.payment_intent_id not in "".join(files.values())


@ON_SQLITE
async def test_a_host_whose_evidence_fails_does_not_stop_the_export(till, sandbox):
    class Broken(Host):
        @hookimpl
        async def dispute_evidence(self, account_id, payment_id):
            raise OSError("the log server is away")

    payment = await bought(till, sandbox)
    dispute = sandbox.dispute(payment.charge_id)
    await sandbox.drain()
    shop = replace(till.shop, hooks=hooks_of(Broken()))
    packed = zipfile.ZipFile(io.BytesIO(await export_evidence(shop, dispute["id"])))
    assert "failed" in json.loads(packed.read("sign_in.json"))["missing"]


@ON_SQLITE
async def test_evidence_of_no_dispute_is_not_found(till):
    with pytest.raises(NotFound, match="there is no dispute"):
        await export_evidence(till.shop, "dp_nothing")
