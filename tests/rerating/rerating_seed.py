"""A ledger whose usage was charged at known prices, at known times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from credits_plugin import Usage
from credits_plugin.database import Database, Reads
from credits_plugin.ledger.entries import Code, PlaceHold, PostTransfer, SettleHold
from credits_plugin.ledger.ids import IdMaker, account_key, now_ms
from credits_plugin.ledger.queries import TransferLine, account_transfers
from credits_plugin.ledger.writer import LedgerWriter
from credits_plugin.pricing.patterns import Pattern
from credits_plugin.pricing.price_book import PriceBook
from credits_plugin.pricing.versions import ensure_version
from credits_plugin.rerating import Posting, Scope, Tally, rerate
from credits_plugin.settings import Settings

DAY_MS = 86_400_000
TODAY_MS = now_ms() // DAY_MS * DAY_MS


def day(number: int) -> int:
    """Midnight so many days from today, in Unix milliseconds."""
    return TODAY_MS + number * DAY_MS


def date(number: int) -> datetime:
    return datetime.fromtimestamp(TODAY_MS / 1_000, UTC) + timedelta(days=number)


def book(usd: str, *, markup_bps: int = 0, model: str = "m", **settings: Any) -> PriceBook:
    """Prices at which a token of input costs 100 microcredits for each USD, and of output the same."""
    prices = {model: {"input": usd, "output": usd}}
    return PriceBook.from_settings(Settings(**({"prices": prices, "markup_bps": markup_bps} | settings)))


class Ledger:
    """What tests do with a database: grant, use, rerate, look."""

    def __init__(self, database: Database, writer: LedgerWriter, reads: Reads) -> None:
        self.database, self.writer, self.reads = database, writer, reads
        self.new_id = IdMaker()
        self._makers: dict[int, IdMaker] = {}

    def id_at(self, at_ms: int) -> int:
        """Return a new id, as one made then."""
        return self._makers.setdefault(at_ms, IdMaker(lambda: at_ms))()

    def give(self, name: str, amount: int, *, at_ms: int | None = None) -> None:
        at_ms, key = day(-30) if at_ms is None else at_ms, account_key(name)
        command = PostTransfer(key, name, self.id_at(at_ms), Code.PROMOTION, amount, at_ms)
        self.writer.execute_sync(command)

    def use(
        self,
        name: str,
        usage: Usage,
        prices: PriceBook,
        *,
        at_ms: int | None = None,
        cost: int | None = None,
        model: str = "m",
    ) -> int:
        """Charge a request whose hold was placed at ``at_ms`` what it cost then, or ``cost``; returns the charge."""
        at_ms, key = day(-1) if at_ms is None else at_ms, account_key(name)
        price = prices.price_for(model, at_ms=at_ms, account_id=name)
        version = self.writer.work_sync((), lambda tx: ensure_version(tx.database, price, at_ms=at_ms))
        charged = price.cost_microcredits(usage) if cost is None else cost
        hold_id = self.id_at(at_ms)
        self.writer.execute_sync(PlaceHold(key, name, hold_id, charged, at_ms, now_ms() + DAY_MS, version, 1))
        self.writer.execute_sync(SettleHold(key, hold_id, charged, at_ms, usage))
        return charged

    def rerate(self, prices: PriceBook, *, apply: bool = False, allows_debt: bool = False, **scope: Any) -> Rerated:
        whole = Scope(**({"model": Pattern("m"), "from_ms": day(-3), "to_ms": day(1)} | scope))
        posting = Posting(self.writer, self.new_id(), "tests", "a wrong price", allows_debt=allows_debt)
        accounts: dict[str, Tally] = {}
        total = rerate(self.reads, prices, whole, on_account=accounts.__setitem__, posting=posting if apply else None)
        return Rerated(accounts, total, posting.rerating_id)

    def lines(self, name: str) -> list[TransferLine]:
        """All transfers but usage and grants, newest first."""
        found = self.reads.run_sync(lambda database: account_transfers(database, account_key(name), limit=10_000))
        return [line for line in found if line.code not in {Code.USAGE, Code.PROMOTION}]

    def balance(self, name: str) -> int:
        sql = f"SELECT balance FROM account WHERE id = {account_key(name)}"
        return int(self.reads.run_sync(lambda database: database.execute_sql(sql).fetchone()[0]))


class Rerated:
    """What a rerating came to."""

    def __init__(self, accounts: dict[str, Tally], total: Tally, rerating_id: int) -> None:
        self.accounts, self.total, self.rerating_id = accounts, total, rerating_id
