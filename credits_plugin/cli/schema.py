"""``credits migrate``: the database's schema, brought up to this version."""

from __future__ import annotations

import argparse
from typing import Any

from ..database import Dialect, migrate, open_database
from ..errors import ConfigurationError
from .options import add_database, database_url


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("migrate", help="bring the database's schema up to this version")
    add_database(parser)
    parser.add_argument("--distributed", choices=["citus"], help="also lay the tables out for a distributed engine")
    parser.set_defaults(run=_migrate)


def _migrate(options: argparse.Namespace) -> int:
    database = open_database(database_url(options))
    if options.distributed and database.dialect is not Dialect.POSTGRESQL:
        msg = f"--distributed {options.distributed} lays out tables of PostgreSQL: leave it out on {database.dialect}"
        raise ConfigurationError(msg)
    applied = migrate(database)
    if options.distributed:
        from ..distributed.citus import Engine, apply_layout  # noqa: PLC0415 - for a distributed engine alone

        with database.primary.connection_context():
            applied += apply_layout(database.primary, Engine(options.distributed))
    print(f"applied {', '.join(applied)}" if applied else "the database is up to date")
    return 0
