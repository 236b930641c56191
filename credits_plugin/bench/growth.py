"""What a ledger's size costs: the same work on a small, a middling and a large one, in turns within one run."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from statistics import median
from typing import Final, TypeAlias

import peewee

from ..database import Database, Dialect, open_database
from ..ledger.ids import IdMaker, key_of_name
from ..ledger.keysets import account_window, select
from ..ledger.queries import account_balance, account_transfers, accounts_page, ledger_page
from ..ledger.writer import LedgerWriter
from .core_time import core_timer
from .environment import Bench, Scale
from .fill import Shape, fill, name_of
from .ledger import place_hold, require_clean, settle_hold, writers
from .report import Bar, at_least, at_most, bar
from .rounds import Rounds, interleave, quantile

_READS_PER_ROUND: Final = 200
_NAMES: Final = 1 << 16
"""Accounts that are drawn for one round of pairs: more than it makes pairs."""
_NEIGHBOURS: Final = 1_000
_FLAT: Final = "pairs/s, a thousand neighbours"
_SPREAD: Final = "pairs/s, all accounts"
_BYTES: Final = "bytes per transfer, indexes included"


@dataclass(frozen=True, slots=True)
class Grown:
    """A filled ledger, open for the whole run.

    ``ids`` are its first and last transfer's, ``longest`` the length of account 0's chain, ``servers`` the processes
    that its read connection waits for. ``neighbours`` are a thousand accounts whose rows lie side by side, as the rows
    of a ledger of a thousand do: their pairs show what the ledger's length costs. Pairs on accounts drawn from all show
    what their number costs too: each account of a batch is then a page of its own to read, log and check-point.
    """

    shape: Shape
    database: Database
    writer: LedgerWriter
    servers: Sequence[int]
    ids: tuple[int, int]
    longest: int
    neighbours: Sequence[str]
    bytes_per_transfer: float
    random: Random = field(default_factory=lambda: Random(1))  # noqa: S311 - the same draws in every run

    def anyone(self) -> str:
        """Draw an account from all."""
        return name_of(self.random.randrange(self.shape.accounts))

    def regular(self) -> int:
        """Draw a regular, whose chain is as long in every size; returns its key."""
        return key_of_name(name_of(self.random.randint(1, self.shape.regulars)))


Read: TypeAlias = Callable[[peewee.Database, Grown], object]
_LONGEST: Final = key_of_name(name_of(0))
_PAGES: Final[Mapping[str, Read]] = {
    "newest page, longest account": lambda database, _: account_transfers(database, _LONGEST),
    "newest page, account of 250": lambda database, grown: account_transfers(database, grown.regular()),
    "random page, longest account": lambda database, grown: account_transfers(
        database, _LONGEST, before_seq=grown.random.randint(2, grown.longest)
    ),
    "random page, account of 250": lambda database, grown: account_transfers(
        database, grown.regular(), before_seq=grown.random.randint(2, 250)
    ),
    "newest page, whole ledger": lambda database, _: ledger_page(database),
    "random page, whole ledger": lambda database, grown: ledger_page(
        database, before_id=grown.random.randint(*grown.ids)
    ),
    "account search, page of 100 found": lambda database, grown: accounts_page(database, prefix=grown.anyone()[:-2]),
    "account search, page of all found": lambda database, grown: accounts_page(database, prefix=grown.anyone()[:1]),
}
_READS: Final[Mapping[str, Read]] = {
    "balance": lambda database, grown: account_balance(database, key_of_name(grown.anyone())),
    **_PAGES,
    "account search, where its pages start": lambda database, grown: account_window(
        database, prefix=grown.anyone()[:-2]
    ),
}


@dataclass(frozen=True, slots=True)
class Growth:
    """The figures of one size, medians over the rounds. ``reads`` are (median, 99th percentile), in microseconds."""

    transfers: int
    pairs_per_second: Mapping[str, float]
    bytes_per_transfer: float
    reads: Mapping[str, tuple[float, float]]


def measure_growth(bench: Bench) -> list[Bar]:
    """Print a table for each database, with a column for each size; return what has a goal as bars."""
    bars = _measure("SQLite", bench.scale, bench.sqlite)
    if bench.postgresql() is not None:
        bars += _measure("PostgreSQL", bench.scale, lambda: str(bench.postgresql()))
    return bars


def _measure(name: str, scale: Scale, new_url: Callable[[], str]) -> list[Bar]:
    with contextlib.ExitStack() as stack:
        shapes = [Shape(transfers) for transfers in sorted(scale.growth)]
        ledgers = [stack.enter_context(_grown(open_database(new_url()), shape)) for shape in shapes]
        rounds = interleave(scale.rounds, *(partial(_measured, grown, scale) for grown in ledgers))
        for grown in ledgers:
            require_clean(grown.database)
    growth = [_growth_of(grown, rounds) for grown in ledgers]
    print(f"\n{name}, by transfers in the ledger\n{growth_table(growth)}\n", flush=True)  # noqa: T201 - a command prints
    small, large = shapes[0].transfers, shapes[-1].transfers
    ratios = {kind: rounds.ratio(f"{large} {kind}", f"{small} {kind}") for kind in (_FLAT, _SPREAD)}
    return growth_bars(name, growth, ratios=ratios)


@contextlib.contextmanager
def _grown(database: Database, shape: Shape) -> Iterator[Grown]:
    """Fill a database, open it with a writer and this thread's read connection; a file is removed at the end."""
    fill(database, shape)
    if database.dialect is Dialect.POSTGRESQL:
        _warm(database)
    database.reader.connect(reuse_if_open=True)
    servers = () if database.dialect is Dialect.SQLITE else select(database.reader, "SELECT pg_backend_pid()")[0]
    first_id, last_id = select(database.reader, "SELECT min(id), max(id) FROM transfer")[0]
    ((longest,),) = select(database.reader, "SELECT seq FROM account WHERE id = %s", [_LONGEST])
    rows = select(database.reader, "SELECT external_id FROM account ORDER BY id LIMIT %s", [_NEIGHBOURS])
    neighbours, size = [name for (name,) in rows], _bytes_per_transfer(database)
    with writers(database, count=1) as (writer,):
        grown = Grown(shape, database, writer, servers, (first_id, last_id), longest, neighbours, size)
        asyncio.run(_drive(grown, neighbours, callers=64, seconds=0.2))
        for read in _READS.values():
            _read_times_us(grown, read)  # caches are warm afterwards, statements prepared
        yield grown
    database.close_thread()
    if database.path is not None:
        database.path.unlink()  # a gigabyte of the RAM disk


