"""The ledger's read side: plain SQL into frozen values, for web pages and the admin UI.

Every function takes a Peewee database first (run it through ``Reads``), pages by keys and never counts or skips rows
of a whole table. ``account_id`` is the ledger's integer key (``account_key(external_id)``), amounts are microcredits,
times Unix milliseconds. Indexes are named where a query stands on one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import peewee

from hookspecs import Usage

from ..models import SPARSE_INDEX_STEP
from .entries import INCOMING, Code, HoldStatus, LotState
from .ids import id_time_ms
from .keysets import account_order, listed_accounts, select
from .lots import attribute_spend, burn_down_order
from .usage_columns import usage_of


@dataclass(frozen=True, slots=True)
class Balance:
    """An account as it stands. ``transfers`` is the length of its chain; ``available`` is negative in debt.

    The first ``archived`` transfers were moved out to an archive: no page has them.
    """

    account_id: int
    external_id: str
    balance: int
    held: int
    available: int
    next_expiry_at_ms: int | None
    email: str | None
    transfers: int
    created_at_ms: int
    archived: int = 0


class TransferLine(NamedTuple):
    """One transfer as its account sees it: ``amount`` is negative where credits left. ``usage`` is set on usage alone.

    ``reference`` is the payment's or refund's Stripe id, or the request id.
    """

    id: int
    seq: int
    code: Code
    amount: int
    balance_after: int
    at_ms: int
    reference: str | None
    model: str | None
    usage: Usage | None


class LedgerLine(NamedTuple):
    """A transfer of the whole ledger, with whose it is."""

    account_id: int
    external_id: str
    transfer: TransferLine


@dataclass(frozen=True, slots=True)
class OpenHold:
    """Credits reserved for one AI request that has not ended. It is stale when ``expires_at_ms`` has passed."""

    id: int
    account_id: int
    external_id: str
    amount: int
    placed_at_ms: int
    expires_at_ms: int
    model: str | None
    input_tokens: int
    request_id: str | None
    run_id: str | None


@dataclass(frozen=True, slots=True)
class LotLine:
    """A lot with credits left, after all spend so far has been attributed.

    ``code`` says how it came in; it and ``reference`` are None where the transfer that brought it was archived.
    """

    id: int
    code: Code | None
    priority: int
    expires_at_ms: int | None
    amount: int
    remaining: int
    payment_id: int | None
    reference: str | None
    granted_at_ms: int


class CodeSum(NamedTuple):
    """How many transfers of one code, and their signed total."""

    transfers: int
    amount: int


@dataclass(frozen=True, slots=True)
class ChainSums:
    """Transfers ``oldest_seq`` to ``newest_seq`` of an account, summed by code.

    ``opening + total == closing`` proves this part of the chain; ``opening`` is 0 where it reaches back to the start,
    and what the archived transfers had left where it reaches back to them.
    """

    oldest_seq: int
    newest_seq: int
    opening: int
    closing: int
    by_code: Mapping[Code, CodeSum]

    @property
    def total(self) -> int:
        """Net of all transfers in the range."""
        return sum(part.amount for part in self.by_code.values())


@dataclass(frozen=True, slots=True)
class LedgerTotals:
    """What all accounts hold together. ``outstanding`` is the sum of positive balances: what is owed in service."""

    accounts: int
    outstanding: int
    held: int
    debt: int


def account_balance(database: peewee.Database, account_id: int) -> Balance | None:
    """Return one account, or None where it was never granted anything."""
    rows = select(database, f"SELECT {_ACCOUNT} FROM account a WHERE a.id = %s", [account_id])
    return _balance(rows[0]) if rows else None


def accounts_page(
    database: peewee.Database, *, prefix: str = "", after: str | None = None, limit: int = 50
) -> list[Balance]:
    """Return accounts in the order of their external id, from the one following ``after``.

    ``prefix`` keeps those whose external id, or e-mail address in any case, starts with it; in the order of bytes.
    """
    source, parameters = listed_accounts(database, "*", prefix=prefix, after=after, limit=limit)
    order = account_order(database, prefix)
    rows = select(
        database, f"SELECT {_ACCOUNT} FROM ({source}) AS a ORDER BY a.external_id {order} LIMIT {limit}", parameters
    )
    return [_balance(row) for row in rows]


def account_names(database: peewee.Database, account_ids: Iterable[int]) -> dict[int, str]:
    """Return the external ids of those accounts that have a row; at most some thousands at once."""
    wanted = sorted(set(account_ids))
    marks = ", ".join(["%s"] * len(wanted))
    sql = f"SELECT id, external_id FROM account WHERE id IN ({marks})"
    return dict(select(database, sql, wanted)) if wanted else {}


def account_transfers(
    database: peewee.Database, account_id: int, *, before_seq: int | None = None, limit: int = 50
) -> list[TransferLine]:
    """Return an account's transfers, newest first, from the one below ``before_seq``. Any depth costs the same.

    The pages end where the archived transfers begin; :attr:`Balance.archived` says how many those are.

    Walks the chain's ``previous_id`` from the account's last transfer, or from the nearest row of the sparse index
    ``transfer_chain`` (one seek and at most 32 steps before the page).
    """
    columns = (
        "id account_id previous_id seq code amount balance_after at_ms reference price_version "
        "input cache_read cache_write output reasoning"
    )
    walk, parameters = chain_walk(database, account_id, columns, before_seq=before_seq, limit=limit)
    page = f"{walk} SELECT {_TRANSFER} FROM chain t LEFT JOIN price_version p ON p.id = t.price_version"
    sql = f"{page} WHERE t.seq <= %s ORDER BY t.seq DESC"
    return [_transfer_line(row) for row in select(database, sql, parameters)] if walk else []


def chain_sums(
    database: peewee.Database, account_id: int, *, after_seq: int = 0, limit: int = 20_000
) -> ChainSums | None:
    """Sum an account's newest transfers by code, back to ``after_seq`` or the archived ones, at most ``limit`` of them.

    None where there is nothing newer. Costs about a microsecond a transfer; pass the last result's ``newest_seq`` to
    read only what came since.
    """
    newest, last_id = _chain_head(database, account_id)
    oldest = max(after_seq, newest - limit, archived_transfers(database, account_id)) + 1
    if newest < oldest:
        return None
    walk = _walk("id account_id previous_id seq code amount balance_after", start="link.id = %s")
    rows = select(
        database,
        f"{walk} SELECT code, count(*), sum(amount), sum(CASE WHEN seq = %s THEN balance_after ELSE 0 END), "
        "sum(CASE WHEN seq = %s THEN balance_after ELSE 0 END), sum(CASE WHEN seq = %s THEN amount ELSE 0 END) "
        "FROM chain GROUP BY code",
        [account_id, last_id, account_id, oldest, newest, oldest, oldest],
    )
    return ChainSums(
        oldest,
        newest,
        opening=sum(int(after) - _signed(code, int(amount)) for code, _, _, _, after, amount in rows),
        closing=sum(int(row[3]) for row in rows),
        by_code={Code(code): CodeSum(count, _signed(code, int(total))) for code, count, total, *_ in rows},
    )


def archived_transfers(database: peewee.Database, account_id: int) -> int:
    """Return how many of an account's first transfers were archived, 0 mostly: the seq after which pages end."""
    rows = select(database, "SELECT seq FROM archive_anchor WHERE account_id = %s", [account_id])
    return int(rows[0][0]) if rows else 0


