"""The checks of one account: its row, holds, lots and payments against its chain. Pure: rows in, findings out."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final, NamedTuple

from ...money import format_credits, proportional_credits
from ..budgets import counted_in
from ..entries import CLAW_BACKS, INCOMING, RERATING, Code, HoldStatus, LotState, may_owe
from ..ids import id_time_ms, key_of_name
from ..lots import next_expiry_at_ms
from ..replay import LotReplay, Movement, stored_lots_differ
from .report import AuditReport, Finding
from .streams import AccountRows, PaymentRow

_NO_MONEY: Final = frozenset({Code.USAGE, Code.PROMOTION, Code.EXPIRY})
_GIVEN_BACK: Final = frozenset({Code.REFUND_FAILED, Code.DISPUTE_WON})
_WITHIN_BALANCE: Final = frozenset({Code.ADJUSTMENT_OUT, Code.EXPIRY, Code.ROLLED_OUT})
"""Codes that take only what is there."""
_UNGRANTED: Final = frozenset({"created", "open", "processing", "canceled", "expired", "failed"})
_GRANTED: Final = frozenset({"paid", "partially_refunded", "refunded", "disputed"})
_STATES: Final = frozenset(map(int, HoldStatus))
_GIFTS: Final = frozenset({Code.PROMOTION, Code.ADJUSTMENT_IN})


def check_account(report: AuditReport, rows: AccountRows) -> None:
    """Check everything that is promised of one account, and count it."""
    subject = _Subject(report, rows.account_id, str(rows.account[1] if rows.account is not None else rows.account_id))
    open_holds = [hold for hold in rows.holds if hold[3] == HoldStatus.PLACED]
    report.open_holds += len(open_holds)
    report.lots += len(rows.lots)
    if rows.account is not None:
        report.count_account(rows.start, balance=rows.account[2])
        _check_row(subject, rows, held=sum(hold[2] for hold in open_holds))
        _check_lots(subject, rows)
        _check_budgets(subject, rows, open_holds)
    else:
        for what, invariant, there in (
            ("transfers", 2, rows.chain.transfers),
            ("holds", 3, rows.holds),
            ("lots", 4, rows.lots),
            ("budgets", 12, rows.budgets),
        ):
            if there:
                subject.fault(invariant, f"has {what} but no account row")
    _check_payments(subject, rows)
    _check_origins(subject, rows)
    _check_holds(subject, rows)
    _check_reratings(subject, rows)


def check_past(report: AuditReport, rows: AccountRows, *, as_of_ms: int) -> bool:
    """Count the account as it was then; returns whether its chain proves a balance of that time."""
    if rows.is_anchored and not rows.chain.transfers and id_time_ms(rows.start.last_id) > as_of_ms:
        report.archived += 1
        return False
    if not rows.chain.seq:
        return False
    if rows.account is None:
        fault = Finding(2, f"account {rows.account_id}", "has transfers but no account row", rows.account_id)
        report.note(fault)
    report.count_account(rows.start, balance=rows.chain.balance)
    return True


def _check_holds(subject: _Subject, rows: AccountRows) -> None:
    for _, identifier, _, state, charged, _ in rows.holds:
        about = f"hold {identifier}"
        if state not in _STATES:
            subject.fault(7, f"has the unknown state {state}", about=about)
        elif charged is not None and state == HoldStatus.SETTLED:
            subject.fault(7, "has another request id or price than its transfer", about=about, transfer_id=charged)
        elif charged is not None:
            subject.fault(7, "was charged, but has not ended as settled", about=about, transfer_id=charged)


def _check_reratings(subject: _Subject, rows: AccountRows) -> None:
    """What requests say that they were corrected by is what the corrections moved, where all of those are here."""
    moved = [event for event in rows.chain.events if (event[5] or "").startswith(RERATING)]
    taken = sum(-event[2] if event[1] in INCOMING else event[2] for event in moved)
    if not rows.is_anchored:
        message = f"its requests say that reratings took {rows.rerated} for them, its transfers say {taken}"
        subject.compare(taken, rows.rerated, 7, message)


class _Subject(NamedTuple):
    """Notes what is wrong with one account."""

    report: AuditReport
    account_id: int
    name: str

    def fault(self, invariant: int, message: str, *, transfer_id: int | None = None, about: str = "") -> None:
        subject = about or f"account {self.name}"
        self.report.note(Finding(invariant, subject, message, self.account_id, transfer_id))

    def compare(
        self, expected: int | str | None, found: int | str | None, invariant: int, message: str, *, about: str = ""
    ) -> None:
        if expected != found:
            subject = about or f"account {self.name}"
            self.report.note(Finding(invariant, subject, message, self.account_id, None, expected, found))


def _check_row(subject: _Subject, rows: AccountRows, *, held: int) -> None:
    account_id, external_id, balance, stored_held, seq, last_id, last_hash, expiry, _ = rows.account
    chain = rows.chain
    is_, wanted = (
        (account_id, balance, stored_held, seq, last_id, bytes(last_hash), expiry),
        (
            key_of_name(external_id),
            chain.balance,
            held,
            chain.seq,
            chain.last_id,
            chain.last_hash,
            next_expiry_at_ms(rows.lots),
        ),
    )
    if is_ != wanted:
        _explain_row(subject, is_, wanted)
    if balance < stored_held and not chain.may_owe:
        subject.fault(4, "spent more than it had, without overrun or claw-back")
    elif chain.sound and chain.most < held:
        message = f"holds {held}, but has had no more than {chain.most} since its newest open hold can have been placed"
        subject.compare(chain.most, held, 4, message)
    for identifier, code, _, after, _, reference in chain.events:
        if after < 0 and code in _WITHIN_BALANCE and not may_owe(code, reference):
            subject.fault(4, f"a {Code(code).name} left balance {after}", transfer_id=identifier)


def _explain_row(subject: _Subject, is_: tuple[Any, ...], wanted: tuple[Any, ...]) -> None:
    texts = (
        (2, "its id does not belong to its external id: {0}, it should be {1}"),
        (2, "balance {0}, its transfers add up to {1}"),
        (3, "held {0}, its open holds add up to {1}"),
        (2, "says {0} transfers, its chain has {1}"),
        (9, "says its last transfer is {0}, its chain ends with {1}"),
        (9, "its head {0} is not the hash of its chain's end {1}"),
        (4, "says credits expire next at {0}, its lots say {1}"),
    )
    for found, expected, (invariant, text) in zip(is_, wanted, texts, strict=True):
        shown = [value.hex() if isinstance(value, bytes) else value for value in (found, expected)]
        subject.compare(shown[1], shown[0], invariant, text.format(*shown))


def _check_budgets(subject: _Subject, rows: AccountRows, open_holds: list[Any]) -> None:
    """Check what budgets hold. What they spent is their own word: no transfer says who used it, or in which run."""
    subject.compare(
        len(rows.budgets), rows.account[8], 12, f"says {rows.account[8]} budgets, it has {len(rows.budgets)}"
    )
    held: Counter[tuple[int, int]] = Counter()
    for _, identifier, amount, _, _, budgets in open_holds:
        try:
            held.update(dict.fromkeys(counted_in(budgets), amount))
        except ValueError:
            subject.fault(12, f"does not say what it is counted in: {budgets!r:.60}", about=f"hold {identifier}")
    for _, identifier, kind, name, spent, stored_held, starts_at_ms in rows.budgets:
        about, wanted = f"budget {identifier} ({kind} {name!r:.60})", held[identifier, starts_at_ms]
        message = f"held {stored_held}, the open holds that are counted in it add up to {wanted}"
        subject.compare(wanted, stored_held, 12, message, about=about)
        if spent < 0:
            subject.fault(12, f"spent {spent}", about=about)


def _check_lots(subject: _Subject, rows: AccountRows) -> None:
    """Replay the chain's lots and compare; where that cannot be done, compare the sum."""
    left, balance = sum(lot.remaining for lot in rows.lots), rows.account[2]
    chain = rows.chain
    if left < max(balance, 0):
        message = f"its lots have {format_credits(left)} left, less than its balance {format_credits(balance)}"
        subject.compare(balance, left, 4, message)
    elif _has_one_lot(rows):
        return
    elif chain.sound and chain.balance == balance and not rows.is_anchored and not _has_foreign_claw_back(rows):
        replay = LotReplay({lot.id: lot for lot in rows.lots})
        for identifier, code, amount, after, at_ms, reference in chain.events:
            payment_id = rows.references.get(reference) if code in CLAW_BACKS else None
            replay.apply(Movement(identifier, code, amount, after, at_ms, reference, payment_id))
        replay.spend_down(balance)
        for problem in replay.problems:
            subject.fault(4, problem)
        if replay.rolling:
            subject.fault(1, f"{replay.rolling} microcredits were rolled out of a lot, but not into another")
        for identifier, how in stored_lots_differ(rows.lots, replay):
            subject.fault(4, how, about=f"account {subject.name}, lot {identifier}", transfer_id=identifier)


