"""The ledger's read side: plain SQL into frozen values, for web pages and the admin UI.

Every function takes a Peewee database first (run it through ``Reads``), pages by keys and never counts or skips rows
of a whole table. ``account_id`` is the ledger's integer key (``account_key(external_id)``), amounts are microcredits,
times Unix milliseconds. Indexes are named where a query stands on one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

import peewee

from hookspecs import Usage

from ..models import SPARSE_INDEX_STEP, Account, Transfer
from .entries import INCOMING, Code, HoldStatus, LotState
from .ids import id_time_ms
from .lots import attribute_spend, burn_down_order

T = TypeVar("T")
COUNT_CAP: Final = 10_000
"""Counts stop here: a page says ``>10,000`` instead of reading a whole table."""


@dataclass(frozen=True, slots=True)
class Balance:
    """An account as it stands. ``transfers`` is the length of its chain; ``available`` is negative in debt."""

    account_id: int
    external_id: str
    balance: int
    held: int
    available: int
    next_expiry_at_ms: int | None
    email: str | None
    transfers: int
    created_at_ms: int


@dataclass(frozen=True, slots=True)
class TransferLine:
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


@dataclass(frozen=True, slots=True)
class LedgerLine:
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
    """A lot with credits left, after all spend so far has been attributed. ``code`` says how it came in."""

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

    ``opening + total == closing`` proves this part of the chain; ``opening`` is 0 where it reaches back to the start.
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


@dataclass(frozen=True, slots=True)
class KeyWindow:
    """Where pages of a long list start: every ``step``-th key, so that any page is one seek away.

    ``rows`` counts at most ``COUNT_CAP``; ``capped`` says that there are more. A page is the rows after its key; the
    first page has ``None`` where the window starts with the list.
    """

    rows: int
    capped: bool
    keys: tuple[Any, ...]


def account_balance(database: peewee.Database, account_id: int) -> Balance | None:
    """Return one account, or None where it was never granted anything."""
    rows = _select(database, f"SELECT {_ACCOUNT} FROM account a WHERE a.id = %s", [account_id])
    return _balance(rows[0]) if rows else None


def accounts_page(
    database: peewee.Database, *, prefix: str = "", after: str | None = None, limit: int = 50
) -> list[Balance]:
    """Return accounts in the order of their external id, from the one following ``after``.

    ``prefix`` keeps those whose external id, or e-mail address in any case, starts with it.
    """
    source, parameters = _accounts_starting_with(database, prefix)
    later, bound = ("WHERE a.external_id > %s", [after]) if after is not None else ("", [])
    rows = _select(
        database,
        f"SELECT {_ACCOUNT} FROM {source} a {later} ORDER BY a.external_id LIMIT %s",
        [*parameters, *bound, limit],
    )
    return [_balance(row) for row in rows]


def account_window(
    database: peewee.Database, *, prefix: str = "", after: str | None = None, step: int = 50
) -> KeyWindow:
    """Return where the pages of :func:`accounts_page` start, from the one following ``after``."""
    source, parameters = _accounts_starting_with(database, prefix)
    later, bound = ("WHERE a.external_id > %s", [after]) if after is not None else ("", [])
    keys = f"SELECT a.external_id AS k FROM {source} a {later} ORDER BY k LIMIT {COUNT_CAP + 1}"
    return _window(database, keys, [*parameters, *bound], order="k", first=after, step=step)


def account_transfers(
    database: peewee.Database, account_id: int, *, before_seq: int | None = None, limit: int = 50
) -> list[TransferLine]:
    """Return an account's transfers, newest first, from the one below ``before_seq``. Any depth costs the same.

    Walks the chain's ``previous_id`` from the account's last transfer, or from the nearest row of the sparse index
    ``transfer_chain`` (one seek and at most 32 steps before the page).
    """
    sql, parameters = _chain_walk(database, account_id, before_seq=before_seq, limit=limit)
    return [_transfer_line(row) for row in _select(database, sql, parameters)] if sql else []


def chain_sums(
    database: peewee.Database, account_id: int, *, after_seq: int = 0, limit: int = 20_000
) -> ChainSums | None:
    """Sum an account's newest transfers by code, back to ``after_seq`` and at most ``limit`` of them.

    None where there is nothing newer. Costs about a microsecond a transfer; pass the last result's ``newest_seq`` to
    read only what came since.
    """
    newest, last_id = _chain_head(database, account_id)
    oldest = max(after_seq, newest - limit) + 1
    if newest < oldest:
        return None
    walk = _WALK.format(columns="id, account_id, previous_id, seq, code, amount, balance_after", start="t.id = %s")
    rows = _select(
        database,
        f"{walk} SELECT code, count(*), sum(amount), min(seq), sum(CASE WHEN seq = %s THEN balance_after ELSE 0 END) "
        "FROM chain GROUP BY code",
        [account_id, last_id, account_id, oldest, newest],
    )
    by_code = {Code(code): CodeSum(count, _signed(code, int(amount))) for code, count, amount, *_ in rows}
    closing = sum(int(row[4]) for row in rows)
    edge = _select(
        database,
        f"{walk} SELECT code, amount, balance_after FROM chain WHERE seq = %s",
        [account_id, last_id, account_id, oldest, oldest],
    )
    code, amount, balance_after = edge[0]
    return ChainSums(oldest, newest, balance_after - _signed(code, amount), closing, by_code)


def open_holds(database: peewee.Database, account_id: int | None = None, *, limit: int = 50) -> list[OpenHold]:
    """Return open holds of one account, or of all, newest first. The table holds little else, so it is read through."""
    mine, bound = ("h.account_id = %s AND", [account_id]) if account_id is not None else ("", [])
    rows = _select(
        database,
        "SELECT h.id, h.account_id, a.external_id, h.amount, h.expires_at_ms, p.model, h.input_tokens, h.request_id, "
        "h.run_id FROM hold h LEFT JOIN account a ON a.id = h.account_id LEFT JOIN price_version p "
        f"ON p.id = h.price_version WHERE {mine} h.state = {int(HoldStatus.PLACED)} ORDER BY h.id DESC LIMIT %s",
        [*bound, limit],
    )
    return [_open_hold(row) for row in rows]


def account_lots(database: peewee.Database, account_id: int) -> list[LotLine]:
    """Return an account's lots with credits left, in burn-down order, with all spend so far attributed (in memory)."""
    rows = _select(
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


def ledger_page(database: peewee.Database, *, before_id: int | None = None, limit: int = 50) -> list[LedgerLine]:
    """Return transfers of all accounts, newest first by id, from the one below ``before_id``."""
    older, bound = ("WHERE t.id < %s", [before_id]) if before_id is not None else ("", [])
    rows = _select(database, f"{_LEDGER} {older} ORDER BY t.id DESC LIMIT %s", [*bound, limit])
    return [LedgerLine(row[0], row[1], _transfer_line(row[2:])) for row in rows]


def transfers_by_reference(database: peewee.Database, reference: str, *, limit: int = 50) -> list[LedgerLine]:
    """Return transfers with exactly this reference (``pi_…``, ``re_…``), newest first; usage is not among them.

    Stands on the partial index ``transfer_reference``, which leaves usage out.
    """
    rows = _select(
        database,
        f"{_LEDGER} WHERE t.reference = %s AND t.code <> {int(Code.USAGE)} ORDER BY t.id DESC LIMIT %s",
        [reference, limit],
    )
    return [LedgerLine(row[0], row[1], _transfer_line(row[2:])) for row in rows]


def ledger_totals(database: peewee.Database) -> LedgerTotals:
    """Sum all accounts' balances. Reads the account table once (about 80 ms for a million): not for every frame."""
    count, outstanding, held, debt = _select(
        database,
        "SELECT count(*), sum(CASE WHEN balance > 0 THEN balance ELSE 0 END), sum(held), "
        "sum(CASE WHEN balance < 0 THEN -balance ELSE 0 END) FROM account",
    )[0]
    return LedgerTotals(count, int(outstanding or 0), int(held or 0), int(debt or 0))


def key_window(
    database: peewee.Database,
    key: peewee.Field,
    *conditions: peewee.Expression,
    before: int | None = None,
    from_end: bool = False,
    step: int = 50,
) -> KeyWindow:
    """Return where the pages of a list start that runs newest first by an integer ``key``, below ``before``.

    ``from_end`` gives the last ``COUNT_CAP`` rows instead of the first. ``conditions`` must leave an index in key order.
    """
    where = [*conditions, *([key < before] if before is not None else [])]
    order = key.asc() if from_end else key.desc()
    query = key.model.select(key.alias("k")).order_by(order).limit(COUNT_CAP + 1)
    sql, parameters = database.get_sql_context().sql(query.where(*where) if where else query).query()
    if from_end:
        return _window_from_end(_native(database, sql, parameters), step=step)
    rows = _native(database, _EVERY_NTH.format(keys=sql, order="k DESC", step=step), parameters)
    return _key_window(rows, first=before, step=step)


def ledger_window(
    database: peewee.Database, *, before_id: int | None = None, from_end: bool = False, step: int = 50
) -> KeyWindow:
    """Return where the pages of :func:`ledger_page` start."""
    return key_window(database, Transfer.id, before=before_id, from_end=from_end, step=step)
