"""What a ledger's size costs: the same work on a small, a middling and a large one, in turns within one run."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median, quantiles
from typing import Final, TypeAlias

import peewee

from ..database import Database, Dialect, open_database
from ..ledger.entries import PlaceHold, SettleHold
from ..ledger.ids import IdMaker, key_of_name, now_ms
from ..ledger.keysets import account_window
from ..ledger.queries import account_balance, account_transfers, accounts_page, ledger_page
from ..ledger.writer import LedgerWriter
from .environment import new_database, postgresql_server
from .fill import PRICE_VERSION, Shape, account_name, fill
from .ledger import CALLERS, USAGE, require_clean, writers
from .report import Bar, at_most, bar

SIZES: Final = (10_000, 1_000_000, 10_000_000)
ROUNDS: Final = 5
_SECONDS: Final = 1.0
_READS_PER_ROUND: Final = 200
_PAIRS: Final = "hold and settle, pairs/s"
_BYTES: Final = "bytes per transfer, usage record and indexes included"
_NAMES: Final = 1 << 16
"""Accounts that one round of pairs draws: more than it makes pairs."""


@dataclass(frozen=True, slots=True)
class Grown:
    """A filled ledger that is open for the whole run. ``ids`` are the first and the last transfer's."""

    shape: Shape
    database: Database
    writer: LedgerWriter
    ids: tuple[int, int]
    longest: int
    bytes_per_transfer: float
    random: Random = field(default_factory=lambda: Random(1))  # noqa: S311 - the same draws in every run

    def key(self, *, regular: bool = False) -> int:
        """Return the key of an account drawn from all, or from the regulars."""
        number = (
            1 + self.random.randrange(self.shape.regulars) if regular else self.random.randrange(self.shape.accounts)
        )
        return key_of_name(account_name(min(number, self.shape.accounts - 1)))


Read: TypeAlias = Callable[[peewee.Database, Grown], object]
_LONG: Final = key_of_name(account_name(0))
_READS: Final[Mapping[str, Read]] = {
    "balance": lambda database, grown: account_balance(database, grown.key()),
    "newest page, longest account": lambda database, _: account_transfers(database, _LONG),
    "newest page, account of 250": lambda database, grown: account_transfers(database, grown.key(regular=True)),
    "random page, longest account": lambda database, grown: account_transfers(
        database, _LONG, before_seq=grown.random.randint(1, grown.longest)
    ),
    "random page, account of 250": lambda database, grown: account_transfers(
        database, grown.key(regular=True), before_seq=grown.random.randint(2, 250)
    ),
    "newest page, whole ledger": lambda database, _: ledger_page(database),
    "random page, whole ledger": lambda database, grown: ledger_page(
        database, before_id=grown.random.randint(*grown.ids)
    ),
    "account search, page of 100 found": lambda database, grown: accounts_page(database, prefix=_prefix(grown)),
    "account search, its page starts": lambda database, grown: account_window(database, prefix=_prefix(grown)),
}


_PAGES: Final = [name for name in _READS if "page" in name and "starts" not in name]


def _prefix(grown: Grown) -> str:
    return account_name(grown.random.randrange(grown.shape.accounts))[:-2]


@dataclass(frozen=True, slots=True)
class Spread:
    """Time of one read: the median and the 99th percentile, in microseconds; medians over the rounds."""

    p50_us: float
    p99_us: float


@dataclass(frozen=True, slots=True)
class Growth:
    """The figures of one size."""

    transfers: int
    pairs_per_second: float
    bytes_per_transfer: float
    reads: Mapping[str, Spread]


def measure(folder: Path, *, sizes: Sequence[int] = SIZES, rounds: int = ROUNDS) -> list[Bar]:
    """Print growth on SQLite, and on PostgreSQL where it is installed, one table each; return the bars.

    A table's figures are medians over ``rounds``, in each of which every size has its turn.
    """
    shapes = [Shape(size) for size in sorted(sizes)]
    files = folder / "growth"
    files.mkdir()
    bars = _measure_database("SQLite", shapes, lambda shape: f"sqlite:///{files / f'{shape.transfers}.db'}", rounds)
    shutil.rmtree(files)  # before the server takes as much of the RAM disk
    with postgresql_server(folder) as server:
        if server is not None:
            bars += _measure_database(
                "PostgreSQL", shapes, lambda shape: new_database(server, f"growth_{shape.transfers}"), rounds
            )
    return bars


def _measure_database(name: str, shapes: Sequence[Shape], new_url: Callable[[Shape], str], rounds: int) -> list[Bar]:
    with contextlib.ExitStack() as stack:
        ledgers = [stack.enter_context(_grown(open_database(new_url(shape)), shape)) for shape in shapes]
        growth = compare(ledgers, rounds=rounds)
        require_clean(ledgers[0].database)  # the largest takes a minute; a fault of the fill would be in each
    print(f"\n{name}, by transfers in the ledger\n{growth_table(growth)}", flush=True)  # noqa: T201 - a command prints
    return growth_bars(name, growth)


