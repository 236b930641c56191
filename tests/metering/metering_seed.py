"""Prices that make figures easy to check, and what tests give and look at."""

from __future__ import annotations

from credits_plugin import AIRequest, Hold
from credits_plugin.bootstrap import Credits
from credits_plugin.ledger.entries import Code, PostTransfer
from credits_plugin.ledger.ids import account_key, now_ms

# 1 and 2 USD per million tokens, 100 credits per USD: 100 and 200 microcredits a token, 115 and 230 with the markup.
PRICES = {"toy": {"input": "1", "output": "2", "cache_read": "0.1"}}


async def give(service: Credits, user: str, microcredits: int) -> None:
    """Grant a user credits through the ledger's door."""
    command = PostTransfer(
        account_key(user), user, service.new_id(), Code.PROMOTION, microcredits, now_ms(), "test grant"
    )
    await service.writer.execute(command)


def balance(service: Credits, user: str) -> tuple[int, int]:
    """(balance, held) as stored."""
    sql = "SELECT balance, held FROM account WHERE id = "
    return service.reads.run_sync(lambda db: db.execute_sql(f"{sql}{account_key(user)}").fetchone())


async def admitted(service: Credits, request: AIRequest) -> Hold:
    """The hold of a request that must get one."""
    answer = await service.admit(request)
    assert isinstance(answer, Hold), answer
    return answer
