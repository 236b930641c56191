"""``credits bench``: the ledger's speed, as ratios within one run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("bench", help="measure the ledger as ratios within one run")
    parser.add_argument(
        "--url", help="a database to measure, instead of a SQLite file and a PostgreSQL server of its own"
    )
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"), help="default build/bench.json")
    parser.set_defaults(run=_bench)


def _bench(options: argparse.Namespace) -> int:
    from ..bench.command import run  # noqa: PLC0415 - benchmarks are for this command alone

    arguments = ["bench", "--out", str(options.out), *(["--url", options.url] if options.url else [])]
    return run(url=options.url, out=options.out, arguments=arguments)
