"""``credits audit`` and ``credits heads``: proof. Exit 0 clean and complete, 1 findings, 2 cannot say."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from ..database import Database, open_database, require_current_schema
from ..errors import InvalidValue
from ..ledger.audit import AccountAt, AuditReport, Finding, audit
from ..ledger.auditing.heads import HeadsReport, export_heads, verify_heads
from ..ledger.queries import account_names
from ..money import format_credits
from ..moving.archiving.heads import verify_heads_and_archives
from ..moving.archiving.verify import ArchiveProof
from .options import add_database, database_url, zoned_time_ms

_TELL_EVERY_S: Final = 5.0
_KEYS: Final = 1 << 63
"""Account keys are digests, so they lie evenly between 0 and this: a key says how far an audit has come."""


def add_parser(commands: Any) -> None:
    """Add the commands."""
    parser = commands.add_parser("audit", help="check every invariant of the ledger while hosts go on")
    add_database(parser)
    parser.add_argument("--as-of", metavar="TIME", help="balances as of a time in the past: 2026-11-01T00:00:00Z")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="note there how far it came, and go on from it")
    parser.add_argument("--time-limit", type=float, metavar="SECONDS", help="stop after that; needs --checkpoint")
    parser.add_argument("--json", action="store_true", help="print the whole report as JSON")
    parser.set_defaults(run=_audit)

    heads = commands.add_parser("heads", help="the chains' heads as a file to keep, and what became of them")
    actions = heads.add_subparsers(required=True, metavar="ACTION")
    for name, run, what in (
        ("export", _export, "write them to a new file; run the audit first"),
        ("verify", _verify, "hash every chain again: does it still pass through its exported head?"),
    ):
        action = actions.add_parser(name, help=what)
        action.add_argument("file", type=Path)
        add_database(action)
        action.set_defaults(run=run)
    where = "find heads of archived transfers there; all folders, the oldest first"
    actions.choices["verify"].add_argument("--archive", type=Path, nargs="+", default=[], metavar="DIR", help=where)


def _audit(options: argparse.Namespace) -> int:
    if options.time_limit is not None and not 0 <= options.time_limit < math.inf:
        msg = f"--time-limit must be a number of seconds from 0 on; got {options.time_limit}"
        raise InvalidValue(msg)
    if options.time_limit is not None and options.checkpoint is None:
        msg = "--time-limit needs --checkpoint FILE, from which the same command goes on"
        raise InvalidValue(msg)
    database = _open(options)
    report = audit(
        database,
        as_of_ms=zoned_time_ms(options.as_of, "--as-of") if options.as_of is not None else None,
        checkpoint=options.checkpoint,
        time_limit_s=options.time_limit,
        on_account=Progress(begun_s=time.monotonic()).note,
    )
    if options.json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        _print_report(report, _names(database, report.findings))
    if not report.complete:
        print("credits: the time is over before the end: run the same command again to go on", file=sys.stderr)
    return 1 if not report.clean else 0 if report.complete else 2


class Progress:
    """Says on standard error how far a long audit has come, every five seconds."""

    def __init__(self, *, begun_s: float) -> None:
        self._told_s = begun_s
        self._accounts = 0

    def note(self, account: AccountAt) -> None:
        """Count an account; called in the order of their keys."""
        self._accounts += 1
        if not self._accounts & 0xFF:
            self.tell(account.account_id, now_s=time.monotonic())

    def tell(self, account_id: int, *, now_s: float) -> None:
        """Say it, if it was not said a moment ago."""
        if now_s - self._told_s >= _TELL_EVERY_S:
            self._told_s = now_s
            percent = account_id * 100 // _KEYS
            print(f"credits: {percent} % of the accounts, {self._accounts:,} in this run", file=sys.stderr, flush=True)


def _export(options: argparse.Namespace) -> int:
    export = export_heads(_open(options), options.file)
    print(f"{export.path}: the heads of {export.accounts} accounts, {export.transfers} transfers")
    print(f"sha256 {export.digest}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    database = _open(options)
    archives = None
    if options.archive:
        report, archives = verify_heads_and_archives(database, options.file, options.archive)
    else:
        report = verify_heads(database, options.file)
    print(f"hashed {report.transfers} transfers of {report.accounts} accounts against sha256 {report.digest}")
    if report.archived:
        print(f"{report.archived} heads lie in archived transfers, {report.found_archived} of them were found there")
    _print_findings(report.findings, _names(database, report.findings))
    for finding in archives.findings if archives is not None else ():
        print(f"archive: {finding}")
    return _print_verdict(report, archives)


def _print_verdict(report: HeadsReport, archives: ArchiveProof | None) -> int:
    """Say what the heads prove; returns the exit code."""
    if not report.clean:
        print(f"{len(report.rewritten)} accounts were rewritten")
    elif archives is not None and not archives.clean:
        print(f"not proven: {archives.finding_count} findings in the archive")
    elif report.unproven:
        where = "is in none of these files" if archives is not None else "name the archive's folders with --archive"
        print(f"not proven: {report.unproven} heads lie in archived transfers; {where}")
        return 2
    else:
        print("every chain passes through its head")
        return 0
    return 1


def _open(options: argparse.Namespace) -> Database:
    database = open_database(database_url(options))
    require_current_schema(database)
    return database


def _names(database: Database, findings: Iterable[Finding]) -> Mapping[int, str]:
    keys = {finding.account_id for finding in findings if finding.account_id is not None}
    with database.reader.connection_context():
        return account_names(database.reader, keys)


def _print_report(report: AuditReport, names: Mapping[int, str]) -> None:
    if report.as_of_ms is None:
        there = f"{report.open_holds} open holds, {report.lots} lots, {report.payments} payments"
    else:
        there = f"as of {datetime.fromtimestamp(report.as_of_ms / 1_000, UTC).isoformat()}"
        there += f", {report.archived} more in archives" if report.archived else ""
    total = f"balances add up to {format_credits(report.balance_total)} credits"
    print(f"audited {report.accounts} accounts, {report.transfers} transfers, {there}; {total}")
    books = ", ".join(f"{name} {format_credits(amount)}" for name, amount in report.books.items() if amount)
    print(f"system accounts: {books or 'nothing'}")
    if report.anchored:
        opening = f"which had left {format_credits(report.opening)} credits by their anchors"
        print(
            f"{report.anchored} accounts begin after archived transfers, {opening}: the books are of what came later,"
        )
        print("and only `credits archive verify DIR --database URL` proves what was before")
    _print_findings(report.findings, names)
    if report.finding_count > len(report.findings):
        print(f"… and {report.finding_count - len(report.findings)} more")
    verdict = "clean" if report.complete else "clean so far"
    print(verdict if report.clean else f"{report.finding_count} findings")


def _print_findings(findings: Iterable[Finding], names: Mapping[int, str]) -> None:
    for finding in findings:
        print(_line(finding, names))


def _line(finding: Finding, names: Mapping[int, str]) -> str:
    """Return ``invariant N, account NAME, transfer ID: what is wrong (expected …, found …)``."""
    where = [f"invariant {finding.invariant}"]
    if finding.account_id is not None:
        where.append(f"account {names.get(finding.account_id, finding.account_id)}")
    if finding.transfer_id is not None:
        where.append(f"transfer {finding.transfer_id}")
    if not finding.subject.startswith("account "):
        where.append(finding.subject)
    compared = finding.expected is not None or finding.found is not None
    tail = f" (expected {finding.expected}, found {finding.found})" if compared else ""
    return f"{', '.join(where)}: {finding.message}{tail}"
