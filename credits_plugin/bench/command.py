"""The command behind ``make bench``: runs groups of measures and prints one table, one line per bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import InvalidValue
from .against_redis import measure_redis
from .environment import Bench, Scale, bench_folder, fix_fsync_cost
from .gate import measure_gate
from .growth import measure_growth
from .latency import measure_latency
from .loop import measure_loop
from .memory import measure_memory
from .overhead import measure_overhead
from .peers import measure_peers
from .processes import measure_processes
from .proxied import measure_proxy
from .report import Bar, goals_first, require_writable, table, write
from .scratch import require_scratch, what_is_left
from .size import measure_size
from .throughput import measure_throughput
from .webhooks import measure_webhooks

_FULL: Final = Scale()


@dataclass(frozen=True, slots=True)
class Group:
    """Measures that are taken together. ``on_any_url``: also on the database that ``--url`` names."""

    name: str
    what: str
    measure: Callable[[Bench], list[Bar]]
    on_any_url: bool = False


GROUPS: Final = (
    Group("throughput", "pairs/s against the floor and against one transaction each", measure_throughput, True),
    Group("redis", "pairs/s against Redis, which may lose a second", measure_redis),
    Group("latency", "of a hold, for one caller and under open load, in fsyncs", measure_latency, True),
    Group("processes", "four hosts on one database", measure_processes),
    Group("size", "bytes per transfer", measure_size),
    Group("gate", "CPU time of the whole gate", measure_gate),
    Group("host", "latency and CPU time of the whole gate in the example host, over HTTP", measure_overhead),
    Group("proxy", "the metering proxy against its upstream called directly", measure_proxy),
    Group("loop", "lag of the event loop under a saturated writer", measure_loop),
    Group("webhooks", "signed deliveries granted over HTTP", measure_webhooks),
    Group("memory", "of an idle host", measure_memory),
    Group("peers", "debits/s of other ledgers from PyPI against our pairs/s", measure_peers),
    Group("growth", "pairs/s and pages from ten thousand transfers to ten million", measure_growth),
)


def list_groups() -> str:
    """Return the groups' names and what each measures, one per line."""
    width = max(len(group.name) for group in GROUPS)
    return "\n".join(f"{group.name:<{width}}  {group.what}" for group in GROUPS)


def choose_groups(only: str | None, *, url: str | None) -> list[Group]:
    """Return the groups of a comma-separated list of names, or all; with ``url`` those that run on any database.

    Raises:
        InvalidValue: there is no group of that name, or it does not run on the database that ``url`` names.
    """
    known = {group.name: group for group in GROUPS if url is None or group.on_any_url}
    if only is None:
        return list(known.values())
    names = [name.strip() for name in only.split(",")]
    unknown = [name for name in names if name not in known]
    if unknown:
        where = "" if url is None else " that runs on any database"
        msg = f"there is no group {', '.join(unknown)}{where}; there are {', '.join(known)}"
        raise InvalidValue(msg)
    return [known[name] for name in names]


def run(
    *,
    url: str | None,
    out: Path,
    arguments: list[str],
    only: str | None = None,
    accept_accounts: bool = False,
    scale: Scale = _FULL,
) -> int:
    """Print the table and write ``out``. A missed goal is shown, not an error: speed is measured, never asserted.

    Raises:
        InvalidValue: ``only`` names a group that there is not, or ``url`` a database with other accounts than a
            benchmark's, which ``accept_accounts`` accepts.
        OSError: ``out`` cannot be written; nothing was measured then.
    """
    groups = choose_groups(only, url=url)
    require_writable(out)
    fsync = fix_fsync_cost(arguments) if url is None else "the database's own fsync"
    if url is not None:
        require_scratch(url, accept_accounts=accept_accounts)
    _say(f"medians of {scale.rounds} interleaved rounds, {scale.callers} callers, {fsync}")
    try:
        bars = measure_all(groups, scale=scale, url=url)
    finally:
        if url is not None:
            _say(what_is_left(url))
    write(bars, out)
    _say(table(goals_first(bars)))
    _say(f"written to {out}")
    return 0


def measure_all(groups: Sequence[Group], *, scale: Scale, url: str | None = None) -> list[Bar]:
    """Run the groups one after the other in a folder that is removed at the end, and say what takes how long."""
    bars: list[Bar] = []
    with bench_folder() as folder:
        bench = Bench(scale, folder, url)
        try:
            for group in groups:
                started = time.monotonic()
                _say(f"{group.name}: {group.what} …")
                bars += group.measure(bench)
                _say(f"{group.name}: {time.monotonic() - started:.0f} s")
        finally:
            bench.close()
    return bars


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a command prints
