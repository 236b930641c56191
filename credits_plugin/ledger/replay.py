"""Which lot paid for which transfer: an account's chain, replayed with the rules' own burn-down. Pure.

The ledger attributes spend lazily, whenever lots change. Between two such changes there is only usage, and the order of
the lots stands still, so taking two amounts one after the other takes the same credits as taking their sum: the replay,
transfer by transfer, ends with the stored lots. Where lots run out, the transfer leaves a debt; credits that come in
later repay debts before they are anybody's, the oldest first.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from .entries import CLAW_BACKS, INCOMING, Code, LotState
from .lots import attribute_spend, burn_down_order


class Use(StrEnum):
    """What became of a lot's credits."""

    SPENT = "spent"
    CLAWED_BACK = "clawed_back"
    WITHDRAWN = "withdrawn"
    EXPIRED = "expired"
    ROLLED_OVER = "rolled_over"


_USES: Final = {
    Code.USAGE: Use.SPENT,
    **dict.fromkeys(CLAW_BACKS, Use.CLAWED_BACK),
    Code.ADJUSTMENT_OUT: Use.WITHDRAWN,
    Code.EXPIRY: Use.EXPIRED,
    Code.ROLLED_OUT: Use.ROLLED_OVER,
}
_SEVERAL: Final = 0


class Movement(NamedTuple):
    """A transfer as lots see it. ``payment_id`` is the payment that a claw-back takes back."""

    id: int
    code: int
    amount: int
    balance_after: int
    at_ms: int
    reference: str | None
    payment_id: int | None = None


class Share(NamedTuple):
    """Credits of one lot that one transfer took; ``transfer_id`` is 0 for usage that was summed up."""

    transfer_id: int
    lot_id: int
    use: Use
    amount: int


@dataclass(slots=True)
class _Debt:
    transfer_id: int
    use: Use
    amount: int


def _ignore(share: Share) -> None:
    """Take notice of nothing."""


@dataclass(slots=True)
class LotReplay:
    """Lots and debts of one account, from its first transfer on; ``lots`` holds every lot that has come in.

    ``stored`` are the account's lot rows, for their terms alone. ``problems`` says what the rules cannot have done.
    """

    stored: dict[int, LotState]
    on_share: Callable[[Share], None] = _ignore
    balance: int = 0
    lots: dict[int, LotState] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    rolling: int = 0
    """Credits that were rolled out and not in again."""
    _order: list[LotState] = field(default_factory=list)
    _debts: deque[_Debt] = field(default_factory=deque)

    def apply(self, movement: Movement) -> None:
        """Apply the chain's next transfer. Usage that leaves no debt may be left out: the balance tells its sum."""
        code, amount = movement.code, movement.amount
        incoming = code in INCOMING
        self.spend_down(movement.balance_after - amount if incoming else movement.balance_after + amount)
        self.balance = movement.balance_after
        if incoming:
            self._add(movement)
            return
        use = _USES[Code(code)]
        missing = self._take(self._candidates(movement), amount, transfer_id=movement.id, use=use)
        if missing and use in {Use.EXPIRED, Use.ROLLED_OVER}:
            self.problems.append(f"transfer {movement.id} moved {missing} more than its lots had")
        elif missing:
            self._debts.append(_Debt(movement.id, use, missing))

    def spend_down(self, balance: int) -> None:
        """Attribute the usage that was left out, down to ``balance``."""
        if balance > self.balance:
            self.problems.append(f"{balance - self.balance} microcredits came in without a transfer")
        missing = self._take(self._order, self.balance - balance, transfer_id=_SEVERAL, use=Use.SPENT)
        if missing:
            self._debts.append(_Debt(_SEVERAL, Use.SPENT, missing))
        self.balance = balance

    def _candidates(self, movement: Movement) -> Iterable[LotState]:
        """Return the lots that a transfer takes from, in the order of the rules."""
        match movement.code:
            case Code.USAGE:
                return self._order
            case Code.EXPIRY:
                return [
                    lot for lot in self._order if lot.expires_at_ms is not None and lot.expires_at_ms <= movement.at_ms
                ]
            case Code.ROLLED_OUT:
                self.rolling += movement.amount
                return [lot for lot in self._order if str(lot.id) == movement.reference]
            case _:
                return sorted(self._order, key=lambda lot: lot.payment_id != movement.payment_id)

    def _take(self, lots: Iterable[LotState], amount: int, *, transfer_id: int, use: Use) -> int:
        """Take ``amount`` from lots in the order given; return what they did not have."""
        emptied = False
        for lot in lots:
            if amount <= 0:
                break
            taken = min(lot.remaining, amount)
            lot.remaining -= taken
            amount -= taken
            emptied = emptied or not lot.remaining
            if use is Use.EXPIRED:
                lot.expired += taken
            self.on_share(Share(transfer_id, lot.id, use, taken))
        if emptied:
            self._order = [lot for lot in self._order if lot.remaining]
        return max(amount, 0)

    def _add(self, movement: Movement) -> None:
        """Add the lot of what came in; debts are repaid from it first."""
        stored = self.stored.get(movement.id)
        if stored is None:
            self.problems.append(f"transfer {movement.id} brought {movement.amount} in, but has no lot")
            stored = LotState(movement.id, 0, 0, None, movement.amount, 0, None)
        elif stored.amount != movement.amount:
            self.problems.append(f"lot {stored.id} says {stored.amount}, its transfer brought {movement.amount} in")
        if movement.code == Code.ROLLED_IN:
            self.rolling -= movement.amount
        terms = (stored.account_id, stored.priority, stored.expires_at_ms)
        lot = LotState(movement.id, *terms, movement.amount, movement.amount, stored.payment_id)
        self.lots[lot.id] = lot
        while self._debts and lot.remaining:
            debt = self._debts[0]
            left = self._take([lot], debt.amount, transfer_id=debt.transfer_id, use=debt.use)
            debt.amount = left
            if not left:
                self._debts.popleft()
        if lot.remaining:
            insort(self._order, lot, key=burn_down_order)


def stored_lots_differ(stored: Iterable[LotState], replayed: LotReplay) -> list[tuple[int, str]]:
    """Return (lot id, how) for lot rows that the chain, replayed to its head, does not explain. Changes ``stored``.

    Spend that was not attributed yet is attributed first, so lazy rows compare equal.
    """
    rows = {lot.id: lot for lot in stored}
    attribute_spend(list(rows.values()), balance=replayed.balance)
    differing = [(identifier, "no transfer brought it in") for identifier in sorted(rows.keys() - replayed.lots.keys())]
    for lot in replayed.lots.values():
        row = rows.get(lot.id)
        if row is not None and (row.remaining, row.expired) != (lot.remaining, lot.expired):
            says = f"says {row.remaining} left and {row.expired} expired"
            differing.append((lot.id, f"{says}, its chain makes it {lot.remaining} and {lot.expired}"))
    return differing
