"""What a host's test gives to a user and finds in the ledger afterwards."""

from __future__ import annotations

from typing import Any, Final

from credits_plugin import Credits
from credits_plugin.ledger.entries import Code, PostTransfer
from credits_plugin.ledger.ids import account_key, now_ms

# 100 credits per USD: 100 and 200 microcredits a token, 10 for a cached one; 115, 230 and 11.5 with the markup of 15 %.
PRICES: Final = {"toy": {"input": "1", "output": "2", "cache_read": "0.1"}}
COST: Final = 14_076
"""Microcredits of the provider's usage: (56 · 100 + 64 · 10 + 30 · 200) · 1.15."""
PLENTY: Final = 1_000_000_000


class Ledger:
    """What a test gives and looks at, without an event loop of its own."""

    def __init__(self, service: Credits) -> None:
        self.service = service

    def grant(self, user: str, microcredits: int = PLENTY) -> None:
        """Give a user credits through the ledger's door."""
        self.service.writer.execute_sync(
            PostTransfer(account_key(user), user, self.service.new_id(), Code.PROMOTION, microcredits, now_ms())
        )

    def charges(self, user: str) -> list[int]:
        """Return what each settled request of a user cost, oldest first, in microcredits."""
        rows = self._rows(
            "SELECT amount FROM transfer WHERE code = 2 AND account_id = ? ORDER BY seq", account_key(user)
        )
        return [row[0] for row in rows]

    def held(self, user: str) -> int:
        """Return the microcredits that open holds of a user reserve now."""
        rows = self._rows("SELECT held FROM account WHERE id = ?", account_key(user))
        return rows[0][0] if rows else 0

    def tokens(self, user: str) -> list[tuple[int, ...]]:
        """Return (input, cache_read, cache_write, output, reasoning) of each settled request, oldest first."""
        sql = "SELECT input, cache_read, cache_write, output, reasoning FROM transfer WHERE code = 2 AND account_id = ?"
        return [tuple(row) for row in self._rows(sql + " ORDER BY seq", account_key(user))]

    def _rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        return self.service.reads.run_sync(lambda database: database.execute_sql(sql, values).fetchall())
