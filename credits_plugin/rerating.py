"""Usage charged anew: what a period's requests cost by the price book as it is now, and corrections of the difference.

Transfers never change. An account gets one further transfer for what its requests were charged too much or too little
(``ADJUSTMENT_IN``, ``ADJUSTMENT_OUT``, reference ``rerate:<id>``), and each corrected request a row saying how much
was corrected in all. Both are written in one unit of work that computes the difference to those rows, so a run that
died is finished by running it again, and a repetition corrects nothing twice.

Hosts go on meanwhile. Requests are found along the accounts' chains, some thousand transfers at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Final, NamedTuple

from .database import Reads
from .errors import CreditsError, NotFound, UnknownModel
from .ledger.charges import ActiveAccount, Charge, active_accounts, charges_page, one_account
from .ledger.entries import RERATING, Code, PostTransfer
from .ledger.ids import CLOCKS_DIFFER_MS, account_key
from .ledger.keysets import select
from .ledger.work import Transaction
from .ledger.writer import LedgerWriter
from .models import AdminAction
from .pricing.patterns import Pattern
from .pricing.price import Price
from .pricing.price_book import PriceBook
from .pricing.versions import load_version

_PAGE: Final = 1_000
_MOST_AT_ONCE: Final = 5_000
"""Requests of an account that one unit of work corrects. Holds wait for it: measured at up to 30 ms on SQLite, 240 on
PostgreSQL, on two busy cores."""
_ROWS_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class Scope:
    """Which requests: whose price went by a name that ``model`` matches, and whose hold was placed in the period.

    ``account_id`` None means all accounts. ``keeps_markup`` takes the markup that was charged onto the present price.
    """

    model: Pattern
    from_ms: int
    to_ms: int
    account_id: str | None = None
    keeps_markup: bool = False

    def covers(self, price: Price) -> bool:
        """Whether requests at this price are looked at; ``provider/model`` names one provider's."""
        names = (price.model.lower(), f"{price.provider}/{price.model}".lower())
        wanted = self.model.text.lower()
        return any(name.startswith(wanted) if self.model.is_prefix else name == wanted for name in names)


@dataclass(slots=True)
class Tally:
    """What a rerating found, of one account or of all; amounts are microcredits.

    ``charged`` includes earlier corrections, ``due`` is what the requests cost at the present price. ``posted`` was
    corrected now (below 0: given back), ``short`` is what was not taken because it was not there. ``archived`` counts
    transfers that may be of the period but were moved out, ``unpriced`` requests that nothing prices now,
    ``unexplained`` those charged more than their own price says: none of these three is corrected.
    """

    requests: int = 0
    charged: int = 0
    due: int = 0
    posted: int = 0
    short: int = 0
    archived: int = 0
    unpriced: int = 0
    unexplained: int = 0

    @property
    def difference(self) -> int:
        """What the account still owes for its requests; below 0, what it is owed."""
        return self.due - self.charged

    @property
    def skipped(self) -> int:
        """How many requests, or transfers that may be some, were left alone."""
        return self.archived + self.unpriced + self.unexplained

    def add(self, other: Tally) -> None:
        """Add another account's."""
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))


@dataclass(frozen=True, slots=True)
class Posting:
    """Who corrects, and why. ``allows_debt`` also takes what is not there."""

    writer: LedgerWriter
    rerating_id: int
    actor: str
    reason: str
    allows_debt: bool = False


class Correction(NamedTuple):
    """A request that was charged ``wanted`` microcredits too little in the first place (below 0: too much)."""

    transfer_id: int
    wanted: int


def rerate(
    reads: Reads,
    book: PriceBook,
    scope: Scope,
    *,
    on_account: Callable[[str, Tally], None],
    posting: Posting | None = None,
) -> Tally:
    """Compare what was charged with what the book says; with ``posting``, correct it. Returns the sum of all accounts.

    ``on_account`` is told of each account with requests in scope, or with something left alone, by its name. Blocks.

    Raises:
        NotFound: there is no such account.
    """
    total, run = Tally(), _Run(reads, book, scope, posting)
    for account in _accounts(reads, scope):
        tally = run.account(account)
        if tally.requests or tally.skipped:
            on_account(account.external_id, tally)
            total.add(tally)
    run.finish(total)
    return total


