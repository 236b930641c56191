"""Disputes: their statuses, their money, their events, evidence, inquiries, and what they do to refunds."""

from __future__ import annotations

import pytest

from credits_plugin.sandbox.errors import StripeError

PAY = {"amount": 1000, "currency": "usd", "confirm": True, "payment_method": "pm_card_visa"}
DAY_S = 24 * 3600


async def charge_of(api, **change):
    return (await api.payment_intents.create_async(PAY | change)).latest_charge


async def dispute_events(api):
    listed = await api.events.list_async({"type": "charge.dispute.*", "limit": 100})
    return [event.type.removeprefix("charge.dispute.") for event in listed.data][::-1]


@pytest.fixture
async def manual(start_sandbox, connect):
    """A sandbox with a clock of its own: (api, sandbox, pass_time)."""
    now = [1_800_000_000.0]
    sandbox = await start_sandbox(clock=lambda: now[0])

    def pass_time(seconds: float) -> None:
        now[0] += seconds

    return connect(sandbox).v1, sandbox, pass_time


async def test_dispute_takes_the_money_and_a_fee(api, sandbox):
    charge = await charge_of(api)
    dispute = sandbox.dispute(charge)
    found = await api.disputes.retrieve_async(dispute["id"], {"expand": ["charge", "payment_intent"]})
    assert (found.status, found.amount, found.reason, found.is_charge_refundable) == (
        "needs_response", 1000, "fraudulent", False,
    )  # fmt: skip
    assert (found.charge.disputed, found.charge.dispute, found.payment_intent.latest_charge) == (
        True, found.id, charge,
    )  # fmt: skip
    assert [(row.amount, row.fee, row.net, row.type) for row in found.balance_transactions] == [
        (-1000, 1500, -2500, "adjustment")
    ]
    listed = await api.balance_transactions.list_async({"source": found.id})
    assert [row.reporting_category for row in listed.data] == ["dispute"]
    assert await dispute_events(api) == ["created", "funds_withdrawn"]


async def test_won_dispute_brings_money_and_fee_back(api, sandbox):
    dispute = sandbox.dispute(await charge_of(api))
    won = sandbox.close_dispute(dispute["id"], won=True)
    assert (won["status"], [row["net"] for row in won["balance_transactions"]]) == ("won", [-2500, 2500])
    assert await dispute_events(api) == ["created", "funds_withdrawn", "funds_reinstated", "closed"]
    closed = (await api.events.list_async({"type": "charge.dispute.closed"})).data[0]
    assert closed.data.previous_attributes.to_dict() == {"status": "needs_response"}


async def test_lost_dispute_moves_nothing_more_and_may_still_be_won(api, sandbox):
    dispute = sandbox.dispute(await charge_of(api))
    lost = sandbox.close_dispute(dispute["id"], won=False)
    assert (lost["status"], len(lost["balance_transactions"])) == ("lost", 1)
    with pytest.raises(StripeError, match="is lost already"):
        sandbox.close_dispute(dispute["id"], won=False)
    assert sandbox.close_dispute(dispute["id"], won=True)["status"] == "won"
    assert await dispute_events(api) == ["created", "funds_withdrawn", "closed", "funds_reinstated", "closed"]


async def test_merchant_gives_in_by_closing(api, sandbox, refused):
    dispute = sandbox.dispute(await charge_of(api))
    assert (await api.disputes.close_async(dispute["id"])).status == "lost"
    assert (await refused(api.disputes.close_async(dispute["id"]))).http_status == 400
    evidence = {"evidence": {"uncategorized_text": "too late"}}
    assert (await refused(api.disputes.update_async(dispute["id"], evidence))).http_status == 400