def _has_one_lot(rows: AccountRows) -> bool:
    """Whether all there ever was is one grant, the account's only lot. Most accounts: a replay would add 10 us each."""
    if len(rows.lots) != 1 or len(rows.chain.events) != 1 or rows.is_anchored:
        return False
    lot, (identifier, code, amount, *_) = rows.lots[0], rows.chain.events[0]
    return (lot.id, lot.amount, lot.expired) == (identifier, amount, 0) and code in INCOMING


def _has_foreign_claw_back(rows: AccountRows) -> bool:
    """Whether a claw-back names no payment of the account's, so that the lot it took from first is not known."""
    if not any(lot.payment_id for lot in rows.lots):
        return False
    return any(event[1] in CLAW_BACKS and event[5] not in rows.references for event in rows.chain.events)


def _check_payments(subject: _Subject, rows: AccountRows) -> None:
    """Each grant belongs to one payment, for what was ordered; claw-backs are what the payments say, and no more."""
    if not rows.payments and all(event[1] in _NO_MONEY for event in rows.chain.events):
        return
    purchases = {event[0]: event[2] for event in rows.chain.events if event[1] == Code.PURCHASE}
    lots = {lot.id: lot for lot in rows.lots}
    for payment in rows.payments:
        subject.report.payments += 1
        if payment.grant_id is not None:
            lot = lots.get(payment.grant_id)
            granted = purchases.pop(payment.grant_id, lot.amount if rows.is_anchored and lot is not None else 0)
            _check_grant(subject, payment, lot, granted=granted)
        _check_payment(subject, payment)
    for identifier in purchases:
        subject.fault(5, "is a purchase without a payment", about=f"transfer {identifier}", transfer_id=identifier)
    _check_claw_backs(subject, rows, said=sum(payment.clawed_back for payment in rows.payments))


