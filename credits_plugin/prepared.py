"""Queries that are written once: Peewee takes many times longer to write a query's SQL than SQLite takes to run it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peewee


class Prepared:
    """A Peewee query with parameters, whose SQL is made with its first execution on each kind of database.

    ``build`` is called with a stand-in for each parameter and returns the query; a stand-in can be anything that a
    column is compared with or set to. Values are handed to the driver as they are: integers, texts, None.
    """

    def __init__(self, build: Callable[..., Any]) -> None:
        self._build = build
        self._made: dict[type[peewee.Database], tuple[str, list[Any]]] = {}

    def execute(self, database: peewee.Database, *values: Any) -> Any:
        """Run the query and return the driver's cursor."""
        sql, parameters = self._made.get(type(database)) or self._make(database, len(values))
        bound = [values[one.index] if type(one) is _Slot else one for one in parameters]
        return database.execute_sql(sql, bound)

    def rows(self, database: peewee.Database, *values: Any) -> list[dict[str, Any]]:
        """Run a query that reads and return its rows by column."""
        cursor = self.execute(database, *values)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def _make(self, database: peewee.Database, count: int) -> tuple[str, list[Any]]:
        query = self._build(*(peewee.Value(_Slot(index), converter=False) for index in range(count)))
        made: tuple[str, list[Any]] = database.get_sql_context().sql(query).query()
        self._made[type(database)] = made
        return made


class _Slot:
    """Where a parameter goes among a query's constants."""

    def __init__(self, index: int) -> None:
        self.index = index