async def test_evidence_is_staged_then_submitted(api, sandbox):
    dispute = sandbox.dispute(await charge_of(api))
    staged = await api.disputes.update_async(
        dispute["id"], {"evidence": {"product_description": "credits"}, "metadata": {"case": "1"}, "submit": False}
    )
    assert (staged.status, staged.evidence_details.has_evidence) == ("needs_response", True)
    noted = await api.disputes.update_async(dispute["id"], {"metadata": {"case": "2"}})
    assert (noted.status, noted.evidence_details.submission_count) == ("needs_response", 0)
    submitted = await api.disputes.update_async(dispute["id"], {"submit": True})
    assert (submitted.status, submitted.evidence_details.submission_count) == ("under_review", 1)
    assert (submitted.evidence.product_description, submitted.metadata.to_dict()) == ("credits", {"case": "2"})
    assert await dispute_events(api) == ["created", "funds_withdrawn", "updated", "updated", "updated"]


@pytest.mark.parametrize(
    ("text", "status", "last"),
    [("winning_evidence", "won", ["funds_reinstated", "closed"]), ("losing_evidence", "lost", ["closed"])],
)
async def test_stripes_test_evidence_decides_a_dispute(api, sandbox, text, status, last):
    dispute = sandbox.dispute(await charge_of(api))
    answered = await api.disputes.update_async(dispute["id"], {"evidence": {"uncategorized_text": text}})
    assert answered.status == "under_review"
    assert (await api.disputes.retrieve_async(dispute["id"])).status == status
    assert (await dispute_events(api))[3:] == last


async def test_inquiry_takes_no_money_and_leaves_the_charge_refundable(api, sandbox):
    charge = await charge_of(api)
    inquiry = sandbox.dispute(charge, inquiry=True, reason="unrecognized")
    assert (inquiry["status"], inquiry["balance_transactions"], inquiry["is_charge_refundable"]) == (
        "warning_needs_response", [], True,
    )  # fmt: skip
    assert inquiry["payment_method_details"]["card"]["case_type"] == "inquiry"
    answer = {"evidence": {"uncategorized_text": "it was you"}}
    assert (await api.disputes.update_async(inquiry["id"], answer)).status == "warning_under_review"
    assert sandbox.close_dispute(inquiry["id"], won=True)["status"] == "warning_closed"
    assert await dispute_events(api) == ["created", "updated", "closed"]


async def test_inquiry_escalates_to_a_chargeback(api, sandbox):
    inquiry = sandbox.dispute(await charge_of(api), inquiry=True)
    await api.disputes.update_async(inquiry["id"], {"evidence": {"uncategorized_text": "escalate_inquiry_evidence"}})
    dispute = await api.disputes.retrieve_async(inquiry["id"])
    assert (dispute.status, len(dispute.balance_transactions)) == ("needs_response", 1)
    assert await dispute_events(api) == ["created", "updated", "updated", "funds_withdrawn"]
    with pytest.raises(StripeError, match="only an open inquiry"):
        sandbox.escalate_dispute(inquiry["id"])


async def test_full_refund_closes_an_inquiry_and_a_partial_one_does_not(api, sandbox):
    charge = await charge_of(api)
    inquiry = sandbox.dispute(charge, inquiry=True)
    await api.refunds.create_async({"charge": charge, "amount": 400})
    assert (await api.disputes.retrieve_async(inquiry["id"])).status == "warning_needs_response"
    await api.refunds.create_async({"charge": charge})
    assert (await api.disputes.retrieve_async(inquiry["id"])).status == "warning_closed"


async def test_charge_that_was_charged_back_cannot_be_refunded_until_it_is_won(api, sandbox, refused):
    charge = await charge_of(api)
    dispute = sandbox.dispute(charge)
    error = await refused(api.refunds.create_async({"charge": charge}))
    assert (error.http_status, error.code) == (400, "charge_disputed")
    assert error.user_message == f"Charge {charge} has been charged back; cannot issue a refund."
    sandbox.close_dispute(dispute["id"], won=True)
    assert (await api.refunds.create_async({"charge": charge})).status == "succeeded"


