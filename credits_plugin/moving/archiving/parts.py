"""Files of an archive: each a bounded number of transfers in the order of accounts and chains, in either format."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from ...errors import InvalidValue
from ..durable import sync_path
from .csv_parts import read_csv, write_csv
from .parquet_parts import read_parquet, write_parquet
from .rows import ArchivedRow, FileFormat

_BATCH: Final = 5_000
_ENDINGS: Final = {FileFormat.CSV: ".csv.gz", FileFormat.PARQUET: ".parquet"}
PARTIAL: Final = ".partial"
"""What a file's name ends with until the manifest knows it."""


def part_name(number: int, file_format: FileFormat) -> str:
    """Return the name of the part with this number."""
    return f"part-{number:06}{_ENDINGS[file_format]}"


def is_part(name: str) -> bool:
    """Whether a file's name is that of a part."""
    return name.startswith("part-") and name.endswith(tuple(_ENDINGS.values()))


def write_part(path: Path, file_format: FileFormat, rows: Iterable[ArchivedRow]) -> None:
    """Write a part and sync it; memory holds a few thousand rows of it."""
    batches = _batches(rows)
    match file_format:
        case FileFormat.CSV:
            write_csv(path, batches)
        case FileFormat.PARQUET:
            write_parquet(path, batches)
    sync_path(path)


def read_part(path: Path) -> Iterator[ArchivedRow]:
    """Yield a part's rows.

    Raises:
        InvalidValue: it cannot be read as one.
        ConfigurationError: it is Parquet, and pyarrow is missing.
    """
    ending = path.name.removesuffix(PARTIAL)
    reader = read_parquet if ending.endswith(_ENDINGS[FileFormat.PARQUET]) else read_csv
    try:
        yield from reader(path)
    except (ValueError, EOFError, zlib.error, OSError) as error:
        msg = f"it cannot be read: {error}"
        raise InvalidValue(msg) from error


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _batches(rows: Iterable[ArchivedRow]) -> Iterator[list[ArchivedRow]]:
    remaining = iter(rows)
    while batch := list(islice(remaining, _BATCH)):
        yield batch
