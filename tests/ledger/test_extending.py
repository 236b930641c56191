"""Holds that are placed for what there is, and holds that grow while their request runs."""

from __future__ import annotations

import asyncio

import pytest

from credits_plugin import Usage
from credits_plugin.database import Database
from credits_plugin.errors import (
    AccountInDebt,
    HoldEnded,
    InsufficientCredits,
    InvalidValue,
    LedgerError,
    UnknownHold,
)
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.entries import (
    Code,
    ExpireHold,
    ExtendHold,
    LotTerms,
    PlaceHold,
    PostTransfer,
    ReleaseHold,
    SettleHold,
)
from credits_plugin.ledger.ids import IdMaker, account_key, now_ms
from credits_plugin.ledger.writer import LedgerWriter

ANNA = "anna"
KEY = account_key(ANNA)
NOW = now_ms()
SOON = NOW + 60_000
new_id = IdMaker()


def grant(amount: int, *, terms: LotTerms = LotTerms()) -> PostTransfer:  # noqa: B008 - a frozen value
    return PostTransfer(KEY, ANNA, new_id(), Code.PROMOTION, amount, NOW, terms=terms)


def hold(amount: int, **rest) -> PlaceHold:
    return PlaceHold(KEY, ANNA, new_id(), amount, NOW, SOON, 1, 100, **rest)


def extend(hold_id: int, amount: int, *, at_ms: int = NOW, until_ms: int = SOON, least: int | None = None):
    return ExtendHold(KEY, hold_id, amount, at_ms, until_ms, least)


def settle(hold_id: int, amount: int) -> SettleHold:
    return SettleHold(KEY, hold_id, amount, NOW, Usage(input=amount))


def held(database: Database) -> tuple[int, list]:
    """What the account says it holds, and (amount, end) of every hold."""
    total = database.primary.execute_sql("SELECT held FROM account").fetchone()[0]
    return total, database.primary.execute_sql("SELECT amount, expires_at_ms FROM hold ORDER BY id").fetchall()


async def test_a_hold_with_a_least_is_placed_for_what_is_available(writer: LedgerWriter, database: Database):
    await writer.execute(grant(300))
    placed = await writer.execute(hold(400, least=100))
    assert (placed.amount, placed.available) == (300, 0)
    assert held(database) == (300, [(300, SOON)])
    assert (await writer.execute(hold(400, least=0))).amount == 0


async def test_a_hold_for_which_less_than_its_least_is_available_is_refused(writer: LedgerWriter, database: Database):
    await writer.execute(grant(300))
    with pytest.raises(InsufficientCredits) as refusal:
        await writer.execute(hold(400, least=301))
    assert (refusal.value.needed, refusal.value.available) == (301, 300)
    assert held(database) == (0, [])


async def test_a_least_is_no_way_around_a_debt_or_below_nothing(writer: LedgerWriter):
    await writer.execute(grant(300))
    placed = await writer.execute(hold(300))
    with pytest.raises(InvalidValue):
        await writer.execute(hold(400, least=-1))
    await writer.execute(settle(placed.hold_id, 500))
    with pytest.raises(AccountInDebt):
        await writer.execute(hold(400, least=0))


async def test_a_repeated_hold_with_a_least_is_the_one_that_stands(writer: LedgerWriter, database: Database):
    await writer.execute(grant(300))
    command = hold(400, least=100)
    first, again = await asyncio.gather(*(writer.execute(command) for _ in range(2)))
    assert (first.amount, again.amount, again.repeated) == (300, 300, True)
    with pytest.raises(LedgerError, match="another request's"):
        await writer.execute(command._replace(amount=299))
    with pytest.raises(LedgerError, match="another request's"):
        await writer.execute(command._replace(run_id="another"))
    assert held(database) == (300, [(300, SOON)])


async def test_an_extension_raises_the_hold_and_moves_its_end(writer: LedgerWriter, database: Database):
    await writer.execute(grant(1_000))
    placed = await writer.execute(hold(100))
    extended = await writer.execute(extend(placed.hold_id, 400, until_ms=SOON + 5))
    assert extended == (placed.hold_id, 400, SOON + 5, 600)
    assert held(database) == (400, [(400, SOON + 5)])
    assert not (await writer.execute(ExpireHold(KEY, placed.hold_id, SOON + 4))).changed
    assert (await writer.execute(settle(placed.hold_id, 350))).balance == 650
    assert held(database) == (0, [])
    assert audit(database).findings == []


