"""The options that several commands share."""

from __future__ import annotations

import argparse

from ..settings import load_settings


def add_database(parser: argparse.ArgumentParser) -> None:
    """Let a command name another database than DATABASE_URL's."""
    parser.add_argument("--database", help="instead of DATABASE_URL: sqlite:///file.db or postgresql://user@host/name")


def database_url(options: argparse.Namespace) -> str:
    """What the command line names, else what the settings name."""
    return options.database or load_settings().database_url
