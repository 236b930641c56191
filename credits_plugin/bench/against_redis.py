"""Durable SQLite against a ledger in Redis that may lose a second (redis_ledger.py), each from one process."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from .environment import Bench
from .ledger import Load, ledger_of, pairs_per_second, writers
from .report import Bar, Goal, at_least, bar, not_measured
from .rounds import interleave

_NAME: Final = "SQLite, durable: many accounts, of Redis everysec"
_GOAL: Final[Goal] = at_least(1.0)


def measure_redis(bench: Bench) -> list[Bar]:
    """Compare pairs per second over many accounts; without server or library the bar stays unmeasured."""
    if shutil.which("redis-server") is None:
        return [not_measured(_NAME, "x", _GOAL, why="no redis-server on PATH (apt-get install redis-server)")]
    if importlib.util.find_spec("redis") is None or importlib.util.find_spec("hiredis") is None:
        return [not_measured(_NAME, "x", _GOAL, why="no redis-py with hiredis (pip install 'credits-plugin[bench]')")]
    from . import redis_ledger  # noqa: PLC0415 - the library is an extra

    scale = bench.scale
    load = Load(scale.callers, scale.accounts, scale.seconds)
    with (
        redis_server(bench.folder / "redis") as path,
        ledger_of(bench.sqlite(), accounts=scale.accounts) as database,
        writers(database, count=1) as running,
    ):
        scripts = asyncio.run(redis_ledger.open_accounts(path, accounts=scale.accounts))
        rounds = interleave(
            scale.rounds,
            lambda: {"sqlite": pairs_per_second(running, load)},
            lambda: {"redis": asyncio.run(redis_ledger.pairs_by_library(path, load, scripts))},
            lambda: {"by hand": asyncio.run(redis_ledger.pairs_by_least(path, load, scripts))},
        )
        asyncio.run(redis_ledger.require_balanced(path, accounts=scale.accounts))
    return [
        bar(_NAME, rounds.ratio("sqlite", to="redis"), "x", _GOAL),
        bar("Redis everysec, redis-py and hiredis: pairs, many accounts", rounds.median("redis"), "/s"),
        bar("Redis everysec, a client written by hand: pairs", rounds.median("by hand"), "/s"),
        bar("SQLite, durable: of Redis everysec by hand", rounds.ratio("sqlite", to="by hand"), "x"),
    ]


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
