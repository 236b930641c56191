"""How far a long audit came, in a small JSON file that is replaced whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from ...database import Database
from ...errors import InvalidValue
from .report import AuditReport

_FORMAT: Final = "credits audit 2"


def load_checkpoint(path: Path, database: Database, *, as_of_ms: int | None) -> AuditReport | None:
    """Return the report so far, or None where no audit was begun.

    Raises:
        InvalidValue: the file is no checkpoint, or one of another database or time.
    """
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text())
        report = AuditReport.from_json(values["report"])
        whose = {name: values[name] for name in _identity(database)}
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{path} is no checkpoint of an audit ({error}); name another file, or remove it to start afresh"
        raise InvalidValue(msg) from error
    if whose != _identity(database) or report.as_of_ms != as_of_ms:
        msg = f"{path} belongs to the audit of another database or time; name another file"
        raise InvalidValue(msg)
    return report


def save_checkpoint(path: Path, database: Database, report: AuditReport) -> None:
    """Note how far the audit came; remove the file when it is complete."""
    if report.complete:
        path.unlink(missing_ok=True)
        return
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps({**_identity(database), "report": report.as_json()}))
    partial.replace(path)


def _identity(database: Database) -> dict[str, Any]:
    """Where the database is, and when it was made: another that was put in its place is another ledger."""
    made = database.reader.execute_sql("SELECT applied FROM schema_migration ORDER BY name LIMIT 1").fetchone()
    return {"format": _FORMAT, "dialect": str(database.dialect), "place": database.place, "made": str(made)}
