"""The options that several commands share."""

from __future__ import annotations

import argparse
import getpass
from datetime import UTC, datetime

from ..errors import InvalidValue
from ..settings import load_settings


def add_database(parser: argparse.ArgumentParser) -> None:
    """Let a command name another database than DATABASE_URL's."""
    parser.add_argument("--database", help="instead of DATABASE_URL: sqlite:///file.db or postgresql://user@host/name")


def database_url(options: argparse.Namespace) -> str:
    """What the command line names, else what the settings name."""
    return options.database or load_settings().database_url


def time_ms(text: str, option: str) -> int:
    """Return a date's midnight, or a time, in Unix milliseconds; UTC unless it says otherwise.

    Raises:
        InvalidValue: it is neither.
    """
    try:
        at = datetime.fromisoformat(text)
        return _unix_ms(at if at.tzinfo else at.replace(tzinfo=UTC))
    except (ValueError, OverflowError) as error:
        msg = f"{option} must be a date such as 2026-01-01; got {text!r:.40}"
        raise InvalidValue(msg) from error


def zoned_time_ms(text: str, option: str) -> int:
    """Return a time that says its zone, in Unix milliseconds.

    Raises:
        InvalidValue: it does not, or it is none.
    """
    try:
        at = datetime.fromisoformat(text)
        if at.tzinfo is not None:
            return _unix_ms(at)
    except (ValueError, OverflowError):
        pass
    msg = f"{option} must be a time with its zone such as 2026-11-01T00:00:00Z; got {text!r:.40}"
    raise InvalidValue(msg)


def _unix_ms(at: datetime) -> int:
    """Return a time in Unix milliseconds; raises OverflowError where it is in no year from 1 to 9999 of UTC."""
    return int(at.astimezone(UTC).timestamp() * 1_000)


def login_name() -> str:
    """Return who runs the command, for the record."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no login and no passwd entry, as in a bare container
        return "unknown"
