"""A transfer as archives keep it, and the links before and after it."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, NamedTuple

from ...ledger.auditing.starts import ChainStart
from ...ledger.entries import INCOMING


class FileFormat(StrEnum):
    """What a part's file is written in."""

    CSV = "csv"
    PARQUET = "parquet"


class ArchivedRow(NamedTuple):
    """A row of the transfer table, in the order of the files' columns.

    ``previous_hash``, the hash of the account's link before, stands on an account's first row in a file alone, and is
    None on the first link of all.
    """

    account_id: int
    seq: int
    id: int
    previous_id: int
    code: int
    amount: int
    balance_after: int
    at_ms: int
    price_version: int | None
    input: int | None
    cache_read: int | None
    cache_write: int | None
    output: int | None
    reasoning: int | None
    hash: bytes
    previous_hash: bytes | None
    reference: str | None


NUMBERS: Final = 14
"""So many columns at the start are numbers; then come two hashes and the reference."""
COLUMNS: Final = ArchivedRow._fields
Row = tuple[Any, ...]
"""The values of an :class:`ArchivedRow`; a plain tuple where a million pass."""
_INCOMING: Final = frozenset(map(int, INCOMING))


def signed_amount(code: int, amount: int) -> int:
    """Return what a transfer added to its account's balance."""
    return amount if code in _INCOMING else -amount


def link_before(row: ArchivedRow) -> ChainStart:
    """Return the link that a row which carries ``previous_hash`` says it follows."""
    opening = row.balance_after - signed_amount(row.code, row.amount)
    return ChainStart(row.seq - 1, row.previous_id, row.previous_hash or b"", opening)


def link_of(row: ArchivedRow) -> ChainStart:
    """Return the row as the link that the next one follows."""
    return ChainStart(row.seq, row.id, row.hash, row.balance_after)
