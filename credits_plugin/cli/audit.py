"""``credits audit``: every invariant of the ledger, checked while hosts go on; exit 0 clean, 1 findings, 2 cannot."""

from __future__ import annotations

import argparse
from typing import Any

from ..database import open_database, require_current_schema
from ..ledger.audit import AuditReport, audit
from ..money import format_credits
from .options import add_database, database_url


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("audit", help="check every invariant of the ledger while hosts go on")
    add_database(parser)
    parser.set_defaults(run=_audit)


def _audit(options: argparse.Namespace) -> int:
    database = open_database(database_url(options))
    require_current_schema(database)
    report = audit(database)
    _print_report(report)
    return 0 if report.clean else 1


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
