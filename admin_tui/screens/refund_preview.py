"""What a refund would change, in money and in credits, before anybody confirms it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from credits_plugin.errors import InvalidValue
from credits_plugin.ledger.queries import Balance
from credits_plugin.money import format_money, parse_money
from credits_plugin.payments.freezes import claw_back_target
from credits_plugin.payments.queries import PaymentView, RefundView
from credits_plugin.payments.states import LIVE_REFUNDS

from ..formats import MINUS, credits_text, plain_money, signed_credits
from ..widgets.panels import Line
from ..widgets.virtual_table import Cell, Tone

_LABEL: Final = 12
_FIGURE: Final = 17


@dataclass(frozen=True, slots=True)
class RefundCase:
    """A payment with everything that a decision on it needs."""

    payment: PaymentView
    refunds: Sequence[RefundView]
    balance: Balance | None

    @property
    def left_minor(self) -> int:
        """What can still be refunded; refunds under way count as gone."""
        live = sum(one.amount_minor for one in self.refunds if one.status in LIVE_REFUNDS)
        return max(self.payment.whole_minor - live - self.payment.disputed_minor, 0)

    def credits_for(self, amount_minor: int) -> int:
        """Return the microcredits that a refund of ``amount_minor`` takes back."""
        paid = self.payment
        part = paid.refunded_minor + paid.disputed_minor + amount_minor
        target = claw_back_target(paid, money_back_minor=part)
        return max(target - paid.clawed_back, 0)

    def obstacle(self) -> str | None:
        """Say why nothing of this payment can be refunded, or None."""
        if not self.payment.is_granted:
            return f"this payment is {self.payment.status.replace('_', ' ')}: there is nothing to refund"
        if not self.left_minor:
            how = "disputed" if self.payment.disputed_minor else "refunded"
            return f"all of this payment has been {how} already"
        return None

    def parse_amount(self, text: str) -> int:
        """Read what an operator typed.

        Raises:
            InvalidValue: no amount, or more than is left.
        """
        amount = parse_money(text, self.payment.currency)
        if amount > self.left_minor:
            msg = f"only {plain_money(self.left_minor, self.payment.currency)} of this payment is left to refund"
            raise InvalidValue(msg)
        return amount


def preview_lines(case: RefundCase, amount_minor: int) -> list[Line]:
    """Show money and credits before, the change, and after; and say when the customer ends in debt."""
    paid, taken = case.payment, case.credits_for(amount_minor)
    refunded = [paid.refunded_minor, amount_minor, paid.refunded_minor + amount_minor]
    before, change, after = (format_money(amount, paid.currency) for amount in refunded)
    balance = case.balance.balance if case.balance else 0
    available = case.balance.available if case.balance else 0
    lines: list[Line] = [
        [Cell(f"{'':{_LABEL}}{'before':>{_FIGURE}}{'change':>{_FIGURE}}{'after':>{_FIGURE}}", Tone.MUTED)],
        _row("refunded", before, f"+{change}", after),
        _row("balance", credits_text(balance), signed_credits(-taken), credits_text(balance - taken)),
        _row("available", credits_text(available), signed_credits(-taken), credits_text(available - taken)),
    ]
    warning = _warning(balance - taken, available - taken)
    return [*lines, [warning]] if warning.text else lines


def _row(label: str, before: str, change: str, after: str) -> Line:
    return [
        Cell(f"{label:<{_LABEL}}", Tone.MUTED),
        Cell(f"{before:>{_FIGURE}}{change:>{_FIGURE}}"),
        Cell(f"{after:>{_FIGURE}}", Tone.BAD if after.startswith(MINUS) else Tone.STRONG),
    ]


def _warning(balance: int, available: int) -> Cell:
    if balance < 0:
        return Cell(f"! leaves a debt of {credits_text(-balance)} credits: spending stops until it is paid", Tone.BAD)
    if available < 0:
        return Cell("! takes credits that open holds have reserved", Tone.WARNING)
    return Cell("")
