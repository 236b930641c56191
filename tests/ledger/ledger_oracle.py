"""A naive ledger: every transfer takes from its lots at once, everything is kept, nothing is clever."""

from __future__ import annotations

from dataclasses import dataclass, field

from budget_oracle import NaiveBudgets

from credits_plugin.errors import (
    AccountInDebt,
    BudgetExceeded,
    HoldEnded,
    InsufficientCredits,
    LedgerError,
    NotFound,
    UnknownHold,
)
from credits_plugin.ledger.budget_entries import PauseRun, RemoveBudget, SetBudget, StartRun
from credits_plugin.ledger.entries import (
    INCOMING,
    Code,
    ExpireHold,
    ExpireLots,
    ExtendHold,
    PlaceHold,
    PostTransfer,
    ReleaseHold,
    RollOver,
    SettleHold,
)

CLAW_BACK = {Code.REFUND, Code.DISPUTE}


@dataclass
class NaiveLot:
    id: int
    priority: int
    expires_at_ms: int | None
    amount: int
    left: int
    payment_id: int | None
    expired: int = 0

    def order(self):
        return (self.priority, self.expires_at_ms if self.expires_at_ms is not None else float("inf"), self.id)


@dataclass
class NaiveAccount:
    """One account's books. ``took`` says, for each transfer, which lot gave how much, in order."""

    exists: bool = False
    balance: int = 0
    lots: list = field(default_factory=list)
    holds: dict = field(default_factory=dict)  # id -> [amount, state, expires_at_ms]
    runs: dict = field(default_factory=dict)  # id -> run id
    posted: dict = field(default_factory=dict)  # id -> amount
    took: dict = field(default_factory=dict)  # id -> [(lot id, amount)]
    debts: list = field(default_factory=list)  # [transfer id, amount], oldest first
    budgets: NaiveBudgets = field(default_factory=NaiveBudgets)

    @property
    def held(self):
        return sum(amount for amount, state, _ in self.holds.values() if state == "open")

    @property
    def available(self):
        return self.balance - self.held

    def is_open(self, hold_id):
        return hold_id in self.holds and self.holds[hold_id][1] == "open"

    def apply(self, command):
        """Return what the answer's amount must be, or the error's class."""
        return getattr(self, _NAMES[type(command)])(command)

    def place(self, command: PlaceHold):
        if not self.exists and command.amount:
            return InsufficientCredits
        self.exists = True
        least = command.amount if command.least is None else min(command.least, command.amount)
        if command.hold_id in self.holds:
            amount, _, expires_at_ms = self.holds[command.hold_id]
            as_asked = least <= amount <= command.amount and expires_at_ms == command.expires_at_ms
            return amount if as_asked else LedgerError
        self.break_due(command.hold_id | 1, command.at_ms)
        amount = min(command.amount, self.available)
        if self.balance < 0 or amount < least:
            self.budgets.stop(self.budgets.run(command.run_id), "waiting")
            return AccountInDebt if self.balance < 0 else InsufficientCredits
        amount = self.budgets.place(command, amount, least)
        if amount is None:
            return BudgetExceeded
        self.runs[command.hold_id] = command.run_id
        self.holds[command.hold_id] = [amount, "open", command.expires_at_ms]
        return amount

    def extend(self, command: ExtendHold):
        hold = self.holds.get(command.hold_id)
        if hold is None:
            return UnknownHold
        if hold[1] != "open":
            return HoldEnded
        least = command.amount if command.least is None else min(command.least, command.amount)
        affordable = hold[0] + self.available - self.due(command.at_ms)
        amount = max(hold[0], min(command.amount, affordable, self.budgets.room(command, hold[0])))
        if amount < least:
            if affordable >= least:
                self.budgets.refuse_to_raise(command, hold[0], least)
                return BudgetExceeded
            self.budgets.stop(self.budgets.run(self.runs[command.hold_id]), "waiting")
            return AccountInDebt if self.balance < 0 else InsufficientCredits
        if amount > hold[0]:
            self.budgets.raise_to(command.hold_id, amount)
        hold[0], hold[2] = amount, max(hold[2], command.expires_at_ms)
        return amount

    def settle(self, command: SettleHold):
        hold = self.holds.get(command.hold_id)
        if hold is None:
            return UnknownHold
        if hold[1] == "released":
            return HoldEnded
        if hold[1] != "settled":
            hold[1] = "settled"
            self.budgets.end(command.hold_id, spent=command.amount)
            self.take(command.hold_id, command.amount, self.lots_in_order())
        return self.posted.get(command.hold_id, 0)

    def release(self, command: ReleaseHold):
        hold = self.holds.get(command.hold_id)
        if hold is None:
            return UnknownHold
        if hold[1] == "settled":
            return HoldEnded
        hold[1] = "released"
        self.budgets.end(command.hold_id)
        return None

    def expire(self, command: ExpireHold):
        hold = self.holds.get(command.hold_id)
        if hold is not None and hold[1] == "open" and hold[2] <= command.at_ms:
            charge = min(command.charge, hold[0])
            hold[1] = "settled" if charge else "expired"
            self.budgets.end(command.hold_id, spent=charge)
            self.take(command.hold_id, charge, self.lots_in_order())

    def post(self, command: PostTransfer):
        if command.transfer_id in self.posted:
            return self.posted[command.transfer_id]
        if command.code in INCOMING:
            terms = command.terms
            self.bring_in(command.transfer_id, command.amount, terms.priority, terms.expires_at_ms, command.payment_id)
            return command.amount
        if command.code not in CLAW_BACK and command.amount > self.available:
            return InsufficientCredits
        self.exists = True
        own_first = sorted(self.lots_in_order(), key=lambda lot: lot.payment_id != command.payment_id)
        self.take(command.transfer_id, command.amount, own_first)
        return command.amount

    def expire_lots(self, command: ExpireLots):
        if command.transfer_id in self.posted:
            return self.posted[command.transfer_id]
        return self.break_due(command.transfer_id, command.at_ms)

    def roll_over(self, command: RollOver):
        if command.transfer_id in self.posted:
            return self.posted[command.transfer_id]
        for lot in self.lots:
            if lot.id == command.lot_id and lot.left and lot.expires_at_ms > command.at_ms:
                amount = lot.left if command.cap is None else min(lot.left, command.cap)
                if amount:
                    self.take(command.transfer_id, amount, [lot])
                    new_id = command.transfer_id | 1
                    self.bring_in(new_id, amount, lot.priority, command.expires_at_ms, lot.payment_id)
                return amount
        return 0

    def set_budget(self, command: SetBudget):
        self.exists = True
        return self.budgets.set(command)

    def start_run(self, command: StartRun):
        self.exists = True
        return self.budgets.start(command)

    def pause_run(self, command: PauseRun):
        return self.budgets.pause(command) or NotFound

    def remove_budget(self, command: RemoveBudget):
        return self.budgets.remove(command)

    def due_lots(self, at_ms):
        return [lot for lot in self.lots_in_order() if lot.expires_at_ms is not None and lot.expires_at_ms <= at_ms]

    def due(self, at_ms):
        return min(sum(lot.left for lot in self.due_lots(at_ms)), max(self.available, 0))

    def break_due(self, transfer_id, at_ms):
        due, amount = self.due_lots(at_ms), self.due(at_ms)
        for lot_id, taken in self.take(transfer_id, amount, due):
            next(lot for lot in due if lot.id == lot_id).expired += taken
        return amount

    def lots_in_order(self):
        return sorted((lot for lot in self.lots if lot.left), key=NaiveLot.order)

    def take(self, transfer_id, amount, lots):
        if not amount:
            return []
        self.posted[transfer_id] = amount
        self.balance -= amount
        taken = self.took.setdefault(transfer_id, [])
        for lot in lots:
            part = min(lot.left, amount)
            if part:
                lot.left -= part
                amount -= part
                taken.append((lot.id, part))
        if amount:
            self.debts.append([transfer_id, amount])
        return taken

    def bring_in(self, transfer_id, amount, priority, expires_at_ms, payment_id):
        self.exists = True
        self.posted[transfer_id] = amount
        self.balance += amount
        lot = NaiveLot(transfer_id, priority, expires_at_ms, amount, amount, payment_id)
        self.lots.append(lot)
        for debt in self.debts:
            part = min(debt[1], lot.left)
            if part:
                debt[1] -= part
                lot.left -= part
                self.took[debt[0]].append((lot.id, part))
        self.debts = [debt for debt in self.debts if debt[1]]


_NAMES = {
    PlaceHold: "place",
    ExtendHold: "extend",
    SettleHold: "settle",
    ReleaseHold: "release",
    ExpireHold: "expire",
    PostTransfer: "post",
    ExpireLots: "expire_lots",
    RollOver: "roll_over",
    SetBudget: "set_budget",
    StartRun: "start_run",
    PauseRun: "pause_run",
    RemoveBudget: "remove_budget",
}
