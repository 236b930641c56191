"""``credits archive``: old transfers out to files; ``credits archive verify``: what those files prove."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..database import open_database
from ..errors import InvalidValue
from ..ledger.entries import INCOMING, Code
from ..ledger.ids import now_ms
from ..money import format_credits
from ..moving.archiving.rows import FileFormat
from ..moving.archiving.run import archive_transfers
from ..moving.archiving.verify import verify_archives
from .options import add_database, database_url, time_ms


def add_parser(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    archive = commands.add_parser("archive", help="move old transfers out to CSV or Parquet files while hosts go on")
    archive.add_argument("--before", metavar="DATE", help="archive what is older: 2026-01-01 (UTC) or an ISO time")
    archive.add_argument("--to", type=Path, metavar="DIR", help="a new folder, or that of the last archive")
    archive.add_argument("--format", choices=[*FileFormat], default=FileFormat.CSV.value, help="default csv")
    add_database(archive)
    archive.set_defaults(run=_archive)
    verify = archive.add_subparsers(metavar="verify").add_parser(
        "verify", help="check files, chains and joins of archives, and with a database that its chains go on from them"
    )
    verify.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="of one ledger, the oldest first")
    verify.add_argument("--database", dest="compared", help="compare this database's anchors with the archives' ends")
    verify.set_defaults(run=_verify)


def _archive(options: argparse.Namespace) -> int:
    if options.before is None or options.to is None:
        msg = "credits archive needs --before DATE and --to DIR, or `verify DIR`"
        raise InvalidValue(msg)
    report = archive_transfers(
        open_database(database_url(options)),
        options.to,
        before_ms=time_ms(options.before, "--before"),
        at_ms=now_ms(),
        file_format=FileFormat(options.format),
    )
    print(f"{report.folder}: {report.rows:,} transfers in {report.parts} files, {report.size_bytes:,} bytes")
    print(f"{report.removed:,} transfers left the database; the audit starts from the anchors they left")
    print(f"digest {report.digest or 'none: nothing was archived yet'}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    proof = verify_archives(options.folders, open_database(options.compared) if options.compared else None)
    print(
        f"verified {proof.rows:,} transfers of {proof.accounts:,} accounts in {proof.parts} files; "
        f"they left {format_credits(proof.closing)} credits"
    )
    for code, amount in sorted(proof.amounts.items()):
        sign = "+" if code in INCOMING else "-"
        print(f"  {Code(code).name.lower():<14} {sign}{format_credits(amount)}")
    if options.compared:
        print(f"compared the anchors of {proof.anchors:,} accounts with the archives' last links")
    for digest in proof.digests:
        print(f"digest {digest}")
    for finding in proof.findings:
        print(finding)
    if proof.finding_count > len(proof.findings):
        print(f"… and {proof.finding_count - len(proof.findings)} more")
    print("clean" if proof.clean else f"{proof.finding_count} findings")
    return 0 if proof.clean else 1
