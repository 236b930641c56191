"""Usage transfers as they were charged, account by account: the reading half of a rerating."""

from __future__ import annotations

from typing import Final, NamedTuple

import peewee

from hookspecs import Usage

from ..errors import DatabaseError
from .entries import Code
from .ids import id_time_ms
from .keysets import select
from .queries import chain_walk
from .usage_columns import join_usage, usage_of

_LATEST_SETTLE_MS: Final = 4 * 86_400_000
"""A hold lives a day, its tombstone two, and clocks differ: no transfer is made later than that after its id's time."""


class ActiveAccount(NamedTuple):
    """An account that may have usage since a time. ``archived`` of its transfers are gone, the last from then."""

    id: int
    external_id: str
    archived: int
    archived_until_ms: int


class Charge(NamedTuple):
    """One usage transfer. ``corrected`` is what reratings have taken (below 0: given) for it since."""

    id: int
    seq: int
    at_ms: int
    amount: int
    price_version: int
    usage: Usage
    corrected: int

    @property
    def held_at_ms(self) -> int:
        """When its hold was placed, the moment that its price is of."""
        return id_time_ms(self.id)


def active_accounts(
    database: peewee.Database, *, after: int, since_ms: int, limit: int
) -> tuple[list[ActiveAccount], int | None]:
    """Return the next accounts by key that may have usage since then, and the key to go on after, None at the end."""
    rows = select(
        database,
        "SELECT a.id, a.external_id, a.last_transfer_id, COALESCE(n.seq, 0), COALESCE(n.transfer_id, 0) FROM account a "
        "LEFT JOIN archive_anchor n ON n.account_id = a.id WHERE a.id > %s ORDER BY a.id LIMIT %s",
        [after, limit],
    )
    active = [
        ActiveAccount(identifier, name, archived, id_time_ms(until) if until else 0)
        for identifier, name, last_id, archived, until in rows
        if id_time_ms(last_id) + _LATEST_SETTLE_MS >= since_ms
    ]
    return active, rows[-1][0] if len(rows) == limit else None


def one_account(database: peewee.Database, account_id: int) -> list[ActiveAccount]:
    """Return an account, if there is one of this key."""
    return [
        account
        for account in active_accounts(database, after=account_id - 1, since_ms=0, limit=1)[0]
        if account.id == account_id
    ]


class ChargesPage(NamedTuple):
    """Charges of one stretch of a chain, newest first. ``oldest_seq`` and ``oldest_ms`` are of its last transfer."""

    charges: list[Charge]
    oldest_seq: int
    oldest_ms: int


def charges_page(database: peewee.Database, account_id: int, *, before_seq: int | None, limit: int) -> ChargesPage:
    """Return the charges among ``limit`` transfers of an account, from the one below ``before_seq``, newest first.

    ``oldest_seq`` is 0 where nothing was left to read: the chain has ended, or reached its archived part.

    Raises:
        DatabaseError: what a usage has beyond its columns does not fit them.
    """
    columns = (
        "id account_id previous_id seq code amount at_ms price_version input cache_read cache_write output reasoning"
    )
    walk, parameters = chain_walk(database, account_id, columns, before_seq=before_seq, limit=limit)
    if not walk:
        return ChargesPage([], 0, 0)
    rows = select(
        database,
        f"{walk} SELECT t.id, t.seq, t.at_ms, t.code, t.amount, t.price_version, d.detail, COALESCE(r.corrected, 0), "
        "t.input, t.cache_read, t.cache_write, t.output, t.reasoning FROM chain t "
        "LEFT JOIN usage_detail d ON d.transfer_id = t.id AND d.account_id = t.account_id "
        "LEFT JOIN rerated_usage r ON r.transfer_id = t.id AND r.account_id = t.account_id "
        "WHERE t.seq <= %s ORDER BY t.seq DESC",
        parameters,
    )
    if not rows:
        return ChargesPage([], 0, 0)
    charges = []
    for identifier, seq, at_ms, code, amount, version, detail, corrected, *tokens in rows:
        usage = usage_of(*tokens) if code == Code.USAGE else None
        if usage is not None:
            whole = _joined(identifier, usage, detail)
            charges.append(Charge(identifier, seq, at_ms, amount, version, whole, int(corrected)))
    return ChargesPage(charges, rows[-1][1], rows[-1][2])


def _joined(transfer_id: int, usage: Usage, detail: str | None) -> Usage:
    try:
        return join_usage(usage, detail)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        msg = f"usage_detail of transfer {transfer_id} does not fit its transfer: somebody changed it ({error!r:.200})"
        raise DatabaseError(msg, transfer_id=transfer_id) from error
