"""`credits archive verify`: the manifest, every file, every chain in them, their joins, and the database's anchors.

With the anchors equal to the archives' last links, the archives and `credits audit` together prove every balance from
its account's first transfer on; the anchors alone prove what is left without them.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from ...database import Database, require_current_schema
from ...errors import InvalidValue
from ...ledger.auditing.chains import NEVER, ByAccount
from ...ledger.auditing.ranges import FIRST_KEY, LAST_KEY
from ...ledger.auditing.report import MAX_FINDINGS
from ...ledger.auditing.starts import ChainStart, chain_starts, start_of
from ...ledger.snapshots import snapshot
from .manifest import MANIFEST, Manifest, Part, load_manifest
from .parts import file_sha256, read_part
from .rows import ArchivedRow
from .walk import walk_part


@dataclass(slots=True)
class ArchiveProof:
    """What was checked and found. ``closing`` is what the archived transfers left on all accounts together.

    ``digests`` are the folders' own, to compare with what was kept elsewhere. ``anchors`` were compared in the
    database. ``findings`` name file, account or part; at most 1,000 are kept, ``finding_count`` counts all.
    """

    parts: int = 0
    rows: int = 0
    accounts: int = 0
    closing: int = 0
    anchors: int = 0
    amounts: Counter[int] = field(default_factory=Counter)
    digests: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    finding_count: int = 0

    @property
    def clean(self) -> bool:
        """Whether everything is as it was written, and joins."""
        return self.finding_count == 0

    def note(self, finding: str) -> None:
        """Add a finding."""
        self.finding_count += 1
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(finding)


Reading: TypeAlias = Callable[[Iterator[ArchivedRow]], Iterator[ArchivedRow]]
"""Sees the rows of a part pass, on their way to being checked."""


def verify_archives(
    folders: Sequence[Path], database: Database | None = None, *, reading: Reading = iter
) -> ArchiveProof:
    """Check archives of one ledger, the oldest folder first; with a database, that its chains go on where they end.

    Raises:
        InvalidValue: a folder has no manifest, or one that is not as it was written.
        ConfigurationError: a part is Parquet, and pyarrow is missing.
        DatabaseError: the database is not migrated.
    """
    manifests = [_require_manifest(folder) for folder in folders]
    if database is not None:
        require_current_schema(database)
    proof = ArchiveProof()
    with contextlib.closing(_Ends()) as ends:
        for manifest in manifests:
            proof.digests.append(manifest.digest)
            for name in manifest.strangers():
                proof.note(f"{name}: is not in the manifest, so it is no part of the archive")
            for part in manifest.parts:
                _verify_part(proof, manifest, part, ends, reading)
        proof.accounts, proof.closing = ends.totals()
        if database is not None:
            _compare_anchors(proof, database, ends)
    return proof


def _require_manifest(folder: Path) -> Manifest:
    if not (folder / MANIFEST).exists():
        msg = f"there is no archive in {folder}: it has no {MANIFEST}"
        raise InvalidValue(msg)
    return load_manifest(folder)


def _verify_part(proof: ArchiveProof, manifest: Manifest, part: Part, ends: _Ends, reading: Reading) -> None:
    path = manifest.path(part)
    if not path.exists():
        proof.note(f"{part.file}: is missing")
        return
    if (path.stat().st_size, file_sha256(path)) != (part.size_bytes, part.sha256):
        proof.note(f"{part.file}: was changed, its SHA-256 is not the manifest's")
        return

    def join(account_id: int, start: ChainStart, end: ChainStart) -> None:
        if problem := ends.join(account_id, start, end):
            proof.note(f"{part.file}: account {account_id} {problem}")

    try:
        sums = walk_part(reading(read_part(path)), join)
    except InvalidValue as error:
        proof.note(f"{part.file}: {error}")
        return
    if sums != part.sums:
        proof.note(f"{part.file}: its counts and sums are not the manifest's")
    proof.parts += 1
    proof.rows += sums.rows
    proof.amounts.update(sums.amounts)


def _compare_anchors(proof: ArchiveProof, database: Database, ends: _Ends) -> None:
    with contextlib.closing(database.reader), snapshot(database.reader) as rows:
        anchors = ByAccount(chain_starts(rows, (FIRST_KEY, LAST_KEY)))
        archived = ByAccount(ends.rows())
        while (account_id := min(anchors.account, archived.account)) < NEVER:
            anchor = next(map(start_of, anchors.take(account_id)), ChainStart())
            end = next(map(start_of, archived.take(account_id)), ChainStart())
            proof.anchors += anchor.seq > 0
            if anchor != end:
                proof.note(f"account {account_id}: {_difference(anchor, end)}")


def _difference(anchor: ChainStart, end: ChainStart) -> str:
    if anchor.seq < end.seq:
        return (
            f"the archive ends with number {end.seq}, the database's chain begins after number {anchor.seq}: "
            "a run was interrupted, archive again into the same folder to finish it"
        )
    if anchor.seq > end.seq:
        return f"the database's chain begins after number {anchor.seq}, what was named here ends with number {end.seq}"
    return f"the archive's last link, number {end.seq}, is not the one that the database's chain goes on from"


def temporary_table(definition: str) -> sqlite3.Connection:
    """Return a connection to a temporary file of SQLite's own with one table, for what may not fit in memory."""
    connection = sqlite3.connect("", isolation_level=None)
    connection.execute("PRAGMA journal_mode=OFF")
    connection.execute(f"CREATE TABLE {definition}")
    connection.execute("BEGIN")
    return connection


class _Ends:
    """The last archived link of every account so far, on disk: there may be millions."""

    def __init__(self) -> None:
        self._links = temporary_table("link (account_id INTEGER PRIMARY KEY, seq, transfer_id, hash, balance)")

    def join(self, account_id: int, start: ChainStart, end: ChainStart) -> str:
        """Move an account's end on; returns what is wrong where ``start`` is not the end so far."""
        found = self._links.execute("SELECT * FROM link WHERE account_id = ?", (account_id,)).fetchone()
        known = start_of(found) if found else ChainStart()
        self._links.execute("REPLACE INTO link VALUES (?, ?, ?, ?, ?)", (account_id, *end))
        if start == known:
            return ""
        if not found:
            return f"begins after number {start.seq}: name the folder with its earlier transfers too, before this one"
        return f"goes on after number {start.seq}, which is not the end of the part before, number {known.seq}"

    def rows(self) -> Iterator[Any]:
        """Yield (account id, seq, transfer id, hash, balance) in the order of accounts."""
        return iter(self._links.execute("SELECT * FROM link ORDER BY account_id"))

    def totals(self) -> tuple[int, int]:
        """Return the number of accounts and the sum of what their archived transfers left."""
        count, closing = 0, 0
        for row in self.rows():
            count, closing = count + 1, closing + row[4]
        return count, closing

    def close(self) -> None:
        """Forget everything."""
        self._links.close()
