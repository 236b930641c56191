"""``credits heads verify --archive``: exported heads that lie in archived transfers, found in the archive's files.

A database says itself where its chains begin, so only the files can show that a chain came from such a head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...database import Database
from ...ledger.auditing.heads import HeadsReport, other_hash, verify_heads
from .rows import ArchivedRow
from .verify import ArchiveProof, temporary_table, verify_archives


def verify_heads_and_archives(
    database: Database, path: Path, folders: Sequence[Path]
) -> tuple[HeadsReport, ArchiveProof]:
    """Check exported heads against the database and, where they lie in archived transfers, against the files.

    ``folders`` are all archives of the ledger, the oldest first. They are checked wholly, and that the database's
    chains go on from them. Only both together, clean and with no head unproven, prove anything.

    Raises:
        InvalidValue: the file of heads, or an archive's manifest, is not as it was written.
        ConfigurationError: a part is Parquet, and pyarrow is missing.
        DatabaseError: the database is not migrated.
    """
    with contextlib.closing(_Wanted()) as wanted:
        report = verify_heads(database, path, on_archived=wanted.add)
        proof = verify_archives(folders, database, reading=lambda rows: wanted.look(rows, report))
    return report, proof


class _Wanted:
    """The heads to find, on disk: there may be millions."""

    def __init__(self) -> None:
        self._heads = temporary_table("head (account_id INTEGER PRIMARY KEY, seq, hash)")

    def add(self, account_id: int, seq: int, exported: bytes) -> None:
        """Want a head."""
        self._heads.execute("INSERT INTO head VALUES (?, ?, ?)", (account_id, seq, exported))

    def look(self, rows: Iterator[ArchivedRow], report: HeadsReport) -> Iterator[ArchivedRow]:
        """Pass a part's rows on; note in the report which of them are wanted heads, and which should be and are not."""
        account_id, seq, exported = None, 0, b""
        for row in rows:
            if row[0] != account_id:
                account_id = row[0]
                query = "SELECT seq, hash FROM head WHERE account_id = ?"
                seq, exported = self._heads.execute(query, (account_id,)).fetchone() or (0, b"")
            if row[1] == seq:
                self._heads.execute("DELETE FROM head WHERE account_id = ?", (account_id,))
                report.found_archived += 1
                if row.hash != exported:
                    report.note(row.account_id, [other_hash(row.account_id, seq, exported, row.hash)])
                seq = 0
            yield row

    def close(self) -> None:
        """Forget everything."""
        self._heads.close()