def open_holds(database: peewee.Database, account_id: int | None = None, *, limit: int = 50) -> list[OpenHold]:
    """Return open holds of one account, or of all, newest first. The table holds little else, so it is read through."""
    mine, bound = ("h.account_id = %s AND", [account_id]) if account_id is not None else ("", [])
    rows = select(
        database,
        "SELECT h.id, h.account_id, a.external_id, h.amount, h.expires_at_ms, p.model, h.input_tokens, h.request_id, "
        "h.run_id FROM hold h LEFT JOIN account a ON a.id = h.account_id LEFT JOIN price_version p "
        f"ON p.id = h.price_version WHERE {mine} h.state = {int(HoldStatus.PLACED)} ORDER BY h.id DESC LIMIT %s",
        [*bound, limit],
    )
    return [_open_hold(row) for row in rows]


def account_lots(database: peewee.Database, account_id: int) -> list[LotLine]:
    """Return an account's lots with credits left, in burn-down order, with all spend so far attributed (in memory)."""
    rows = select(
        database,
        "SELECT l.id, l.priority, l.expires_at_ms, l.amount, l.remaining, l.payment_id, a.balance, t.code, t.reference "
        "FROM lot l LEFT JOIN account a ON a.id = l.account_id LEFT JOIN transfer t ON t.id = l.id "
        "AND t.account_id = l.account_id WHERE l.account_id = %s AND l.remaining > 0",
        [account_id],
    )
    if not rows:
        return []
    lots = [LotState(row[0], account_id, row[1], row[2], row[3], row[4], row[5]) for row in rows]
    attribute_spend(lots, balance=rows[0][6])
    origins = {row[0]: (Code(row[7]) if row[7] else None, row[8]) for row in rows}
    return [_lot_line(lot, *origins[lot.id]) for lot in sorted(lots, key=burn_down_order) if lot.remaining]


