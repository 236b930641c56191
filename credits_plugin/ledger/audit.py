"""``credits audit``: checks the ledger's invariants while hosts go on writing; blocks nobody.

It goes by ranges of accounts. Each range is one consistent snapshot, read in the order of accounts and chains and
forgotten as it passes: memory is bounded by one account's lots, holds and payments, and no snapshot lives long.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import peewee

from ..database import Database
from ..errors import InvalidValue
from .auditing.checkpoint import load_checkpoint, save_checkpoint
from .auditing.checks import check_account, check_past
from .auditing.ranges import FIRST_KEY, LAST_KEY, TRANSFERS_PER_RANGE, account_ranges
from .auditing.report import MAX_FINDINGS, AuditReport, Finding
from .auditing.streams import accounts_of
from .snapshots import Snapshot

__all__ = ["MAX_FINDINGS", "AccountAt", "AuditReport", "Finding", "audit", "audit_uncommitted"]


@dataclass(frozen=True, slots=True)
class AccountAt:
    """An account as its chain proves it: what it had after its transfer number ``seq``, whose hash is ``last_hash``."""

    account_id: int
    external_id: str | None
    seq: int
    balance: int
    last_hash: bytes


def audit(
    database: Database,
    *,
    as_of_ms: int | None = None,
    from_account: int | None = None,
    checkpoint: Path | None = None,
    time_limit_s: float | None = None,
    on_account: Callable[[AccountAt], None] | None = None,
    transfers_per_range: int = TRANSFERS_PER_RANGE,
) -> AuditReport:
    """Check every invariant of every account and return what was found.

    ``as_of_ms``: balances and totals as of that time, from the chains up to their first later transfer; what the past
    keeps no record of (holds, lots, payments) is left out. ``on_account`` hears of every account, in order of its id.

    ``checkpoint`` names a file: the audit notes in it how far it came, goes on from there, and removes it at the end.
    ``time_limit_s`` stops it after the range in which that time is over; ``next_account`` then says where to go on,
    by the file or by ``from_account``.

    Raises:
        InvalidValue: the checkpoint belongs to another audit, or comes together with ``from_account``.
    """
    report = AuditReport(as_of_ms=as_of_ms)
    if checkpoint is not None and from_account is not None:
        msg = "a checkpoint file says where to go on, so do not name an account too"
        raise InvalidValue(msg)
    deadline = None if time_limit_s is None else time.monotonic() + time_limit_s
    with contextlib.closing(database.reader):
        if checkpoint is not None:
            report = load_checkpoint(checkpoint, database, as_of_ms=as_of_ms) or report
        start = next((key for key in (report.next_account, from_account) if key is not None), FIRST_KEY)
        for _ in _audit_ranges(report, database.reader, start, transfers_per_range, on_account):
            if checkpoint is not None:
                save_checkpoint(checkpoint, database, report)
            if deadline is not None and time.monotonic() >= deadline:
                break
    return report


def audit_uncommitted(database: Database) -> AuditReport:
    """Check what the calling thread's open transaction on ``database.primary`` would commit."""
    report = AuditReport()
    for _ in _audit_ranges(report, database.primary, FIRST_KEY, TRANSFERS_PER_RANGE, None):
        pass
    return report


def _audit_ranges(
    report: AuditReport,
    reading: peewee.Database,
    start: int,
    transfers: int,
    on_account: Callable[[AccountAt], None] | None,
) -> Iterator[None]:
    """Audit one range after the other; yields after each, when the report tells how far it came."""
    with contextlib.closing(account_ranges(reading, start=start, transfers=transfers)) as ranges:
        for rows, bounds in ranges:
            _audit_range(report, rows, bounds, on_account)
            report.next_account = bounds[1] + 1 if bounds[1] < LAST_KEY else None
            yield


def _audit_range(
    report: AuditReport, rows: Snapshot, bounds: tuple[int, int], on_account: Callable[[AccountAt], None] | None
) -> None:
    as_of_ms = report.as_of_ms
    for found in accounts_of(rows, bounds, report.note, until_ms=as_of_ms):
        chain = found.chain
        report.transfers += chain.transfers
        for code, amount in chain.turnover():
            report.turnover[code] += amount
        proven = True
        if as_of_ms is None:
            check_account(report, found)
        else:
            proven = check_past(report, found, as_of_ms=as_of_ms)
        if on_account is not None and proven:
            name = found.account[1] if found.account is not None else None
            on_account(AccountAt(found.account_id, name, chain.seq, chain.balance, chain.last_hash))
