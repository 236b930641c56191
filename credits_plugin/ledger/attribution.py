"""Which purchase paid for a request, and what became of each lot: answered from the chain, exactly.

Every function takes a Peewee database (run it through ``Reads``) and reads one snapshot. The account's chain is walked
once inside the database, about a microsecond a transfer; usage is summed there, unless it left a debt or is asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import peewee

from hookspecs import Usage

from ..errors import InvalidValue, NotFound
from .auditing.starts import ChainStart, chain_start
from .entries import CLAW_BACKS, INCOMING, Code, LotState
from .ids import id_time_ms
from .replay import LotReplay, Movement, Share, Use
from .snapshots import Snapshot, snapshot

_CHUNK: Final = 500
LOT_COLUMNS: Final = "id, account_id, priority, expires_at_ms, amount, remaining, payment_id, expired"


@dataclass(frozen=True, slots=True)
class LotShare:
    """Credits that one lot gave for a transfer; ``payment_id`` is the purchase behind the lot, if it was one."""

    lot_id: int
    payment_id: int | None
    microcredits: int


@dataclass(frozen=True, slots=True)
class PaidBy:
    """Where a transfer's credits came from, in the order in which they were taken.

    ``shares`` and ``owed`` add up to ``microcredits``; ``owed`` is debt that nothing has repaid yet.
    """

    transfer_id: int
    account_id: int
    code: Code
    microcredits: int
    shares: tuple[LotShare, ...]
    owed: int


@dataclass(frozen=True, slots=True)
class LotReport:
    """What became of a lot. ``granted`` is the sum of all the amounts below it, to the microcredit.

    ``spent`` is usage that the stored lot row has been charged with; ``not_yet_attributed`` is usage it has not, which
    it will be when lots change next. Credits that repaid a debt count as what had made the debt.
    """

    lot_id: int
    code: Code
    payment_id: int | None
    priority: int
    granted_at_ms: int
    expires_at_ms: int | None
    granted: int
    spent: int
    not_yet_attributed: int
    clawed_back: int
    withdrawn: int
    expired: int
    rolled_over: int
    remaining: int


@dataclass(frozen=True, slots=True)
class PaidUsage:
    """One AI request as far as a payment's credits paid for it. ``request_id`` is the host's, where it gave one."""

    transfer_id: int
    at_ms: int
    microcredits: int
    model: str
    usage: Usage
    request_id: str | None


def usage_paid_by(database: peewee.Database, account_id: int, payment_id: int) -> list[PaidUsage]:
    """Return the requests that the credits of one payment paid for, oldest first, also those that left a debt first.

    Raises:
        NotFound: the account does not exist, or its oldest transfers were archived.
    """
    paid: Counter[int] = Counter()
    with snapshot(database) as rows:
        account = _account(rows, account_id)
        lots = _lots(rows, account_id)
        mine = {lot.id for lot in lots.values() if lot.payment_id == payment_id}

        def count(share: Share) -> None:
            if share.use is Use.SPENT and share.lot_id in mine:
                paid[share.transfer_id] += share.amount

        replay = LotReplay(lots, on_share=count)
        for movement in _movements(rows, account_id, account[1], every=True):
            replay.apply(movement)
        return [_paid_usage(row, paid[row[0]]) for row in _usage_rows(rows, account_id, sorted(paid))]


def paid_by(database: peewee.Database, account_id: int, transfer_id: int) -> PaidBy:
    """Return the lots that an outgoing transfer of this account took its credits from.

    Raises:
        NotFound: the account has no such transfer, or its oldest transfers were archived.
        InvalidValue: the transfer brought credits in.
    """
    shares: list[Share] = []
    with snapshot(database) as rows:
        account = _account(rows, account_id)
        lots = _lots(rows, account_id)
        replay = LotReplay(lots, on_share=shares.append)
        wanted = None
        for movement in _movements(rows, account_id, account[1], wanted=transfer_id):
            if movement.id == transfer_id:
                wanted = movement
            replay.apply(movement)
    if wanted is None:
        msg = f"the account has no transfer {transfer_id}"
        raise NotFound(msg)
    if wanted.code in INCOMING:
        msg = f"transfer {transfer_id} brought credits in: it is a lot itself"
        raise InvalidValue(msg)
    mine = [
        LotShare(share.lot_id, lots[share.lot_id].payment_id if share.lot_id in lots else None, share.amount)
        for share in shares
        if share.transfer_id == transfer_id
    ]
    owed = wanted.amount - sum(share.microcredits for share in mine)
    return PaidBy(transfer_id, account_id, Code(wanted.code), wanted.amount, tuple(mine), owed)


def lot_reports(database: peewee.Database, account_id: int) -> list[LotReport]:
    """Return what became of every lot that the account was ever granted, oldest first.

    Raises:
        NotFound: the account does not exist, or its oldest transfers were archived.
    """
    uses: Counter[tuple[int, Use]] = Counter()
    codes: dict[int, Code] = {}

    def count(share: Share) -> None:
        uses[share.lot_id, share.use] += share.amount

    with snapshot(database) as rows:
        account = _account(rows, account_id)
        stored = _lots(rows, account_id)
        replay = LotReplay(stored, on_share=count)
        for movement in _movements(rows, account_id, account[1]):
            if movement.code in INCOMING:
                codes[movement.id] = Code(movement.code)
            replay.apply(movement)
        replay.spend_down(account[0])
    return [_report(lot, codes[lot.id], stored.get(lot.id, lot), uses) for lot in replay.lots.values()]


def claw_back_references(rows: Snapshot, condition: str, parameters: Iterable[Any]) -> Iterator[tuple[int, str, int]]:
    """Yield (account id, reference, payment id): which payment a claw-back with that reference takes back.

    The one place that knows what claw-backs refer to: refunds, disputes, or the payment itself.
    """
    bound = list(parameters)
    yield from rows.stream(
        "SELECT account_id, reference, payment_id FROM ("
        f"SELECT account_id, stripe_refund_id AS reference, id AS line, payment_id FROM refund WHERE {condition} "
        f"UNION ALL SELECT account_id, stripe_dispute_id, id, payment_id FROM dispute WHERE {condition} "
        f"UNION ALL SELECT account_id, payment_intent_id, id, id FROM payment WHERE {condition} "
        f"UNION ALL SELECT account_id, stripe_session_id, id, id FROM payment WHERE {condition}"
        ") AS known WHERE reference IS NOT NULL ORDER BY account_id, line",
        bound * 4,
    )


def _report(lot: LotState, code: Code, stored: LotState, uses: Counter[tuple[int, Use]]) -> LotReport:
    spent = uses[lot.id, Use.SPENT]
    waiting = max(min(stored.remaining - lot.remaining, spent), 0)
    return LotReport(
        lot.id,
        code,
        lot.payment_id,
        lot.priority,
        id_time_ms(lot.id),
        lot.expires_at_ms,
        granted=lot.amount,
        spent=spent - waiting,
        not_yet_attributed=waiting,
        clawed_back=uses[lot.id, Use.CLAWED_BACK],
        withdrawn=uses[lot.id, Use.WITHDRAWN],
        expired=uses[lot.id, Use.EXPIRED],
        rolled_over=uses[lot.id, Use.ROLLED_OVER],
        remaining=lot.remaining,
    )


def _account(rows: Snapshot, account_id: int) -> tuple[int, int]:
    """Return (balance, id of the last transfer)."""
    found = rows.rows("SELECT balance, last_transfer_id FROM account WHERE id = %s", [account_id])
    if not found:
        msg = "there is no such account"
        raise NotFound(msg)
    start = chain_start(rows, account_id)
    if start != ChainStart():
        msg = (
            f"the account's first {start.seq} transfers were archived, so its lots cannot be followed from their start"
        )
        raise NotFound(msg)
    return int(found[0][0]), int(found[0][1])


def _lots(rows: Snapshot, account_id: int) -> dict[int, LotState]:
    found = rows.rows(f"SELECT {LOT_COLUMNS} FROM lot WHERE account_id = %s", [account_id])
    return {row[0]: LotState(*row) for row in found}


def _usage_rows(rows: Snapshot, account_id: int, ids: list[int]) -> Iterator[Any]:
    for start in range(0, len(ids), _CHUNK):
        chunk = ids[start : start + _CHUNK]
        yield from rows.rows(
            "SELECT t.id, t.at_ms, p.model, t.reference, t.input, t.cache_read, t.cache_write, t.output, t.reasoning "
            "FROM transfer t LEFT JOIN price_version p ON p.id = t.price_version "
            f"WHERE t.account_id = %s AND t.id IN ({', '.join(['%s'] * len(chunk))}) ORDER BY t.id",
            [account_id, *chunk],
        )


def _paid_usage(row: Any, microcredits: int) -> PaidUsage:
    identifier, at_ms, model, reference, *tokens = row
    return PaidUsage(identifier, at_ms, microcredits, model or "", Usage(*(count or 0 for count in tokens)), reference)


def _movements(
    rows: Snapshot, account_id: int, last_id: int, *, wanted: int = 0, every: bool = False
) -> Iterator[Movement]:
    """Walk the chain back from its head; yield what concerns lots, oldest first; ``every`` also yields all usage."""
    payments = {row[1]: row[2] for row in claw_back_references(rows, "account_id = %s", [account_id])}
    sql = (
        "WITH RECURSIVE chain(id, previous_id, seq, code, amount, balance_after, at_ms, reference) AS ("
        f"SELECT {_LINK} FROM transfer link WHERE link.account_id = %s AND link.id = %s "
        f"UNION ALL SELECT {_LINK} FROM chain c JOIN transfer link ON link.id = c.previous_id "
        "AND link.account_id = %s) SELECT id, code, amount, balance_after, at_ms, reference FROM chain "
        f"WHERE {'1 = 1 OR ' if every else ''}code <> {int(Code.USAGE)} OR balance_after < 0 OR id = %s ORDER BY seq"
    )
    for row in rows.stream(sql, [account_id, last_id, account_id, wanted]):
        yield Movement._make((*row, payments.get(row[5]) if row[1] in CLAW_BACKS else None))


_LINK: Final = (
    "link.id, link.previous_id, link.seq, link.code, link.amount, link.balance_after, link.at_ms, link.reference"
)
