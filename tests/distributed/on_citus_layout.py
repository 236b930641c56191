"""A pytest plugin (``-p on_citus_layout``): the run's PostgreSQL databases get the Citus layout and its store."""

from __future__ import annotations

from citus_rules import install_citus_rules

import credits_plugin.database as subject
from credits_plugin.distributed.citus import Engine, apply_layout

_open, _migrate = subject.open_database, subject.migrate


def open_database(url: str) -> subject.Database:
    return _open(url.replace("postgresql://", "citus://", 1))


def migrate(database: subject.Database) -> list[str]:
    applied = _migrate(database)
    if database.on_citus:
        with database.primary.connection_context():
            install_citus_rules(database.primary)
            apply_layout(database.primary, Engine.CITUS)
    return applied


subject.open_database, subject.migrate = open_database, migrate
