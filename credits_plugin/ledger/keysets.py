"""Long lists by keys: where their pages start, so that any of the first 10,000 rows is one seek away.

The read side's own tools stand here too: running one statement on either database, and searching by prefix.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import peewee
from playhouse.cockroachdb import CockroachDatabase

from ..models import Transfer

COUNT_CAP: Final = 10_000
"""Counts stop here: a page says ``>10,000`` instead of reading a whole table."""
MOST_MAILS_FOUND: Final = 200
"""A search lists the accounts of so many e-mail addresses with its prefix, the first in their order."""
_LAST_CODE_POINT: Final = 0x10FFFF
_FIRST_SURROGATE: Final = 0xD800
_FIRST_AFTER_SURROGATES: Final = 0xE000


@dataclass(frozen=True, slots=True)
class KeyWindow:
    """Where pages of a long list start: every ``step``-th key, so that any page is one seek away.

    ``rows`` counts at most ``COUNT_CAP``; ``capped`` says that there are more. A page is the rows after its key; the
    first page has ``None`` where the window starts with the list.
    """

    rows: int
    capped: bool
    keys: Sequence[Any]


def key_window(
    database: peewee.Database,
    keys: Sequence[peewee.Field],
    *conditions: peewee.Expression,
    before: Any = None,
    from_end: bool = False,
    ascending: bool = False,
    step: int = 50,
) -> KeyWindow:
    """Return where the pages of a list start that runs newest first by ``keys`` of one model, below ``before``.

    Keys and ``before`` are plain values for one field, tuples for several. ``from_end`` gives the last ``COUNT_CAP``
    rows instead of the first. ``conditions`` must keep an index in key order. A list that is ``ascending`` runs the
    other way, and goes on above ``before``.
    """
    beyond = _above if ascending else _below
    where = [*conditions, *([beyond(keys, before)] if before is not None else [])]
    query = keys[0].model.select(*(key.alias(f"k{place}") for place, key in enumerate(keys)))
    query = query.order_by(*(key.asc() if from_end != ascending else key.desc() for key in keys)).limit(COUNT_CAP + 1)
    sql, parameters = database.get_sql_context().sql(query.where(*where) if where else query).query()
    if from_end:
        return _window_from_end(_native(database, sql, parameters), step=step)
    names = [f"k{place}" for place in range(len(keys))]
    order = "ASC" if ascending else "DESC"
    rows = _native(database, _every_nth(sql, names, order=order, step=step), parameters)
    return _key_window(rows, first=before, step=step)


def newer_count(
    database: peewee.Database, keys: Sequence[peewee.Field], *conditions: peewee.Expression, than: Any
) -> int:
    """Count the rows of such a list above the key ``than``, at most ``COUNT_CAP``."""
    query = keys[0].model.select(keys[0]).where(*conditions, _above(keys, than)).limit(COUNT_CAP)
    return int(query.count(database))


def _below(keys: Sequence[peewee.Field], bound: Any) -> Any:
    # A row value keeps the keyset on its index; the database compares all columns at once.
    return keys[0] < bound if len(keys) == 1 else peewee.Tuple(*keys) < peewee.Tuple(*bound)


def _above(keys: Sequence[peewee.Field], bound: Any) -> Any:
    return keys[0] > bound if len(keys) == 1 else peewee.Tuple(*keys) > peewee.Tuple(*bound)


def ledger_window(
    database: peewee.Database, *, before_id: int | None = None, from_end: bool = False, step: int = 50
) -> KeyWindow:
    """Return where the pages of ``ledger_page`` start."""
    return key_window(database, [Transfer.id], before=before_id, from_end=from_end, step=step)


def account_window(
    database: peewee.Database,
    *,
    prefix: str = "",
    after: str | None = None,
    from_end: bool = False,
    step: int = 50,
) -> KeyWindow:
    """Return where the pages of ``accounts_page`` start, from the one following ``after``, or those of its end."""
    order = account_order(database, prefix, descending=from_end)
    source, parameters = listed_accounts(
        database, "external_id", prefix=prefix, after=after, descending=from_end, limit=COUNT_CAP + 1
    )
    listed = f"SELECT external_id AS k0 FROM ({source}) AS found ORDER BY k0 {order} LIMIT {COUNT_CAP + 1}"
    if from_end:
        return _window_from_end(select(database, listed, parameters), step=step)
    rows = select(database, _every_nth(listed, ["k0"], order=order, step=step), parameters)
    return _key_window(rows, first=after, step=step)


def select(database: peewee.Database, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Run SQL with ``%s`` for its parameters on either database."""
    native = sql if database.param == "%s" else sql.replace("%s", database.param)
    return _native(database, native, parameters)


