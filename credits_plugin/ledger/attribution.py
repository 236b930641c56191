"""Which purchase paid for a request, and what became of each lot: answered from the chain, exactly.

Every function takes a Peewee database (run it through ``Reads``) and reads one snapshot. The account's chain is walked
once inside the database, about a microsecond a transfer; usage is summed there, unless it left a debt or is asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import peewee

from hookspecs import Usage

from ..errors import DatabaseError, InvalidValue, NotFound
from .auditing.starts import ChainStart, chain_start
from .entries import CLAW_BACKS, INCOMING, Code, LotState
from .ids import id_time_ms
from .replay import LotReplay, Movement, Share, Use
from .snapshots import Snapshot, snapshot
from .store import LOT_COLUMNS
from .usage_columns import usage_of

_CHUNK: Final = 500


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
        DatabaseError: the account's chain is broken; the audit says where.
    """
    paid: Counter[int] = Counter()
    with snapshot(database) as rows:
        lots = _lots(rows, account_id)
        mine = {lot.id for lot in lots.values() if lot.payment_id == payment_id}

        def count(share: Share) -> None:
            if share.use is Use.SPENT and share.lot_id in mine:
                paid[share.transfer_id] += share.amount

        _replay(rows, account_id, LotReplay(lots, on_share=count), on_movement=_ignore, every=True)
        return [_paid_usage(row, paid[row[0]]) for row in _usage_rows(rows, account_id, sorted(paid))]


def paid_by(database: peewee.Database, account_id: int, transfer_id: int) -> PaidBy:
    """Return the lots that an outgoing transfer of this account took its credits from.

    Raises:
        NotFound: the account has no such transfer, or its oldest transfers were archived.
        InvalidValue: the transfer brought credits in.
        DatabaseError: the account's chain is broken; the audit says where.
    """
    shares: list[Share] = []
    found: list[Movement] = []

    def look(movement: Movement) -> None:
        if movement.id == transfer_id:
            found.append(movement)

    with snapshot(database) as rows:
        lots = _lots(rows, account_id)
        _replay(rows, account_id, LotReplay(lots, on_share=shares.append), wanted=transfer_id, on_movement=look)
    if not found:
        msg = f"the account has no transfer {transfer_id}"
        raise NotFound(msg)
    wanted = found[0]
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


def charges_named(database: peewee.Database, account_id: int, name: str) -> list[int]:
    """Return the transfer whose id is ``name``, else those that charged the request with that id, oldest first.

    More than one where the host used a request id again after its hold was purged.

    Raises:
        NotFound: there is no such account, or no such transfer.
    """
    transfer_id = int(name) if name.isdecimal() and len(name) <= _DIGITS else 0
    with snapshot(database) as rows:
        _, last_id, _ = _account(rows, account_id)
        sql = (
            f"{_CHAIN} SELECT id FROM chain WHERE id = %s OR (code = {int(Code.USAGE)} AND reference = %s) ORDER BY seq"
        )
        found = [int(row[0]) for row in rows.stream(sql, [account_id, last_id, account_id, transfer_id, name])]
    if not found:
        msg = f"no transfer of this account has the id {name!r:.80}, and no request with that id was charged to it"
        raise NotFound(msg)
    return [transfer_id] if transfer_id in found else found


def lot_reports(database: peewee.Database, account_id: int) -> list[LotReport]:
    """Return what became of every lot that the account was ever granted, oldest first.

    Raises:
        NotFound: the account does not exist, or its oldest transfers were archived.
        DatabaseError: the account's chain is broken; the audit says where.
    """
    uses: Counter[tuple[int, Use]] = Counter()
    codes: dict[int, Code] = {}

    def count(share: Share) -> None:
        uses[share.lot_id, share.use] += share.amount

    def note(movement: Movement) -> None:
        codes[movement.id] = Code(movement.code)

    with snapshot(database) as rows:
        stored = _lots(rows, account_id)
        replay = LotReplay(stored, on_share=count)
        _replay(rows, account_id, replay, on_movement=note)
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


def _account(rows: Snapshot, account_id: int) -> tuple[int, int, int]:
    """Return (balance, id of the last transfer, number of transfers)."""
    found = rows.rows("SELECT balance, last_transfer_id, seq FROM account WHERE id = %s", [account_id])
    if not found:
        msg = "there is no such account"
        raise NotFound(msg)
    balance, last_id, seq = found[0]
    return int(balance), int(last_id), int(seq)


def _require_whole(rows: Snapshot, account_id: int) -> None:
    start = chain_start(rows, account_id)
    if start != ChainStart():
        msg = (
            f"the account's first {start.seq} transfers were archived, so its lots cannot be followed from their start"
        )
        raise NotFound(msg)


def _lots(rows: Snapshot, account_id: int) -> dict[int, LotState]:
    found = rows.rows(f"SELECT {LOT_COLUMNS} FROM lot WHERE account_id = %s", [account_id])
    return {row[0]: LotState(*row) for row in found}


def _ignore(movement: Movement) -> None:
    """Take notice of nothing: the shares tell what is asked."""


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
    return PaidUsage(identifier, at_ms, microcredits, model or "", usage_of(*tokens) or Usage(), reference)


def _replay(
    rows: Snapshot,
    account_id: int,
    replay: LotReplay,
    *,
    on_movement: Callable[[Movement], None],
    wanted: int = 0,
    every: bool = False,
) -> None:
    """Walk the chain back from its head and replay what concerns lots, oldest first; ``every``: also all usage.

    Raises:
        NotFound: there is no such account, or its oldest transfers were archived.
        DatabaseError: the chain has a gap, or its lots do not follow from it: any answer would be a guess.
    """
    balance, last_id, seq = _account(rows, account_id)
    _require_whole(rows, account_id)
    payments = {row[1]: row[2] for row in claw_back_references(rows, "account_id = %s", [account_id])}
    sql = (
        f"{_CHAIN} SELECT seq, id, code, amount, balance_after, at_ms, reference FROM chain "
        f"WHERE {'1 = 1 OR ' if every else ''}code <> {int(Code.USAGE)} OR balance_after < 0 OR id = %s ORDER BY seq"
    )
    first = 0
    for place, *link in rows.stream(sql, [account_id, last_id, account_id, wanted]):
        first = first or place
        movement = Movement._make((*link, payments.get(link[5]) if link[1] in CLAW_BACKS else None))
        on_movement(movement)
        replay.apply(movement)
    replay.spend_down(balance)
    # A chain's first transfer is a grant or leaves a debt, so it is always among these.
    if first != min(seq, 1) or replay.problems:
        msg = "the account's chain does not account for its lots, so no answer would be right: run `credits audit`"
        raise DatabaseError(msg)


_DIGITS: Final = 18
_LINK: Final = (
    "link.id, link.previous_id, link.seq, link.code, link.amount, link.balance_after, link.at_ms, link.reference"
)
_CHAIN: Final = (
    "WITH RECURSIVE chain(id, previous_id, seq, code, amount, balance_after, at_ms, reference) AS ("
    f"SELECT {_LINK} FROM transfer link WHERE link.account_id = %s AND link.id = %s "
    f"UNION ALL SELECT {_LINK} FROM chain c JOIN transfer link ON link.id = c.previous_id "
    "AND link.account_id = %s AND link.seq < c.seq)"
)
"""An account's chain, back from a transfer. Seqs fall, so a forged ring of links ends too."""