def lot_expiries(database: peewee.Database, account_id: int, lot_ids: Collection[int]) -> dict[int, int]:
    """Return when those of the account's lots expire, or did, that ever do; a lot has the id of its transfer."""
    if not lot_ids:
        return {}
    marks = ", ".join(["%s"] * len(lot_ids))
    rows = select(
        database,
        f"SELECT id, expires_at_ms FROM lot WHERE account_id = %s AND expires_at_ms IS NOT NULL AND id IN ({marks})",
        [account_id, *lot_ids],
    )
    return {row[0]: row[1] for row in rows}


def ledger_page(database: peewee.Database, *, before_id: int | None = None, limit: int = 50) -> list[LedgerLine]:
    """Return transfers of all accounts, newest first by id, from the one below ``before_id``."""
    older, bound = ("WHERE t.id < %s", [before_id]) if before_id is not None else ("", [])
    # With its limit as a parameter PostgreSQL plans such a page anew each time, which takes as long as reading it.
    rows = select(database, f"{_LEDGER} {older} ORDER BY t.id DESC LIMIT {limit}", bound)
    return [LedgerLine(row[0], row[1], _transfer_line(row[2:])) for row in rows]


def transfers_by_reference(database: peewee.Database, reference: str, *, limit: int = 50) -> list[LedgerLine]:
    """Return transfers with exactly this reference (``pi_…``, ``re_…``), newest first; usage is not among them.

    Stands on the partial index ``transfer_reference``, which leaves usage out.
    """
    rows = select(
        database,
        f"{_LEDGER} WHERE t.reference = %s AND t.code <> {int(Code.USAGE)} ORDER BY t.id DESC LIMIT %s",
        [reference, limit],
    )
    return [LedgerLine(row[0], row[1], _transfer_line(row[2:])) for row in rows]


def ledger_totals(database: peewee.Database) -> LedgerTotals:
    """Sum all accounts' balances. Reads the account table once (about 80 ms for a million): not for every frame."""
    count, outstanding, held, debt = select(
        database,
        "SELECT count(*), sum(CASE WHEN balance > 0 THEN balance ELSE 0 END), sum(held), "
        "sum(CASE WHEN balance < 0 THEN -balance ELSE 0 END) FROM account",
    )[0]
    return LedgerTotals(count, int(outstanding or 0), int(held or 0), int(debt or 0))


