"""A command that is sent twice with the same ids has been done once, whatever became of its subject in between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from credits_plugin import Usage
from credits_plugin.database import Database
from credits_plugin.errors import InsufficientCredits, LedgerError
from credits_plugin.ledger.audit import Finding, audit
from credits_plugin.ledger.entries import (
    Code,
    Command,
    ExpireHold,
    ExpireLots,
    ExtendHold,
    LotTerms,
    PlaceHold,
    PostTransfer,
    ReleaseHold,
    RollOver,
    SettleHold,
)
from credits_plugin.ledger.ids import IdMaker, account_key, now_ms
from credits_plugin.ledger.writer import LedgerWriter

ANNA = "anna"
KEY = account_key(ANNA)
USED = Usage(input=100, output=20)
NOW = now_ms()
SOON = NOW + 3_600_000
new_id = IdMaker()


def post(code: Code, amount: int, *, expires_at_ms: int | None = None) -> PostTransfer:
    return PostTransfer(KEY, ANNA, new_id(), code, amount, NOW, terms=LotTerms(expires_at_ms=expires_at_ms))


def hold(amount: int = 1_000, *, request_id: str | None = None) -> PlaceHold:
    return PlaceHold(KEY, ANNA, new_id(), amount, NOW, SOON, 1, 100, request_id)


async def _hold(writer: LedgerWriter) -> int:
    return (await writer.execute(hold(400))).hold_id


async def _expiring_lot(writer: LedgerWriter) -> int:
    grant = post(Code.PROMOTION, 70, expires_at_ms=SOON)
    await writer.execute(grant)
    return grant.transfer_id


async def _settle(writer: LedgerWriter) -> Command:
    return SettleHold(KEY, await _hold(writer), 250, NOW, USED)


async def _settle_for_nothing(writer: LedgerWriter) -> Command:
    return SettleHold(KEY, await _hold(writer), 0, NOW, Usage())


async def _release(writer: LedgerWriter) -> Command:
    return ReleaseHold(KEY, await _hold(writer), NOW)


async def _expire(writer: LedgerWriter) -> Command:
    return ExpireHold(KEY, await _hold(writer), SOON)


async def _expire_and_charge(writer: LedgerWriter) -> Command:
    return ExpireHold(KEY, await _hold(writer), SOON, charge=30, usage=USED)


async def _extend(writer: LedgerWriter) -> Command:
    return ExtendHold(KEY, await _hold(writer), 700, NOW, SOON + 1)


async def _extend_as_far_as_it_goes(writer: LedgerWriter) -> Command:
    return ExtendHold(KEY, await _hold(writer), 2_000, NOW, SOON + 1, least=900)


async def _expire_lots(writer: LedgerWriter) -> Command:
    await _expiring_lot(writer)
    return ExpireLots(KEY, new_id(), SOON)


async def _roll_over(writer: LedgerWriter) -> Command:
    return RollOver(KEY, await _expiring_lot(writer), new_id(), NOW, None, cap=50)


def _plain(command: Callable[[], Command]) -> Callable[[LedgerWriter], Awaitable[Command]]:
    async def prepared(_writer: LedgerWriter) -> Command:
        return command()

    return prepared


# Each on an account that has 1,000: what takes all of it leaves nothing for its repetition.
COMMANDS: dict[str, Callable[[LedgerWriter], Awaitable[Command]]] = {
    "a hold": _plain(lambda: hold(400)),
    "a hold with a request id": _plain(lambda: hold(400, request_id="r")),
    "a hold of what there is": _plain(lambda: hold(2_000, request_id="r")._replace(least=900)),
    "an extension": _extend,
    "an extension to everything": _extend_as_far_as_it_goes,
    "a hold of everything with a request id": _plain(lambda: hold(request_id="r")),
    "a settle": _settle,
    "a settle for nothing": _settle_for_nothing,
    "a release": _release,
    "an expiry": _expire,
    "an expiry that charges": _expire_and_charge,
    "a grant": _plain(lambda: post(Code.PROMOTION, 5)),
    "a withdrawal of everything": _plain(lambda: post(Code.ADJUSTMENT_OUT, 1_000)),
    "a claw-back into debt": _plain(lambda: post(Code.DISPUTE, 1_500)),
    "breakage": _expire_lots,
    "a rollover": _roll_over,
}
HOLD_OF_EVERYTHING = {
    "a hold of everything": _plain(hold),
    "a plain hold of what there is": _plain(lambda: hold(2_000)._replace(least=900)),
}


def books(database: Database) -> tuple[Any, ...]:
    """Everything that the ledger keeps of the account."""
    queries = (
        "SELECT balance, held, seq, last_transfer_id, next_expiry_at_ms FROM account ORDER BY id",
        "SELECT id, state, amount, expires_at_ms FROM hold ORDER BY id",
        "SELECT id, code, amount, balance_after FROM transfer ORDER BY id",
        "SELECT id, amount, remaining, expired FROM lot ORDER BY id",
    )
    return tuple(database.primary.execute_sql(query).fetchall() for query in queries)


def faults(database: Database) -> list[Finding]:
    """What the audit finds, but that these claw-backs belong to no payment."""
    return [finding for finding in audit(database).findings if finding.invariant != 6]


def parametrize_commands() -> Any:
    cases = [pytest.param(prepare, id=what) for what, prepare in (COMMANDS | HOLD_OF_EVERYTHING).items()]
    return pytest.mark.parametrize("prepare", cases)


@parametrize_commands()
async def test_repeated_after_its_commit_it_changes_nothing(
    prepare: Callable[[LedgerWriter], Awaitable[Command]], writer: LedgerWriter, database: Database
):
    await writer.execute(post(Code.PROMOTION, 1_000))
    command = await prepare(writer)
    first = await writer.execute(command)
    once = books(database)

    for _ in range(2):
        again = await writer.execute(command)
        assert type(again) is type(first)

    assert books(database) == once
    assert faults(database) == []


@parametrize_commands()
async def test_repeated_in_the_same_batch_it_changes_nothing(
    prepare: Callable[[LedgerWriter], Awaitable[Command]], writer: LedgerWriter, database: Database
):
    await writer.execute(post(Code.PROMOTION, 1_000))
    command = await prepare(writer)
    transfers = database.primary.execute_sql("SELECT seq, held FROM account").fetchone()

    first, second = await asyncio.gather(writer.execute(command), writer.execute(command))

    assert type(first) is type(second)
    after = database.primary.execute_sql("SELECT seq, held FROM account").fetchone()
    assert after[0] - transfers[0] <= (2 if isinstance(command, RollOver) else 1)
    assert after[1] in {0, 400, 700, 1_000}
    assert faults(database) == []


@parametrize_commands()
async def test_repeated_by_another_host_it_changes_nothing(
    prepare: Callable[[LedgerWriter], Awaitable[Command]], writer: LedgerWriter, database: Database
):
    await writer.execute(post(Code.PROMOTION, 1_000))
    command = await prepare(writer)
    await writer.execute(command)
    once = books(database)
    other = LedgerWriter(database, new_id=new_id)
    other.start()
    try:
        await other.execute(command)
    finally:
        other.close()
    assert books(database) == once
    assert faults(database) == []


ENDINGS: dict[str, Callable[[int], Command]] = {
    "settled": lambda hold_id: SettleHold(KEY, hold_id, 250, NOW, USED),
    "settled for nothing": lambda hold_id: SettleHold(KEY, hold_id, 0, NOW, Usage()),
    "released": lambda hold_id: ReleaseHold(KEY, hold_id, NOW),
    "expired": lambda hold_id: ExpireHold(KEY, hold_id, SOON),
    "expired and charged": lambda hold_id: ExpireHold(KEY, hold_id, SOON, charge=30, usage=USED),
}


@pytest.mark.parametrize("request_id", [None, "r"])
@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_hold_that_is_repeated_after_it_has_ended_is_refused_and_reserves_nothing(
    ending: str,
    request_id: str | None,
    writer: LedgerWriter,
    database: Database,
):
    if request_id is None and ending in {"settled", "expired and charged"}:
        pytest.skip("the next test has these: no row of the hold is left")
    await writer.execute(post(Code.PROMOTION, 1_000))
    command = hold(400, request_id=request_id)
    await writer.execute(command)
    await writer.execute(ENDINGS[ending](command.hold_id))
    once = books(database)

    with pytest.raises(LedgerError, match=r"ended|settled|released|expired"):
        await writer.execute(command)

    assert books(database) == once
    assert faults(database) == []


@pytest.mark.parametrize("ending", ["settled", "expired and charged"])
async def test_a_hold_that_is_placed_once_more_after_its_charge_cannot_be_charged_again(
    ending: str, writer: LedgerWriter, database: Database
):
    await writer.execute(post(Code.PROMOTION, 1_000))
    command = hold(400)
    await writer.execute(command)
    await writer.execute(ENDINGS[ending](command.hold_id))
    once = books(database)

    await writer.execute(command)
    again = await writer.execute(SettleHold(KEY, command.hold_id, 77, NOW, USED))

    assert again.repeated
    assert again.amount in {250, 30}
    assert books(database) == once
    assert faults(database) == []


@pytest.mark.parametrize("ending", ENDINGS)
async def test_an_ending_that_is_repeated_after_the_credits_are_gone_stands(
    ending: str, writer: LedgerWriter, database: Database
):
    await writer.execute(post(Code.PROMOTION, 1_000))
    hold_id = await _hold(writer)
    first = await writer.execute(ENDINGS[ending](hold_id))
    await writer.execute(post(Code.DISPUTE, 5_000))
    once = books(database)
    again = await writer.execute(ENDINGS[ending](hold_id))
    assert type(again) is type(first)
    assert books(database) == once
    assert faults(database) == []


async def test_breakage_that_is_repeated_after_a_hold_let_go_takes_nothing_under_the_same_id(
    writer: LedgerWriter, database: Database
):
    await _expiring_lot(writer)
    held = (await writer.execute(hold(60))).hold_id
    command = ExpireLots(KEY, new_id(), SOON)
    assert (await writer.execute(command)).amount == 10
    await writer.execute(ReleaseHold(KEY, held, NOW))
    once = books(database)
    assert (await writer.execute(command)).amount in {0, 10}
    assert books(database) == once
    assert (await writer.execute(ExpireLots(KEY, new_id(), SOON))).amount == 60
    assert faults(database) == []


async def in_one_batch(database: Database, *commands: Command) -> list[Any]:
    """What a writer answers to commands that wait for it when it starts."""
    writer = LedgerWriter(database, new_id=new_id)
    waiting = [asyncio.ensure_future(writer.execute(command)) for command in commands]
    await asyncio.sleep(0)
    writer.start()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    writer.close()
    return answers


async def test_a_repeated_hold_is_told_what_is_available_in_its_own_turn(database: Database):
    first = hold(80)
    await in_one_batch(database, post(Code.PROMOTION, 100), first)
    repeated, other = await in_one_batch(database, first, hold(15))
    assert (repeated.repeated, repeated.available) == (True, 20)
    assert (other.repeated, other.available) == (False, 5)


@pytest.mark.parametrize("ends", [False, True])
async def test_a_refused_hold_stays_refused_when_its_repetition_finds_credits_in_the_same_batch(
    ends: bool, database: Database
):
    await in_one_batch(database, post(Code.PROMOTION, 10))
    command = hold(80)
    ending = [ENDINGS["settled"](command.hold_id)] if ends else []
    refused, _, placed, *_ = await in_one_batch(database, command, post(Code.PROMOTION, 100), command, *ending)
    assert (type(refused), refused.available) == (InsufficientCredits, 10)
    assert (placed.repeated, placed.available) == (False, 30)
    assert faults(database) == []