@contextlib.contextmanager
def _grown(database: Database, shape: Shape) -> Iterator[Grown]:
    """Fill a database and open it: a writer, and a read connection on this thread."""
    fill(database, shape)
    database.reader.connect(reuse_if_open=True)
    reader = database.reader
    first_id, last_id = reader.execute_sql("SELECT min(id), max(id) FROM transfer").fetchone()
    longest = account_balance(reader, _LONG)
    assert longest is not None  # noqa: S101 - it was filled
    with writers(database, count=1) as (writer,):
        yield Grown(shape, database, writer, (first_id, last_id), longest.transfers, _bytes_per_transfer(database))
    database.close_thread()


def _bytes_per_transfer(database: Database) -> float:
    """Return what the table of transfers and its indexes take, by the number of rows."""
    if database.dialect is Dialect.SQLITE:
        own = "SELECT name FROM sqlite_schema WHERE tbl_name = 'transfer'"
        taken = f"SELECT sum(pgsize) FROM dbstat WHERE name IN ({own})"
    else:
        taken = "SELECT pg_total_relation_size('transfer')"
    rows = database.reader.execute_sql(f"SELECT ({taken}), count(*) FROM transfer").fetchone()
    return int(rows[0]) / int(rows[1])


def compare(ledgers: Sequence[Grown], *, rounds: int) -> list[Growth]:
    """Measure all ledgers in turns."""
    pairs: list[list[float]] = [[] for _ in ledgers]
    reads: list[dict[str, list[Spread]]] = [{name: [] for name in _READS} for _ in ledgers]
    for turn in range(-1, rounds):
        for place, grown in enumerate(ledgers):
            rate = asyncio.run(_drive(grown, seconds=_SECONDS if turn >= 0 else _SECONDS / 4))
            spreads = {name: _time_reads(grown, read) for name, read in _READS.items()}
            if turn < 0:
                continue  # caches are warm now, statements prepared
            pairs[place].append(rate)
            for name, spread in spreads.items():
                reads[place][name].append(spread)
    return [
        Growth(
            grown.shape.transfers,
            median(pairs[place]),
            grown.bytes_per_transfer,
            {name: _median_spread(spreads) for name, spreads in reads[place].items()},
        )
        for place, grown in enumerate(ledgers)
    ]


def _median_spread(spreads: Sequence[Spread]) -> Spread:
    return Spread(median(spread.p50_us for spread in spreads), median(spread.p99_us for spread in spreads))


def _time_reads(grown: Grown, read: Read) -> Spread:
    database, clock, taken = grown.database.reader, time.perf_counter, []
    for _ in range(_READS_PER_ROUND):
        started = clock()
        read(database, grown)
        taken.append((clock() - started) * 1e6)
    return Spread(median(taken), quantiles(taken, n=100)[-1])


async def _drive(grown: Grown, *, seconds: float) -> float:
    """Return pairs per second of ``CALLERS`` tasks, each pair on an account drawn from all."""
    new_id, shape, draw = IdMaker(), grown.shape, grown.random.randrange
    names = [account_name(draw(shape.accounts)) for _ in range(_NAMES)]
    accounts = [(key_of_name(name), name) for name in names]
    started = time.perf_counter()

    async def call(place: int) -> int:
        pairs = 0
        while time.perf_counter() < started + seconds:
            key, name = accounts[(place + pairs * CALLERS) % _NAMES]
            now = now_ms()
            hold = PlaceHold(key, name, new_id(), 500, now, now + 600_000, PRICE_VERSION, 1_000)
            placed = await grown.writer.execute(hold)
            await grown.writer.execute(SettleHold(key, placed.hold_id, 321, now, USAGE))
            pairs += 1
        return pairs

    counts = await asyncio.gather(*map(call, range(CALLERS)))
    return sum(counts) / (time.perf_counter() - started)


def growth_table(growth: Sequence[Growth]) -> str:
    """Return the figures with a column for each size; reads as median / 99th percentile."""
    rows = [
        ("", *(f"{one.transfers:,}" for one in growth)),
        (_PAIRS, *(f"{one.pairs_per_second:,.0f}" for one in growth)),
        (_BYTES, *(f"{one.bytes_per_transfer:.1f}" for one in growth)),
        *(
            (f"{name}, µs", *(f"{one.reads[name].p50_us:,.0f} / {one.reads[name].p99_us:,.0f}" for one in growth))
            for name in _READS
        ),
    ]
    first = max(len(row[0]) for row in rows)
    return "\n".join(f"{row[0]:<{first}}" + "".join(f"  {cell:>15}" for cell in row[1:]) for row in rows)


def growth_bars(name: str, growth: Sequence[Growth]) -> list[Bar]:
    """Return what has a goal: the largest size against the smallest, its slowest page, its bytes per transfer."""
    small, large = growth[0], growth[-1]
    slowest_us = max(large.reads[page].p99_us for page in _PAGES)
    flat = large.pairs_per_second / small.pairs_per_second
    sizes = f"{large.transfers:,} transfers"
    return [
        bar(f"{name}: {sizes}, pairs/s of those at {small.transfers:,}", flat, "x", 0.90),
        at_most(f"{name}: {sizes}, slowest page p99", slowest_us / 1_000, "ms", 1.0),
        at_most(f"{name}: {sizes}, {_BYTES}", large.bytes_per_transfer, "B", 120 if name == "SQLite" else None),
    ]