async def test_dispute_after_a_partial_refund_takes_what_is_left_or_what_the_bank_says(api, sandbox):
    charge = await charge_of(api)
    await api.refunds.create_async({"charge": charge, "amount": 400})
    assert sandbox.dispute(charge)["amount"] == 600
    other = await charge_of(api)
    await api.refunds.create_async({"charge": other})
    with pytest.raises(StripeError, match="cannot be disputed"):
        sandbox.dispute(other)
    assert sandbox.dispute(other, amount=1000)["amount"] == 1000


async def test_charge_is_disputed_once_and_an_unpaid_one_never(api, sandbox, refused):
    charge = await charge_of(api)
    sandbox.dispute(charge)
    with pytest.raises(StripeError, match="is disputed already"):
        sandbox.dispute(charge)
    failed = await refused(api.payment_intents.create_async(PAY | {"payment_method": "pm_card_chargeDeclined"}))
    with pytest.raises(StripeError, match="cannot be disputed"):
        sandbox.dispute(failed.error.charge)
    with pytest.raises(StripeError, match="No such charge"):
        sandbox.dispute("ch_nothing")
    with pytest.raises(StripeError, match="Invalid reason"):
        sandbox.dispute(charge, reason="mood")


@pytest.mark.parametrize(
    ("token", "status", "reason"),
    [
        ("pm_card_createDispute", "needs_response", "fraudulent"),
        ("pm_card_createDisputeProductNotReceived", "needs_response", "product_not_received"),
        ("pm_card_createDisputeInquiry", "warning_needs_response", "fraudulent"),
    ],
)
async def test_cards_made_for_it_are_disputed_by_themselves(api, token, status, reason):
    charge = await charge_of(api, payment_method=token)
    found = (await api.disputes.list_async({"charge": charge})).data
    assert [(row.status, row.reason) for row in found] == [(status, reason)]


async def test_card_0259_is_disputed_when_its_payment_is_captured(api):
    held = await api.payment_intents.create_async(
        PAY | {"payment_method": "pm_card_createDispute", "capture_method": "manual"}
    )
    assert (await api.disputes.list_async()).data == []
    await api.payment_intents.capture_async(held.id, {"amount_to_capture": 600})
    assert [row.amount for row in (await api.disputes.list_async()).data] == [600]


async def test_nobody_answers_in_time(manual):
    api, sandbox, pass_time = manual
    dispute = sandbox.dispute(await charge_of(api))
    inquiry = sandbox.dispute(await charge_of(api), inquiry=True)
    answered = sandbox.dispute(await charge_of(api))
    await api.disputes.update_async(answered["id"], {"evidence": {"uncategorized_text": "see receipt"}})
    pass_time(10 * DAY_S)
    lost = await api.disputes.retrieve_async(dispute["id"])
    assert (lost.status, lost.evidence_details.past_due) == ("lost", True)
    assert (await api.disputes.retrieve_async(inquiry["id"])).status == "warning_needs_response"
    pass_time(120 * DAY_S)
    assert (await api.disputes.retrieve_async(inquiry["id"])).status == "warning_closed"
    assert (await api.disputes.retrieve_async(answered["id"])).status == "under_review"


async def test_disputes_are_listed_by_charge_intent_and_time(manual):
    api, sandbox, pass_time = manual
    first = await api.payment_intents.create_async(PAY)
    old = sandbox.dispute(first.latest_charge)
    pass_time(100)
    new = sandbox.dispute(await charge_of(api))
    ids = lambda page: [row.id for row in page.data]  # noqa: E731
    assert ids(await api.disputes.list_async({"payment_intent": first.id})) == [old["id"]]
    assert ids(await api.disputes.list_async({"created": {"gte": new["created"]}})) == [new["id"]]
    page = await api.disputes.list_async({"limit": 1})
    assert (ids(page), page.has_more) == ([new["id"]], True)
    assert ids(await api.disputes.list_async({"starting_after": new["id"]})) == [old["id"]]
