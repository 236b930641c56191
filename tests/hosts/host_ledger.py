"""What a host's test gives to a user and finds in the ledger afterwards."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from stub_provider import ANSWER, WORDS

from credits_plugin import Credits
from credits_plugin.ledger.entries import Code, PostTransfer
from credits_plugin.ledger.ids import account_key, now_ms
from credits_plugin.pricing.tokens import count_text_tokens

# 100 credits per USD: 100 and 200 microcredits a token, 10 for a cached one; 115, 230 and 11.5 with the markup of 15 %.
PRICES: Final = {
    "toy": {"input": "1", "output": "2", "cache_read": "0.1"},
    "searching": {"input": "1", "output": "2", "cache_write_1h": "9", "tools": {"web_search": "0.01"}},
}
SEARCH: Final = 1_150_000
"""Microcredits of a search by the model `searching`."""
COST: Final = 14_076
"""Microcredits of the provider's usage: (56 · 100 + 64 · 10 + 30 · 200) · 1.15."""
THREE_WORDS: Final = " ".join(WORDS[:3])
"""What the provider streams before it hangs or breaks off."""
THREE_WORDS_TOKENS: Final = count_text_tokens(THREE_WORDS, "toy")
ANSWER_TOKENS: Final = count_text_tokens(ANSWER, "toy")
PLENTY: Final = 1_000_000_000


def affording(input_tokens: int, output_tokens: int) -> int:
    """Return the microcredits that so many tokens cost."""
    return -(-(input_tokens * 100 + output_tokens * 200) * 115 // 100)


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

    def stopped_at(self, limit_microcredits: int, user: str, heard: str) -> bool:
        """Whether a user heard a part of the answer, and was charged for no more than the limit."""
        (cost,) = self.charges(user)
        return ANSWER.startswith(heard) and heard not in ("", ANSWER) and 0 < cost <= limit_microcredits

    def held(self, user: str) -> int:
        """Return the microcredits that open holds of a user reserve now."""
        rows = self._rows("SELECT held FROM account WHERE id = ?", account_key(user))
        return rows[0][0] if rows else 0

    async def settled(self, user: str) -> None:
        """Wait until a user has no open hold: a task that is cancelled again does not wait for its settlement."""
        async with asyncio.timeout(10):
            while self.held(user):
                await asyncio.sleep(0.01)

    def tokens(self, user: str) -> list[tuple[int, ...]]:
        """Return (input, cache_read, cache_write, output, reasoning) of each settled request, oldest first."""
        sql = "SELECT input, cache_read, cache_write, output, reasoning FROM transfer WHERE code = 2 AND account_id = ?"
        return [tuple(row) for row in self._rows(sql + " ORDER BY seq", account_key(user))]

    def said(self, user: str) -> list[int]:
        """Return the output tokens of each settled request without reported usage, oldest first."""
        return [row[3] for row in self.tokens(user) if row[1:3] == (0, 0) and row[0] > 0]

    def runs(self, user: str) -> list[str | None]:
        """Return the run ids of a user's open holds, oldest first."""
        sql = "SELECT run_id FROM hold WHERE state = 1 AND account_id = ? ORDER BY id"
        return [row[0] for row in self._rows(sql, account_key(user))]

    def _rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        return self.service.reads.run_sync(lambda database: database.execute_sql(sql, values).fetchall())
