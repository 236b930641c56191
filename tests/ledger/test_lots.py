"""Lots: which credits are used first, what expires, what carries over, and which purchase paid for a request."""

from __future__ import annotations

import pytest

from credits_plugin import Usage
from credits_plugin.database import Database
from credits_plugin.errors import InsufficientCredits, InvalidValue, LedgerError, NotFound
from credits_plugin.ledger.attribution import LotShare, lot_reports, paid_by
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.entries import (
    Code,
    ExpireLots,
    LotState,
    LotTerms,
    PlaceHold,
    PostTransfer,
    RollOver,
    SettleHold,
)
from credits_plugin.ledger.ids import IdMaker, account_key, now_ms
from credits_plugin.ledger.lots import rollover
from credits_plugin.ledger.replay import LotReplay, Movement
from credits_plugin.ledger.writer import LedgerWriter
from credits_plugin.models import Payment, Refund

ANNA = "anna"
KEY = account_key(ANNA)
START = now_ms() - 86_400_000
"""A day ago: expiries of this story are over by the writer's own clock too."""
new_id = IdMaker()


class Story:
    """An account's life, told in calls; ``at`` is the time in milliseconds since its start."""

    def __init__(self, writer: LedgerWriter):
        self.writer = writer

    async def post(self, code, amount, *, at=0, priority=100, expires=None, payment_id=None, reference=None) -> int:
        transfer_id, terms = new_id(), LotTerms(priority, None if expires is None else START + expires)
        command = PostTransfer(KEY, ANNA, transfer_id, code, amount, START + at, reference, payment_id, terms)
        await self.writer.execute(command)
        return transfer_id

    async def grant(self, amount, **terms) -> int:
        return await self.post(Code.PROMOTION, amount, **terms)

    async def buy(self, amount, *, payment_id, at=0, expires=None) -> int:
        """A purchase with its payment row, as our side of Stripe writes it; a cent buys a microcredit."""
        grant = await self.post(Code.PURCHASE, amount, at=at, payment_id=payment_id, expires=expires)
        row = {"id": payment_id, "account_id": KEY, "microcredits": amount, "grant_transfer_id": grant}
        row |= {"status": "paid", "package_id": 1, "package_name": "p", "amount_minor": amount, "currency": "eur"}
        row |= {"livemode": 0, "created_at_ms": 0, "updated_at_ms": 0, "idempotency_key": str(payment_id)}
        await self.writer.work((), lambda tx: Payment.insert(row).execute(tx.database))
        return grant

    async def refund(self, amount, *, payment_id) -> int:
        row = {"id": new_id(), "payment_id": payment_id, "account_id": KEY, "reason": "", "actor": "stripe"}
        row |= {"stripe_refund_id": f"re_{payment_id}", "idempotency_key": str(new_id()), "status": "succeeded"}
        row |= {"amount_minor": amount, "currency": "eur", "created_at_ms": 0, "updated_at_ms": 0}

        def write(tx):
            Refund.insert(row).execute(tx.database)
            Payment.update(clawed_back=amount, refunded_minor=amount).where(Payment.id == payment_id).execute(
                tx.database
            )

        await self.writer.work((), write)
        return await self.post(Code.REFUND, amount, payment_id=payment_id, reference=f"re_{payment_id}")

    async def hold(self, amount, *, at=0) -> int:
        command = PlaceHold(KEY, ANNA, new_id(), amount, START + at, START + at + 3_600_000, 1, 7)
        return (await self.writer.execute(command)).hold_id

    async def settle(self, hold_id, cost, *, at=0) -> int:
        await self.writer.execute(SettleHold(KEY, hold_id, cost, START + at, Usage(input=cost)))
        return hold_id

    async def use(self, cost, *, at=0) -> int:
        return await self.settle(await self.hold(cost, at=at), cost, at=at)

    async def expire(self, *, at) -> int:
        return (await self.writer.execute(ExpireLots(KEY, new_id(), START + at))).amount

    async def roll(self, lot_id, *, at, to, cap=None, transfer_id=None) -> int:
        command = RollOver(KEY, lot_id, transfer_id or new_id(), START + at, None if to is None else START + to, cap)
        return (await self.writer.execute(command)).amount


@pytest.fixture
def story(writer: LedgerWriter) -> Story:
    return Story(writer)


@pytest.fixture(autouse=True)
def the_books_stay_clean(database: Database):
    yield
    assert audit(database).findings == []


def left(database: Database) -> dict[int, int]:
    return {one.lot_id: one.remaining for one in lot_reports(database.reader, KEY)}


async def test_lots_are_used_by_priority_then_sooner_expiry_then_age(story: Story, database: Database):
    older, newer = await story.grant(100), await story.grant(100)
    late, soon = await story.grant(100, expires=9_000), await story.grant(100, expires=5_000)
    first = await story.grant(100, priority=1)

    request = await story.use(450)

    shares = paid_by(database.reader, KEY, request).shares
    assert [(share.lot_id, share.microcredits) for share in shares] == [
        (first, 100),
        (soon, 100),
        (late, 100),
        (older, 100),
        (newer, 50),
    ]


