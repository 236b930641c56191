"""``python -m credits_plugin.distributed.measure``: one hot account driven by several hosts, with and without leases.

Hosts are processes on this machine with a PostgreSQL server of its own, or the one that ``--url`` names.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import time
from statistics import median
from typing import Any, Final

from hookspecs import Usage

from ..bench.environment import bench_folder, fix_fsync_cost, postgresql_server
from ..database import migrate, open_database
from ..errors import OutcomeUnknown
from ..ledger.audit import audit
from ..ledger.entries import Code, PlaceHold, PostTransfer, SettleHold
from ..ledger.ids import IdMaker, account_key, now_ms
from ..ledger.writer import LedgerWriter
from .router import RoutedWriter

_MODULE: Final = "credits_plugin.distributed.measure"
_SECRET: Final = b"the benchmark's own hosts"
_WARM_UP_S: Final = 1.5


def main(arguments: list[str] | None = None) -> int:
    """Print the table; returns 1 when the audit afterwards finds anything."""
    options = _parser().parse_args(arguments)
    if options.host_of is not None:
        asyncio.run(_host(options))
        return 0
    given = sys.argv[1:] if arguments is None else arguments
    fsync = fix_fsync_cost(given, module=_MODULE)
    with contextlib.ExitStack() as stack:
        url = options.url or stack.enter_context(postgresql_server(stack.enter_context(bench_folder())))
        if url is None:
            print("name a PostgreSQL with --url, or install the extra `test`", file=sys.stderr)  # noqa: T201 - a command prints
            return 2
        return _compare(url, options, fsync)


def _compare(url: str, options: argparse.Namespace, fsync: str) -> int:
    database = open_database(url)
    migrate(database)
    _seed(url, options.accounts)
    figures: dict[str, list[float]] = {"plain": [], "routed": []}
    for _ in range(options.rounds):
        for way, values in figures.items():
            values.append(_round(url, way, options))
    plain, routed = median(figures["plain"]), median(figures["routed"])
    what = "one hot account" if options.accounts == 1 else f"{options.accounts:,} accounts"
    report = audit(database)
    lines = (
        f"{options.hosts} hosts x {options.callers} callers, {what}, medians of {options.rounds} rounds, {fsync}",
        f"without leases  {plain:8,.0f} pairs/s",
        f"with leases     {routed:8,.0f} pairs/s  {routed / plain:.2f} x",
        f"audit: {'clean' if report.clean else report.findings[:3]}, {report.transfers:,} transfers",
    )
    print(*lines, sep="\n")  # noqa: T201 - what a person runs it for
    return 0 if report.clean else 1


def _seed(url: str, accounts: int) -> None:
    new_id = IdMaker()
    writer = LedgerWriter(open_database(url), new_id=new_id)
    writer.start()
    for number in range(accounts):
        user = f"measured-{number}"
        writer.execute_sync(PostTransfer(account_key(user), user, new_id(), Code.PROMOTION, 10**15, now_ms()))
    writer.close()


def _round(url: str, way: str, options: argparse.Namespace) -> float:
    """Return the pairs per second of all hosts together."""
    command = [sys.executable, "-m", _MODULE, "--url", url, "--host-of", way, "--callers", str(options.callers)]
    command += ["--seconds", str(options.seconds), "--accounts", str(options.accounts)]
    hosts = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(options.hosts)]  # noqa: S603 - our own module
    results: list[dict[str, Any]] = [json.loads(host.communicate()[0]) for host in hosts]
    unknown = sum(result["unknown"] for result in results)
    if unknown:
        print(f"{way}: {unknown} commands were repeated after OutcomeUnknown")  # noqa: T201 - a command prints
    pairs: int = sum(result["pairs"] for result in results)
    seconds: float = options.seconds
    return pairs / seconds


async def _host(options: argparse.Namespace) -> None:
    """Run one host: warm up until all have met, then count the pairs of the measured time."""
    new_id, database = IdMaker(), open_database(options.url)
    routed = options.host_of == "routed"
    writer = RoutedWriter(database, new_id=new_id, secret=_SECRET) if routed else LedgerWriter(database, new_id=new_id)
    writer.start()
    begin = time.monotonic() + _WARM_UP_S
    end = begin + options.seconds
    users = [f"measured-{number}" for number in range(options.accounts)]
    pairs = unknown = 0

    async def insist(command: Any) -> Any:
        nonlocal unknown
        while True:
            try:
                return await writer.execute(command)
            except OutcomeUnknown:
                unknown += 1

    async def call(number: int) -> None:
        nonlocal pairs
        while (now := time.monotonic()) < end:
            user = users[number % len(users)]
            number += options.callers
            key, at_ms = account_key(user), now_ms()
            placed = await insist(PlaceHold(key, user, new_id(), 10, at_ms, at_ms + 600_000, 1, 1))
            await insist(SettleHold(key, placed.hold_id, 7, at_ms, Usage(input=7)))
            pairs += begin <= now

    await asyncio.gather(*(call(number) for number in range(options.callers)))
    writer.close()
    print(json.dumps({"pairs": pairs, "unknown": unknown}))  # noqa: T201 - the measuring process reads it


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {_MODULE}", description=__doc__)
    parser.add_argument("--url", help="a PostgreSQL that may be filled with test data")
    parser.add_argument("--hosts", type=int, default=3)
    parser.add_argument("--callers", type=int, default=64, help="of each host (default 64)")
    parser.add_argument("--accounts", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--host-of", choices=("plain", "routed"), help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
