"""Columns that several screens show alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from credits_plugin.ledger.queries import TransferLine
from credits_plugin.money import format_money
from credits_plugin.payments.queries import PaymentView
from credits_plugin.payments.states import PaymentStatus

from ..backend import Backend
from ..formats import (
    CREDITS_WIDTH,
    NOTHING,
    align_point,
    code_text,
    credits_text,
    details_text,
    signed_credits,
    time_text,
)
from ..widgets.virtual_table import Cell, Column, Tone

Row = TypeVar("Row")


def transfer_columns(backend: Backend, transfer_of: Callable[[Row], TransferLine]) -> Sequence[Column[Row]]:
    """Return the columns of a transfer, the time first; the amount never goes."""

    def column(show: Callable[[TransferLine], Cell]) -> Callable[[Row], Cell]:
        return lambda row: show(transfer_of(row))

    def time_cell(line: TransferLine) -> Cell:
        return Cell(time_text(line.at_ms, now_ms=backend.clock()), Tone.MUTED)

    return (
        Column("time (UTC)", 12, column(time_cell)),
        Column("kind", 13, column(lambda line: Cell(code_text(line.code))), drop=1),
        Column("amount", CREDITS_WIDTH, column(_amount), right=True),
        Column("balance", CREDITS_WIDTH, column(_balance_after), right=True, drop=3),
        Column("details", 16, column(lambda line: Cell(details_text(line), Tone.MUTED)), drop=2, grows=True),
    )


def _amount(line: TransferLine) -> Cell:
    return Cell(align_point(signed_credits(line.amount)), Tone.GOOD if line.amount > 0 else Tone.PLAIN)


def _balance_after(line: TransferLine) -> Cell:
    return Cell(align_point(credits_text(line.balance_after)), Tone.BAD if line.balance_after < 0 else Tone.PLAIN)


def payment_columns(backend: Backend) -> Sequence[Column[PaymentView]]:
    """Return the columns of a payment; what was paid and refunded never goes."""

    def time_cell(row: PaymentView) -> Cell:
        return Cell(time_text(row.created_at_ms, now_ms=backend.clock()), Tone.MUTED)

    return (
        Column("time (UTC)", 12, time_cell),
        Column("customer", 16, lambda row: Cell(row.external_id or NOTHING, Tone.STRONG), grows=True),
        Column("status", 18, _payment_status),
        Column("amount", 11, lambda row: Cell(format_money(row.whole_minor, row.currency)), right=True),
        Column("refunded", 11, _refunded, right=True),
        Column("credits", 9, lambda row: Cell(credits_text(row.credited)), right=True, drop=2),
        Column("taken back", 10, _taken_back, right=True, drop=3),
        Column("package", 10, lambda row: Cell(row.package_name), drop=4),
        Column("e-mail", 20, lambda row: Cell(row.email or "", Tone.MUTED), drop=5),
    )


def _payment_status(row: PaymentView) -> Cell:
    """Mark a payment that was not granted and says why: a decline, or a session that does not fit our order."""
    if row.detail and not row.is_granted:
        return Cell(f"{status_text(row.status)} !", Tone.WARNING)
    return Cell(status_text(row.status), payment_tone(row.status))


def _refunded(row: PaymentView) -> Cell:
    if not row.refunded_minor:
        return Cell(NOTHING, Tone.MUTED)
    return Cell(format_money(row.refunded_minor, row.currency), Tone.WARNING)


def _taken_back(row: PaymentView) -> Cell:
    return Cell(credits_text(row.clawed_back), Tone.WARNING) if row.clawed_back else Cell(NOTHING, Tone.MUTED)


def status_text(status: str) -> str:
    """Write a stored state as words."""
    return status.replace("_", " ")


def payment_tone(status: PaymentStatus) -> Tone:
    """Return the tone of a payment's state."""
    match status:
        case PaymentStatus.PAID:
            return Tone.GOOD
        case PaymentStatus.FAILED | PaymentStatus.DISPUTED:
            return Tone.BAD
        case PaymentStatus.PARTIALLY_REFUNDED | PaymentStatus.REFUNDED:
            return Tone.WARNING
        case _:
            return Tone.MUTED
