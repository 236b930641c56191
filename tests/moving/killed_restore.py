"""Restores that are killed before their nth step, for n = 1, 2, … until one lives, each from the same files.

A step is whatever Python tells its audit hooks: files opened, linked, renamed and removed, connections made.
Prints what a host finds after each: whether the file is there, and the balance of a clean ledger in it or "refused".
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

from credits_plugin.database import open_database, require_current_schema, sqlite_url
from credits_plugin.errors import DatabaseError
from credits_plugin.ledger.audit import audit
from credits_plugin.moving.backup import restore

STEPS = ("os.", "sqlite3.connect", "open")


def die_before(number: int) -> None:
    seen = 0

    def count(event: str, _arguments: object) -> None:
        nonlocal seen
        if event.startswith(STEPS):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def found(path: Path) -> object:
    database = open_database(sqlite_url(path))
    try:
        require_current_schema(database)
        report = audit(database)
    except DatabaseError:
        return "refused"
    finally:
        database.close_thread()
    return report.balance_total if report.clean else "not clean"


def main(before: Path, work: Path) -> int:
    number = 0
    while True:
        number += 1
        folder = work / str(number)
        shutil.copytree(before, folder)
        path = folder / "credits.db"
        child = os.fork()
        if not child:
            database = open_database(sqlite_url(path))
            die_before(number)
            restore(folder / "backup.db", database)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        there = path.exists()
        print(json.dumps({"died": os.WIFSIGNALED(status), "there": there, "found": found(path)}), flush=True)
        shutil.rmtree(folder)
        if os.WIFEXITED(status):
            return os.WEXITSTATUS(status)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
