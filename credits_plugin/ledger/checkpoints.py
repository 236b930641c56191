"""SQLite's WAL, copied back into the database by a thread of its own, so that no command waits for it.

Left to itself SQLite checkpoints inside the commit that fills a thousand pages; a passive checkpoint every 200 ms on
another connection was measured to raise throughput by a quarter and to halve the slowest holds.

Who reads from a snapshot (an audit, an export) keeps what was written since from being copied, and the WAL grows for as
long. Nobody waits for that: the thread copies what was kept back once the reader is gone, then the WAL begins anew.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from pathlib import Path
from typing import Any, Final

_INTERVAL_S: Final = 0.2
_LONGEST_WAL_BYTES: Final = 64 * 1024**2
_LOOK_EVERY: Final = 64
"""Batches between two looks at the WAL's length; 64 of the largest write a few megabytes."""
_WHOLE_PASSES: Final = 2
"""Checkpoints in a row that copied all, before a batch may restart the WAL: the first may have taken long, and commands
would wait for what was written meanwhile."""


class Checkpointer:
    """Checkpoints one database file until it is closed. Several processes may each run one: they take turns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wal = path.with_name(path.name + "-wal")
        self._stop = threading.Event()
        self._batches = 0
        self._whole_passes = 0
        self._thread = threading.Thread(target=self._run, name="credits-checkpoints", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def look_after(self, connection: Any, *, is_new: bool) -> None:
        """Called before a batch: leave checkpoints to the thread, unless endless load lets the WAL never restart."""
        if is_new:
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute(f"PRAGMA journal_size_limit = {_LONGEST_WAL_BYTES}")  # what a restart leaves of the file
        self._batches += 1
        if self._batches % _LOOK_EVERY == 0 and self._whole_passes >= _WHOLE_PASSES and self._is_too_long():
            _restart(connection)

    def _is_too_long(self) -> bool:
        return self._wal.exists() and self._wal.stat().st_size > _LONGEST_WAL_BYTES

    def _run(self) -> None:
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=1)
        with contextlib.closing(connection):
            while not self._stop.wait(_INTERVAL_S):
                with contextlib.suppress(sqlite3.OperationalError):  # busy or full: the next round tries again
                    is_busy, pages, copied = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                    if not is_busy:  # with another process's checkpoint
                        self._whole_passes = self._whole_passes + 1 if copied == pages else 0


def _restart(connection: Any) -> None:
    """Let the next commit write to the WAL's beginning; not while somebody reads from it, for holds would wait."""
    (patience_ms,) = connection.execute("PRAGMA busy_timeout").fetchone()
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
    finally:
        connection.execute(f"PRAGMA busy_timeout = {patience_ms}")
