"""The command ``credits``: what a person types. Errors are one line on standard error; exit 1 says no, 2 cannot."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from . import __version__
from .database import migrate, open_database, require_current_schema
from .errors import CreditsError
from .ledger.audit import AuditReport, audit
from .money import format_credits
from .moving.backup import back_up, restore
from .moving.copy import copy_database
from .settings import load_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except CreditsError as error:
        print(f"credits: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"credits: {error.strerror or error}{f': {error.filename}' if error.filename else ''}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="credits", description="Prepaid credits for AI agent servers.")
    parser.add_argument("--version", action="version", version=f"credits-plugin {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo", help="the whole product on this machine: sandbox, agent host, chat and credit pages"
    )
    demo.add_argument("--port", type=int, default=8080, help="of the agent host (default 8080)")
    demo.add_argument("--data", type=Path, default=Path(".demo"), help="folder that survives a restart (default .demo)")
    demo.add_argument("--check", action="store_true", help="play the whole journey unattended and compare every figure")
    demo.set_defaults(run=_demo)

    sandbox = commands.add_parser("sandbox", help="a Stripe stand-in on loopback, for developing without an account")
    sandbox.add_argument("--port", type=int, default=12111)
    sandbox.add_argument(
        "--webhook-url", help="where events are delivered, such as http://127.0.0.1:8080/api/credits/webhook"
    )
    sandbox.add_argument("--webhook-secret", default="whsec_sandbox")
    sandbox.add_argument("--data", type=Path, help="file that keeps its state; without it all is forgotten at the end")
    sandbox.set_defaults(run=_sandbox)

    migration = commands.add_parser("migrate", help="bring the database's schema up to this version")
    _add_database(migration)
    migration.add_argument("--distributed", choices=["citus"], help="also lay the tables out for a distributed engine")
    migration.set_defaults(run=_migrate)

    check = commands.add_parser("audit", help="check every invariant of the ledger while hosts go on")
    _add_database(check)
    check.set_defaults(run=_audit)
    copy = commands.add_parser("copy", help="all tables into another, empty database, proven before it counts")
    copy.add_argument("--from", dest="source", required=True, metavar="URL")
    copy.add_argument("--to", dest="target", required=True, metavar="URL")
    copy.set_defaults(run=_copy)

    backup = commands.add_parser("backup", help="a clean copy of a SQLite database while hosts go on")
    backup.add_argument("file", type=Path)
    _add_database(backup)
    backup.set_defaults(run=_backup)

    restoring = commands.add_parser(
        "restore", help="put a backup in the database's place, after an audit; stop the hosts"
    )
    restoring.add_argument("file", type=Path)
    _add_database(restoring)
    restoring.set_defaults(run=_restore)

    bench = commands.add_parser("bench", help="measure the ledger as ratios within one run")
    bench.add_argument(
        "--url", help="a database to measure, instead of a SQLite file and a PostgreSQL server of its own"
    )
    bench.add_argument("--out", type=Path, default=Path("build/bench.json"), help="default build/bench.json")
    bench.set_defaults(run=_bench)
    return parser


def _add_database(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--database", help="instead of DATABASE_URL: sqlite:///file.db or postgresql://user@host/name")


def _database_url(options: argparse.Namespace) -> str:
    return options.database or load_settings().database_url


def _demo(options: argparse.Namespace) -> int:
    if options.check:
        from .sandbox.demo_check import check_demo  # noqa: PLC0415 - the sandbox is for this command alone

        return asyncio.run(check_demo())
    from .sandbox.demo import run_demo  # noqa: PLC0415 - see above

    return _serve(run_demo(port=options.port, data=options.data))


def _sandbox(options: argparse.Namespace) -> int:
    return _serve(_run_sandbox(options))


async def _run_sandbox(options: argparse.Namespace) -> None:
    from .sandbox import Sandbox, SandboxSettings  # noqa: PLC0415 - the sandbox is for this command alone

    settings = SandboxSettings(
        webhook_url=options.webhook_url, webhook_secret=options.webhook_secret, data_path=options.data
    )
    async with Sandbox(settings, port=options.port) as sandbox:
        print(f"Stripe sandbox on {sandbox.url}; give your host:")
        print(f"  CREDITS_STRIPE_API_BASE={sandbox.url}")
        print(f"  STRIPE_SECRET_KEY={settings.secret_key}")
        print(f"  STRIPE_WEBHOOK_SECRET={settings.webhook_secret}")
        print(f"Events go to {options.webhook_url or 'nowhere: name --webhook-url'}. Ctrl-C stops it.")
        print(f"What happened, and what a bank could do next: {sandbox.url}/sandbox", flush=True)
        await asyncio.Event().wait()


def _serve(server: Coroutine[Any, Any, None]) -> int:
    """Run until Ctrl-C or SIGTERM; both end it cleanly."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - we are inside it
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await server

    asyncio.run(run())
    return 0


def _migrate(options: argparse.Namespace) -> int:
    database = open_database(_database_url(options))
    applied = migrate(database)
    if options.distributed:
        from .distributed.citus import Engine, apply_layout  # noqa: PLC0415 - for a distributed engine alone

        with database.primary.connection_context():
            applied += apply_layout(database.primary, Engine(options.distributed))
    print(f"applied {', '.join(applied)}" if applied else "the database is up to date")
    return 0


def _audit(options: argparse.Namespace) -> int:
    database = open_database(_database_url(options))
    require_current_schema(database)
    report = audit(database)
    _print_report(report)
    return 0 if report.clean else 1


def _copy(options: argparse.Namespace) -> int:
    report = copy_database(open_database(options.source), open_database(options.target))
    for table, rows in report.rows.items():
        print(f"{table:<16} {rows:>12,}")
    print(f"proven: every balance is its transfers' sum, the heads of {report.accounts} chains are equal on both sides")
    print(f"heads {report.heads_digest}")
    return 0


def _backup(options: argparse.Namespace) -> int:
    report = back_up(open_database(_database_url(options)), options.file)
    print(f"{report.path}: {report.accounts} accounts, {report.transfers} transfers, audited clean")
    return 0


def _restore(options: argparse.Namespace) -> int:
    replaced = restore(options.file, open_database(_database_url(options)))
    print(f"restored, audited clean{f'; what was there is now {replaced}' if replaced else ''}")
    print("what was paid or refunded since the backup is not in it: deliver its Stripe events again before opening")
    return 0


def _bench(options: argparse.Namespace) -> int:
    from .bench.command import run  # noqa: PLC0415 - benchmarks are for this command alone

    arguments = ["bench", "--out", str(options.out), *(["--url", options.url] if options.url else [])]
    return run(url=options.url, out=options.out, arguments=arguments)


def _print_report(report: AuditReport) -> None:
    print(
        f"audited {report.accounts} accounts, {report.transfers} transfers, {report.open_holds} open holds, "
        f"{report.payments} payments; balances add up to {format_credits(report.balance_total)} credits"
    )
    for finding in report.findings:
        print(f"invariant {finding.invariant}: {finding.subject} {finding.message}")
    if report.finding_count > len(report.findings):
        print(f"… and {report.finding_count - len(report.findings)} more")
    print("clean" if report.clean else f"{report.finding_count} findings")


if __name__ == "__main__":
    sys.exit(main())
