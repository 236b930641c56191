"""A COMMIT counts when the server says that it committed, and that it waited for the standby as it was told.

PostgreSQL ends a failed transaction with ROLLBACK when it is asked to COMMIT, and to a driver that is no error. And a
COMMIT that waits for its standby may be cancelled, by ``pg_cancel_backend`` or by the role's ``statement_timeout``: it
then succeeds with a warning, though the primary alone has it.
"""

from __future__ import annotations

import threading
from typing import Any, Final

import peewee

_WAITS_FOR_STANDBY: Final = "SyncRepWaitForLSN"
"""The function in the server's source that warns; the text of the warning is in the server's language."""
# The queries' errors are turned into Peewee's own by this; Peewee exports it for its own extensions.
_driver_errors: Final = peewee.__exception_wrapper__  # type: ignore[attr-defined]  # the stubs leave it out


class TrueCommits(peewee.PostgresqlDatabase):
    """A PostgreSQL database, psycopg 3 underneath, whose transactions end with a true COMMIT or an error."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._thread = threading.local()  # as Peewee's connections are
        super().__init__(*arguments, **options)

    def commit(self) -> None:
        """Commit the open transaction.

        Raises:
            peewee.OperationalError: see :meth:`require_committed`.
        """
        with _driver_errors:
            answered: Any = self.cursor()  # type: ignore[no-untyped-call]  # the stubs leave its types out
            answered.execute("COMMIT")
        self.require_committed(answered)

    def require_committed(self, answered: Any) -> None:
        """Check what a COMMIT answered, given its cursor.

        Raises:
            peewee.OperationalError: nothing was written, or it may be lost with this server: its outcome is unknown.
        """
        cut_short, self._thread.cut_short = getattr(self._thread, "cut_short", False), False
        if answered.statusmessage != "COMMIT":
            msg = f"COMMIT was answered with {answered.statusmessage}: a statement before it had failed"
            raise peewee.OperationalError(msg)
        if cut_short:
            msg = "the COMMIT's wait for a standby was cancelled: it would be lost with this server"
            raise peewee.OperationalError(msg)

    def _connect(self) -> Any:
        connection = super()._connect()  # type: ignore[misc]  # a driver hook that the stubs leave out
        self._thread.cut_short = False
        connection.add_notice_handler(self._note)
        return connection

    def _note(self, notice: Any) -> None:
        if notice.source_function == _WAITS_FOR_STANDBY:
            self._thread.cut_short = True
