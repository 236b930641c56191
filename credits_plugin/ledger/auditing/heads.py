"""The heads of all chains as a file to sign and keep: whoever has it can show later that history was not rewritten.

A head's hash covers every transfer before it. The file is text, the same bytes for the same ledger, and names nobody:
account keys, seqs and hashes, and at its end one SHA-256 over all of that, which is what to sign or to publish.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from ...database import Database
from ...errors import InvalidValue
from ..snapshots import Snapshot, snapshot
from .chains import TRANSFERS, ByAccount, walk
from .ranges import LAST_KEY, TRANSFERS_PER_RANGE, account_ranges
from .report import MAX_FINDINGS, Finding
from .starts import ChainStart, chain_starts, start_of

_TITLE: Final = b"credits heads 1\n"
_HEADS: Final = "SELECT id, seq, last_hash FROM account WHERE seq > 0 ORDER BY id"


@dataclass(frozen=True, slots=True)
class HeadsExport:
    """What was written. ``digest`` is the SHA-256 in the file's last line, in hexadecimal."""

    path: Path
    accounts: int
    transfers: int
    digest: str


@dataclass(slots=True)
class HeadsReport:
    """What became of exported heads. ``transfers`` were hashed again.

    ``archived`` heads are not after the beginning of what is still here: the database can say of them what it likes.
    ``found_archived`` of those were found in the archive's files. ``findings`` tell what was rewritten, at most 1,000
    of them; ``rewritten`` are the accounts.
    """

    digest: str
    accounts: int = 0
    transfers: int = 0
    archived: int = 0
    found_archived: int = 0
    rewritten: list[int] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether every exported head that is still here is on its account's chain."""
        return not self.rewritten

    @property
    def unproven(self) -> int:
        """How many heads lie in archived transfers, and were not found there."""
        return self.archived - self.found_archived

    def note(self, account_id: int, faults: Sequence[Finding]) -> None:
        """Add a rewritten account and what tells of it."""
        self.rewritten.append(account_id)
        self.findings += faults[: max(MAX_FINDINGS - len(self.findings), 0)]


def export_heads(database: Database, path: Path) -> HeadsExport:
    """Write every account's (key, seq, hash) of one snapshot to a new file; run the audit first.

    Raises:
        InvalidValue: the file exists; what was kept as proof is never overwritten.
    """
    if path.exists():
        msg = f"{path} exists; name a new file, exported heads are never overwritten"
        raise InvalidValue(msg)
    partial = path.with_name(path.name + ".partial")
    accounts = transfers = 0
    digest = hashlib.sha256()
    with partial.open("wb") as file, contextlib.closing(database.reader), snapshot(database.reader) as rows:

        def write(line: bytes) -> None:
            digest.update(line)
            file.write(line)

        write(_TITLE)
        for account_id, seq, last_hash in rows.stream(_HEADS):
            write(f"{account_id} {seq} {bytes(last_hash).hex()}\n".encode())
            accounts, transfers = accounts + 1, transfers + seq
        file.write(f"sha256 {digest.hexdigest()}\n".encode())
    partial.rename(path)
    return HeadsExport(path, accounts, transfers, digest.hexdigest())


OnArchived: TypeAlias = Callable[[int, int, bytes], None]
"""Hears of a head that lies in archived transfers: the account's key, its number, its hash."""


def verify_heads(
    database: Database,
    path: Path,
    *,
    transfers_per_range: int = TRANSFERS_PER_RANGE,
    on_archived: OnArchived = lambda *_: None,
) -> HeadsReport:
    """Hash every exported account's chain again and see whether it still passes through its exported head.

    Raises:
        InvalidValue: the file is none of ours or was changed after it was written.
    """
    report = HeadsReport(_require_intact(path))
    with path.open("rb") as file, contextlib.closing(database.reader):
        heads = ByAccount(_parse(file))
        ranges = account_ranges(database.reader, transfers=transfers_per_range)
        with contextlib.closing(ranges):
            for rows, bounds in ranges:
                _verify_range(report, rows, bounds, heads, on_archived)
    return report


def _verify_range(
    report: HeadsReport, rows: Snapshot, bounds: tuple[int, int], heads: ByAccount, on_archived: OnArchived
) -> None:
    transfers = ByAccount(rows.stream(TRANSFERS, bounds), column=1)
    starts = ByAccount(chain_starts(rows, bounds))
    while (account_id := min(transfers.account, starts.account, heads.account)) <= min(bounds[1], LAST_KEY):
        start = next(map(start_of, starts.take(account_id)), ChainStart())
        head = heads.take(account_id)
        if not head:
            if transfers.account == account_id:
                transfers.skip(account_id)
            continue
        _verify_account(report, transfers, start, head[0], on_archived)


def _verify_account(
    report: HeadsReport, transfers: ByAccount, start: ChainStart, head: Any, on_archived: OnArchived
) -> None:
    account_id, seq, exported = head
    faults: list[Finding] = []
    chain = walk(transfers, account_id, start, faults.append, seq_asked=seq)
    report.accounts += 1
    report.transfers += chain.transfers
    if chain.hash_at is None and seq >= start.seq:
        message = f"had {seq} transfers when its head was exported, its chain has {chain.seq}"
        faults.append(Finding(9, f"account {account_id}", message, account_id, None, seq, chain.seq))
    elif chain.hash_at is not None and chain.hash_at != exported:
        faults.append(other_hash(account_id, seq, exported, chain.hash_at))
    if faults:
        report.note(account_id, faults)
    elif seq <= start.seq:
        report.archived += 1
        on_archived(account_id, seq, exported)


def other_hash(account_id: int, seq: int, exported: bytes, found: bytes) -> Finding:
    """Say that a link has another hash than was exported."""
    message = f"transfer number {seq} is not the one whose hash was exported: history was rewritten"
    return Finding(9, f"account {account_id}", message, account_id, None, exported.hex(), found.hex())


def _require_intact(path: Path) -> str:
    """Return the file's digest, having compared it with the file."""
    digest, line = hashlib.sha256(), b""
    with path.open("rb") as file:
        title = file.readline(len(_TITLE))
        digest.update(title)
        for following in file:
            digest.update(line)
            line = following
    if title != _TITLE or line != f"sha256 {digest.hexdigest()}\n".encode():
        msg = f"{path} is not a file of exported heads as it was written: its digest does not match"
        raise InvalidValue(msg)
    return digest.hexdigest()


def _parse(file: Iterator[bytes]) -> Iterator[tuple[int, int, bytes]]:
    next(file)
    for line in file:
        key, _, rest = line.decode().partition(" ")
        if key == "sha256":
            return
        seq, _, digest = rest.partition(" ")
        yield int(key), int(seq), bytes.fromhex(digest)
