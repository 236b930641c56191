"""The Citus layout: the same tables, distributed and co-located by account. Applied on top of the migrations.

Citus enforces a unique key within a shard alone, so every unique key gets the distribution column. Why that keeps each
promise is in docs/scaling.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import peewee

from ..errors import ConfigurationError
from ..models import MODELS


class Engine(StrEnum):
    """A distributed engine that has a layout of its own."""

    CITUS = "citus"


@dataclass(frozen=True, slots=True)
class PlacedTable:
    """Where a table's rows live: hashed by ``column`` among the tables of ``group``, or, without, whole on every node.

    ``statements`` change its keys and then distribute it, in this order.
    """

    name: str
    column: str | None
    group: str | None
    statements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """All tables, in the order in which they are placed."""

    tables: tuple[PlacedTable, ...]

    @property
    def statements(self) -> tuple[str, ...]:
        """The whole layout as one script."""
        return tuple(statement for table in self.tables for statement in table.statements)


_ACCOUNTS: Final = "account"
# Tables whose rows do not belong to one account. An event is claimed by its id before its account is known, and an
# operator's action may concern no account: they are hashed by their own key, in a group of their own.
_BY_OWN_KEY: Final = {"inbox_event": "event_id", "admin_action": "id", "stripe_cursor": "name"}
# Read with every request, written a few times a month.
_EVERYWHERE: Final = frozenset({"price_version"})


def citus_layout(models: Sequence[type[peewee.Model]] = MODELS) -> Layout:
    """Return the layout of the given models' tables.

    Raises:
        ConfigurationError: a table has no account and nobody decided where its rows live.
    """
    tables = [_placed(model) for model in models]
    return Layout(tuple(sorted(tables, key=lambda table: table.name != _ACCOUNTS)))


def apply_layout(database: peewee.Database, engine: Engine) -> list[str]:
    """Distribute the migrated tables that are not distributed yet; returns their names. Needs an open connection.

    Run it while no host runs: rows that are there already are moved to their shards, one table in one transaction.

    Raises:
        ConfigurationError: the database is not the engine's.
    """
    match engine:
        case Engine.CITUS:
            return _apply_citus(database)


def _apply_citus(database: peewee.Database) -> list[str]:
    if database.execute_sql("SELECT to_regclass('pg_dist_partition')").fetchone()[0] is None:
        msg = "this database has no Citus extension: run CREATE EXTENSION citus on the coordinator and add its workers"
        raise ConfigurationError(msg)
    query = "SELECT relname FROM pg_dist_partition JOIN pg_class ON pg_class.oid = logicalrelid"
    done = {row[0] for row in database.execute_sql(query).fetchall()}
    placed = []
    for table in citus_layout().tables:
        if table.name not in done:
            with database.atomic():
                for statement in table.statements:
                    database.execute_sql(statement)
            placed.append(table.name)
    return placed


def _placed(model: type[peewee.Model]) -> PlacedTable:
    meta: Any = model._meta  # noqa: SLF001 - Peewee's documented name for it
    name: str = meta.table_name
    if name in _EVERYWHERE:
        return PlacedTable(name, None, None, (f"SELECT create_reference_table('{name}')",))
    column = _distribution_column(meta)
    group = None if name in _BY_OWN_KEY else _ACCOUNTS
    with_whom = "none" if group is None or name == _ACCOUNTS else _ACCOUNTS
    distribute = f"SELECT create_distributed_table('{name}', '{column}', colocate_with => '{with_whom}')"
    statements = (*_primary_key(meta, column), *_unique_keys(meta, column), distribute)
    return PlacedTable(name, column, group, statements)


def _distribution_column(meta: Any) -> str:
    name: str = meta.table_name
    if name == _ACCOUNTS:
        return "id"
    if name in _BY_OWN_KEY:
        return _BY_OWN_KEY[name]
    field = meta.fields.get("account_id")
    if field is None or field.null:
        msg = f"table {name} has no account for each row: say in the Citus layout where its rows live"
        raise ConfigurationError(msg)
    return "account_id"


def _primary_key(meta: Any, column: str) -> Iterator[str]:
    if meta.composite_key:  # it begins with the account already
        return
    name: str = meta.table_name
    key: str = meta.primary_key.column_name
    if column != key:
        yield f"ALTER TABLE {name} DROP CONSTRAINT {name}_pkey"
        yield f"ALTER TABLE {name} ADD PRIMARY KEY ({column}, {key})"
        yield f"CREATE INDEX {name}_{key} ON {name} ({key})"  # pages of the whole ledger, and sweeps, go by id


def _unique_keys(meta: Any, column: str) -> Iterator[str]:
    """Append the distribution column to each unique column's index, so that look-ups by the value keep their index."""
    name: str = meta.table_name
    for field in meta.sorted_fields:
        if field.unique and not field.primary_key and field.column_name != column:
            index = f"{name}_{field.column_name}"
            yield f"DROP INDEX {index}"
            yield f"CREATE UNIQUE INDEX {index} ON {name} ({field.column_name}, {column})"
