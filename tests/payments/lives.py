"""Hosts that die: before a chosen statement of any of their connections, or before or after a chosen call to Stripe.

Dying is for good: from then on no statement and no call of that host goes through, so the database and Stripe see what
they see of a process that was killed. The next life has connections, writer, reads and gateway of its own.
"""

from __future__ import annotations

import contextlib
import inspect
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import psycopg

from credits_plugin.database import Database, Dialect, Reads, open_database
from credits_plugin.gateways.stripe_api import StripeGateway
from credits_plugin.ledger.ids import IdMaker
from credits_plugin.ledger.writer import LedgerWriter
from credits_plugin.payments.gateway import PaymentGateway
from credits_plugin.payments.shop import Shop


class Killed(Exception):
    """The host is dead."""


class Death:
    """Comes with the ``at``-th thing that is begun; without it never."""

    def __init__(self, at: int | None) -> None:
        self._at = at
        self._lock = threading.Lock()
        self.begun = 0

    @property
    def came(self) -> bool:
        return self._at is not None and self.begun >= self._at

    def tick(self) -> None:
        with self._lock:
            self.begun += 1
            if self.came:
                raise Killed


class SqliteCursor(sqlite3.Cursor):
    def execute(self, *arguments: Any) -> Any:
        self.connection.death.tick()
        return super().execute(*arguments)

    def executemany(self, *arguments: Any) -> Any:
        self.connection.death.tick()
        return super().executemany(*arguments)


class SqliteConnection(sqlite3.Connection):
    death = Death(None)

    def cursor(self, factory: Any = SqliteCursor) -> Any:
        return super().cursor(factory)


class PostgresqlCursor(psycopg.Cursor):
    def execute(self, *arguments: Any, **options: Any) -> Any:
        self.connection.death.tick()
        return super().execute(*arguments, **options)


class MortalGateway(StripeGateway):
    """The real gateway; a call may not be sent any more, or its answer may find nobody."""

    death: Death


def _mortal(name: str) -> Callable[..., Awaitable[Any]]:
    async def call(self: MortalGateway, *arguments: Any, **options: Any) -> Any:
        self.death.tick()
        answer = await getattr(StripeGateway, name)(self, *arguments, **options)
        self.death.tick()
        return answer

    return call


for _name, _method in inspect.getmembers(PaymentGateway, inspect.iscoroutinefunction):
    if _name != "close":
        setattr(MortalGateway, _name, _mortal(_name))


def make_mortal(opened: Database, death: Death) -> list[Any]:
    """Let every connection of a database die with ``death``; returns the list that they are added to."""
    connections: list[Any] = []
    for database in (opened.primary, opened.reader):
        _make_mortal(database, opened.dialect, death, connections)
    return connections


def _make_mortal(database: Any, dialect: Dialect, death: Death, connections: list[Any]) -> None:
    connect = database._connect
    if dialect is Dialect.SQLITE:
        database.connect_params |= {"factory": SqliteConnection, "check_same_thread": False}

    def connect_mortal() -> Any:
        connection = connect()
        connection.death = death
        if isinstance(connection, psycopg.Connection):
            connection.cursor_factory = PostgresqlCursor
        connections.append(connection)
        return connection

    database._connect = connect_mortal


class Life:
    """One host's process from start to end, as an async context with its shop."""

    def __init__(self, database_url: str, shop: Shop, *, dies_at: int | None) -> None:
        self.death = Death(dies_at)
        self._database = open_database(database_url)
        self._connections = make_mortal(self._database, self.death)
        new_id = IdMaker()
        self._writer, self._reads = LedgerWriter(self._database, new_id=new_id), Reads(self._database, threads=1)
        gateway = MortalGateway(shop.settings.stripe_secret_key, api_base=shop.settings.stripe_api_base)
        gateway.death = self.death
        self.shop = replace(shop, writer=self._writer, reads=self._reads, new_id=new_id, gateway=gateway)

    async def __aenter__(self) -> Shop:
        self._writer.start()
        return self.shop

    async def __aexit__(self, *error: object) -> None:
        await self.shop.gateway.close()
        self._writer.close()
        self._reads.close()
        for connection in self._connections:
            with contextlib.suppress(Exception):
                connection.close()


async def live(database_url: str, shop: Shop, act: Callable[[Shop], Awaitable[Any]], *, dies_at: int | None) -> int:
    """Let a host do something; returns how many things it had begun when it died, 0 if it survived.

    Raises:
        Exception: what went wrong in a host that was alive.
    """
    life = Life(database_url, shop, dies_at=dies_at)
    async with life as mortal:
        try:
            await act(mortal)
        except Exception:
            if not life.death.came:
                raise
    return life.death.begun if life.death.came else 0
