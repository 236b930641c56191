"""How long a hold takes, in fsyncs: for one caller, and under an open load whose arrivals wait for nobody."""

from __future__ import annotations

import asyncio
import os
import selectors
import time
from collections.abc import Coroutine, Mapping
from pathlib import Path
from random import Random
from typing import Any, Final, TypeVar

from ..ledger.ids import IdMaker, account_key
from ..ledger.writer import LedgerWriter
from .environment import Bench, Scale
from .ledger import account_name, ledger_of, place_hold, settle_hold, writers
from .report import Bar, Goal, at_most, bar
from .rounds import Rounds, interleave, quantile

T = TypeVar("T")

_PAGE: Final = b"\0" * 4_096
_GOALS: Final[Mapping[str, Goal]] = {"alone": at_most(1.3), "p50": at_most(3), "p99": at_most(8)}


def measure_latency(bench: Bench) -> list[Bar]:
    """Compare with one fsync'ed append of 4 KiB in the same folder, measured in every round."""
    bars: list[Bar] = []
    for name, url in bench.databases():
        with (
            ledger_of(url, accounts=bench.scale.accounts) as database,
            writers(database, count=1) as (writer,),
        ):
            rounds = _run(writer, bench.scale, bench.folder)
        bars += _bars(name, rounds, bench.scale, goals=_GOALS if name == "SQLite" else {})
    return bars


def run_precisely(main: Coroutine[Any, Any, T]) -> T:
    """Run in an event loop that wakes up to the microsecond; epoll, the usual one, rounds up to milliseconds."""
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        return runner.run(main)


def _run(writer: LedgerWriter, scale: Scale, folder: Path) -> Rounds:
    random = Random(1)  # noqa: S311 - arrivals, no secrets

    def alone() -> dict[str, float]:
        return {"alone": quantile(run_precisely(_one_caller(writer, scale.seconds)), 0.5)}

    def open_loop() -> dict[str, float]:
        latencies = run_precisely(_open_loop(writer, scale, random))
        return {"p50": quantile(latencies, 0.5), "p99": quantile(latencies, 0.99)}

    return interleave(scale.rounds, lambda: {"fsync": _fsync_s(folder, scale.seconds)}, alone, open_loop)


def _bars(name: str, rounds: Rounds, scale: Scale, *, goals: Mapping[str, Goal]) -> list[Bar]:
    ratio, arriving = rounds.ratio, f"{scale.arrivals_per_second:,} requests/s"
    return [
        bar(f"{name}: hold p50 of one caller, in fsyncs", ratio("alone", to="fsync"), "x", goals.get("alone")),
        bar(f"{name}: hold p50 at {arriving}, in fsyncs", ratio("p50", to="fsync"), "x", goals.get("p50")),
        bar(f"{name}: hold p99 at {arriving}, in fsyncs", ratio("p99", to="fsync"), "x", goals.get("p99")),
        bar(f"{name}: one fsync'ed append of 4 KiB", rounds.median("fsync") * 1_000, "ms"),
    ]


def _fsync_s(folder: Path, seconds: float) -> float:
    """Return the median time that appending 4 KiB and syncing them takes."""
    path = folder / "appended"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    times: list[float] = []
    begin = time.perf_counter()
    while (started := time.perf_counter()) < begin + seconds / 4 or not times:
        os.write(handle, _PAGE)
        os.fsync(handle)
        times.append(time.perf_counter() - started)
    os.close(handle)
    path.unlink()
    return quantile(times, 0.5)


async def _one_caller(writer: LedgerWriter, seconds: float) -> list[float]:
    new_id, name = IdMaker(), account_name(0)
    key = account_key(name)
    latencies: list[float] = []
    begin = time.perf_counter()
    while (started := time.perf_counter()) < begin + seconds or not latencies:
        hold_id = await place_hold(writer, key, name, new_id)
        latencies.append(time.perf_counter() - started)
        await settle_hold(writer, key, hold_id)
    return latencies


async def _open_loop(writer: LedgerWriter, scale: Scale, random: Random) -> list[float]:
    """Return every hold's latency from the moment it was due, so that a stall counts for all who arrive during it."""
    loop, new_id = asyncio.get_running_loop(), IdMaker()
    names = [account_name(number) for number in range(scale.accounts)]
    keys = [account_key(name) for name in names]
    latencies: list[float] = []

    async def request(due: float, number: int) -> None:
        hold_id = await place_hold(writer, keys[number], names[number], new_id)
        latencies.append(loop.time() - due)
        await settle_hold(writer, keys[number], hold_id)

    due = loop.time() + 0.02
    end = due + scale.open_loop_seconds
    async with asyncio.TaskGroup() as group:  # forgets those that are done: a growing list of tasks feeds the collector
        while due < end:
            await asyncio.sleep(due - loop.time())
            group.create_task(request(due, random.randrange(scale.accounts)))
            due += random.expovariate(scale.arrivals_per_second)
    return latencies
