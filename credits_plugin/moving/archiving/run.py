"""`credits archive`: write, sync, read back and prove, note in the manifest, and only then remove.

Whatever kills it, the next run goes on: a part is in the manifest, synced, before its first row is removed, and rows
are removed in the order of the file, so the anchor of its last account tells whether all of them are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Final, NamedTuple

from ...database import Database, file_lock, require_current_schema
from ...errors import InvalidValue
from ...ledger.auditing.ranges import FIRST_KEY, LAST_KEY, TRANSFERS_PER_RANGE, account_ranges
from ...ledger.auditing.starts import ChainStart
from ...ledger.ids import IdMaker
from ...ledger.writer import LedgerWriter
from ..durable import sync_path
from .manifest import Manifest, Part, load_manifest
from .parquet_parts import require_parquet
from .parts import PARTIAL, file_sha256, part_name, read_part, write_part
from .removal import anchors_of, remove_rows
from .rows import ArchivedRow, FileFormat
from .selection import archivable_rows
from .walk import walk_part

MIN_AGE_DAYS: Final = 7
"""Transfers younger than this stay: a late settle or a retry is answered from the row that it made."""
_DAY_MS: Final = 86_400_000


class Limits(NamedTuple):
    """How much at once: transfers in a file, in a removing transaction, and in the snapshot of a range of accounts."""

    part_rows: int = 1_000_000
    step_rows: int = 500
    range_transfers: int = TRANSFERS_PER_RANGE


_LIMITS: Final = Limits()


@dataclass(slots=True)
class ArchiveReport:
    """What a run did. ``removed`` may be more than ``rows``, what it wrote: the rest was left by a run that was killed.

    ``digest`` covers the whole manifest and is what to keep elsewhere.
    """

    folder: Path
    rows: int = 0
    parts: int = 0
    size_bytes: int = 0
    removed: int = 0
    digest: str = ""


def archive_transfers(
    database: Database,
    folder: Path,
    *,
    before_ms: int,
    at_ms: int,
    file_format: FileFormat = FileFormat.CSV,
    limits: Limits = _LIMITS,
) -> ArchiveReport:
    """Move each account's transfers from before ``before_ms`` into files in ``folder``, as a part of its history.

    Hosts may go on. ``at_ms`` is now. Memory is bounded, whatever the ledger's size.

    Raises:
        InvalidValue: ``before_ms`` is too young, the folder holds something else, or a chain in the database is broken.
        ConfigurationError: Parquet without pyarrow.
        DatabaseError: not migrated.
        LedgerError: the folder belongs to another ledger.
    """
    _require_old(before_ms, at_ms=at_ms)
    require_current_schema(database)
    if file_format is FileFormat.PARQUET:
        require_parquet()
    folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder / ".lock"), contextlib.closing(LedgerWriter(database, new_id=IdMaker())) as writer:
        writer.start()
        manifest = load_manifest(folder)
        run = _Run(database, writer, manifest, before_ms=before_ms, file_format=file_format, limits=limits)
        return run.go()


def _require_old(before_ms: int, *, at_ms: int) -> None:
    if before_ms > at_ms - MIN_AGE_DAYS * _DAY_MS:
        msg = (
            f"transfers of the last {MIN_AGE_DAYS} days stay in the database, where late settles and retries find "
            "them: name an earlier date"
        )
        raise InvalidValue(msg)


class _Run:
    """One run, in its order: finish what an earlier one began, then range by range."""

    def __init__(
        self,
        database: Database,
        writer: LedgerWriter,
        manifest: Manifest,
        *,
        before_ms: int,
        file_format: FileFormat,
        limits: Limits,
    ) -> None:
        self._database = database
        self._writer = writer
        self._manifest = manifest
        self._folder = manifest.folder
        self._before_ms = before_ms
        self._format = file_format
        self._limits = limits
        self._report = ArchiveReport(manifest.folder)

    def go(self) -> ArchiveReport:
        self._adopt_files()
        for part in self._unfinished():
            self._remove(part)
        start = FIRST_KEY
        while start <= LAST_KEY:
            parts, last = self._write_range(start)
            if parts:
                self._publish(parts)
            for part in parts:
                self._remove(part)
            start = last + 1
        self._report.digest = self._manifest.digest
        return self._report

    def _adopt_files(self) -> None:
        """Give parts of the manifest their names, and drop what a killed run had not come to note there."""
        if strangers := self._manifest.strangers():
            msg = (
                f"{self._folder / strangers[0]} is not in the manifest, which may be an older copy: put the right one "
                "back, or name another folder"
            )
            raise InvalidValue(msg)
        for part in self._manifest.parts:
            path = self._manifest.path(part)
            if not path.exists():
                partial = path.with_name(path.name + PARTIAL)
                if not partial.exists() or file_sha256(partial) != part.sha256:
                    msg = f"{path} is missing: put it back before the archive goes on"
                    raise InvalidValue(msg)
                partial.rename(path)
        for partial in self._folder.glob(f"*{PARTIAL}"):
            partial.unlink()
        sync_path(self._folder)

    def _unfinished(self) -> Iterator[Part]:
        """Yield the parts whose rows are not all removed: those whose last account's anchor lies before their end."""
        with contextlib.closing(self._database.reader):
            self._database.reader.connect(reuse_if_open=True)
            for part in self._manifest.parts:
                last = part.sums.last_account
                anchor = anchors_of(self._database.reader, [last]).get(last, ChainStart())
                if anchor.seq < part.sums.end.seq:
                    yield part

    def _write_range(self, start: int) -> tuple[list[Part], int]:
        """Write the parts of one range of accounts, as one snapshot shows it; returns them and its last account."""
        parts: list[Part] = []
        ranges = account_ranges(self._database.reader, start=start, transfers=self._limits.range_transfers)
        with contextlib.closing(self._database.reader), contextlib.closing(ranges):
            rows, bounds = next(ranges)
            old = archivable_rows(rows, bounds, before_ms=self._before_ms)
            for first in old:
                number = len(self._manifest.parts) + len(parts) + 1
                following = islice(old, self._limits.part_rows - 1)
                parts.append(self._write_part(number, chain((_after(parts, first),), following)))
        return parts, bounds[1]

    def _write_part(self, number: int, rows: Iterator[ArchivedRow]) -> Part:
        """Write a part under its provisional name and prove it from what was written."""
        name = part_name(number, self._format)
        path = self._folder / f"{name}{PARTIAL}"
        write_part(path, self._format, rows)
        try:
            sums = walk_part(read_part(path))
        except InvalidValue as error:
            msg = f"nothing of {name} was removed: {error}; run `credits audit`"
            raise InvalidValue(msg) from error
        return Part(name, file_sha256(path), path.stat().st_size, self._before_ms, sums)

    def _publish(self, parts: list[Part]) -> None:
        """Note the parts in the manifest, then give them their names; both are on the disk before this returns."""
        sync_path(self._folder)
        self._manifest.parts += parts
        self._manifest.save()
        for part in parts:
            path = self._manifest.path(part)
            path.with_name(path.name + PARTIAL).rename(path)
            self._report.parts += 1
            self._report.rows += part.sums.rows
            self._report.size_bytes += part.size_bytes
        sync_path(self._folder)

    def _remove(self, part: Part) -> None:
        path = self._manifest.path(part)
        if file_sha256(path) != part.sha256:
            msg = f"{path} is not what the manifest says; its rows stay in the database until it is put right"
            raise InvalidValue(msg)
        self._report.removed += remove_rows(self._writer, read_part(path), step_rows=self._limits.step_rows)


def _after(parts: Sequence[Part], row: ArchivedRow) -> ArchivedRow:
    """Let a part's first row say which link it follows, also where that link ended the part before."""
    if parts and parts[-1].sums.last_account == row.account_id:
        return row._replace(previous_hash=parts[-1].sums.end.last_hash)
    return row
