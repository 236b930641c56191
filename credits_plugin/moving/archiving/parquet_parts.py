"""Parts as Parquet, through pyarrow, which the extra ``archive`` brings. Imported by nothing until it is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from ...errors import ConfigurationError, InvalidValue
from .rows import COLUMNS, ArchivedRow

_GROUP_ROWS: Final = 50_000
_HASH_BYTES: Final = 16
_SMALL: Final = frozenset({"code", "price_version"})
_CLIMBING: Final = ("seq", "id", "previous_id", "balance_after", "at_ms")
"""Columns whose neighbours are near each other: their differences take half the bytes."""


def require_parquet() -> None:
    """Check that Parquet can be written and read here.

    Raises:
        ConfigurationError: pyarrow is missing.
    """
    _pyarrow()


def write_parquet(path: Path, batches: Iterable[Sequence[ArchivedRow]]) -> None:
    """Write a part, in row groups of 50,000 transfers."""
    arrow, parquet = _pyarrow()
    schema = _schema(arrow)
    options = {
        "compression": "zstd",
        "use_dictionary": [name for name in COLUMNS if name not in {*_CLIMBING, "hash", "previous_hash", "reference"}],
        "column_encoding": dict.fromkeys(_CLIMBING, "DELTA_BINARY_PACKED"),
    }
    with parquet.ParquetWriter(path, schema, **options) as file:
        group: list[ArchivedRow] = []
        for batch in batches:
            group += batch
            if len(group) >= _GROUP_ROWS:
                file.write_table(_table(arrow, schema, group))
                group = []
        if group:
            file.write_table(_table(arrow, schema, group))


def read_parquet(path: Path) -> Iterator[ArchivedRow]:
    """Yield a part's rows.

    Raises:
        InvalidValue: its columns are none of ours.
        ConfigurationError: pyarrow is missing.
    """
    arrow, parquet = _pyarrow()
    with parquet.ParquetFile(path) as file:
        if not file.schema_arrow.equals(_schema(arrow)):
            msg = "its columns are not an archive's"
            raise InvalidValue(msg)
        for batch in file.iter_batches(batch_size=10_000):
            columns = (column.to_pylist() for column in batch.columns)
            yield from map(ArchivedRow._make, zip(*columns, strict=True))


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow  # noqa: PLC0415 - heavy, and only Parquet needs it
        import pyarrow.parquet  # noqa: PLC0415 - see above
    except ImportError as error:
        msg = "Parquet needs pyarrow: pip install 'credits-plugin[archive]', or take --format csv"
        raise ConfigurationError(msg) from error
    return pyarrow, pyarrow.parquet


def _schema(arrow: Any) -> Any:
    def kind(name: str) -> Any:
        if name == "reference":
            return arrow.string()
        if name.endswith("hash"):
            return arrow.binary(_HASH_BYTES)
        return arrow.int32() if name in _SMALL else arrow.int64()

    nullable = {*COLUMNS[8:14], "previous_hash", "reference"}
    return arrow.schema([arrow.field(name, kind(name), name in nullable) for name in COLUMNS])


def _table(arrow: Any, schema: Any, rows: Sequence[ArchivedRow]) -> Any:
    columns = zip(*rows, strict=True)
    return arrow.table([arrow.array(values, field.type) for values, field in zip(columns, schema, strict=True)], schema)
