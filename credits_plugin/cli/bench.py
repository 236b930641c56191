"""``credits bench``: the ledger's speed, as ratios within one run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("bench", help="measure the ledger as ratios within one run")
    parser.add_argument(
        "--url",
        help="a database to measure, instead of a SQLite file and a PostgreSQL server of its own; "
        "throughput and latency alone run there",
    )
    parser.add_argument(
        "--yes", action="store_true", help="write into the database of --url even if it holds real accounts"
    )
    parser.add_argument("--only", metavar="NAME[,NAME]", help="these groups of measures alone; --list names them")
    parser.add_argument("--list", action="store_true", help="name the groups of measures and end")
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"), help="default build/bench.json")
    parser.set_defaults(run=_bench)


def _bench(options: argparse.Namespace) -> int:
    from ..bench.command import list_groups, run  # noqa: PLC0415 - benchmarks are for this command alone

    if options.list:
        print(list_groups())
        return 0
    arguments = ["bench", "--out", str(options.out)]
    for name in ("url", "only"):
        if value := getattr(options, name):
            arguments += [f"--{name}", value]
    return run(url=options.url, out=options.out, arguments=arguments, only=options.only, accept_accounts=options.yes)