def _check_grant(subject: _Subject, payment: PaymentRow, lot: LotState | None, *, granted: int) -> None:
    about = f"payment {payment.id}"
    message = f"its grant {payment.grant_id} is not {format_credits(payment.microcredits)} credits to its account"
    subject.compare(payment.microcredits, granted, 5, message, about=about)
    if granted and (lot is None or lot.payment_id != payment.id):
        subject.fault(5, f"the lot of its grant {payment.grant_id} does not name it", about=about)


def _check_payment(subject: _Subject, payment: PaymentRow) -> None:
    """Its state fits its grant; what went back is its refunds' and disputes' sums; the claw-back follows from both."""
    about, is_granted = f"payment {payment.id}", payment.grant_id is not None
    if payment.status in (_UNGRANTED if is_granted else _GRANTED):
        grant = "granted" if is_granted else "never granted"
        subject.fault(5, f"is {payment.status}, but was {grant}", about=about)
    message = f"says {payment.refunded_minor} were refunded, its refunds add up to {payment.refunds_minor}"
    subject.compare(payment.refunds_minor, payment.refunded_minor, 6, message, about=about)
    message = f"says {payment.disputed_minor} are disputed, its disputes add up to {payment.disputes_minor}"
    subject.compare(payment.disputes_minor, payment.disputed_minor, 6, message, about=about)
    if not 0 <= payment.clawed_back <= payment.microcredits:
        message = f"claw-backs of {payment.clawed_back} exceed its grant {payment.microcredits}"
        subject.compare(payment.microcredits, payment.clawed_back, 6, message, about=about)
    due = 0
    if is_granted:
        part_minor = payment.refunded_minor + payment.disputed_minor
        due = proportional_credits(payment.microcredits, part_minor=part_minor, whole_minor=payment.paid_minor)
    message = f"claw-backs of {payment.clawed_back} do not follow from refunds and disputes, which call for {due}"
    subject.compare(due, payment.clawed_back, 6, message, about=about)


def _check_origins(subject: _Subject, rows: AccountRows) -> None:
    """A lot names a payment only where its credits came from it: by purchase, a refund's failure, a rollover."""
    if _has_one_lot(rows) and (rows.lots[0].payment_id is None or rows.chain.events[0][1] == Code.PURCHASE):
        return  # what its payment says of it has been checked
    events = {event[0]: event for event in rows.chain.events}
    payments = {payment.id for payment in rows.payments}
    lots = {str(lot.id): lot for lot in rows.lots}
    for lot in rows.lots:
        about = f"account {subject.name}, lot {lot.id}"
        _, code, _, _, _, reference = events.get(lot.id, (lot.id, None, 0, 0, 0, None))
        if lot.remaining + lot.expired > lot.amount:
            subject.fault(4, f"has {lot.remaining} left and {lot.expired} expired of {lot.amount}", about=about)
        if lot.payment_id is not None and (code in _GIFTS or lot.payment_id not in payments):
            subject.fault(5, f"names payment {lot.payment_id}, which did not bring it in", about=about)
        if code in _GIVEN_BACK and rows.references.get(reference, lot.payment_id) != lot.payment_id:
            subject.compare(rows.references[reference], lot.payment_id, 5, "names another payment", about=about)
        source = lots.get(reference) if code == Code.ROLLED_IN else None
        if source is not None and (source.payment_id, source.priority) != (lot.payment_id, lot.priority):
            subject.fault(4, f"has not the terms of lot {source.id}, which it carries on", about=about)


def _check_claw_backs(subject: _Subject, rows: AccountRows, *, said: int) -> None:
    taken = sum(event[2] for event in rows.chain.events if event[1] in CLAW_BACKS)
    taken -= sum(event[2] for event in rows.chain.events if event[1] in _GIVEN_BACK)
    if not rows.is_anchored:
        subject.compare(said, taken, 6, f"payments say {said} were clawed back, transfers say {taken}")
