"""Budgets on real databases: checked together with the account, moved by what became of each hold, and of them."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import pytest

from credits_plugin import Usage
from credits_plugin.database import Database
from credits_plugin.errors import BudgetExceeded, InsufficientCredits, InvalidValue, NotFound
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.book import Book
from credits_plugin.ledger.budget_entries import (
    BudgetKind,
    BudgetPeriod,
    PauseRun,
    RemoveBudget,
    SetBudget,
    StartRun,
)
from credits_plugin.ledger.budgets import counted_in, period_end_ms, period_start_ms
from credits_plugin.ledger.entries import (
    OPEN_ENDED_MS,
    Code,
    ExpireHold,
    ExtendHold,
    PlaceHold,
    PostTransfer,
    ReleaseHold,
    SettleHold,
)
from credits_plugin.ledger.ids import IdMaker, account_key, now_ms
from credits_plugin.ledger.rules import decide
from credits_plugin.ledger.writer import LedgerWriter

ANNA = "anna"
KEY = account_key(ANNA)
NOON = period_start_ms(BudgetPeriod.DAY, now_ms()) + 12 * 3_600_000
DAY = 86_400_000
new_id = IdMaker()


def grant(amount: int) -> PostTransfer:
    return PostTransfer(KEY, ANNA, new_id(), Code.PROMOTION, amount, NOON)


def hold(amount: int, *, at_ms: int = NOON, ttl_ms: int = 3 * DAY, **rest) -> PlaceHold:
    return PlaceHold(KEY, ANNA, new_id(), amount, at_ms, at_ms + ttl_ms, 1, 100, **rest)


def extend(
    hold_id: int, amount: int, *, at_ms: int = NOON, until_ms: int = NOON, least: int | None = None
) -> ExtendHold:
    return ExtendHold(KEY, hold_id, amount, at_ms, until_ms, least)


def settle(hold_id: int, amount: int, *, at_ms: int = NOON) -> SettleHold:
    return SettleHold(KEY, hold_id, amount, at_ms, Usage(input=amount))


def cap(
    limit: int | None,
    *,
    kind: BudgetKind = BudgetKind.ACCOUNT,
    name: str = "",
    period: BudgetPeriod = BudgetPeriod.DAY,
    at_ms: int = NOON,
) -> SetBudget:
    return SetBudget(KEY, ANNA, new_id(), kind, name, period, limit, at_ms)


def run(limit: int | None, name: str = "r") -> StartRun:
    return StartRun(KEY, ANNA, new_id(), name, limit, NOON)


def resume(limit: int, name: str = "r") -> SetBudget:
    return cap(limit, kind=BudgetKind.RUN, name=name, period=BudgetPeriod.NONE)


def facts(database: Database) -> dict:
    """(spent, held) by kind, name and period."""
    rows = database.primary.execute_sql("SELECT kind, name, period, spent, held FROM budget").fetchall()
    return {" ".join(filter(None, row[:3])): row[3:] for row in rows}


def states(database: Database) -> list:
    return [row[0] for row in database.primary.execute_sql("SELECT state FROM budget ORDER BY id").fetchall()]


def events(database: Database) -> list:
    rows = database.primary.execute_sql("SELECT kind, payload FROM outbox_message ORDER BY next_attempt_at_ms, id")
    return [(kind, json.loads(payload)["reason"]) for kind, payload in rows.fetchall()]


async def placed(writer: LedgerWriter, command: PlaceHold) -> int:
    return (await writer.execute(command)).hold_id


@pytest.fixture
async def rich(writer: LedgerWriter) -> LedgerWriter:
    await writer.execute(grant(10**9))
    return writer


async def test_a_hold_counts_in_the_account_the_member_the_key_and_the_run_together(
    rich: LedgerWriter, database: Database
):
    await rich.execute(cap(1_000))
    await rich.execute(cap(5_000, period=BudgetPeriod.MONTH))
    await rich.execute(cap(500, kind=BudgetKind.MEMBER, name="m"))
    await rich.execute(cap(400, kind=BudgetKind.KEY, name="k", period=BudgetPeriod.NONE))
    await rich.execute(run(300))
    hold_id = await placed(rich, hold(100, run_id="r", key_id="k", member_id="m"))
    await rich.execute(hold(10, key_id="another", member_id="another", run_id="another"))
    assert facts(database) == {
        "account day": (0, 110),
        "account month": (0, 110),
        "member m day": (0, 100),
        "key k none": (0, 100),
        "run r none": (0, 100),
    }
    await rich.execute(settle(hold_id, 70))
    assert facts(database)["account day"] == (70, 10)
    assert {facts(database)[name] for name in ("member m day", "key k none", "run r none")} == {(70, 0)}
    assert audit(database).findings == []


WHOSE = pytest.mark.parametrize(
    ("kind", "name"), [(BudgetKind.ACCOUNT, ""), (BudgetKind.MEMBER, "m"), (BudgetKind.KEY, "k")], ids=str
)


@WHOSE
async def test_a_full_budget_refuses_and_says_which_what_is_left_and_until_when(
    kind: BudgetKind, name: str, rich: LedgerWriter, database: Database
):
    await rich.execute(cap(3_000_000, kind=kind, name=name))
    await rich.execute(hold(100, key_id="k", member_id="m"))
    with pytest.raises(BudgetExceeded, match=r"may spend 3 credits a day; 2\.9999 are left until") as refusal:
        await rich.execute(hold(2_999_901, key_id="k", member_id="m"))
    error = refusal.value
    assert (error.code, error.needed, error.available) == ("budget_exceeded", 2_999_901, 2_999_900)
    assert error.fields["kind"] == kind
    assert error.fields["name"] == name
    assert error.fields["period_ends_at_ms"] == NOON + DAY // 2
    assert facts(database) == {" ".join(filter(None, (kind, name, "day"))): (0, 100)}
    assert (await rich.execute(hold(2_999_901, key_id="k", member_id="m", least=5))).amount == 2_999_900


async def test_the_tightest_of_account_and_budgets_decides_what_a_hold_with_a_least_gets(writer: LedgerWriter):
    await writer.execute(grant(1_000))
    await writer.execute(cap(700))
    await writer.execute(cap(600, kind=BudgetKind.KEY, name="k"))
    assert (await writer.execute(hold(900, key_id="k", least=1))).amount == 600
    assert (await writer.execute(hold(900, least=1))).amount == 100
    with pytest.raises(BudgetExceeded):
        await writer.execute(hold(900, least=1))
    await writer.execute(cap(5_000))
    assert (await writer.execute(hold(900, least=1))).amount == 300
    with pytest.raises(InsufficientCredits):
        await writer.execute(hold(900, least=1))


async def test_a_cost_above_the_hold_is_spent_too_and_then_the_budget_refuses_even_nothing(
    rich: LedgerWriter, database: Database
):
    await rich.execute(cap(1_000))
    await rich.execute(settle(await placed(rich, hold(900)), 1_500))
    assert facts(database) == {"account day": (1_500, 0)}
    with pytest.raises(BudgetExceeded) as refusal:
        await rich.execute(hold(0))
    assert refusal.value.available == -500


async def test_a_released_hold_and_one_that_costs_nothing_are_spent_nowhere(rich: LedgerWriter, database: Database):
    await rich.execute(cap(1_000))
    await rich.execute(ReleaseHold(KEY, await placed(rich, hold(100)), NOON))
    await rich.execute(settle(await placed(rich, hold(100, request_id="q")), 0))
    assert facts(database) == {"account day": (0, 0)}


async def test_an_expired_hold_spends_what_unknown_usage_costs(rich: LedgerWriter, database: Database):
    await rich.execute(cap(1_000))
    hold_id = await placed(rich, hold(100, ttl_ms=0))
    await rich.execute(ExpireHold(KEY, hold_id, NOON, charge=30))
    assert facts(database) == {"account day": (30, 0)}


async def test_a_settle_that_comes_after_its_hold_expired_is_spent_once(rich: LedgerWriter, database: Database):
    await rich.execute(cap(1_000))
    other, late = await placed(rich, hold(200)), await placed(rich, hold(100, ttl_ms=0))
    await rich.execute(ExpireHold(KEY, late, NOON))
    assert facts(database) == {"account day": (0, 200)}
    for _ in range(2):
        await rich.execute(settle(late, 70))
    assert facts(database) == {"account day": (70, 200)}
    await rich.execute(ReleaseHold(KEY, other, NOON))
    assert audit(database).findings == []


async def test_repeated_commands_count_once(rich: LedgerWriter, database: Database):
    await rich.execute(cap(1_000))
    for place in (hold(100), hold(100, request_id="q")):
        for _ in range(3):
            await asyncio.gather(*(rich.execute(place) for _ in range(2)))
        assert facts(database)["account day"][1] == 100
        for _ in range(2):
            await asyncio.gather(*(rich.execute(settle(place.hold_id, 10)) for _ in range(2)))
    assert facts(database) == {"account day": (20, 0)}


async def test_a_hold_placed_once_more_after_its_charge_is_let_go_by_its_settle(rich: LedgerWriter, database: Database):
    await rich.execute(cap(1_000))
    place = hold(100)
    for _ in range(2):
        await rich.execute(place)
        await rich.execute(settle(place.hold_id, 10))
    assert facts(database) == {"account day": (10, 0)}


async def test_a_new_day_begins_with_nothing_and_yesterdays_holds_move_nothing_in_it(
    rich: LedgerWriter, database: Database
):
    await rich.execute(cap(1_000))
    await rich.execute(settle(await placed(rich, hold(600)), 600))
    open_yesterday = await placed(rich, hold(300))
    midnight = NOON + DAY // 2
    with pytest.raises(BudgetExceeded):
        await rich.execute(hold(500, at_ms=midnight - 1))
    await rich.execute(hold(500, at_ms=midnight))
    assert facts(database) == {"account day": (0, 500)}
    await rich.execute(settle(open_yesterday, 300, at_ms=midnight + 1))
    assert facts(database) == {"account day": (0, 500)}
    assert audit(database).findings == []


async def test_yesterdays_hold_is_yesterdays_spending_while_nothing_of_today_was_counted(
    rich: LedgerWriter, database: Database
):
    await rich.execute(cap(1_000))
    hold_id = await placed(rich, hold(300))
    await rich.execute(settle(hold_id, 250, at_ms=NOON + DAY))
    assert facts(database) == {"account day": (250, 0)}
    await rich.execute(hold(1_000, at_ms=NOON + DAY))
    assert facts(database) == {"account day": (0, 1_000)}


async def test_a_host_whose_clock_is_behind_counts_in_the_day_that_has_begun(rich: LedgerWriter, database: Database):
    await rich.execute(cap(1_000))
    await rich.execute(hold(600, at_ms=NOON + DAY))
    with pytest.raises(BudgetExceeded):
        await rich.execute(hold(600, at_ms=NOON))
    assert facts(database) == {"account day": (0, 600)}


def test_a_hold_remembers_its_budgets_in_one_order_however_a_database_returns_their_rows():
    book, made = Book(), [cap(500, period=period) for period in BudgetPeriod]
    for command in (grant(1_000), *made):
        decide(book, command)
    for rows in book.budgets.values():
        rows.reverse()
    placed = decide(book, hold(5))
    remembered = [budget_id for budget_id, _ in counted_in(book.holds[placed.hold_id].budgets)]
    assert remembered == sorted(command.budget_id for command in made)


def test_months_are_calendar_months_of_utc():
    def ms(*date: int) -> int:
        return int(datetime(*date, tzinfo=UTC).timestamp() * 1_000)

    month = BudgetPeriod.MONTH
    for at, start, end in (
        ((2024, 2, 29, 23, 59, 59), (2024, 2, 1), (2024, 3, 1)),
        ((2025, 12, 31, 12), (2025, 12, 1), (2026, 1, 1)),
        ((2026, 1, 1), (2026, 1, 1), (2026, 2, 1)),
        ((2026, 10, 25, 1), (2026, 10, 1), (2026, 11, 1)),  # clocks change in Europe: not here
    ):
        assert period_start_ms(month, ms(*at)) == ms(*start)
        assert period_end_ms(month, ms(*start)) == ms(*end)
    assert period_start_ms(BudgetPeriod.DAY, ms(2026, 3, 29, 0)) == ms(2026, 3, 29)
    assert period_end_ms(BudgetPeriod.DAY, ms(2026, 3, 29)) == ms(2026, 3, 30)


async def test_a_budget_made_while_a_hold_is_open_does_not_move_with_it(rich: LedgerWriter, database: Database):
    hold_id = await placed(rich, hold(300))
    await rich.execute(cap(1_000))
    await rich.execute(extend(hold_id, 400))
    await rich.execute(settle(hold_id, 250))
    assert facts(database) == {"account day": (0, 0)}


async def test_a_budget_that_was_removed_and_made_anew_does_not_move_with_holds_of_the_old_one(
    rich: LedgerWriter, database: Database
):
    await rich.execute(cap(1_000))
    hold_id = await placed(rich, hold(300))
    removal = RemoveBudget(KEY, BudgetKind.ACCOUNT, "", BudgetPeriod.DAY)
    removed, again = await asyncio.gather(rich.execute(removal), rich.execute(cap(2_000)))
    assert (removed.changed, again.changed) == (True, True)
    await rich.execute(extend(hold_id, 400))
    await rich.execute(settle(hold_id, 250))
    assert facts(database) == {"account day": (0, 0)}
    await rich.execute(removal)
    assert not (await rich.execute(removal)).changed
    assert facts(database) == {}
    assert audit(database).findings == []


async def test_a_limit_that_is_lowered_below_what_was_spent_refuses_and_a_higher_one_lets_through(
    rich: LedgerWriter, database: Database
):
    await rich.execute(cap(1_000))
    await rich.execute(settle(await placed(rich, hold(600)), 600))
    await rich.execute(cap(500))
    with pytest.raises(BudgetExceeded):
        await rich.execute(hold(1))
    await rich.execute(cap(700))
    await rich.execute(hold(100))
    assert facts(database) == {"account day": (600, 100)}


async def test_an_extension_counts_its_difference_and_stops_at_the_budget(rich: LedgerWriter, database: Database):
    await rich.execute(cap(1_000))
    await rich.execute(cap(600, kind=BudgetKind.KEY, name="k"))
    hold_id = await placed(rich, hold(100, key_id="k"))
    assert (await rich.execute(extend(hold_id, 400))).amount == 400
    with pytest.raises(BudgetExceeded) as refusal:
        await rich.execute(extend(hold_id, 601))
    assert (refusal.value.needed, refusal.value.available, refusal.value.fields["kind"]) == (201, 200, "key")
    assert (await rich.execute(extend(hold_id, 601, least=500))).amount == 600
    assert facts(database) == {"account day": (0, 600), "key k day": (0, 600)}
    await rich.execute(settle(hold_id, 550))
    assert facts(database) == {"account day": (550, 0), "key k day": (550, 0)}


async def test_a_hold_that_is_raised_after_midnight_is_the_new_days(rich: LedgerWriter, database: Database):
    await rich.execute(cap(1_000))
    tomorrow = NOON + DAY
    first, second = [await placed(rich, hold(300)) for _ in range(2)]
    await rich.execute(hold(500, at_ms=tomorrow))
    longer = await rich.execute(extend(first, 300, at_ms=tomorrow, until_ms=NOON + 9 * DAY))
    assert longer[1:3] == (300, NOON + 9 * DAY), "later, but no more: still yesterday's"
    assert facts(database) == {"account day": (0, 500)}
    assert (await rich.execute(extend(first, 400, at_ms=tomorrow))).amount == 400
    assert facts(database) == {"account day": (0, 900)}
    with pytest.raises(BudgetExceeded):
        await rich.execute(extend(second, 400, at_ms=tomorrow))
    await rich.execute(settle(first, 350, at_ms=tomorrow))
    await rich.execute(settle(second, 300, at_ms=tomorrow))
    assert facts(database) == {"account day": (350, 500)}
    assert audit(database).findings == []


async def test_a_run_is_paused_by_its_own_budget_once_and_goes_on_with_a_larger_one(
    rich: LedgerWriter, database: Database
):
    await rich.execute(run(1_000))
    open_call = await placed(rich, hold(800, run_id="r"))
    for amount in (300, 1):
        with pytest.raises(BudgetExceeded):
            await rich.execute(hold(amount, run_id="r"))
    assert (states(database), events(database)) == (["paused"], [("run_paused", "budget")])
    assert (await rich.execute(extend(open_call, 900))).amount == 900, "what runs goes on"
    await rich.execute(settle(open_call, 900))
    await rich.execute(resume(2_000))
    await rich.execute(hold(300, run_id="r"))
    assert (states(database), facts(database)) == (["open"], {"run r none": (900, 300)})


async def test_a_run_without_a_limit_is_counted_and_can_be_paused(rich: LedgerWriter, database: Database):
    await rich.execute(run(None))
    await rich.execute(hold(10**6, run_id="r"))
    for _ in range(2):
        await rich.execute(PauseRun(KEY, "r", new_id(), NOON))
    assert events(database) == [("run_paused", "request")]
    with pytest.raises(BudgetExceeded, match="run 'r' is paused") as refusal:
        await rich.execute(hold(1, run_id="r"))
    assert refusal.value.fields["paused"]
    await rich.execute(hold(1, run_id="another"))
    with pytest.raises(NotFound):
        await rich.execute(PauseRun(KEY, "another", new_id(), NOON))


async def test_a_run_that_lacks_credits_waits_says_so_once_and_goes_on_after_a_top_up(
    writer: LedgerWriter, database: Database
):
    await writer.execute(grant(100))
    await writer.execute(run(1_000))
    for _ in range(2):
        with pytest.raises(InsufficientCredits):
            await writer.execute(hold(300, run_id="r"))
    assert (states(database), events(database)) == (["waiting"], [("run_paused", "credits")])
    await writer.execute(grant(500))
    await writer.execute(hold(300, run_id="r"))
    assert (states(database), facts(database)) == (["open"], {"run r none": (0, 300)})


async def test_a_run_that_another_budget_refuses_waits(rich: LedgerWriter, database: Database):
    await rich.execute(cap(100))
    await rich.execute(run(1_000))
    with pytest.raises(BudgetExceeded):
        await rich.execute(hold(300, run_id="r"))
    assert sorted(states(database)) == ["open", "waiting"]
    assert events(database) == [("run_paused", "cap")]
    await rich.execute(hold(300, run_id="r", at_ms=NOON)._replace(least=50))
    assert states(database) == ["open", "open"]


async def test_a_run_keeps_the_budget_that_it_was_started_with(rich: LedgerWriter, database: Database):
    first, second = await asyncio.gather(rich.execute(run(300)), rich.execute(run(900)))
    assert (first.changed, second.changed, second.limit) == (True, False, 300)
    assert first.budget_id == second.budget_id


async def test_a_settings_budget_is_given_with_a_runs_first_hold(database: Database):
    writer = LedgerWriter(database, new_id=new_id, run_budget=500)
    writer.start()
    await writer.execute(grant(10**9))
    with pytest.raises(BudgetExceeded):
        await writer.execute(hold(501, run_id="too much at once"))
    await writer.execute(StartRun(KEY, ANNA, new_id(), "its own", 2_000, NOON))
    answers = await asyncio.gather(
        *(writer.execute(hold(200, run_id=name)) for name in ("r", "r", "r", "s", "its own", "its own", "its own")),
        return_exceptions=True,
    )
    assert [type(one) is BudgetExceeded for one in answers] == [False, False, True, False, False, False, False]
    assert facts(database) == {
        "run too much at once none": (0, 0),
        "run r none": (0, 400),
        "run s none": (0, 200),
        "run its own none": (0, 600),
    }
    assert audit(database).findings == []
    writer.close()


async def test_a_disputes_freeze_is_nobodys_spending(rich: LedgerWriter, database: Database):
    await rich.execute(cap(100))
    freeze = hold(5_000, run_id="dispute dp_1")._replace(expires_at_ms=OPEN_ENDED_MS)
    assert (await rich.execute(freeze)).amount == 5_000
    assert facts(database) == {"account day": (0, 0)}


async def test_a_budget_for_an_account_without_credits_waits_for_them(writer: LedgerWriter, database: Database):
    await writer.execute(cap(100))
    with pytest.raises(InsufficientCredits):
        await writer.execute(hold(50))
    await writer.execute(grant(1_000))
    with pytest.raises(BudgetExceeded):
        await writer.execute(hold(101))
    await writer.execute(hold(100))
    assert audit(database).findings == []


async def test_a_run_is_forgotten_only_when_it_holds_nothing_and_was_not_used_since(
    rich: LedgerWriter, database: Database
):
    await rich.execute(run(1_000))
    hold_id = await placed(rich, hold(10, run_id="r", at_ms=NOON + 5))
    removal = RemoveBudget(KEY, BudgetKind.RUN, "r", BudgetPeriod.NONE, unused_since_ms=NOON + DAY)
    assert not (await rich.execute(removal)).changed
    await rich.execute(settle(hold_id, 5, at_ms=NOON + 7))
    assert not (await rich.execute(removal._replace(unused_since_ms=NOON + 7))).changed
    assert (await rich.execute(removal._replace(unused_since_ms=NOON + 8))).changed
    assert facts(database) == {}
    assert database.primary.execute_sql("SELECT budgets FROM account").fetchone() == (0,)


@pytest.mark.parametrize(
    "command",
    [
        cap(-1),
        cap(2**62 + 1),
        cap(None),
        cap(5, name="x"),
        cap(5, kind=BudgetKind.KEY),
        cap(5, kind=BudgetKind.RUN, name="r", period=BudgetPeriod.DAY),
        run(-1),
    ],
    ids=["negative", "too large", "no limit", "named account", "nameless key", "run per day", "negative run"],
)
async def test_a_budget_that_makes_no_sense_is_refused(command, rich: LedgerWriter, database: Database):
    with pytest.raises(InvalidValue):
        await rich.execute(command)
    assert facts(database) == {}


async def test_a_unit_of_work_counts_as_the_commands_do(rich: LedgerWriter, database: Database):
    await rich.execute(cap(1_000))
    place = hold(300)
    await rich.work([KEY], lambda tx: (tx.decide(place), tx.decide(cap(400)), tx.decide(extend(place.hold_id, 350))))
    await rich.execute(settle(place.hold_id, 100))
    assert facts(database) == {"account day": (100, 0)}
    await rich.work([KEY], lambda tx: tx.decide(hold(200)))
    with pytest.raises(BudgetExceeded):
        await rich.work([KEY], lambda tx: tx.decide(hold(200)))
    assert facts(database) == {"account day": (100, 200)}


async def test_two_writers_see_each_others_counts(rich: LedgerWriter, database: Database):
    other = LedgerWriter(database, new_id=IdMaker())
    other.start()
    await rich.execute(cap(1_000))
    held = [await placed(writer, hold(300)) for writer in (rich, other, rich)]
    with pytest.raises(BudgetExceeded):
        await other.execute(hold(200))
    for writer, hold_id in zip((other, rich, other), held, strict=True):
        await writer.execute(settle(hold_id, 100))
    assert facts(database) == {"account day": (300, 0)}
    other.close()


async def test_holds_of_other_accounts_and_of_accounts_without_budgets_are_untouched(
    rich: LedgerWriter, database: Database
):
    await rich.execute(cap(100, kind=BudgetKind.KEY, name="k"))
    boris = account_key("boris")
    await rich.execute(PostTransfer(boris, "boris", new_id(), Code.PROMOTION, 1_000, NOON))
    place = hold(500, key_id="k", run_id="r")._replace(account_id=boris, external_id="boris")
    await rich.execute(place)
    assert facts(database) == {"key k day": (0, 0)}
    assert database.primary.execute_sql("SELECT budgets FROM hold").fetchone() == (None,)


async def test_two_hundred_concurrent_holds_on_a_budget_for_twenty_place_exactly_twenty(
    rich: LedgerWriter, database: Database
):
    await rich.execute(run(2_000))
    answers = await asyncio.gather(*(rich.execute(hold(100, run_id="r")) for _ in range(200)), return_exceptions=True)
    assert sum(not isinstance(answer, Exception) for answer in answers) == 20
    assert {type(answer) for answer in answers if isinstance(answer, Exception)} == {BudgetExceeded}
    assert (facts(database), events(database)) == ({"run r none": (0, 2_000)}, [("run_paused", "budget")])


async def test_the_audit_finds_a_budget_whose_count_was_changed(rich: LedgerWriter, database: Database):
    await rich.execute(cap(1_000))
    await rich.execute(hold(300))
    for column, change in (("held", "held + 1"), ("spent", "-1"), ("starts_at_ms", "starts_at_ms + 1")):
        [before] = database.primary.execute_sql(f"SELECT {column} FROM budget").fetchone()
        database.primary.execute_sql(f"UPDATE budget SET {column} = {change}")
        assert {finding.invariant for finding in audit(database).findings} == {12}, column
        database.primary.execute_sql(f"UPDATE budget SET {column} = {before}")
    database.primary.execute_sql("UPDATE hold SET budgets = 'nonsense'")
    assert {finding.invariant for finding in audit(database).findings} == {12}
    database.primary.execute_sql("DELETE FROM budget")
    assert {finding.invariant for finding in audit(database).findings} == {12}
