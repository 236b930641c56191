"""A ledger in Redis: scripts that do what a pair does here but for lots, the expiry of holds and idempotency.

They check what is available, hold it, and on settling append a transfer's record with the balance after it and a
chained SHA-1.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff

from ..ledger.ids import IdMaker, account_key, now_ms
from .ledger import Load, account_name
from .redis_clients import Client, LeastClient, LibraryClient

_FORTUNE: Final = 10**15
_CONNECT_RETRIES: Final = 200
_PAUSE_S: Final = 0.02
_OPENED: Final[list[str | int]] = ["balance", _FORTUNE, "held", 0, "seq", 0, "last", 0, "hash", ""]
# KEYS: account, holds. ARGV: hold id, amount, expiry. Holds live in one hash, as the table of open holds does.
_HOLD: Final = """
local have = redis.call('HMGET', KEYS[1], 'balance', 'held')
if have[1] - have[2] < tonumber(ARGV[2]) then return 0 end
redis.call('HINCRBY', KEYS[1], 'held', ARGV[2])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2] .. ' ' .. ARGV[3])
return 1
"""
# KEYS: account, holds, transfers. ARGV: hold id, cost, time.
_SETTLE: Final = """
local hold = redis.call('HGET', KEYS[2], ARGV[1])
if not hold then return 0 end
redis.call('HDEL', KEYS[2], ARGV[1])
local amount = string.match(hold, '^%d+')
redis.call('HINCRBY', KEYS[1], 'held', -amount)
local balance = redis.call('HINCRBY', KEYS[1], 'balance', -ARGV[2])
local seq = redis.call('HINCRBY', KEYS[1], 'seq', 1)
local last = redis.call('HMGET', KEYS[1], 'last', 'hash')
local row = table.concat({ARGV[1], seq, last[1], 2, ARGV[2], balance, ARGV[3], 1, 900, 100, 0, 250, 0}, ' ')
local hash = redis.sha1hex(last[2] .. row)
redis.call('HSET', KEYS[1], 'last', ARGV[1], 'hash', hash)
redis.call('RPUSH', KEYS[3], row .. ' ' .. hash)
return 1
"""


async def open_accounts(path: str, *, accounts: int) -> list[str]:
    """Wait for the server, give every account a fortune; returns the digests of the two scripts.

    Raises:
        ConnectionError: it did not come up within seconds.
    """
    async with Redis(unix_socket_path=path, retry=Retry(ConstantBackoff(_PAUSE_S), _CONNECT_RETRIES)) as redis:
        for number in range(accounts):
            await redis.hset(_account(number), items=_OPENED)
        return [await redis.script_load(text) for text in (_HOLD, _SETTLE)]


async def _drive(client: Client, load: Load, scripts: Sequence[str]) -> float:
    new_id, (hold_script, settle_script) = IdMaker(), scripts
    started = time.perf_counter()

    async def call(number: int) -> int:
        account, pairs = _account(number % load.accounts), 0
        while time.perf_counter() < started + load.seconds:
            hold_id, now = new_id(), now_ms()
            held = await client.ask(hold_script, 2, account, "holds", hold_id, 500, now + 600_000)
            settled = await client.ask(settle_script, 3, account, "holds", f"transfers:{account}", hold_id, 321, now)
            if (held, settled) != (1, 1):
                raise AssertionError(held, settled)
            pairs += 1
        return pairs

    pairs = sum(await asyncio.gather(*map(call, range(load.callers))))
    elapsed = time.perf_counter() - started
    await client.close()
    return pairs / elapsed


async def pairs_by_library(path: str, load: Load, scripts: Sequence[str]) -> float:
    """Return pairs per second through the library's client."""
    return await _drive(LibraryClient(path), load, scripts)


async def pairs_by_least(path: str, load: Load, scripts: Sequence[str]) -> float:
    """Return pairs per second through the client that was written by hand."""
    return await _drive(await LeastClient.connect(path), load, scripts)


async def require_balanced(path: str, *, accounts: int) -> None:
    """Fail unless each balance is what its transfers leave of the fortune, with nothing held."""
    async with Redis(unix_socket_path=path) as redis:
        for number in range(accounts):
            account = _account(number)
            balance, held = [int(value or -1) for value in await redis.hmget(account, ["balance", "held"])]
            transfers = await redis.llen(f"transfers:{account}")
            if (balance, held) != (_FORTUNE - 321 * transfers, 0):
                raise AssertionError(account, balance, held, transfers)


def _account(number: int) -> str:
    return f"account:{account_key(account_name(number))}"