async def test_what_is_left_of_a_due_lot_becomes_breakage_and_nothing_else_does(story: Story, database: Database):
    month = await story.grant(100, expires=1_000)
    kept = await story.grant(100)
    await story.use(30)

    assert await story.expire(at=999) == 0
    assert await story.expire(at=1_000) == 70
    assert await story.expire(at=2_000) == 0

    assert left(database) == {month: 0, kept: 100}
    report = lot_reports(database.reader, KEY)[0]
    assert (report.granted, report.spent, report.expired) == (100, 30, 70)


async def test_a_hold_that_was_placed_before_an_expiry_is_honoured_after_it(story: Story, database: Database):
    month = await story.grant(100, expires=1_000)
    hold = await story.hold(80)

    assert await story.expire(at=1_000) == 20  # what no hold keeps
    request = await story.settle(hold, 60, at=2_000)
    assert await story.expire(at=2_001) == 20  # what the hold kept and did not use

    assert paid_by(database.reader, KEY, request).shares == (LotShare(month, None, 60),)
    report = lot_reports(database.reader, KEY)[0]
    assert (report.spent, report.expired, report.remaining) == (60, 40, 0)


async def test_a_new_hold_finds_due_lots_gone_before_any_sweep(story: Story):
    await story.grant(100, expires=1_000)
    with pytest.raises(InsufficientCredits):
        await story.hold(1, at=1_000)


async def test_a_request_names_the_purchases_that_paid_for_it(story: Story, database: Database):
    gift = await story.grant(50, priority=1)
    small, large = await story.buy(100, payment_id=11), await story.buy(1_000, payment_id=12)
    before = await story.use(120)
    request = await story.use(200)

    assert paid_by(database.reader, KEY, before).shares == (LotShare(gift, None, 50), LotShare(small, 11, 70))
    paid = paid_by(database.reader, KEY, request)
    assert paid.shares == (LotShare(small, 11, 30), LotShare(large, 12, 170))
    assert (paid.code, paid.microcredits, paid.owed) == (Code.USAGE, 200, 0)


async def test_the_answer_is_the_same_before_and_after_the_spend_is_attributed(story: Story, database: Database):
    await story.buy(100, payment_id=11)
    requests = [await story.use(30) for _ in range(3)]
    waiting = lot_reports(database.reader, KEY)[0]
    lazily = [paid_by(database.reader, KEY, request) for request in requests]

    await story.grant(5)  # a lot changes, so the stored rows catch up

    caught_up = lot_reports(database.reader, KEY)[0]
    assert (waiting.spent, waiting.not_yet_attributed) == (0, 90)
    assert (caught_up.spent, caught_up.not_yet_attributed) == (90, 0)
    assert [paid_by(database.reader, KEY, request) for request in requests] == lazily


async def test_a_claw_back_takes_from_its_own_purchase_first(story: Story, database: Database):
    await story.buy(100, payment_id=11)
    second = await story.buy(100, payment_id=12)
    await story.use(20)

    taken = await story.refund(100, payment_id=12)

    assert paid_by(database.reader, KEY, taken).shares == (LotShare(second, 12, 100),)
    first, gone = lot_reports(database.reader, KEY)
    assert (first.spent, first.clawed_back, first.remaining) == (20, 0, 80)
    assert (gone.spent, gone.clawed_back, gone.remaining) == (0, 100, 0)


async def test_the_next_grant_repays_debts_oldest_first_and_so_pays_for_what_made_them(
    story: Story, database: Database
):
    bought = await story.buy(100, payment_id=11)
    request = await story.settle(await story.hold(100), 150)
    taken = await story.refund(100, payment_id=11)
    assert paid_by(database.reader, KEY, request).owed == 50
    assert paid_by(database.reader, KEY, taken).owed == 100

    rescue = await story.grant(120)

    assert paid_by(database.reader, KEY, request).shares == (LotShare(bought, 11, 100), LotShare(rescue, None, 50))
    paid = paid_by(database.reader, KEY, taken)
    assert (paid.shares, paid.owed) == ((LotShare(rescue, None, 70),), 30)
    report = lot_reports(database.reader, KEY)[1]
    assert (report.granted, report.spent, report.clawed_back, report.remaining) == (120, 50, 70, 0)


