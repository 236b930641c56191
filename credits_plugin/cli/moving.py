"""``credits copy``, ``backup`` and ``restore``: a whole ledger elsewhere, proven before it counts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..database import open_database
from ..moving.backup import back_up, restore
from ..moving.copy import copy_database
from .options import add_database, database_url


def add_parser(commands: Any) -> None:
    """Add the three commands."""
    copy = commands.add_parser("copy", help="all tables into another, empty database, proven before it counts")
    copy.add_argument("--from", dest="source", required=True, metavar="URL")
    copy.add_argument("--to", dest="target", required=True, metavar="URL")
    copy.set_defaults(run=_copy)

    backup = commands.add_parser("backup", help="a clean copy of a SQLite database while hosts go on")
    backup.add_argument("file", type=Path)
    add_database(backup)
    backup.set_defaults(run=_backup)

    restoring = commands.add_parser(
        "restore", help="put a backup in the database's place, after an audit; stop the hosts"
    )
    restoring.add_argument("file", type=Path)
    add_database(restoring)
    restoring.set_defaults(run=_restore)


def _copy(options: argparse.Namespace) -> int:
    report = copy_database(open_database(options.source), open_database(options.target))
    for table, rows in report.rows.items():
        print(f"{table:<16} {rows:>12,}")
    print(f"proven: every balance is its transfers' sum, the heads of {report.accounts} chains are equal on both sides")
    print(f"heads {report.heads_digest}")
    if not report.writers_waited:
        print("the source may only be read, so no host waited: what one wrote meanwhile is not in the copy")
    return 0


def _backup(options: argparse.Namespace) -> int:
    report = back_up(open_database(database_url(options)), options.file)
    print(f"{report.path}: {report.accounts} accounts, {report.transfers} transfers, audited clean")
    if report.lacking:
        print(f"its schema is that of an older version and was kept: it lacks {', '.join(report.lacking)}")
    return 0


def _restore(options: argparse.Namespace) -> int:
    report = restore(options.file, open_database(database_url(options)))
    print(f"restored, audited clean{f'; what was there is now {report.replaced}' if report.replaced else ''}")
    if report.lacking:
        print("its schema is that of an older version, which may run on it; for this one run `credits migrate` first")
    print("what was paid or refunded since the backup is not in it: run `credits events pull`, then")
    print("`credits reconcile --full --apply`, before you open")
    return 0
