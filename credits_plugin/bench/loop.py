"""How late the event loop is while the writer is saturated: the host's other requests wait that long."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final

from ..ledger.writer import LedgerWriter
from .environment import Bench
from .latency import run_precisely
from .ledger import Load, drive, ledger_of, writers
from .report import Bar, at_most, bar
from .rounds import interleave, quantile

_INTERVAL_S: Final = 0.002


def measure_loop(bench: Bench) -> list[Bar]:
    """Let a probe wake up every 2 ms in the loop whose tasks keep the writer busy without a pause."""
    bars: list[Bar] = []
    scale = bench.scale
    load = Load(scale.callers, scale.accounts, scale.seconds)
    for name, url in bench.databases():
        with ledger_of(url, accounts=scale.accounts) as database, writers(database, count=1) as running:
            rounds = interleave(scale.rounds, partial(_lags, running, load))
        goal = at_most(10) if name == "SQLite" else None
        bars.append(bar(f"{name}: event loop lag p99, writer saturated", rounds.median("p99") * 1_000, "ms", goal))
    return bars


def _lags(running: Sequence[LedgerWriter], load: Load) -> dict[str, float]:
    return {"p99": quantile(run_precisely(_probe(running, load)), 0.99)}


async def _probe(running: Sequence[LedgerWriter], load: Load) -> list[float]:
    loop = asyncio.get_running_loop()
    lags: list[float] = []
    driving = loop.create_task(drive(running, load))
    while not driving.done() or not lags:
        due = loop.time() + _INTERVAL_S
        await asyncio.sleep(_INTERVAL_S)
        lags.append(loop.time() - due)
    await driving
    return lags