def _accounts(reads: Reads, scope: Scope) -> Iterator[ActiveAccount]:
    if scope.account_id is not None:
        found = reads.run_sync(partial(one_account, account_id=account_key(scope.account_id)))
        if not found:
            msg = f"there is no account {scope.account_id!r:.60}"
            raise NotFound(msg)
        yield from found
        return
    after: int | None = -1
    while after is not None:
        page = partial(active_accounts, after=after, since_ms=scope.from_ms, limit=_PAGE)
        accounts, after = reads.run_sync(page)
        yield from accounts


@dataclass(slots=True)
class _Run:
    """One rerating, account by account."""

    reads: Reads
    book: PriceBook
    scope: Scope
    posting: Posting | None
    _versions: dict[int, Price] = field(default_factory=dict)
    _is_noted: bool = False

    def account(self, account: ActiveAccount) -> Tally:
        """Rerate one account's requests; what is to be corrected is posted some thousand requests at a time."""
        tally = Tally()
        if account.archived and account.archived_until_ms >= self.scope.from_ms:
            tally.archived = account.archived
        wanted: list[Correction] = []
        for charge in self._charges(account):
            if (correction := self._look(account, charge, tally)) is not None:
                wanted.append(correction)
            if len(wanted) >= _MOST_AT_ONCE:
                self._correct(account, wanted, tally)
                wanted = []
        if wanted:
            self._correct(account, wanted, tally)
        return tally

    def finish(self, total: Tally) -> None:
        """Write down how a run that has corrected something ended."""
        if self.posting is not None and self._is_noted:
            self.posting.writer.work_sync((), partial(_note_end, rerating_id=self.posting.rerating_id, total=total))

    def _charges(self, account: ActiveAccount) -> Iterator[Charge]:
        """Yield the account's charges whose holds were placed in the period, newest first."""
        before_seq = None
        while True:
            read = partial(charges_page, account_id=account.id, before_seq=before_seq, limit=_PAGE)
            page = self.reads.run_sync(read)
            yield from (one for one in page.charges if self.scope.from_ms <= one.held_at_ms < self.scope.to_ms)
            if page.oldest_seq <= 1 or page.oldest_ms < self.scope.from_ms - CLOCKS_DIFFER_MS:
                return
            before_seq = page.oldest_seq

    def _look(self, account: ActiveAccount, charge: Charge, tally: Tally) -> Correction | None:
        """Count a charge; returns what it should have been corrected by in all, where that is not so yet."""
        applied = self._version(charge.price_version)
        if not self.scope.covers(applied):
            return None
        cost = applied.cost_microcredits(charge.usage)
        if charge.amount > cost:
            tally.unexplained += 1
            return None
        try:
            due = self._present(applied, charge, account).cost_microcredits(charge.usage)
        except UnknownModel:
            tally.unpriced += 1
            return None
        if charge.amount < cost:  # its usage was not reported, so its hold was the most that it could cost
            due = min(due, charge.amount)
        tally.requests += 1
        tally.charged += charge.amount + charge.corrected
        tally.due += due
        wanted = due - charge.amount
        return Correction(charge.id, wanted) if wanted != charge.corrected else None

    def _version(self, version: int) -> Price:
        if version not in self._versions:
            self._versions[version] = self.reads.run_sync(partial(load_version, version=version))
        return self._versions[version]

    def _present(self, applied: Price, charge: Charge, account: ActiveAccount) -> Price:
        price = self.book.price_instead_of(applied, at_ms=charge.held_at_ms, account_id=account.external_id)
        return replace(price, markup_bps=applied.markup_bps) if self.scope.keeps_markup else price

    def _correct(self, account: ActiveAccount, wanted: list[Correction], tally: Tally) -> None:
        if self.posting is None:
            return
        if not self._is_noted:
            self.posting.writer.work_sync((), partial(_note_start, posting=self.posting, scope=self.scope))
            self._is_noted = True
        post = partial(_post, account=account, wanted=sorted(wanted), posting=self.posting)
        posted, short = self.posting.writer.work_sync([account.id], post)
        tally.posted += posted
        tally.short += short


