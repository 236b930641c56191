"""The command ``credits-admin``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from credits_plugin import __version__
from credits_plugin.cli.options import login_name
from credits_plugin.errors import CreditsError
from credits_plugin.settings import load_settings

from .app import AdminApp
from .backend import open_backend


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the admin UI; 0 when it was left, 2 with one line on standard error when it could not start."""
    options = _parser().parse_args(arguments)
    try:
        settings = load_settings()
        if options.database:
            settings = replace(settings, database_url=options.database)
        backend = open_backend(settings, actor=options.actor, is_read_only=options.read_only)
    except CreditsError as error:
        print(f"credits-admin: {' '.join(error.message.split())}", file=sys.stderr)
        return 2
    app = AdminApp(backend)
    app.run()
    return app.return_code or 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="credits-admin", description="Watch and act on a credits database.")
    parser.add_argument("--database", metavar="URL", help="sqlite:///file.db or postgresql://…; default: DATABASE_URL")
    parser.add_argument("--read-only", action="store_true", help="write nothing, not even refunds")
    parser.add_argument("--actor", metavar="NAME", default=login_name(), help="who acts, for the audit (login name)")
    parser.add_argument("--version", action="version", version=__version__)
    return parser


if __name__ == "__main__":
    sys.exit(main())
