"""Several hosts on one database: how much they write together, how fairly, and how long a hold then takes."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

from .environment import Bench, Scale
from .ledger import ledger_of
from .report import Bar, at_least, at_most, bar
from .rounds import interleave, quantile

HOSTS: Final = 4
_SECONDS_TO_MEET: Final = 0.1


def measure_processes(bench: Bench) -> list[Bar]:
    """Compare four host processes, each with its own callers, with one; and with that one's callers divided by four."""
    bars: list[Bar] = []
    for name, url in bench.databases():
        with ledger_of(url, accounts=bench.scale.accounts), _hosts(url) as hosts:
            rounds = interleave(
                bench.scale.rounds,
                partial(_run, "one", hosts[:1], bench.scale),
                partial(_run, "four", hosts, bench.scale),
                partial(_run, "divided", hosts, bench.scale, divide_by=HOSTS),
            )
        ours = name == "SQLite"
        total, p99 = rounds.ratio("four", to="one"), rounds.ratio("four p99", to="one p99")
        bars += [
            bar(f"{name}: four hosts, total of one host's", total, "x", at_least(1.0) if ours else None),
            bar(
                f"{name}: four hosts, smallest share", rounds.median("four share"), "", at_least(0.2) if ours else None
            ),
            bar(f"{name}: four hosts, hold p99 of one host's", p99, "x", at_most(4) if ours else None),
            bar(
                f"{name}: four hosts that share one host's callers, total of one's",
                rounds.ratio("divided", to="one"),
                "x",
            ),
            bar(f"{name}: pairs, one host", rounds.median("one"), "/s"),
            bar(f"{name}: pairs, four hosts", rounds.median("four"), "/s"),
            bar(f"{name}: hold p99, four hosts", rounds.median("four p99") * 1_000, "ms"),
        ]
    return bars


@contextlib.contextmanager
def _hosts(url: str) -> Iterator[list[subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "credits_plugin.bench.host", url]
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own module
            )
            for _ in range(HOSTS)
        ]


def _run(name: str, hosts: Sequence[subprocess.Popen[str]], scale: Scale, *, divide_by: int = 1) -> dict[str, float]:
    """Let the hosts drive the database at the same time; returns pairs per second, smallest share and hold p99."""
    for host in hosts:
        _tell(host, {"ready": True})
    for host in hosts:
        _hear(host)
    load = {
        "begin": time.monotonic() + _SECONDS_TO_MEET,
        "seconds": scale.seconds,
        "callers": max(scale.callers // divide_by, 1),
        "accounts": scale.accounts,
    }
    for host in hosts:
        _tell(host, load)
    answers = [_hear(host) for host in hosts]
    rates = [answer["pairs_per_second"] for answer in answers]
    latencies = [latency for answer in answers for latency in answer["latencies"]]
    return {
        name: sum(rates),
        f"{name} share": min(rates) / sum(rates),
        f"{name} p99": quantile(latencies, 0.99),
    }


def _tell(host: subprocess.Popen[str], message: dict[str, Any]) -> None:
    assert host.stdin is not None  # noqa: S101 - it was started with a pipe
    host.stdin.write(json.dumps(message) + "\n")
    host.stdin.flush()


def _hear(host: subprocess.Popen[str]) -> dict[str, Any]:
    assert host.stdout is not None  # noqa: S101 - see above
    answer: dict[str, Any] = json.loads(host.stdout.readline())
    return answer