async def test_the_same_extension_twice_changes_nothing_more(writer: LedgerWriter, database: Database):
    await writer.execute(grant(1_000))
    placed = await writer.execute(hold(100))
    command = extend(placed.hold_id, 2_000, until_ms=SOON + 5, least=500)
    first, again = await asyncio.gather(*(writer.execute(command) for _ in range(2)))
    assert first == again == (placed.hold_id, 1_000, SOON + 5, 0)
    assert held(database) == (1_000, [(1_000, SOON + 5)])


async def test_an_extension_never_lowers_a_hold_or_its_end(writer: LedgerWriter, database: Database):
    await writer.execute(grant(1_000))
    placed = await writer.execute(hold(100))
    assert (await writer.execute(extend(placed.hold_id, 40, until_ms=NOW))).amount == 100
    assert held(database) == (100, [(100, SOON)])


async def test_an_extension_beyond_what_is_available_is_refused_or_stops_there(
    writer: LedgerWriter, database: Database
):
    await writer.execute(grant(1_000))
    placed = await writer.execute(hold(100))
    with pytest.raises(InsufficientCredits) as refusal:
        await writer.execute(extend(placed.hold_id, 1_001, until_ms=SOON + 5))
    assert (refusal.value.needed, refusal.value.available) == (901, 900)
    assert held(database) == (100, [(100, SOON)])
    assert (await writer.execute(extend(placed.hold_id, 1_001, least=101))).amount == 1_000


async def test_a_hold_of_an_account_in_debt_keeps_what_it_has_and_gets_no_more(writer: LedgerWriter):
    await writer.execute(grant(300))
    first, second = [await writer.execute(hold(100)) for _ in range(2)]
    await writer.execute(settle(first.hold_id, 500))
    with pytest.raises(AccountInDebt):
        await writer.execute(extend(second.hold_id, 101))
    assert (await writer.execute(extend(second.hold_id, 500, least=100))).amount == 100


async def test_an_ended_hold_is_not_extended(writer: LedgerWriter, database: Database):
    await writer.execute(grant(1_000))
    released, expired, charged, named = [
        (await writer.execute(one)).hold_id for one in (hold(10), hold(10), hold(10), hold(10, request_id="r"))
    ]
    await writer.execute(ReleaseHold(KEY, released, NOW))
    await writer.execute(ExpireHold(KEY, expired, SOON))
    for hold_id in (charged, named):
        await writer.execute(settle(hold_id, 5))
    for hold_id in (released, expired, charged, named):
        with pytest.raises(HoldEnded):
            await writer.execute(extend(hold_id, 20))
    assert held(database)[0] == 0


async def test_an_unknown_hold_and_another_accounts_are_not_extended(writer: LedgerWriter):
    await writer.execute(grant(1_000))
    placed = await writer.execute(hold(10))
    other = account_key("boris")
    await writer.execute(PostTransfer(other, "boris", new_id(), Code.PROMOTION, 1_000, NOW))
    for command in (extend(new_id(), 20), extend(placed.hold_id, 20)._replace(account_id=other)):
        with pytest.raises(UnknownHold):
            await writer.execute(command)


async def test_expired_credits_extend_no_hold(writer: LedgerWriter, database: Database):
    await writer.execute(grant(500, terms=LotTerms(expires_at_ms=NOW - 10)))
    await writer.execute(grant(100))
    placed = await writer.execute(hold(50)._replace(at_ms=NOW - 20))
    with pytest.raises(InsufficientCredits) as refusal:
        await writer.execute(extend(placed.hold_id, 200))
    assert refusal.value.available == 50
    assert (await writer.execute(extend(placed.hold_id, 200, at_ms=NOW - 15))).amount == 200
    assert audit(database).findings == []


async def test_extensions_of_many_holds_together_never_exceed_what_the_account_has(
    writer: LedgerWriter, database: Database
):
    await writer.execute(grant(2_000))
    placed = await asyncio.gather(*(writer.execute(hold(1)) for _ in range(200)))
    answers = await asyncio.gather(
        *(writer.execute(extend(one.hold_id, 101)) for one in placed), return_exceptions=True
    )
    assert sum(not isinstance(answer, Exception) for answer in answers) == 18
    assert {type(answer) for answer in answers if isinstance(answer, Exception)} == {InsufficientCredits}
    assert held(database)[0] == 2_000
    assert audit(database).findings == []
