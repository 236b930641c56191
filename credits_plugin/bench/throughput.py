"""Pairs per second: the writer against the hand-written floor and against one transaction or statement each."""

from __future__ import annotations

import contextlib
from typing import Final

from ..database import Database, Dialect
from .environment import Bench, Scale
from .floor import FloorWriter
from .ledger import Load, floor_pairs_per_second, ledger_of, pairs_per_second, writers
from .report import Bar, at_least, bar
from .rounds import Measure, Rounds, interleave
from .statements import statement_pairs_per_second

_FLOOR_GOALS: Final = {"SQLite": at_least(0.85), "PostgreSQL": at_least(0.80)}
_HOT_GOAL: Final = at_least(1.0)
_SINGLE_GOAL: Final = at_least(60)
_STATEMENT_GOAL: Final = at_least(50)


def measure_throughput(bench: Bench) -> list[Bar]:
    """Compare on SQLite and PostgreSQL, over many accounts and on one hot account."""
    bars: list[Bar] = []
    for name, url in bench.databases():
        with ledger_of(url, accounts=bench.scale.accounts) as database:
            rounds = _run(database, bench.scale, statements=bench.postgresql() if name == "PostgreSQL" else None)
        bars += _bars(name, rounds, bench.scale)
    return bars


def _run(database: Database, scale: Scale, *, statements: str | None) -> Rounds:
    many, hot = Load(scale.callers, scale.accounts, scale.seconds), Load(scale.callers, 1, scale.seconds)
    connections = 1 if database.dialect is Dialect.SQLITE else 16
    with contextlib.ExitStack() as stack:
        batched = stack.enter_context(writers(database, count=1))
        single = stack.enter_context(writers(database, count=connections, max_batch=1))
        floor = stack.enter_context(contextlib.closing(FloorWriter(database)))
        measures: list[Measure] = [
            lambda: {"floor, many": floor_pairs_per_second(floor, many)},
            lambda: {"many": pairs_per_second(batched, many)},
            lambda: {"floor, hot": floor_pairs_per_second(floor, hot)},
            lambda: {"hot": pairs_per_second(batched, hot)},
            lambda: {"single": pairs_per_second(single, many)},
        ]
        if statements is not None:
            measure = stack.enter_context(statement_pairs_per_second(statements, scale))
            measures.append(lambda: {"statement": measure()})
        return interleave(scale.rounds, *measures)


def _bars(name: str, rounds: Rounds, scale: Scale) -> list[Bar]:
    ratio, floor_goal = rounds.ratio, _FLOOR_GOALS.get(name)
    hot_goal = _HOT_GOAL if floor_goal is not None else None
    single_goal = _SINGLE_GOAL if name == "SQLite" else None
    bars = [
        bar(f"{name}: many accounts, of the floor", ratio("many", to="floor, many"), "x", floor_goal),
        bar(
            f"{name}: one hot account, of the floor",
            ratio("hot", to="floor, hot"),
            "x",
            floor_goal if name == "PostgreSQL" else None,
        ),
        bar(f"{name}: one hot account, of many accounts", ratio("hot", to="many"), "x", hot_goal),
        bar(f"{name}: many accounts, of one transaction each", ratio("many", to="single"), "x", single_goal),
        bar(f"{name}: pairs, {scale.accounts:,} accounts", rounds.median("many"), "/s"),
        bar(f"{name}: pairs, one hot account", rounds.median("hot"), "/s"),
        bar(f"{name}: pairs, one transaction each", rounds.median("single"), "/s"),
    ]
    if "statement" in rounds.figures:
        per_statement = ratio("hot", to="statement")
        bars += [
            bar(f"{name}: one hot account, of one statement each", per_statement, "x", _STATEMENT_GOAL),
            bar(f"{name}: pairs, one statement each, one hot account", rounds.median("statement"), "/s"),
        ]
    return bars