async def test_a_lots_report_adds_up_to_what_was_granted(story: Story, database: Database):
    await story.buy(1_000, payment_id=11)
    month = await story.grant(600, expires=1_000, priority=1)
    await story.use(50)
    await story.roll(month, at=10, to=9_000, cap=100)
    await story.post(Code.ADJUSTMENT_OUT, 40)
    await story.refund(300, payment_id=11)
    await story.expire(at=1_000)
    await story.use(77, at=1_001)
    for one in lot_reports(database.reader, KEY):
        gone = one.spent + one.not_yet_attributed + one.clawed_back + one.withdrawn + one.expired + one.rolled_over
        assert one.granted == gone + one.remaining
    reports = lot_reports(database.reader, KEY)
    assert sum(one.rolled_over for one in reports) == 100
    assert sum(one.remaining for one in reports) == 1_600 - 50 - 40 - 300 - 77 - sum(one.expired for one in reports)


async def test_rolled_over_credits_expire_later_and_the_balance_stays(story: Story, database: Database):
    month = await story.grant(100, expires=1_000, priority=7)
    await story.use(30)

    assert await story.roll(month, at=900, to=5_000, cap=50) == 50

    assert database.primary.execute_sql("SELECT balance, next_expiry_at_ms FROM account").fetchone() == (
        70,
        START + 1_000,
    )
    assert await story.expire(at=1_000) == 20  # above the cap
    old, new = lot_reports(database.reader, KEY)
    assert (old.spent, old.rolled_over, old.expired, old.remaining) == (30, 50, 20, 0)
    assert (new.code, new.priority, new.granted, new.expires_at_ms) == (Code.ROLLED_IN, 7, 50, START + 5_000)
    assert audit(database).books["rollover"] == 0


async def test_a_rollover_that_is_repeated_moves_nothing_twice(story: Story, database: Database):
    month, transfer_id = await story.grant(100, expires=1_000), new_id()
    for _ in range(3):
        assert await story.roll(month, at=900, to=5_000, cap=60, transfer_id=transfer_id) == 60
    assert sorted(left(database).values()) == [40, 60]


async def test_rolled_over_credits_remember_their_purchase(story: Story, database: Database):
    bought = await story.buy(100, payment_id=11, expires=1_000)
    await story.roll(bought, at=1, to=None)
    request = await story.use(10)
    assert [share.payment_id for share in paid_by(database.reader, KEY, request).shares] == [11]


async def test_a_due_lot_carries_nothing_over_whether_it_was_swept_or_not(story: Story, database: Database):
    month = await story.grant(100, expires=1_000)
    assert await story.roll(month, at=1_000, to=5_000) == 0
    assert await story.expire(at=1_000) == 100
    assert await story.roll(month, at=1_000, to=5_000) == 0


def test_rollover_moves_to_a_later_time_only():
    lot = LotState(1, 2, 100, 1_000, 50, 40, None)
    assert rollover(lot, at_ms=0, expires_at_ms=2_000, cap=None) == 40
    assert rollover(lot, at_ms=0, expires_at_ms=None, cap=10) == 10
    for wrong in (1_000, 999):
        with pytest.raises(InvalidValue, match="later"):
            rollover(lot, at_ms=0, expires_at_ms=wrong, cap=None)
    with pytest.raises(InvalidValue, match="later"):
        rollover(LotState(1, 2, 100, None, 50, 40, None), at_ms=0, expires_at_ms=5, cap=None)
    with pytest.raises(InvalidValue, match="cap"):
        rollover(lot, at_ms=0, expires_at_ms=None, cap=-1)


async def test_nobody_posts_half_a_rollover(story: Story):
    for code in (Code.ROLLED_IN, Code.ROLLED_OUT):
        with pytest.raises(LedgerError, match="rolling over"):
            await story.post(code, 5)


async def test_a_withdrawal_that_is_repeated_stands_although_nothing_is_left_for_it(story: Story, writer: LedgerWriter):
    await story.grant(100)
    command = PostTransfer(KEY, ANNA, new_id(), Code.ADJUSTMENT_OUT, 80, START)
    first = await writer.execute(command)
    assert await writer.execute(command) == first


async def test_asking_for_what_is_not_there_is_answered_so(story: Story, database: Database):
    with pytest.raises(NotFound):
        paid_by(database.reader, KEY, 5)
    grant = await story.grant(10)
    with pytest.raises(NotFound, match="no transfer"):
        paid_by(database.reader, KEY, 5)
    with pytest.raises(InvalidValue, match="brought credits in"):
        paid_by(database.reader, KEY, grant)


def test_a_replay_notices_what_the_rules_cannot_have_done():
    lot = LotState(1, KEY, 100, 1_000, 50, 0, None)
    replay = LotReplay({1: lot})
    replay.apply(Movement(1, Code.PROMOTION, 50, 50, 0, None))
    replay.apply(Movement(3, Code.EXPIRY, 10, 40, 999, None))
    assert replay.problems == ["transfer 3 moved 10 more than its lots had"]  # not due yet
    replay.apply(Movement(5, Code.ROLLED_OUT, 40, 0, 0, "1"))
    assert replay.rolling == 40
    replay.apply(Movement(7, Code.PROMOTION, 5, 5, 0, None))
    assert replay.problems[1:] == ["transfer 7 brought 5 in, but has no lot"]
