"""Kills an archiving process at every writing statement and file operation in turn, and lets the next run finish.

``python killed_archive.py URL FOLDER FORMAT``: the URL names a migrated, filled database that nobody has open. Prints
how many places it was killed at; fails where a run after the kill does not converge.
"""

from __future__ import annotations

import gzip
import os
import shutil
import sqlite3
import sys
import traceback
from pathlib import Path

import psycopg
from archive_ledger import archive, require_whole, rows_of

import credits_plugin.database as databases
from credits_plugin.database import open_database
from credits_plugin.moving.archiving.parquet_parts import require_parquet
from credits_plugin.moving.archiving.rows import FileFormat
from credits_plugin.moving.archiving.run import Limits
from credits_plugin.moving.archiving.verify import verify_archives

LIMITS = Limits(part_rows=5, step_rows=3, range_transfers=9)
KILLED = 9


class Killer:
    """Ends the process, without a word to anybody, when ``left`` more things have been begun."""

    def __init__(self, left: int) -> None:
        self.left = left

    def tick(self) -> None:
        self.left -= 1
        if self.left == 0:
            os._exit(KILLED)

    def before(self, owner: object, name: str) -> None:
        original = getattr(owner, name)

        def first_tick(*arguments, **options):
            self.tick()
            return original(*arguments, **options)

        setattr(owner, name, first_tick)

    def arm(self) -> None:
        for name in ("fsync", "rename", "replace", "unlink", "mkdir"):
            self.before(os, name)
        self.before(gzip.GzipFile, "write")
        self.before(gzip.GzipFile, "close")
        self.before(psycopg.Connection, "commit")
        connect, execute = databases._SafeSqlite._connect, psycopg.Cursor.execute

        def traced(database) -> sqlite3.Connection:
            connection = connect(database)
            connection.set_trace_callback(self.before_statement)
            return connection

        def noticed(cursor, sql, *arguments, **options):
            self.before_statement(str(sql))
            return execute(cursor, sql, *arguments, **options)

        databases._SafeSqlite._connect, psycopg.Cursor.execute = traced, noticed

    def before_statement(self, sql: str) -> None:
        if sql.startswith(("INSERT", "DELETE", "COMMIT")):
            self.tick()


class Template:
    """A database that can be had again and again as it was."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder

    def copy(self, number: int) -> str:
        if self.url.startswith("sqlite"):
            path = self.folder / f"{number}.db"
            shutil.copy(self.url.removeprefix("sqlite:///"), path)
            return f"sqlite:///{path}"
        base, _, query = self.url.partition("?")
        server, _, name = base.rpartition("/")
        with psycopg.connect(f"{server}/postgres?{query}", autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name}_killed WITH (FORCE)")
            connection.execute(f"CREATE DATABASE {name}_killed TEMPLATE {name}")
        return f"{server}/{name}_killed?{query}"


def in_child(work) -> int:
    """Run ``work`` in a forked process; return how that ended."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001 - whatever it is, the parent goes on from the exit code
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(url: str, folder: Path, file_format: FileFormat) -> int:
    template = Template(url, folder)
    original = rows_of(open_database(url))
    if file_format is FileFormat.PARQUET:
        require_parquet()  # imported once, not in every child
    for number in range(1, 10_000):
        target, there = template.copy(number), folder / str(number)

        def killed_run() -> None:
            Killer(number).arm()  # noqa: B023 - it runs before the next turn
            archive(open_database(target), there, limits=LIMITS, file_format=file_format)  # noqa: B023

        def next_run() -> None:
            database = open_database(target)  # noqa: B023
            archive(database, there, limits=LIMITS, file_format=file_format)  # noqa: B023
            require_whole(database, there, original)  # noqa: B023
            assert verify_archives([there], database).findings == []  # noqa: B023

        ended = in_child(killed_run)
        if ended not in {0, KILLED} or in_child(next_run) != 0:
            print(f"killed at {number}: the next run did not converge")
            return 1
        if ended == 0:
            print(number - 1)
            return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), FileFormat(sys.argv[3])))
