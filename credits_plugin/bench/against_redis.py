"""Durable SQLite against a ledger in Redis that may lose a second: Lua scripts, pipelined, from the same process.

The scripts do what a pair does here but for the lots, the expiry of holds and the idempotency: check what is available,
hold it, and on settling append a transfer's record with the balance after it and a chained SHA-1.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..ledger.ids import IdMaker, account_key, now_ms
from .environment import Bench
from .ledger import Load, account_name, ledger_of, pairs_per_second, writers
from .report import Bar, Goal, at_least, bar, not_measured
from .rounds import interleave

_NAME: Final = "SQLite, durable: many accounts, of Redis everysec"
_GOAL: Final[Goal] = at_least(1.0)
_FORTUNE: Final = 10**15
_CONNECT_RETRIES: Final = 200
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


def measure_redis(bench: Bench) -> list[Bar]:
    """Compare pairs per second over many accounts; without a ``redis-server`` on PATH the bar stays unmeasured."""
    if shutil.which("redis-server") is None:
        return [not_measured(_NAME, "x", _GOAL, why="no redis-server on PATH")]
    scale = bench.scale
    load = Load(scale.callers, scale.accounts, scale.seconds)
    with (
        redis_server(bench.folder / "redis") as path,
        ledger_of(bench.sqlite(), accounts=scale.accounts) as database,
        writers(database, count=1) as running,
    ):
        asyncio.run(_give_fortunes(path, accounts=scale.accounts))
        rounds = interleave(
            scale.rounds,
            lambda: {"sqlite": pairs_per_second(running, load)},
            lambda: {"redis": asyncio.run(_drive(path, load))},
        )
        asyncio.run(_require_balanced(path, accounts=scale.accounts))
    ratio = rounds.ratio("sqlite", to="redis")
    return [bar(_NAME, ratio, "x", _GOAL), bar("Redis everysec: pairs, many accounts", rounds.median("redis"), "/s")]


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Run a private server in ``folder``, without a port; yields the path of its socket."""
    folder.mkdir()
    path = str(folder / "socket")
    options = {"port": "0", "unixsocket": path, "dir": str(folder), "save": "", "appendonly": "yes"}
    command = ["redis-server", "--appendfsync", "everysec"]
    for name, value in options.items():
        command += [f"--{name}", value]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603 - found on PATH, with our own options
    try:
        yield path
    finally:
        server.terminate()
        server.wait()


class RedisClient(asyncio.Protocol):
    """The shortest client that pipelines: what one turn of the event loop asks is sent at its end, in one piece."""

    def __init__(self) -> None:
        self._asked: list[bytes] = []
        self._waiting: deque[asyncio.Future[bytes]] = deque()
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def connect(cls, path: str) -> RedisClient:
        """Connect to the server, once it is up.

        Raises:
            OSError: it did not come up within seconds.
        """
        loop = asyncio.get_running_loop()
        for _ in range(_CONNECT_RETRIES):
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                return (await loop.create_unix_connection(cls, path))[1]
            await asyncio.sleep(0.02)
        return (await loop.create_unix_connection(cls, path))[1]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a Unix socket's is one
        self._transport = transport

    def ask(self, *words: object) -> asyncio.Future[bytes]:
        """Send a command whose answer is one line; returns the line."""
        loop = asyncio.get_running_loop()
        if not self._asked:
            loop.call_soon(self._send)
        texts = [str(word).encode() for word in words]
        parts = [b"*%d\r\n" % len(texts), *(b"$%d\r\n%b\r\n" % (len(text), text) for text in texts)]
        self._asked.append(b"".join(parts))
        future = loop.create_future()
        self._waiting.append(future)
        return future

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Answer whoever has waited longest, line by line."""
        *lines, self._rest = (self._rest + data).split(b"\r\n")
        for line in lines:
            if line.startswith(b"$"):  # the length of a text, which is the next line
                continue
            self._waiting.popleft().set_result(line)

    def _send(self) -> None:
        assert self._transport is not None  # noqa: S101 - connected before it is used
        self._transport.write(b"".join(self._asked))
        self._asked.clear()


async def _give_fortunes(path: str, *, accounts: int) -> None:
    client = await RedisClient.connect(path)
    fields = ("balance", _FORTUNE, "held", 0, "seq", 0, "last", 0, "hash", "")
    await asyncio.gather(*(client.ask("HSET", _account(number), *fields) for number in range(accounts)))
    client.close()


async def _drive(path: str, load: Load) -> float:
    client, new_id = await RedisClient.connect(path), IdMaker()
    hold_script, settle_script = [(await client.ask("SCRIPT", "LOAD", text)).decode() for text in (_HOLD, _SETTLE)]
    started = time.perf_counter()

    async def call(number: int) -> int:
        account, pairs = _account(number % load.accounts), 0
        while time.perf_counter() < started + load.seconds:
            hold_id, now = new_id(), now_ms()
            held = await client.ask("EVALSHA", hold_script, 2, account, "holds", hold_id, 500, now + 600_000)
            settled = await client.ask(
                "EVALSHA", settle_script, 3, account, "holds", f"transfers:{account}", hold_id, 321, now
            )
            if (held, settled) != (b":1", b":1"):
                raise AssertionError(held, settled)
            pairs += 1
        return pairs

    pairs = sum(await asyncio.gather(*map(call, range(load.callers))))
    elapsed = time.perf_counter() - started
    client.close()
    return pairs / elapsed


async def _require_balanced(path: str, *, accounts: int) -> None:
    """Fail unless each balance is what its transfers leave of the fortune, with nothing held."""
    client = await RedisClient.connect(path)
    for number in range(accounts):
        account = _account(number)
        balance, held = [int(await client.ask("HGET", account, name)) for name in ("balance", "held")]
        transfers = int((await client.ask("LLEN", f"transfers:{account}"))[1:])
        if (balance, held) != (_FORTUNE - 321 * transfers, 0):
            raise AssertionError(account, balance, held, transfers)
    client.close()


def _account(number: int) -> str:
    return f"account:{account_key(account_name(number))}"
