"""Which transfers may leave: of each account the links from where its chain starts to the first that must stay.

What must stay: the head, for the next link follows it; what is younger than asked for; and a transfer whose hold is
still remembered, for a late settle or a retry asks for both. Everything after one of those stays too, so what is left
of a chain has no gap.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from ...ledger.auditing.chains import ByAccount
from ...ledger.auditing.starts import ChainStart, chain_starts, start_of
from ...ledger.ids import first_id_at
from ...ledger.snapshots import Snapshot
from .rows import COLUMNS, ArchivedRow

_RANGE: Final = "account_id BETWEEN %s AND %s"
_TRANSFERS: Final = (
    f"SELECT {', '.join(name for name in COLUMNS if name != 'previous_hash')} FROM transfer "
    f"WHERE {_RANGE} AND id < %s ORDER BY account_id, seq"
)
_HEADS: Final = "SELECT id, seq FROM account WHERE id BETWEEN %s AND %s ORDER BY id"
_HOLDS: Final = f"SELECT account_id, id FROM hold WHERE {_RANGE} AND id < %s ORDER BY account_id"


def archivable_rows(rows: Snapshot, bounds: tuple[int, int], *, before_ms: int) -> Iterator[ArchivedRow]:
    """Yield what may leave of a range of accounts, by account and chain; each account's first with the hash before."""
    # A transfer's id is never younger than its time but for clocks that differ; what they hide stays for another run.
    oldest = (*bounds, first_id_at(before_ms))
    heads = ByAccount(rows.stream(_HEADS, bounds))
    starts = ByAccount(chain_starts(rows, bounds))
    holds = ByAccount(rows.stream(_HOLDS, oldest))
    for account_id, links in groupby(rows.stream(_TRANSFERS, oldest), key=itemgetter(0)):
        head = next((row[1] for row in _of(heads, account_id)), 0)
        start = next(map(start_of, _of(starts, account_id)), ChainStart())
        held = frozenset(row[1] for row in _of(holds, account_id))
        yield from _prefix(links, start, head=head, held=held, before_ms=before_ms)


def _of(rows: ByAccount, account_id: int) -> list[Any]:
    while rows.account < account_id:
        rows.skip(rows.account)
    return rows.take(account_id)


def _prefix(
    links: Iterable[Any], start: ChainStart, *, head: int, held: frozenset[int], before_ms: int
) -> Iterator[ArchivedRow]:
    seq, before = start.seq, start.last_hash or None
    for row in links:
        *numbers, digest, reference = row
        if row[1] != seq + 1 or row[1] >= head or row[7] >= before_ms or row[2] in held:
            return
        yield ArchivedRow._make((*numbers, bytes(digest), before, reference))
        seq, before = seq + 1, None
