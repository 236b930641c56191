"""The pure rules against a naive oracle: millions of steps need no database."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from credits_plugin import Usage
from credits_plugin.errors import AccountInDebt, HoldEnded, InsufficientCredits, UnknownHold
from credits_plugin.ledger.book import Book
from credits_plugin.ledger.entries import (
    Code,
    ExpireHold,
    ExpireLots,
    HoldStatus,
    LotTerms,
    PlaceHold,
    PostTransfer,
    ReleaseHold,
    SettleHold,
    TransferRow,
    chain_hash,
)
from credits_plugin.ledger.rules import decide

ACCOUNT = 7
AMOUNTS = st.integers(min_value=1, max_value=1_000)


class LedgerMachine(RuleBasedStateMachine):
    """Every step goes to the rules and to an oracle that knows nothing but sums; both must agree."""

    holds = Bundle("holds")

    def __init__(self):
        super().__init__()
        self.book = Book()
        self.clock = 1_000
        self.next_id = 0
        self.balance = 0  # the oracle's books
        self.open: dict[int, int] = {}
        self.ended: dict[int, str] = {}
        self.charged: dict[int, int] = {}

    def make_id(self) -> int:
        self.next_id += 2
        return self.next_id

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    def post(self, code: Code, amount: int, terms: LotTerms = LotTerms()) -> None:  # noqa: B008 - a frozen value
        decide(self.book, PostTransfer(ACCOUNT, "a", self.make_id(), code, amount, self.tick(), terms=terms))

    def expire_due(self) -> None:
        """What the rules turn into breakage is checked by its own invariants; the oracle takes the total."""
        self.balance -= decide(self.book, ExpireLots(ACCOUNT, self.make_id(), self.clock)).amount

    @rule(amount=AMOUNTS, priority=st.integers(0, 2), lifetime=st.none() | st.integers(1, 30))
    def grant(self, amount, priority, lifetime):
        expires = None if lifetime is None else self.clock + lifetime
        self.post(Code.PURCHASE, amount, LotTerms(priority, expires))
        self.balance += amount

    @rule(amount=AMOUNTS)
    def claw_back(self, amount):
        if ACCOUNT in self.book.accounts:
            self.post(Code.REFUND, amount)
            self.balance -= amount

    @rule(amount=AMOUNTS)
    def take_by_hand(self, amount):
        available = self.balance - sum(self.open.values())
        try:
            self.post(Code.ADJUSTMENT_OUT, amount)
        except InsufficientCredits:
            assert amount > available
        else:
            assert amount <= available
            self.balance -= amount

    @rule(steps=st.integers(1, 40))
    def time_passes(self, steps):
        self.clock += steps
        self.expire_due()

    @rule(target=holds, amount=st.integers(0, 1_000), ttl=st.integers(1, 50))
    def place(self, amount, ttl):
        self.expire_due()
        available = self.balance - sum(self.open.values())
        hold_id, now = self.make_id(), self.clock
        command = PlaceHold(ACCOUNT, "a", hold_id, amount, now, now + ttl, 1, 10)
        try:
            decide(self.book, command)
        except InsufficientCredits:
            assert amount > available or ACCOUNT not in self.book.accounts
        except AccountInDebt:
            assert self.balance < 0
        else:
            assert amount <= available
            assert self.balance >= 0
            self.open[hold_id] = amount
        return hold_id

    @rule(hold_id=holds, amount=st.integers(0, 1_500))
    def settle(self, hold_id, amount):
        command = SettleHold(ACCOUNT, hold_id, amount, self.tick(), Usage(input=amount))
        try:
            settled = decide(self.book, command)
        except HoldEnded:
            assert self.ended[hold_id] == "released"
        except UnknownHold:
            assert hold_id not in self.open
            assert hold_id not in self.ended
        else:
            assert settled.repeated == (self.ended.get(hold_id) == "settled")
            if not settled.repeated:
                self.balance -= amount
                self.charged[hold_id] = amount
                self.end(hold_id, "settled")
            assert settled.amount == self.charged[hold_id]

    @rule(hold_id=holds)
    def release(self, hold_id):
        try:
            released = decide(self.book, ReleaseHold(ACCOUNT, hold_id, self.tick()))
        except HoldEnded:
            assert self.ended[hold_id] == "settled"
        except UnknownHold:
            assert hold_id not in self.open
            assert hold_id not in self.ended
        else:
            assert released.changed == (self.ended.get(hold_id) != "released")
            self.end(hold_id, "released")

    @rule(hold_id=holds, charge=st.integers(0, 1_500))
    def expire(self, hold_id, charge):
        amount = self.open.get(hold_id, 0)
        before = self.book.accounts[ACCOUNT].balance if ACCOUNT in self.book.accounts else 0
        ended = decide(self.book, ExpireHold(ACCOUNT, hold_id, self.tick(), charge, Usage(input=1)))
        if ended.changed:
            charged = before - self.book.accounts[ACCOUNT].balance
            assert charged == min(charge, amount)
            self.balance -= charged
            self.charged[hold_id] = charged
            self.end(hold_id, "settled" if charge and charged else "expired")

    def end(self, hold_id: int, how: str) -> None:
        self.open.pop(hold_id, None)
        self.ended[hold_id] = how

    @invariant()
    def books_agree(self):
        account = self.book.accounts.get(ACCOUNT)
        if account is None:
            return
        assert account.balance == self.balance
        assert account.held == sum(self.open.values())
        held = [hold.amount for hold in self.book.holds.values() if hold.status == HoldStatus.PLACED]
        assert account.held == sum(held)

    @invariant()
    def lots_cover_the_balance(self):
        account = self.book.accounts.get(ACCOUNT)
        if account is not None:
            lots = self.book.lots[ACCOUNT]
            assert sum(lot.remaining for lot in lots) >= max(account.balance, 0)
            assert all(0 <= lot.remaining + lot.expired <= lot.amount for lot in lots)

    @invariant()
    def the_chain_holds(self):
        previous = (0, b"", 0)
        for seq, row in enumerate(map(TransferRow._make, self.book.new_transfers), start=1):
            assert (row.seq, row.previous_id) == (seq, previous[0])
            assert row.balance_after == previous[2] + (row.amount if row.code == Code.PURCHASE else -row.amount)
            assert row.hash == chain_hash(
                previous[1],
                transfer_id=row.id,
                account_id=row.account_id,
                seq=row.seq,
                previous_id=row.previous_id,
                code=row.code,
                amount=row.amount,
                balance_after=row.balance_after,
                at_ms=row.at_ms,
                price_version=row.price_version,
                usage=row.usage,
                reference=row.reference,
            )
            previous = (row.id, row.hash, row.balance_after)


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
