"""SQLite's WAL put on disk after the lock on the database was given back, so that the next process decides meanwhile.

A batch of commands commits with ``synchronous=NORMAL``: its frames are in the WAL, but perhaps not on disk. Nobody is
answered before ``fdatasync`` of the WAL has returned, which covers every commit before it, other processes' too. So
what was acknowledged is on disk, as with FULL, and what a power cut takes was never acknowledged; the frames' chain of
checksums makes SQLite drop whatever comes after a gap. Checkpoints sync the WAL before they copy from it.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from ..errors import DatabaseError

logger = logging.getLogger(__name__)


class WalFile:
    """The WAL of one database. A sync that fails is final: the system may have dropped what it could not write.

    ``failure`` then says why, and nothing may be written any more until the host was started again.
    """

    def __init__(self, database: Path) -> None:
        self.failure: DatabaseError | None = None
        self._path = database.with_name(database.name + "-wal")
        self._handle: int | None = None
        self._identity = (0, 0)

    def sync(self) -> None:
        """Return once all that was committed before is on disk.

        Raises:
            DatabaseError: nobody knows what is.
        """
        if self.failure is None:
            try:
                self._sync()
            except OSError as error:
                msg = (
                    f"the disk failed to keep the database's log ({error}); check the disk, then start this host again"
                )
                logger.critical("%s", msg)
                self.failure = DatabaseError(msg)
        if self.failure is not None:
            raise self.failure

    def _sync(self) -> None:
        named = self._path.stat()
        if self._handle is None or self._identity != (named.st_dev, named.st_ino):
            self.close()
            self._handle = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            opened = os.fstat(self._handle)
            self._identity = (opened.st_dev, opened.st_ino)
        os.fdatasync(self._handle)

    def close(self) -> None:
        """Close the file; SQLite's locks are on others."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
