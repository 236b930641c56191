"""Credits frozen while a dispute may still take their money: holds that no clock ends, and that never grow.

A freeze is placed once, when the dispute and the grant have both been seen, on what is there then. From then on it is a
function of refunds and disputes: it gets smaller with every claw-back, and ends when the dispute takes the money
or closes.
"""

from __future__ import annotations

from ..ledger.entries import OPEN_ENDED_MS, AccountState, ExpireLots, PlaceHold, ReleaseHold
from ..ledger.work import Transaction
from ..models import Dispute, Hold
from ..money import proportional_credits
from .queries import DisputeView, PaymentView, disputes_of


def claw_back_target(payment: PaymentView, *, money_back_minor: int) -> int:
    """Return the microcredits to have been taken when so much money has gone back; the whole grant at most. Pure."""
    return proportional_credits(payment.credited, part_minor=money_back_minor, whole_minor=payment.whole_minor)


def threatened_parts(payment: PaymentView, disputes: list[DisputeView], *, money_back_minor: int) -> dict[int, int]:
    """Return, by dispute id, the microcredits that each would take if all open ones took their money next. Pure."""
    parts = {}
    for dispute in disputes:
        parts[dispute.id] = 0
        if dispute.threatens:
            before = claw_back_target(payment, money_back_minor=money_back_minor)
            money_back_minor += dispute.amount_minor
            parts[dispute.id] = claw_back_target(payment, money_back_minor=money_back_minor) - before
    return parts


def adjust_freezes(tx: Transaction, payment: PaymentView, *, money_back_minor: int) -> None:
    """Place, shrink or end the freezes of a granted payment's disputes; posts no transfer but an expiry that is due."""
    disputes = disputes_of(tx.database, payment.id)
    account = tx.account(payment.account_id)
    if account is None or not disputes:
        return
    if account.next_expiry_at_ms is not None and account.next_expiry_at_ms <= tx.at_ms:
        tx.decide(ExpireLots(account.id, tx.new_id(), tx.at_ms))  # or placing a hold would, and find less than we do
    parts = threatened_parts(payment, disputes, money_back_minor=money_back_minor)
    for dispute in disputes:
        if dispute.hold_id is not None or parts[dispute.id]:
            _adjust(tx, account, dispute, wanted=parts[dispute.id])


def _adjust(tx: Transaction, account: AccountState, dispute: DisputeView, *, wanted: int) -> None:
    held = _amount_held(tx, dispute)
    amount = max(min(wanted, account.available + held), 0)
    if dispute.frozen is not None:
        amount = min(amount, dispute.frozen)
    if dispute.hold_id is not None and amount == held:
        return
    hold_id = None
    if dispute.hold_id is not None:
        tx.decide(ReleaseHold(account.id, dispute.hold_id, tx.at_ms))
    if amount:
        hold_id = tx.new_id()
        label = f"dispute {dispute.stripe_dispute_id}"
        tx.decide(
            PlaceHold(account.id, account.external_id, hold_id, amount, tx.at_ms, OPEN_ENDED_MS, 0, 0, run_id=label)
        )
    frozen = amount if dispute.frozen is None else dispute.frozen
    Dispute.update(hold_id=hold_id, frozen=frozen).where(Dispute.id == dispute.id).execute(tx.database)


def _amount_held(tx: Transaction, dispute: DisputeView) -> int:
    if dispute.hold_id is None:
        return 0
    rows = Hold.select(Hold.amount).where(Hold.account_id == dispute.account_id, Hold.id == dispute.hold_id)
    return next((row[0] for row in rows.tuples().execute(tx.database)), 0)
