"""``credits lots`` and ``credits paid-by``: what became of an account's credits, and what paid for a request."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from ..database import Database, open_database, require_current_schema
from ..ledger.attribution import LotReport, PaidBy, charges_named, lot_reports, paid_by
from ..ledger.ids import account_key
from ..money import format_credits, format_money
from ..payments.queries import PaymentView, payments_by_id
from .options import add_database, database_url

_HEADS: Final = (
    "lot from granted-at priority expires granted spent clawed-back withdrawn expired rolled-over remaining".split()
)
_FIRST_AMOUNT: Final = 5


def add_parser(commands: Any) -> None:
    """Add both commands."""
    lots = commands.add_parser("lots", help="what became of every lot of an account: spent, expired, remaining, …")
    lots.add_argument("account", help="the host's own name for the payer")
    add_database(lots)
    lots.set_defaults(run=_lots)

    payer = commands.add_parser("paid-by", help="which purchases paid for a request, to the microcredit")
    payer.add_argument("account", help="the host's own name for the payer")
    payer.add_argument("id", help="a transfer's id, or the request id that the host gave")
    add_database(payer)
    payer.set_defaults(run=_paid_by)


def _lots(options: argparse.Namespace) -> int:
    database = _open(options)
    with database.reader.connection_context():
        reports = lot_reports(database.reader, account_key(options.account))
        payments = payments_by_id(database.reader, (report.payment_id for report in reports))
    amounts = [_amounts(report) for report in reports]
    lines = [
        [*_terms(report, payments), *map(format_credits, parts)] for report, parts in zip(reports, amounts, strict=True)
    ]
    sums = [format_credits(sum(column)) for column in zip(*amounts, strict=True)]
    print(_table([list(_HEADS), *lines, ["", "", "", "", "sum", *sums]] if lines else [list(_HEADS)]))
    return 0


def _terms(report: LotReport, payments: Mapping[int, PaymentView]) -> list[str]:
    payment = payments.get(report.payment_id or 0)
    origin = report.code.name.lower().replace("_", "-")
    return [
        str(report.lot_id),
        origin if payment is None else f"{origin}: {_payment_name(payment)}",
        _day(report.granted_at_ms),
        str(report.priority),
        "never" if report.expires_at_ms is None else _day(report.expires_at_ms),
    ]


def _amounts(report: LotReport) -> tuple[int, ...]:
    """Return what was granted, and the parts that add up to it; when spend is attributed is the ledger's own matter."""
    return (
        report.granted,
        report.spent + report.not_yet_attributed,
        report.clawed_back,
        report.withdrawn,
        report.expired,
        report.rolled_over,
        report.remaining,
    )


def _paid_by(options: argparse.Namespace) -> int:
    database, account_id = _open(options), account_key(options.account)
    with database.reader.connection_context():
        charges = charges_named(database.reader, account_id, options.id)
        answers = [paid_by(database.reader, account_id, transfer_id) for transfer_id in charges]
        payments = payments_by_id(database.reader, (share.payment_id for answer in answers for share in answer.shares))
    for answer in answers:
        print("\n".join(_paid_lines(answer, payments)))
    return 0


def _paid_lines(answer: PaidBy, payments: Mapping[int, PaymentView]) -> Iterator[str]:
    code = answer.code.name.lower().replace("_", " ")
    yield f"transfer {answer.transfer_id}, {code}: {format_credits(answer.microcredits)} credits"
    for share in answer.shares:
        payment = payments.get(share.payment_id or 0)
        origin = f"lot {share.lot_id}" if payment is None else f"lot {share.lot_id}, {_payment_name(payment)}"
        yield f"  {format_credits(share.microcredits)} from {origin}"
    if answer.owed:
        yield f"  {format_credits(answer.owed)} owed: whatever comes in next repays it"


def _payment_name(payment: PaymentView) -> str:
    """Return ``Starter, $10.00, payment 123, pi_…``."""
    money = format_money(payment.amount_minor, payment.currency)
    stripe_id = payment.payment_intent_id or payment.session_id
    return ", ".join(filter(None, (payment.package_name, money, f"payment {payment.id}", stripe_id)))


def _open(options: argparse.Namespace) -> Database:
    database = open_database(database_url(options))
    require_current_schema(database)
    return database


def _day(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms // 1_000, UTC).strftime("%Y-%m-%d %H:%M")


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Align columns: words to the left, amounts to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place >= _FIRST_AMOUNT else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