def _native(database: peewee.Database, sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    return list(database.execute_sql(sql, tuple(parameters)).fetchall())


def listed_accounts(
    database: peewee.Database, columns: str, *, prefix: str, after: str | None, limit: int, descending: bool = False
) -> tuple[str, list[Any]]:
    """Return a SELECT of accounts by external id, and its parameters: all, or those of an id or e-mail prefix.

    Each part is limited by itself and read in the order of its index, so that a prefix of a million ids reads no more
    than one of ten, whatever the planner believes of it; of e-mail addresses the first ``MOST_MAILS_FOUND`` count. The
    result is to be ordered by :func:`account_order` and limited again.
    """
    order = account_order(database, prefix, descending=descending)
    later, bound = "1 = 1", []
    if after is not None:
        later, bound = f"external_id {'~>~' if 'USING' in order else '>'} %s", [after]
    listed = f"SELECT {columns} FROM {{}} WHERE {{}} AND {later} ORDER BY external_id {order} LIMIT {limit}"
    if not prefix:
        return listed.format("account", "1 = 1"), bound
    by_id, id_bounds = _starts_with(database, "external_id", prefix)
    by_mail, mail_bounds = _starts_with(database, "lower(email)", prefix.lower())
    mails = f"ORDER BY lower(email) {account_order(database, prefix)} LIMIT {MOST_MAILS_FOUND}"
    parts = (
        listed.format("account", by_id),
        listed.format(f"(SELECT * FROM account WHERE {by_mail} {mails}) AS mailed", "1 = 1"),
    )
    both = " UNION ".join(f"SELECT * FROM ({part}) AS part_{place}" for place, part in enumerate(parts))
    return both, [*id_bounds, *bound, *mail_bounds, *bound]


def account_order(database: peewee.Database, prefix: str, *, descending: bool = False) -> str:
    """Return what follows ORDER BY and an account's external id: a search goes by bytes, as PostgreSQL's index does.

    In the collation's order its planner would at times walk all ids and compare each (0.7 s for a million accounts).
    """
    if not prefix or isinstance(database, (peewee.SqliteDatabase, CockroachDatabase)):
        return "DESC" if descending else "ASC"
    return "USING ~>~" if descending else "USING ~<~"


def _starts_with(database: peewee.Database, column: str, prefix: str) -> tuple[str, list[Any]]:
    bounds = [prefix, _after_prefix(prefix)]
    if isinstance(database, peewee.SqliteDatabase):
        return f"{column} >= %s AND {column} < %s", bounds
    if isinstance(database, CockroachDatabase) or not _is_utf8(database):
        return f"{column} LIKE %s", [_like_prefix(prefix)]  # only LIKE means the same in every collation
    # The planner is not shown the bounds: it would plan each search anew, which takes as long as reading the page.
    return f"{column} ~>=~ (SELECT %s) AND {column} ~<~ (SELECT %s)", bounds


def _is_utf8(database: peewee.Database) -> bool:
    """Whether the order of bytes, which these operators have, is that of code points."""
    return bool(database.connection().info.parameter_status("server_encoding") == "UTF8")


def _after_prefix(prefix: str) -> str:
    """Return the first string, in code point order, that follows all strings with ``prefix``."""
    last = ord(prefix[-1]) + 1
    if last > _LAST_CODE_POINT:
        return prefix + chr(_LAST_CODE_POINT)
    return prefix[:-1] + chr(_FIRST_AFTER_SURROGATES if last == _FIRST_SURROGATE else last)


def _like_prefix(prefix: str) -> str:
    for special in ("\\", "%", "_"):
        prefix = prefix.replace(special, "\\" + special)
    return prefix + "%"


def _every_nth(listed: str, names: Sequence[str], *, order: str, step: int) -> str:
    """Return the statement for every ``step``-th key of a list and the last, with their places and the total."""
    ordered = ", ".join(f"{name} {order}" for name in names)
    return (
        f"SELECT {', '.join(names)}, n, total FROM (SELECT {', '.join(names)}, row_number() OVER (ORDER BY {ordered}) "
        f"AS n, count(*) OVER () AS total FROM ({listed}) AS listed) AS numbered "
        f"WHERE n / {step} * {step} = n OR n = total ORDER BY n"
    )


def _key_window(rows: Iterable[tuple[Any, ...]], *, first: Any, step: int) -> KeyWindow:
    keys, total = [first], 0
    for *key, number, total in rows:
        if number % step == 0 and number < min(total, COUNT_CAP):
            keys.append(_plain(key))
    return KeyWindow(min(total, COUNT_CAP), total > COUNT_CAP, tuple(keys))


def _window_from_end(rows: Sequence[tuple[Any, ...]], *, step: int) -> KeyWindow:
    """Return the window of the last rows; ``rows`` are their keys, the last first, and one more where capped."""
    shown = min(len(rows), COUNT_CAP)
    bounds = [*(_plain(row) for row in rows), None]
    return KeyWindow(shown, len(rows) > COUNT_CAP, tuple(bounds[place] for place in range(shown, 0, -step)) or (None,))


def _plain(key: Sequence[Any]) -> Any:
    return key[0] if len(key) == 1 else tuple(key)
