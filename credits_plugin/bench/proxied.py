"""The metering proxy against its upstream called directly: what a program in any language pays for being metered.

The proxy and the upstream are processes of their own; this process is their clients. One upstream answers at once, so
that the proxy's own speed is seen; the other takes a fifth of a second, as a fast model does.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Final

from ..database import open_database
from ..sandbox.demo import load_example
from .environment import Bench
from .gate import MODEL, chat_prompts
from .host_process import host_process
from .http_load import Figures, post
from .ledger import account_name, prepare, require_clean
from .report import Bar, bar
from .rounds import Rounds

_AT_ONCE: Final = 32
_DELAYS_MS: Final = (0, 200)
_KEYS: Final = 100
_PATH: Final = "/v1/chat/completions"


def measure_proxy(bench: Bench) -> list[Bar]:
    """Measure both ways by turns, whole answers and streams."""
    url, keys = bench.sqlite(), min(bench.scale.accounts, _KEYS)
    prepare(url, accounts=keys).close_thread()
    rounds = asyncio.run(_measure(bench, url, keys=keys))
    require_clean(open_database(url))
    bars: list[Bar] = []
    for delay_ms in _DELAYS_MS:
        when = f"model takes {delay_ms} ms" if delay_ms else "model answers at once"
        for kind in ("whole", "stream"):
            bars += _bars(rounds, f"{kind} {delay_ms}", f"{kind}, {when}")
    return bars


async def _measure(bench: Bench, url: str, *, keys: int) -> Rounds:
    figures = Figures()
    keys_path = str(bench.folder / "proxy_keys.db")
    table = load_example("metering_proxy").KeyTable(keys_path)
    made = [table.add(account_name(number))[1] for number in range(keys)]
    async with AsyncExitStack() as stack:
        pairs = {}
        for delay_ms in _DELAYS_MS:
            model = await stack.enter_async_context(host_process("model_host", str(delay_ms)))
            where = (url, f"http://127.0.0.1:{model.port}/v1", keys_path)
            proxy = await stack.enter_async_context(host_process("example_host", "proxy", *where))
            pairs[delay_ms] = {"direct": model, "proxied": proxy}
        for kind, delay_ms, way in _turns(bench.scale.rounds):
            requests = chat_requests(made, stream=kind == "stream")
            count = bench.scale.http_requests // (4 if delay_ms else 1)
            host, name = pairs[delay_ms][way], f"{way} {kind} {delay_ms}"
            await figures.add(name, host, requests, count=count, at_once=_AT_ONCE)
    return Rounds(figures.values)


def _turns(rounds: int) -> Iterator[tuple[str, int, str]]:
    for _ in range(rounds):
        for kind in ("whole", "stream"):
            for delay_ms in _DELAYS_MS:
                for way in ("direct", "proxied"):
                    yield kind, delay_ms, way


def chat_requests(keys: list[str], *, stream: bool) -> Iterator[bytes]:
    """Yield chats of the keys' holders by turns: 4,000 characters, a tenth of them new."""
    for number, messages in enumerate(chat_prompts()):
        body = {"model": MODEL, "messages": list(messages), "max_tokens": 1_000, "stream": stream}
        yield post(_PATH, json.dumps(body).encode(), Authorization=f"Bearer {keys[number % len(keys)]}")


def _bars(rounds: Rounds, name: str, where: str) -> list[Bar]:
    direct, proxied = f"direct {name}", f"proxied {name}"
    return [
        bar(f"Proxy: requests/s, of direct ({where})", rounds.ratio(f"{proxied} rate", to=f"{direct} rate"), "x"),
        bar(f"Proxy: p50, of direct ({where})", rounds.ratio(f"{proxied} p50", to=f"{direct} p50"), "x"),
        bar(f"Proxy: requests/s ({where})", rounds.median(f"{proxied} rate"), "/s"),
        bar(f"Proxy: p50 ({where})", rounds.median(f"{proxied} p50") * 1_000, "ms"),
        bar(f"Proxy: CPU a request ({where})", rounds.median(f"{proxied} cpu") * 1_000_000, "µs"),
    ]
