"""The command behind ``make bench``: runs every comparison interleaved and takes medians."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Final

from ..database import Database
from .environment import bench_folder, fix_fsync_cost, postgresql_server
from .floor import FloorWriter
from .ledger import ACCOUNTS, CALLERS, Load, floor_pairs_per_second, pairs_per_second, prepare, require_clean, writers
from .report import Bar, bar, table, write

ROUNDS: Final = 5
_SECONDS: Final = 1.0


def run(*, url: str | None, out: Path, arguments: list[str]) -> int:
    """Print the table and write ``out``. A missed goal is shown, not an error: speed is measured, never asserted."""
    fsync = fix_fsync_cost(arguments)
    print(f"medians of {ROUNDS} interleaved rounds, {CALLERS} callers, {fsync}", flush=True)  # noqa: T201 - a command prints
    bars: list[Bar] = []
    with bench_folder() as folder:
        if url is not None:
            bars += _compare("database", prepare(url), connections=16, goal=None, floor_goal=None)
        else:
            bars += _compare(
                "SQLite", prepare(f"sqlite:///{folder / 'bench.db'}"), connections=1, goal=30, floor_goal=0.85
            )
            with postgresql_server(folder) as server:
                if server is not None:
                    bars += _compare("PostgreSQL", prepare(server), connections=16, goal=20, floor_goal=0.80)
    write(bars, out)
    print(table(bars))  # noqa: T201 - a command prints
    print(f"written to {out}")  # noqa: T201 - a command prints
    return 0


def _compare(
    name: str, database: Database, *, connections: int, goal: float | None, floor_goal: float | None
) -> list[Bar]:
    """Measure the writer on many accounts and on one hot account, and one transaction per command on the hot one."""
    many, hot = Load(CALLERS, ACCOUNTS, _SECONDS), Load(CALLERS, 1, _SECONDS)
    with contextlib.ExitStack() as stack:
        batched = stack.enter_context(writers(database, count=1))
        single = stack.enter_context(writers(database, count=connections, max_batch=1))
        floor = stack.enter_context(contextlib.closing(FloorWriter(database)))
        figures = _interleave(
            {
                "floor, many": lambda: floor_pairs_per_second(floor, many),
                "floor, hot": lambda: floor_pairs_per_second(floor, hot),
                "many": lambda: pairs_per_second(batched, many),
                "hot": lambda: pairs_per_second(batched, hot),
                "single": lambda: pairs_per_second(single, hot),
            }
        )
    require_clean(database)
    database.close_thread()
    return [
        bar(f"{name}: pairs/s, {ACCOUNTS:,} accounts", figures["many"], "/s"),
        bar(f"{name}: pairs/s, one hot account", figures["hot"], "/s"),
        bar(f"{name}: pairs/s, one transaction per command, one hot account", figures["single"], "/s"),
        bar(
            f"{name}: many accounts, times one transaction per command", figures["many"] / figures["single"], "x", goal
        ),
        bar(
            f"{name}: one hot account, times one transaction per command", figures["hot"] / figures["single"], "x", goal
        ),
        bar(
            f"{name}: many accounts, of the hand-written floor",
            figures["many"] / figures["floor, many"],
            "x",
            floor_goal,
        ),
        bar(
            f"{name}: one hot account, of the hand-written floor",
            figures["hot"] / figures["floor, hot"],
            "x",
            floor_goal,
        ),
    ]


def _interleave(measures: dict[str, Callable[[], float]]) -> dict[str, float]:
    rounds: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(ROUNDS):
        for name, measure in measures.items():
            rounds[name].append(measure())
    return {name: median(values) for name, values in rounds.items()}
