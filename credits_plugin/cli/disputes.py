"""``credits disputes``: what buyers' banks ask for, and the evidence against it as one file."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..money import format_credits, format_money
from ..payments.checkout import with_receipt
from ..payments.evidence import pack, read_case, summary_of
from ..payments.queries import DisputeView, disputes_page
from ..settings import load_settings
from .access import read, with_shop
from .options import add_database


def add_parser(commands: Any) -> None:
    """Add the command and its parts."""
    disputes = commands.add_parser("disputes", help="disputes of payments: list, show, evidence")
    parts = disputes.add_subparsers(required=True, metavar="PART")

    listing = parts.add_parser("list", help="the latest first, one a line")
    listing.add_argument("--limit", type=int, default=50, help="how many (default 50)")
    listing.set_defaults(run=_list)

    show = parts.add_parser("show", help="the sale, what of it was used, and what is asked for")
    show.add_argument("dispute_id")
    show.set_defaults(run=_show)

    evidence = parts.add_parser("evidence", help="write receipt and usage of exactly its credits into one ZIP file")
    evidence.add_argument("dispute_id")
    evidence.add_argument("--out", type=Path, help="default DISPUTE_ID.zip; never overwritten")
    evidence.set_defaults(run=_evidence)
    for part in (listing, show, evidence):
        add_database(part)


def _list(options: argparse.Namespace) -> int:
    for dispute in read(options, lambda database: disputes_page(database, limit=options.limit)):
        print(_line(dispute))
    return 0


def _line(dispute: DisputeView) -> str:
    money = format_money(dispute.amount_minor, dispute.currency)
    frozen = f"  froze {format_credits(dispute.frozen)} credits" if dispute.frozen else ""
    gone = "  money taken" if dispute.is_withdrawn else ""
    return f"{dispute.stripe_dispute_id}  {dispute.status:<22}  {money}  {dispute.reason}{frozen}{gone}"


def _show(options: argparse.Namespace) -> int:
    for name, value in summary_of(read(options, lambda database: read_case(database, options.dispute_id))).items():
        print(f"{name}: {value}")
    return 0


def _evidence(options: argparse.Namespace) -> int:
    case = read(options, lambda database: read_case(database, options.dispute_id))
    if case.payment.receipt_url is None and load_settings().stripe_secret_key:
        receipt = with_shop(options, lambda shop: with_receipt(shop, case.payment))
        case = replace(case, payment=receipt)
    path = options.out or Path(f"{case.dispute.stripe_dispute_id}.zip")
    with path.open("xb") as file:
        file.write(pack(case, sign_in={}))
    print(f"{path}: receipt and {len(case.usage)} requests; sign-in data is the host's, see docs/payments.md")
    return 0
