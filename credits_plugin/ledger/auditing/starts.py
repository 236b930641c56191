"""Where an account's chain starts in this database: at its first transfer, or after a prefix that was archived.

The one place that reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from ..snapshots import Snapshot

_ANCHOR: Final = "SELECT account_id, seq, transfer_id, hash, balance FROM archive_anchor WHERE account_id"


class ChainStart(NamedTuple):
    """The link before the first row that is still here; all empty where nothing was archived."""

    seq: int = 0
    last_id: int = 0
    last_hash: bytes = b""
    balance: int = 0


def chain_start(rows: Snapshot, account_id: int) -> ChainStart:
    """Return where one account's chain starts."""
    found = rows.rows(f"{_ANCHOR} = %s", [account_id])
    return start_of(found[0]) if found else ChainStart()


def chain_starts(rows: Snapshot, bounds: tuple[int, int]) -> Iterator[Any]:
    """Stream the anchors of a range of accounts, by account id."""
    return rows.stream(f"{_ANCHOR} BETWEEN %s AND %s ORDER BY account_id", bounds)


def start_of(anchor: Any) -> ChainStart:
    """Return the start that an anchor's row describes."""
    _, seq, last_id, last_hash, balance = anchor
    return ChainStart(seq, last_id, bytes(last_hash), balance)