_ACCOUNT: Final = (
    "a.id, a.external_id, a.balance, a.held, a.next_expiry_at_ms, a.email, a.seq, a.created_at_ms, "
    "COALESCE((SELECT anchor.seq FROM archive_anchor anchor WHERE anchor.account_id = a.id), 0)"
)
_TRANSFER: Final = (
    "t.id, t.seq, t.code, t.amount, t.balance_after, t.at_ms, t.reference, p.model, "
    "t.input, t.cache_read, t.cache_write, t.output, t.reasoning"
)
# LEFT JOINs keep the planner on transfer's own order; the joined rows are always there.
_LEDGER: Final = (
    f"SELECT t.account_id, a.external_id, {_TRANSFER} FROM transfer t LEFT JOIN account a ON a.id = t.account_id "
    "LEFT JOIN price_version p ON p.id = t.price_version"
)
_FROM_INDEX: Final = f"link.seq = %s AND (link.seq & {SPARSE_INDEX_STEP - 1}) = 0"


def _chain_head(database: peewee.Database, account_id: int) -> tuple[int, int]:
    """Return the seq and id of an account's last transfer; zeros where there is none."""
    rows = select(database, "SELECT seq, last_transfer_id FROM account WHERE id = %s", [account_id])
    return (rows[0][0], rows[0][1]) if rows else (0, 0)


def chain_walk(
    database: peewee.Database, account_id: int, columns: str, *, before_seq: int | None, limit: int
) -> tuple[str, list[int]]:
    """Return a CTE ``chain`` of one page with the given columns, ``seq`` among them, and its parameters.

    The last parameter is the page's newest seq, which the statement must keep to; the CTE may begin above it. It is
    empty where there is nothing to read.
    """
    head, start = _chain_head(database, account_id)
    newest = head if before_seq is None else min(before_seq - 1, head)
    if newest < 1 or limit < 1:
        return "", []
    condition = "link.id = %s"
    indexed = -(-newest // SPARSE_INDEX_STEP) * SPARSE_INDEX_STEP
    if indexed < head:
        condition, start = _FROM_INDEX, indexed
    oldest = max(newest - limit + 1, 1)
    return _walk(columns, start=condition), [account_id, start, account_id, oldest, newest]


def _walk(columns: str, *, start: str) -> str:
    """Return a CTE ``chain``: from one row back to a seq. Parameters: account, start, account, oldest seq."""
    names = columns.split()
    listed = ", ".join(f"link.{name}" for name in names)
    return (
        f"WITH RECURSIVE chain({', '.join(names)}) AS (SELECT {listed} FROM transfer link "
        f"WHERE link.account_id = %s AND {start} UNION ALL SELECT {listed} FROM chain c JOIN transfer link "
        "ON link.id = c.previous_id AND link.account_id = %s WHERE c.seq > %s)"
    )


def _balance(row: Sequence[Any]) -> Balance:
    account_id, external_id, balance, held, *rest = row
    return Balance(account_id, external_id, balance, held, balance - held, *rest)


def _transfer_line(row: Sequence[Any]) -> TransferLine:
    identifier, seq, number, amount, balance_after, at_ms, reference, model, *tokens = row
    code, sign = _KINDS[number]
    usage = usage_of(*tokens)
    return TransferLine(identifier, seq, code, sign * amount, balance_after, at_ms, reference, model, usage)


_KINDS: Final = {int(code): (code, 1 if code in INCOMING else -1) for code in Code}
"""By the stored number: looking a member and its direction up costs a third of making them for each row."""


def _signed(code: int, amount: int) -> int:
    return amount if code in INCOMING else -amount


def _open_hold(row: Sequence[Any]) -> OpenHold:
    identifier, account_id, external_id, amount, expires_at_ms, *rest = row
    return OpenHold(identifier, account_id, external_id, amount, id_time_ms(identifier), expires_at_ms, *rest)


def _lot_line(lot: LotState, code: Code | None, reference: str | None) -> LotLine:
    return LotLine(
        lot.id,
        code,
        lot.priority,
        lot.expires_at_ms,
        lot.amount,
        lot.remaining,
        lot.payment_id,
        reference,
        id_time_ms(lot.id),
    )