def _post(tx: Transaction, account: ActiveAccount, wanted: list[Correction], posting: Posting) -> tuple[int, int]:
    """Correct requests by what is missing of ``wanted``; returns what was posted, and what of it was not there."""
    state = tx.account(account.id)
    if state is None:
        msg = f"account {account.external_id!r:.60} has no row, although it was charged: run `credits audit`"
        raise CreditsError(msg)
    done = _corrected(tx, account.id, [one.transfer_id for one in wanted])
    missing = [one.wanted - done.get(one.transfer_id, 0) for one in wanted]
    most = None if posting.allows_debt else max(state.available, 0)
    posted = allot(missing, most=most)
    if amount := sum(posted):
        tx.decide(
            PostTransfer(
                account.id,
                account.external_id,
                tx.new_id(),
                Code.ADJUSTMENT_OUT if amount > 0 else Code.ADJUSTMENT_IN,
                abs(amount),
                tx.at_ms,
                f"{RERATING}{posting.rerating_id}",
            )
        )
    rows = [
        (one.transfer_id, account.id, done.get(one.transfer_id, 0) + change, posting.rerating_id)
        for one, change in zip(wanted, posted, strict=True)
        if change
    ]
    _write_rows(tx, rows)
    return amount, sum(missing) - amount


def allot(missing: Sequence[int], *, most: int | None) -> list[int]:
    """Return what of each difference is posted, if together they may take ``most`` microcredits (None: whatever it is).

    What is owed to the account is given back whole; the last of what it owes waits where that does not fit.
    """
    short = 0 if most is None else max(sum(missing) - most, 0)
    posted = list(missing)
    for place in range(len(posted) - 1, -1, -1):
        left = min(max(posted[place], 0), short)
        posted[place] -= left
        short -= left
    return posted


def _corrected(tx: Transaction, account_id: int, transfer_ids: list[int]) -> dict[int, int]:
    found: dict[int, int] = {}
    for start in range(0, len(transfer_ids), _ROWS_AT_ONCE):
        chunk = transfer_ids[start : start + _ROWS_AT_ONCE]
        marks = ", ".join(["%s"] * len(chunk))
        sql = f"SELECT transfer_id, corrected FROM rerated_usage WHERE account_id = %s AND transfer_id IN ({marks})"
        found.update(select(tx.database, sql, [account_id, *chunk]))
    return found


def _write_rows(tx: Transaction, rows: list[tuple[int, int, int, int]]) -> None:
    """Write the rows in place of those of the same transfers. Plain SQL: Peewee took ten times as long here."""
    mark = tx.database.param
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        chunk = rows[start : start + _ROWS_AT_ONCE]
        ids = ", ".join([mark] * len(chunk))
        delete = f"DELETE FROM rerated_usage WHERE account_id = {mark} AND transfer_id IN ({ids})"
        tx.database.execute_sql(delete, (chunk[0][1], *(row[0] for row in chunk)))
        values = ", ".join([f"({mark}, {mark}, {mark}, {mark})"] * len(chunk))
        insert = f"INSERT INTO rerated_usage (transfer_id, account_id, corrected, rerating_id) VALUES {values}"
        tx.database.execute_sql(insert, tuple(value for row in chunk for value in row))


def _note_start(tx: Transaction, posting: Posting, scope: Scope) -> None:
    """Write down who corrects what and why, before the first correction."""
    asked: dict[str, Any] = {
        "model": scope.model.name,
        "from_ms": scope.from_ms,
        "to_ms": scope.to_ms,
        "keeps_markup": scope.keeps_markup,
        "allows_debt": posting.allows_debt,
    }
    action = {
        "id": posting.rerating_id,
        "at_ms": tx.at_ms,
        "actor": posting.actor,
        "action": "rerate",
        "subject": f"usage of {scope.model.name}",
        "account_id": None if scope.account_id is None else account_key(scope.account_id),
        "reason": posting.reason,
        "before": json.dumps(asked),
    }
    AdminAction.insert(action).on_conflict_ignore().execute(tx.database)


def _note_end(tx: Transaction, rerating_id: int, total: Tally) -> None:
    found = {one.name: getattr(total, one.name) for one in fields(total)}
    AdminAction.update(after=json.dumps(found)).where(AdminAction.id == rerating_id).execute(tx.database)
