"""Money back, credits back: a function of the refunds, whatever told of them, in whatever order, however often."""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import replace

import pytest

from credits_plugin.database import Dialect
from credits_plugin.errors import GatewayError, GatewayOutcomeUnknown, InvalidValue, NotFound, RefundRefused
from credits_plugin.gateways.stripe_api import StripeGateway
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.entries import Code, PostTransfer
from credits_plugin.ledger.ids import account_key, now_ms
from credits_plugin.models import AdminAction, Refund
from credits_plugin.moving.archiving.run import archive_transfers
from credits_plugin.moving.archiving.verify import verify_archives
from credits_plugin.payments import queries
from credits_plugin.payments.refunds import refund_payment
from credits_plugin.payments.states import InboxStatus, PaymentStatus, RefundStatus

MICRO = 1_000_000
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what does not depend on the database: a PostgreSQL database per test costs a third of a second."""


async def refund_here(till, bought, amount=None, *, key="refund-key-1", shop=None, **more):
    values = {"reason": "requested_by_customer", "note": "asked by mail", "actor": "operator:olga"} | more
    return await refund_payment(
        shop or till.shop, payment_id=bought.payment_id, amount_minor=amount, idempotency_key=key, **values
    )


async def granted(till, account="anna", package_id=1):
    bought = await till.buy(account, package_id)
    await till.complete(bought)
    return bought


async def refunds(till, bought):
    return await till.shop.reads.run(lambda database: queries.refunds_of(database, bought.payment_id))


class LostAnswers(StripeGateway):
    """The real gateway, whose answer to a refund is lost on the way back."""

    async def create_refund(self, order, *, idempotency_key):
        await super().create_refund(order, idempotency_key=idempotency_key)
        raise GatewayOutcomeUnknown("no answer came from Stripe (TimeoutError)")


class LostCalls(StripeGateway):
    """The real gateway, whose refund call never reaches Stripe."""

    async def create_refund(self, order, *, idempotency_key):
        raise GatewayOutcomeUnknown("no answer came from Stripe (no connection)")


class ForgetfulStripe(StripeGateway):
    """The real gateway in front of a Stripe that has forgotten the key, as it may after a day."""

    async def create_refund(self, order, *, idempotency_key):
        return await super().create_refund(order, idempotency_key=f"{idempotency_key}-unknown-to-stripe")


async def test_a_full_refund_takes_all_credits_back(till):
    bought = await granted(till)
    view = await refund_here(till, bought)
    assert (view.status, view.amount_minor) == (RefundStatus.SUCCEEDED, 1_000)
    assert await till.amounts() == [1_000 * MICRO, -1_000 * MICRO]
    payment = await till.payment(bought.payment_id)
    assert (payment.status, payment.refunded_minor, payment.clawed_back) == (
        PaymentStatus.REFUNDED,
        1_000,
        1_000 * MICRO,
    )


@ON_SQLITE
async def test_the_claw_back_refers_to_the_refund(till):
    bought = await granted(till)
    view = await refund_here(till, bought, 400)
    [line] = [row for row in await _lines(till) if row.code is Code.REFUND]
    assert line.reference == view.stripe_refund_id


async def _lines(till):
    from credits_plugin.ledger.queries import account_transfers

    return await till.shop.reads.run(lambda database: account_transfers(database, account_key("anna")))


async def test_partial_refunds_add_up_to_the_grant(till):
    bought = await granted(till)
    for number, amount in enumerate([333, 333, 334]):
        await refund_here(till, bought, amount, key=f"refund-{number}-key")
    assert await till.amounts() == [1_000 * MICRO, -333 * MICRO, -333 * MICRO, -334 * MICRO]
    assert (await till.payment(bought.payment_id)).status is PaymentStatus.REFUNDED


@ON_SQLITE
async def test_uneven_parts_round_up_and_still_add_up(till):
    bought = await granted(till, package_id=3)  # 24,000 credits for 20,000 cents
    for number, amount in enumerate([1, 3, 7_777, 12_219]):
        await refund_here(till, bought, amount, key=f"refund-{number}-key")
    assert sum(await till.amounts()) == 0
    assert (await till.payment(bought.payment_id)).clawed_back == 24_000 * MICRO


async def test_more_than_is_left_is_refused_before_stripe_is_asked(till):
    bought = await granted(till)
    await refund_here(till, bought, 600)
    with pytest.raises(RefundRefused, match=r"\$4.00 of payment .* is left to refund, so \$5.00 is too much"):
        await refund_here(till, bought, 500, key="another-key")
    assert len((await till.get(f"refunds?payment_intent={bought.intent_id}"))["data"]) == 1
    assert len(await refunds(till, bought)) == 1


async def test_concurrent_refunds_never_exceed_the_payment(till):
    bought = await granted(till)
    attempts = [refund_here(till, bought, 300, key=f"refund-{number}-key") for number in range(6)]
    answers = await asyncio.gather(*attempts, return_exceptions=True)
    assert sum(isinstance(answer, RefundRefused) for answer in answers) == 3
    assert await till.balance() == 100 * MICRO


async def test_the_same_key_means_the_same_refund(till):
    bought = await granted(till)
    first = await refund_here(till, bought, 400)
    again = await asyncio.gather(*(refund_here(till, bought, 400) for _ in range(5)))
    assert {view.id for view in again} == {first.id}
    assert await till.balance() == 600 * MICRO


async def test_the_same_key_at_the_same_moment_means_the_same_refund(till):
    bought = await granted(till)
    answers = await asyncio.gather(*(refund_here(till, bought, 400) for _ in range(5)))
    assert len({view.stripe_refund_id for view in answers}) == 1
    assert len((await till.get(f"refunds?payment_intent={bought.intent_id}"))["data"]) == 1
    assert await till.amounts() == [1_000 * MICRO, -400 * MICRO]


@ON_SQLITE
async def test_a_key_of_another_refund_is_refused(till):
    bought = await granted(till)
    await refund_here(till, bought, 400)
    with pytest.raises(RefundRefused, match="another refund"):
        await refund_here(till, bought, 500)


@pytest.mark.parametrize("kind", [LostAnswers, LostCalls])
async def test_an_unknown_outcome_stays_requested_and_the_same_key_converges(till, shop_through, kind):
    bought = await granted(till)
    with pytest.raises(GatewayOutcomeUnknown):
        await refund_here(till, bought, 400, shop=shop_through(kind))
    [row] = await refunds(till, bought)
    assert (row.status, row.stripe_refund_id) == (RefundStatus.REQUESTED, None)
    assert "no answer" in row.detail
    with pytest.raises(RefundRefused):
        await refund_here(till, bought, 601, key="another-key")

    view = await refund_here(till, bought, 400)

    assert (view.id, view.status) == (row.id, RefundStatus.SUCCEEDED)
    assert len((await till.get(f"refunds?payment_intent={bought.intent_id}"))["data"]) == 1
    assert await till.amounts() == [1_000 * MICRO, -400 * MICRO]


async def test_a_repetition_after_stripe_forgot_the_key_finds_the_refund(till, shop_through):
    bought = await granted(till)
    with pytest.raises(GatewayOutcomeUnknown):
        await refund_here(till, bought, 400, shop=shop_through(LostAnswers))
    view = await refund_here(till, bought, 400, shop=shop_through(ForgetfulStripe))
    [made] = (await till.get(f"refunds?payment_intent={bought.intent_id}"))["data"]
    assert (view.stripe_refund_id, view.status) == (made["id"], RefundStatus.SUCCEEDED)
    assert await till.balance() == 600 * MICRO


async def test_the_webhook_completes_a_refund_whose_answer_was_lost(till, shop_through, make_event, database):
    bought = await granted(till)
    with pytest.raises(GatewayOutcomeUnknown):
        await refund_here(till, bought, 400, shop=shop_through(LostAnswers))
    [made] = (await till.get(f"refunds?payment_intent={bought.intent_id}"))["data"]
    await till.deliver(make_event("refund.created", made))
    [row] = await refunds(till, bought)
    assert (row.status, row.stripe_refund_id, row.actor) == (RefundStatus.SUCCEEDED, made["id"], "operator:olga")
    assert await till.balance() == 600 * MICRO
    [action] = AdminAction.select().dicts().execute(database.primary)
    assert json.loads(action["after"])["balance"] == 600 * MICRO

    assert (await refund_here(till, bought, 400)).id == row.id
    assert await till.balance() == 600 * MICRO


async def test_the_operators_action_is_recorded_with_its_effect(till, database):
    bought = await granted(till)
    await refund_here(till, bought, 400)
    [action] = AdminAction.select().dicts().execute(database.primary)
    assert (action["actor"], action["action"]) == ("operator:olga", "refund")
    assert (action["subject"], action["reason"]) == (
        f"payment {bought.payment_id}",
        "requested_by_customer: asked by mail",
    )
    assert json.loads(action["before"]) == {"balance": 1_000 * MICRO, "refunded_minor": 0}
    assert json.loads(action["after"]) == {"balance": 600 * MICRO, "status": "succeeded"}


async def test_a_refusal_of_stripe_is_final_for_its_key_and_frees_the_amount(till):
    bought = await granted(till)
    await till.refund(bought, 800)  # elsewhere, and we have not heard of it yet
    with pytest.raises(RefundRefused, match="greater than unrefunded amount"):
        await refund_here(till, bought, 400)
    with pytest.raises(RefundRefused, match="new key"):
        await refund_here(till, bought, 400)
    assert (await refunds(till, bought))[0].status is RefundStatus.FAILED
    assert (await refund_here(till, bought, 200, key="another-key")).status is RefundStatus.SUCCEEDED


@ON_SQLITE
async def test_a_refund_above_what_is_left_of_the_credits_becomes_debt(till):
    bought = await granted(till)
    key = account_key("anna")
    spent = PostTransfer(key, "anna", till.shop.new_id(), Code.ADJUSTMENT_OUT, 900 * MICRO, now_ms())
    await till.shop.writer.execute(spent)
    await refund_here(till, bought)
    assert await till.balance() == -900 * MICRO


@ON_SQLITE
async def test_an_unpaid_payment_cannot_be_refunded(till):
    purchase = await till.order()
    with pytest.raises(RefundRefused, match="is open"):
        await refund_here(till, purchase)


@ON_SQLITE
@pytest.mark.parametrize("payment_id", [1, 0, -5, True, 2**63, 2**80])
async def test_an_unknown_payment_is_not_found(till, payment_id):
    with pytest.raises(NotFound):
        await refund_payment(
            till.shop,
            payment_id=payment_id,
            amount_minor=None,
            reason="duplicate",
            note="",
            actor="olga",
            idempotency_key="refund-key-1",
        )


BAD = [
    {"amount": 0},
    {"amount": -1},
    {"amount": True},
    {"amount": 1.5},
    {"reason": "because"},
    {"actor": ""},
    {"actor": "a\nb"},
    {"note": "x" * 1_001},
    {"note": "\x1b[31m"},
    {"key": "short"},
    {"key": "with blanks in it"},
]


@ON_SQLITE
@pytest.mark.parametrize("bad", BAD)
async def test_a_request_that_is_none_is_refused(till, bad):
    bought = await granted(till)
    with pytest.raises(InvalidValue):
        await refund_here(till, bought, **bad)
    assert await refunds(till, bought) == []


async def test_refunds_made_in_stripes_dashboard_take_credits_too(till, make_event):
    bought = await granted(till)
    refund = await till.refund(bought, 250)
    await till.deliver(make_event("refund.created", refund))
    [row] = await refunds(till, bought)
    assert (row.actor, row.stripe_refund_id, row.status) == ("stripe", refund["id"], RefundStatus.SUCCEEDED)
    assert await till.balance() == 750 * MICRO
    assert (await till.payment(bought.payment_id)).status is PaymentStatus.PARTIALLY_REFUNDED


async def test_charge_refunded_alone_finds_every_refund(till, make_event):
    bought = await granted(till)
    for amount in (100, 200, 300):
        await till.refund(bought, amount)
    charge = await till.get(f"charges/{(await till.get(f'payment_intents/{bought.intent_id}'))['latest_charge']}")
    await till.deliver(make_event("charge.refunded", charge))
    assert await till.balance() == 400 * MICRO
    assert [row.amount_minor for row in await refunds(till, bought)] == [100, 200, 300]


async def test_a_refund_seen_before_the_grant_leaves_nothing(till, make_event):
    bought = await till.buy()
    refund = await till.refund(bought, 1_000)
    await till.deliver(make_event("refund.created", refund))
    await till.complete(bought)
    assert await till.balance() == 0
    assert (await till.payment(bought.payment_id)).status is PaymentStatus.REFUNDED


async def test_a_refund_recorded_on_an_unpaid_payment_is_taken_at_the_grant(till, shop_through, make_event):
    """The session was not paid when the refund was told of: only the row remembers it."""
    bought = await till.buy()
    refund = await till.refund(bought, 300)

    class Unpaid(StripeGateway):
        async def session_of_intent(self, payment_intent_id):
            session = await super().session_of_intent(payment_intent_id)
            return replace(session, payment_status="unpaid")

    early = shop_through(Unpaid)
    await till.with_shop(early).deliver(make_event("refund.created", refund))
    assert await till.amounts() == []
    assert (await till.payment(bought.payment_id)).refunded_minor == 300

    await till.complete(bought)
    assert await till.amounts() == [1_000 * MICRO, -300 * MICRO]


@ON_SQLITE
@pytest.mark.parametrize("order", list(itertools.permutations(["pending", "succeeded", "failed"])))
async def test_a_failed_refund_gives_back_whatever_the_order(till, make_event, order):
    bought = await granted(till)
    refund = await till.refund(bought, 400)
    names = {"pending": "refund.created", "succeeded": "refund.updated", "failed": "refund.failed"}
    for status in order:
        await till.deliver(make_event(names[status], refund | {"status": status}))
    assert await till.balance() == 1_000 * MICRO
    payment = await till.payment(bought.payment_id)
    assert (payment.status, payment.refunded_minor, payment.clawed_back) == (PaymentStatus.PAID, 0, 0)
    assert (await refunds(till, bought))[0].status is RefundStatus.FAILED


@ON_SQLITE
async def test_a_pending_refund_takes_and_a_canceled_one_gives_back(till, make_event):
    bought = await granted(till)
    refund = await till.refund(bought, 400)
    await till.deliver(make_event("refund.created", refund | {"status": "pending"}))
    assert await till.balance() == 600 * MICRO
    await till.deliver(make_event("refund.updated", refund | {"status": "canceled"}))
    assert await till.balance() == 1_000 * MICRO


@ON_SQLITE
async def test_after_a_failed_refund_the_amount_may_be_refunded_again(till, make_event):
    bought = await granted(till)
    view = await refund_here(till, bought)
    made = await till.get(f"refunds/{view.stripe_refund_id}")
    await till.deliver(
        make_event("refund.failed", made | {"status": "failed", "failure_reason": "lost_or_stolen_card"})
    )
    assert (await refunds(till, bought))[0].detail == "lost_or_stolen_card"
    with pytest.raises(
        RefundRefused, match="Stripe refused"
    ):  # Stripe itself still counts it: the sandbox did not fail it
        await refund_here(till, bought, key="another-key")
    assert await till.balance() == 1_000 * MICRO


@ON_SQLITE
@pytest.mark.parametrize("change", [{"currency": "eur"}, {"status": "wonderful"}, {"amount": 0}])
async def test_a_refund_that_does_not_fit_is_quarantined(till, make_event, change):
    bought = await granted(till)
    refund = await till.refund(bought, 400)
    receipt = await till.deliver(make_event("refund.created", refund | change))
    assert receipt.status is InboxStatus.QUARANTINED
    assert await till.balance() == 1_000 * MICRO


@ON_SQLITE
async def test_a_refund_that_claims_anothers_row_does_not_take_it_over(till, shop_through, make_event):
    anna, boris = await granted(till, "anna"), await granted(till, "boris")
    with pytest.raises(GatewayOutcomeUnknown):
        await refund_here(till, anna, 400, shop=shop_through(LostCalls))
    [row] = await refunds(till, anna)
    refund = await till.refund(boris, 400)
    await till.deliver(make_event("refund.created", refund | {"metadata": {"refund_id": str(row.id)}}))
    assert (await refunds(till, anna))[0].stripe_refund_id is None
    assert (await till.balance("anna"), await till.balance("boris")) == (1_000 * MICRO, 600 * MICRO)


@ON_SQLITE
async def test_a_refund_noted_as_refused_that_exists_after_all_takes_its_credits(
    till, shop_through, make_event, database
):
    bought = await granted(till)
    with pytest.raises(GatewayOutcomeUnknown):
        await refund_here(till, bought, 400, shop=shop_through(LostAnswers))
    refused = Refund.update(status="failed", detail="a wrong guess")
    await till.shop.writer.work([], lambda tx: refused.execute(tx.database))
    [made] = (await till.get(f"refunds?payment_intent={bought.intent_id}"))["data"]
    await till.deliver(make_event("refund.created", made))
    assert (await refunds(till, bought))[0].status is RefundStatus.SUCCEEDED
    assert await till.balance() == 600 * MICRO


async def events_of(till, make_event, bought, *, amount):
    """The five events of a purchase that was partly refunded."""
    refund = await till.refund(bought, amount)
    intent = await till.get(f"payment_intents/{bought.intent_id}")
    return [
        make_event("checkout.session.completed", await till.session(bought.session_id)),
        make_event("payment_intent.succeeded", intent),
        make_event("refund.created", refund | {"status": "pending"}),
        make_event("charge.refunded", await till.get(f"charges/{intent['latest_charge']}")),
        make_event("refund.updated", refund),
    ]


async def test_every_order_of_five_events_each_told_twice_ends_in_the_same_books(till, make_event, database):
    """The second telling has an event id of its own, as Stripe may do, so it runs the whole way again."""
    orders = list(itertools.permutations(range(5)))
    if database.dialect is Dialect.POSTGRESQL:
        orders = orders[::4]
    limit = asyncio.Semaphore(24)

    async def play(number, order):
        account = f"account-{number}"
        async with limit:
            bought = await till.buy(account)
            events = await events_of(till, make_event, bought, amount=400)
            for position in order:
                await till.deliver(events[position])
                await till.deliver(events[position] | {"id": f"{events[position]['id']}again"})
            payment = await till.payment(bought.payment_id)
            [refund] = await refunds(till, bought)
            return (
                await till.balance(account),
                sum(amount > 0 for amount in await till.amounts(account)),
                (payment.status, payment.refunded_minor, payment.clawed_back, payment.detail),
                (refund.status, refund.amount_minor),
            )

    results = await asyncio.gather(*(play(number, order) for number, order in enumerate(orders)))
    assert set(results) == {
        (
            600 * MICRO,
            1,
            (PaymentStatus.PARTIALLY_REFUNDED, 400, 400 * MICRO, None),
            (RefundStatus.SUCCEEDED, 400),
        )
    }


@ON_SQLITE
async def test_stripe_away_during_a_refund_says_so_and_keeps_the_request(till, shop_through):
    bought = await granted(till)
    away = shop_through(StripeGateway, api_base="http://127.0.0.1:9")
    with pytest.raises(GatewayError) as caught:
        await refund_here(till, bought, 400, shop=away)
    assert caught.value.retryable
    assert (await refunds(till, bought))[0].status is RefundStatus.REQUESTED
    assert (await refund_here(till, bought, 400)).status is RefundStatus.SUCCEEDED


async def test_a_refund_takes_its_credits_back_after_the_grant_was_archived(till, database, tmp_path):
    bought = await granted(till)
    key, now = account_key("anna"), now_ms()
    gift = PostTransfer(key, "anna", till.shop.new_id(), Code.PROMOTION, 5 * MICRO, now)
    await till.shop.writer.execute(gift)
    await refund_here(till, bought, 250, key="refund-before")
    gift = PostTransfer(key, "anna", till.shop.new_id(), Code.PROMOTION, 5 * MICRO, now)
    await till.shop.writer.execute(gift)
    month = 30 * 86_400_000
    before_ms = now_ms() + 60_000
    report = await asyncio.to_thread(archive_transfers, database, tmp_path, before_ms=before_ms, at_ms=now + month)
    assert (report.rows, await till.amounts()) == (3, [5 * MICRO])

    await refund_here(till, bought, key="refund-after")
    again = await till.complete(bought)
    assert await till.balance() == 10 * MICRO
    assert (await till.payment(bought.payment_id)).status is PaymentStatus.REFUNDED
    assert again.status is InboxStatus.PROCESSED
    assert audit(database).findings == []
    assert verify_archives([tmp_path], database).clean


@ON_SQLITE
async def test_a_refund_by_credits_never_takes_more_of_them(till):
    bought = await granted(till, package_id=2)  # 5,500 credits for 5,000 cents
    view = await refund_here(till, bought, microcredits=100 * MICRO)
    assert view.amount_minor == 90  # 90.9 cents, rounded down
    assert await till.balance() == 5_401 * MICRO

    view = await refund_here(till, bought, key="refund-key-2", microcredits=5_401 * MICRO)
    assert (view.amount_minor, await till.balance()) == (4_910, 0)


@ON_SQLITE
@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"microcredits": 1_001 * MICRO}, RefundRefused),
        ({"microcredits": 1}, InvalidValue),
        ({"microcredits": 0}, InvalidValue),
        ({"microcredits": True}, InvalidValue),
        ({"microcredits": MICRO, "amount": 5}, InvalidValue),
    ],
)
async def test_a_refund_by_credits_that_makes_no_sense_is_refused(till, more, error):
    bought = await granted(till)
    with pytest.raises(error):
        await refund_here(till, bought, **more)
    assert await refunds(till, bought) == []


def with_policy(shop, policy):
    """The shop of a host whose plugin has a refund policy."""
    import pluggy

    from credits_plugin import PROJECT_NAME, CreditsSpecs, HookCaller, hookimpl

    class Host:
        @hookimpl
        def before_ai_request(self, request):
            return None

        @hookimpl
        async def refund_policy(self, proposal):
            return policy(proposal)

    manager = pluggy.PluginManager(PROJECT_NAME)
    manager.add_hookspecs(CreditsSpecs)
    manager.register(Host())
    caller = HookCaller(manager)
    return replace(shop, hooks=lambda: caller)


def unspent_only(proposal):
    short = proposal.microcredits > proposal.unspent_microcredits
    return f"only {proposal.unspent_microcredits // MICRO} credits are unspent" if short else None


@ON_SQLITE
async def test_the_hosts_policy_decides_whether_spent_credits_are_refundable(till):
    bought = await granted(till)
    spent = PostTransfer(account_key("anna"), "anna", till.shop.new_id(), Code.ADJUSTMENT_OUT, 300 * MICRO, now_ms())
    await till.shop.writer.execute(spent)
    shop = with_policy(till.shop, unspent_only)
    with pytest.raises(RefundRefused, match="only 700 credits are unspent"):
        await refund_here(till, bought, shop=shop)
    assert await refunds(till, bought) == []
    assert (await refund_here(till, bought, 700, shop=shop)).status is RefundStatus.SUCCEEDED
    assert await till.balance() == 0


@ON_SQLITE
async def test_a_policy_that_fails_refuses(till):
    bought = await granted(till)
    with pytest.raises(RefundRefused, match="policy failed"):
        await refund_here(till, bought, shop=with_policy(till.shop, lambda proposal: 1 // 0))
    assert await till.balance() == 1_000 * MICRO


@ON_SQLITE
async def test_a_policy_does_not_stop_a_refund_that_is_under_way(till, shop_through):
    bought = await granted(till)
    with pytest.raises(GatewayOutcomeUnknown):
        await refund_here(till, bought, 400, shop=shop_through(LostAnswers))
    refusing = with_policy(till.shop, lambda proposal: "never")
    assert (await refund_here(till, bought, 400, shop=refusing)).status is RefundStatus.SUCCEEDED
