"""The command ``credits``: what a person types. Errors are one line on standard error; exit 1 says no, 2 cannot."""

from __future__ import annotations

import argparse
import sqlite3
import sys
from collections.abc import Sequence

import peewee

from . import __version__
from .cli import archive, audit, bench, budgets, demo, disputes, events, holds, lots, moving, prices, reconcile, schema
from .errors import CreditsError

# In the order of `credits --help`.
GROUPS = (demo, schema, audit, reconcile, lots, budgets, holds, prices, events, disputes, moving, archive, bench)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except CreditsError as error:
        print(f"credits: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except _driver_errors() as error:
        advice = "look at its log and its disk, and restore a backup where it is damaged"
        print(f"credits: the database failed: {' '.join(str(error).split())}; {advice}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"credits: {error.strerror or error}{f': {error.filename}' if error.filename else ''}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return code


def _driver_errors() -> tuple[type[Exception], ...]:
    """Return what databases raise through their drivers; one that was not imported has raised nothing."""
    psycopg = sys.modules.get("psycopg")
    return (sqlite3.Error, peewee.PeeweeException, *([psycopg.Error] if psycopg else []))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="credits", description="Prepaid credits for AI agent servers.")
    parser.add_argument("--version", action="version", version=f"credits-plugin {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in GROUPS:
        group.add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
