"""One statement per operation on PostgreSQL: the fewest round trips that a ledger without batches can do with.

Each hold and each settle is one statement that commits by itself, on one of 64 connections: a conditional update of the
account, the hold's row, the transfer's row, and a chained hash (SHA-256, which PostgreSQL has). No lots, no expiry, no
request ids, no previous transfer's id: it does less than ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from ..ledger.ids import IdMaker, account_key, now_ms
from .environment import Scale
from .ledger import account_name, prepare

CONNECTIONS: Final = 64

_HOLD: Final = """
WITH paying AS (
  UPDATE account SET held = held + 500 WHERE id = %(account)s AND balance - held >= 500 RETURNING id
)
INSERT INTO hold (id, account_id, amount, state, expires_at_ms, price_version, input_tokens)
SELECT %(hold)s, id, 500, 1, %(now)s + 600000, 1, 1000 FROM paying
"""
_SETTLE: Final = """
WITH ended AS (
  DELETE FROM hold WHERE id = %(hold)s AND account_id = %(account)s RETURNING amount
), charged AS (
  UPDATE account SET balance = balance - 321, held = held - amount, seq = seq + 1, last_transfer_id = %(hold)s,
    last_hash = substring(sha256(last_hash || int8send(%(hold)s) || int8send(balance) || int8send(seq)) FROM 1 FOR 16)
  FROM ended WHERE id = %(account)s RETURNING id, balance, seq, last_hash
)
INSERT INTO transfer (id, account_id, seq, previous_id, code, amount, balance_after, at_ms, hash,
  price_version, input, cache_read, cache_write, output, reasoning)
SELECT %(hold)s, id, seq, 0, 2, 321, balance, %(now)s, last_hash, 1, 900, 100, 0, 250, 0 FROM charged
"""
_UNBALANCED: Final = """
SELECT count(*) FROM account WHERE held <> 0 OR balance <>
  (SELECT sum(CASE code WHEN 2 THEN -amount ELSE amount END) FROM transfer WHERE account_id = account.id)
"""


@contextlib.contextmanager
def statement_pairs_per_second(url: str, scale: Scale) -> Iterator[Callable[[], float]]:
    """Yield a measure of pairs per second on one hot account; checks every balance at the end.

    Raises:
        AssertionError: a balance is not what its transfers add up to.
    """
    prepare(url, accounts=1).close_thread()
    connections = min(CONNECTIONS, scale.callers)
    yield lambda: asyncio.run(_drive(url, connections=connections, seconds=scale.seconds))
    _require_balanced(url)


async def _drive(url: str, *, connections: int, seconds: float) -> float:
    import psycopg  # noqa: PLC0415 - an extra

    new_id = IdMaker()
    key = account_key(account_name(0))
    clients = [await psycopg.AsyncConnection.connect(url, autocommit=True) for _ in range(connections)]
    started = time.perf_counter()

    async def call(client: psycopg.AsyncConnection[Any]) -> int:
        pairs = 0
        while time.perf_counter() < started + seconds:
            values = {"account": key, "hold": new_id(), "now": now_ms()}
            await client.execute(_HOLD, values)
            await client.execute(_SETTLE, values)
            pairs += 1
        return pairs

    pairs = sum(await asyncio.gather(*map(call, clients)))
    elapsed = time.perf_counter() - started
    for client in clients:
        await client.close()
    return pairs / elapsed


def _require_balanced(url: str) -> None:
    import psycopg  # noqa: PLC0415 - an extra

    with psycopg.connect(url) as connection:
        row = connection.execute(_UNBALANCED).fetchone()
    if row != (0,):
        raise AssertionError(row)
