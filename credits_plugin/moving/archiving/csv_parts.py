"""Parts as gzipped CSV: one line a transfer, hashes in hexadecimal, nothing where the database has NULL.

The reference, last on its line, is always quoted, so that an empty one is not taken for NULL; it may hold line breaks.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, TextIO, cast

from ...errors import InvalidValue
from .rows import COLUMNS, NUMBERS, ArchivedRow

_HEADER: Final = ",".join(COLUMNS) + "\n"
_LEVEL: Final = 1
"""Of gzip. Level 6 makes a tenth less in nine times the time: most of a line is a hash and ids."""


def write_csv(path: Path, batches: Iterable[Sequence[ArchivedRow]]) -> None:
    """Write a part; the same rows make the same bytes."""
    with path.open("wb") as file, gzip.GzipFile("", "wb", _LEVEL, file, mtime=0) as packed:
        packed.write(_HEADER.encode())
        for batch in batches:
            packed.write("".join(map(_line, batch)).encode())


def read_csv(path: Path) -> Iterator[ArchivedRow]:
    """Yield a part's rows.

    Raises:
        InvalidValue: a line is none of ours.
    """
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as opened:
        lines = cast("TextIO", opened)
        if next(lines, "") != _HEADER:
            msg = "its first line does not name an archive's columns"
            raise InvalidValue(msg)
        for line in lines:
            text = line
            while text.count('"') % 2:
                following = next(lines, "")
                if not following:
                    msg = "it ends inside a quoted reference"
                    raise InvalidValue(msg)
                text += following
            yield _row(text)


def _line(row: ArchivedRow) -> str:
    *numbers, digest, previous_hash, reference = row
    shown = ",".join(["" if number is None else str(number) for number in numbers])
    before = "" if previous_hash is None else previous_hash.hex()
    quoted = "" if reference is None else '"' + reference.replace('"', '""') + '"'
    return f"{shown},{digest.hex()},{before},{quoted}\n"


def _row(line: str) -> ArchivedRow:
    fields = line.split(",", NUMBERS + 2)
    reference = fields[-1]
    quoted = len(reference) > 2 and reference[0] == '"' and reference[-2] == '"'
    if len(fields) != len(COLUMNS) or not (reference == "\n" or quoted):
        msg = f"a line is none of an archive's: {line[:80]!r}"
        raise InvalidValue(msg)
    numbers = [int(field) if field else None for field in fields[:NUMBERS]]
    digest, before = fields[NUMBERS : NUMBERS + 2]
    return ArchivedRow._make(
        (
            *numbers,
            bytes.fromhex(digest),
            bytes.fromhex(before) if before else None,
            reference[1:-2].replace('""', '"') if quoted else None,
        )
    )