def _warm(database: Database) -> None:
    """Read everything into the server's buffers, where it is once a ledger is in service; COPY goes around them."""
    with database.primary.connection_context():
        database.primary.execute_sql("CREATE EXTENSION pg_prewarm")
        database.primary.execute_sql("SELECT pg_prewarm(oid) FROM pg_class WHERE relkind IN ('r', 'i')")


def _bytes_per_transfer(database: Database) -> float:
    """Return what the table of transfers and its indexes take, by the number of rows."""
    if database.dialect is Dialect.SQLITE:
        taken = "SELECT sum(pgsize) FROM dbstat JOIN sqlite_master USING (name) WHERE tbl_name = 'transfer'"
    else:
        taken = "SELECT pg_total_relation_size('transfer')"
    size, rows = select(database.reader, f"SELECT ({taken}), count(*) FROM transfer")[0]
    return int(size) / int(rows)


def _measured(grown: Grown, scale: Scale) -> dict[str, float]:
    """Measure one ledger once; its figures' names begin with its size."""
    size = grown.shape.transfers
    names = {_FLAT: grown.random.choices(grown.neighbours, k=_NAMES), _SPREAD: [grown.anyone() for _ in range(_NAMES)]}
    figures = {
        f"{size} {kind}": asyncio.run(_drive(grown, busy, callers=scale.callers, seconds=scale.seconds))
        for kind, busy in names.items()
    }
    for name, read in _READS.items():
        taken = _read_times_us(grown, read)
        figures |= {f"{size} {name} p50": median(taken), f"{size} {name} p99": quantile(taken, 0.99)}
    return figures


def _read_times_us(grown: Grown, read: Read) -> list[float]:
    reader = grown.database.reader
    with core_timer(servers=grown.servers) as timed_us:
        return [timed_us(lambda: read(reader, grown)) for _ in range(_READS_PER_ROUND)]


async def _drive(grown: Grown, names: Sequence[str], *, callers: int, seconds: float) -> float:
    """Return pairs per second of ``callers`` tasks that take the accounts in turns."""
    accounts = [(key_of_name(name), name) for name in names]
    new_id, started = IdMaker(), time.perf_counter()

    async def call(caller: int) -> int:
        pairs = 0
        while time.perf_counter() < started + seconds:
            key, name = accounts[(caller + pairs * callers) % len(accounts)]
            await settle_hold(grown.writer, key, await place_hold(grown.writer, key, name, new_id))
            pairs += 1
        return pairs

    counts = await asyncio.gather(*map(call, range(callers)))
    return sum(counts) / (time.perf_counter() - started)


def _growth_of(grown: Grown, rounds: Rounds) -> Growth:
    size = f"{grown.shape.transfers}"
    reads = {name: (rounds.median(f"{size} {name} p50"), rounds.median(f"{size} {name} p99")) for name in _READS}
    pairs = {kind: rounds.median(f"{size} {kind}") for kind in (_FLAT, _SPREAD)}
    return Growth(grown.shape.transfers, pairs, grown.bytes_per_transfer, reads)


def growth_table(growth: Sequence[Growth]) -> str:
    """Return the figures with a column for each size; reads as median / 99th percentile."""
    rows = [
        ["", *(f"{one.transfers:,}" for one in growth)],
        *([kind, *(f"{one.pairs_per_second[kind]:,.0f}" for one in growth)] for kind in (_FLAT, _SPREAD)),
        [_BYTES, *(f"{one.bytes_per_transfer:.1f}" for one in growth)],
        *(
            [f"{name}, µs", *(f"{one.reads[name][0]:,.0f} / {one.reads[name][1]:,.0f}" for one in growth)]
            for name in _READS
        ),
    ]
    first = max(len(row[0]) for row in rows)
    return "\n".join(f"{row[0]:<{first}}" + "".join(f"  {cell:>15}" for cell in row[1:]) for row in rows)


def growth_bars(name: str, growth: Sequence[Growth], *, ratios: Mapping[str, float]) -> list[Bar]:
    """Return the largest size's bars; ``ratios`` are its pairs per second to those of the smallest."""
    small, large = growth[0], growth[-1]
    at = f"{name}, {large.transfers:,} transfers"
    slowest_us = max(large.reads[page][1] for page in _PAGES)
    return [
        bar(f"{at}: {_FLAT}, of those at {small.transfers:,}", ratios[_FLAT], "x", at_least(0.90)),
        bar(f"{at}: slowest page, p99", slowest_us / 1_000, "ms", at_most(1.0)),
        bar(f"{at}: {_BYTES}", large.bytes_per_transfer, "B", at_most(120) if name == "SQLite" else None),
        bar(f"{at}: {_SPREAD}, of those at {small.transfers:,}", ratios[_SPREAD], "x"),
    ]
