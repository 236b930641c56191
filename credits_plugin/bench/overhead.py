"""What the whole gate adds to a request of the example host, over HTTP: against the same host without the plugin.

Both hosts are processes of their own, in front of the same provider, a third, that answers at once; this process is
their clients. So the figures are the worst case: a model that thinks for a second hides what the gate adds.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Final

from ..database import open_database
from ..sandbox.demo import load_example
from .environment import Bench
from .example_host import SESSION_KEY
from .gate import chat_prompts
from .host_process import host_process
from .http_load import Figures, post
from .ledger import account_name, prepare, require_clean
from .report import Bar, bar
from .rounds import Rounds

CONCURRENCIES: Final = (1, 64, 256)
_USERS: Final = 1_000
_SESSION_S: Final = 3_600


def measure_overhead(bench: Bench) -> list[Bar]:
    """Measure both hosts by turns, at each concurrency."""
    url = bench.sqlite()
    users = min(bench.scale.accounts, _USERS)
    prepare(url, accounts=users).close_thread()
    rounds = asyncio.run(_measure(bench, url, users=users))
    require_clean(open_database(url))
    return [one for at_once in CONCURRENCIES for one in _bars(rounds, at_once)]


async def _measure(bench: Bench, url: str, *, users: int) -> Rounds:
    figures = Figures()
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(host_process("model_host"))
        model_url = f"http://127.0.0.1:{model.port}/v1"
        hosts = {
            kind: await stack.enter_async_context(host_process("example_host", kind, url, model_url))
            for kind in ("gated", "bare")
        }
        requests = chat_requests(users)
        for _ in range(bench.scale.rounds):
            for at_once in CONCURRENCIES:
                count = bench.scale.http_requests // (4 if at_once == 1 else 1)
                for kind, host in hosts.items():
                    await figures.add(f"{kind} {at_once}", host, requests, count=count, at_once=at_once)
    return Rounds(figures.values)


def chat_requests(users: int) -> Iterator[bytes]:
    """Yield chat messages of signed-in users by turns: 4,000 characters, a tenth of them new."""
    example = load_example()
    for number, messages in enumerate(chat_prompts()):
        value = f"{account_name(number % users)}.{int(time.time()) + _SESSION_S}"
        body = {"message": messages[-1]["content"], "history": list(messages[1:-1])}
        cookie = f"{example.COOKIE}={value}.{example.sign(value, SESSION_KEY)}"
        yield post("/api/chat", json.dumps(body).encode(), Cookie=cookie)


def _bars(rounds: Rounds, at_once: int) -> list[Bar]:
    where = f"{at_once} at once" if at_once > 1 else "one at a time"
    gated, bare = f"gated {at_once}", f"bare {at_once}"
    added = [
        (one - other) * 1_000_000
        for one, other in zip(rounds.figures[f"{gated} cpu"], rounds.figures[f"{bare} cpu"], strict=True)
    ]
    return [
        bar(f"Host: p50 with the plugin, of without, {where}", rounds.ratio(f"{gated} p50", to=f"{bare} p50"), "x"),
        bar(f"Host: p99 with the plugin, of without, {where}", rounds.ratio(f"{gated} p99", to=f"{bare} p99"), "x"),
        bar(f"Host: p50 without the plugin, {where}", rounds.median(f"{bare} p50") * 1_000, "ms"),
        bar(f"Host: p50 with the plugin, {where}", rounds.median(f"{gated} p50") * 1_000, "ms"),
        bar(
            f"Host: requests/s with the plugin, of without, {where}",
            rounds.ratio(f"{gated} rate", to=f"{bare} rate"),
            "x",
        ),
        bar(f"Host: CPU a request without the plugin, {where}", rounds.median(f"{bare} cpu") * 1_000_000, "µs"),
        bar(f"Host: CPU a request that the plugin adds, {where}", Rounds({"added": added}).median("added"), "µs"),
    ]
