"""Other prepaid ledgers for Python, from PyPI, on the same databases with the same durability: debits against our pairs.

A debit takes credits once they were used; a pair reserves them before and settles after, in two commits' answers. What
else a peer leaves out stands beside its figure. Each runs in a process and a virtual environment of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from ..database import Database
from .environment import new_database, postgresql_server
from .ledger import Load, pairs_per_second, prepare, require_clean, writers
from .report import Bar, bar

ENVIRONMENTS: Final = Path("build/peers")
ROUNDS: Final = 5
_SECONDS: Final = 1.0
_INSTALL_LIMIT_S: Final = 180
_PIP: Final = ("--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "15")
_SCRIPT: Final = Path(__file__).with_name("peer_host.py")
_NOT_RUN: Final = (
    "bursar 2.0.4 is not among them: it needs Python 3.12 and a PostgreSQL server with the extensions pg_jsonschema and "
    "pg_partman, which the embedded server does not have and no registry offers."
)


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer as it was run: ``requirements`` for pip, its database, its callers, and ``lacks``, read from its code."""

    name: str
    version: str
    requirements: tuple[str, ...]
    on_postgresql: bool
    callers: int
    lacks: str

    @property
    def title(self) -> str:
        """Name, version and database."""
        return f"{self.name} {self.version} on {'PostgreSQL' if self.on_postgresql else 'SQLite'}"


PEERS: Final = (
    Peer(
        "plutus-agent",
        "1.1.0",
        ("plutus-agent==1.1.0",),
        on_postgresql=False,
        callers=1,
        lacks="no holds, no expiry, no lots, no request ids in process; sums the account's whole ledger at each debit; "
        "chains its usage events, not its ledger",
    ),
    Peer(
        "hf-nostro",
        "0.2.0",
        ("hf-nostro[postgres]==0.2.0", "psycopg[binary,pool]"),
        on_postgresql=True,
        callers=64,
        lacks="no holds and no refusal: a debit that was not affordable becomes debt; no hash chain, no usage record "
        "but free JSON; has lots with expiry, attributed at each debit",
    ),
    Peer(
        "credit-ledger",
        "0.3.0",
        ("credit-ledger[postgres]==0.3.0",),
        on_postgresql=True,
        callers=64,
        lacks="no holds, no lots, no expiry, no hash chain, no usage record",
    ),
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Medians of one interleaved run: the peer's debits per second, our pairs by as many callers, and by 64."""

    peer: Peer
    debits_per_second: float
    pairs_per_second: float
    pairs_by_64_per_second: float


def measure(folder: Path, *, environments: Path = ENVIRONMENTS, rounds: int = ROUNDS) -> list[Bar]:
    """Print the table of peers and return its figures as bars without goals; who is not installed has a line only."""
    lines, bars = [], []
    with postgresql_server(folder) as server:
        for peer in PEERS:
            python = installed(peer, environments)
            if python is None or (peer.on_postgresql and server is None):
                lines.append(f"{peer.title}: not installed")
                continue
            found = _compare(peer, python, folder, server, rounds)
            lines.append(describe(found))
            bars += comparison_bars(found)
    print("\n".join(["", "peers, debits against our hold and settle", *lines, _NOT_RUN]), flush=True)  # noqa: T201 - a command prints
    return bars


def describe(found: Comparison) -> str:
    """Return a peer's line: its figure, ours beside it, and what it does not do."""
    peer = found.peer
    callers = "one caller" if peer.callers == 1 else f"{peer.callers} callers"
    ours = f"our pairs/s {found.pairs_per_second:,.0f} ({found.pairs_per_second / found.debits_per_second:.1f} x)"
    if peer.callers != 64:
        times = found.pairs_by_64_per_second / found.debits_per_second
        ours += f", by 64 callers {found.pairs_by_64_per_second:,.0f} ({times:.1f} x)"
    return f"{peer.title}, {callers}: debits/s {found.debits_per_second:,.0f}; {ours}\n    {peer.lacks}"


def comparison_bars(found: Comparison) -> list[Bar]:
    """Return a peer's figures for the record."""
    times = found.pairs_by_64_per_second / found.debits_per_second
    return [
        bar(f"{found.peer.title}: debits/s", found.debits_per_second, "/s"),
        bar(f"{found.peer.title}: our pairs/s, 64 callers", found.pairs_by_64_per_second, "/s"),
        bar(f"{found.peer.title}: our pairs/s, times its debits/s", times, "x"),
    ]


def installed(peer: Peer, environments: Path) -> Path | None:
    """Return the Python of the peer's own virtual environment, made on demand; None where that cannot be had."""
    home = (environments / peer.name).absolute()
    python, ready = home / "bin" / "python", home / f".ready-{peer.version}"
    if ready.exists():
        return python
    make = [sys.executable, "-m", "venv", "--clear", str(home)]
    install = [str(python), "-m", "pip", "install", *_PIP, *peer.requirements]
    plain = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # pip need not pay for fsyncs
    try:
        for command in (make, install):
            subprocess.run(command, check=True, capture_output=True, timeout=_INSTALL_LIMIT_S, env=plain)  # noqa: S603 - pinned above
    except (subprocess.SubprocessError, OSError):
        return None
    ready.touch()
    return python


def _compare(peer: Peer, python: Path, folder: Path, server: str | None, rounds: int) -> Comparison:
    if peer.on_postgresql and server is not None:
        theirs, ours = (new_database(server, f"{peer.name}_{side}".replace("-", "_")) for side in ("peer", "ours"))
    else:
        theirs, ours = str(folder / f"{peer.name}.db"), f"sqlite:///{folder / f'beside-{peer.name}.db'}"
    database = prepare(ours)
    many, few = (Load(callers, callers, _SECONDS) for callers in (64, peer.callers))
    figures: list[list[float]] = []
    with debits(peer, python, theirs) as run, writers(database, count=1) as running:
        for turn in range(-1, rounds):
            figures.append([run(_SECONDS), pairs_per_second(running, few), pairs_per_second(running, many)])
            if turn < 0:
                figures.clear()  # pools are open now, statements prepared
    require_clean(database)
    database.close_thread()
    return Comparison(peer, *(median(column) for column in zip(*figures, strict=True)))


@contextlib.contextmanager
def debits(peer: Peer, python: Path, target: str) -> Iterator[Callable[[float], float]]:
    """Start the peer's process; yields a function of seconds that returns debits per second.

    Raises:
        RuntimeError: the peer did not start, or ended before its time; what it said is on standard error.
    """
    command = [str(python), str(_SCRIPT), peer.name, target, str(peer.callers)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own script
        assert process.stdin is not None  # noqa: S101 - piped
        assert process.stdout is not None  # noqa: S101 - piped
        answers = process.stdout
        asking = process.stdin

        def answer() -> str:
            line = answers.readline()
            if not line:
                msg = f"{peer.title} ended before its time; see what it said above"
                raise RuntimeError(msg)
            return line

        def run(seconds: float) -> float:
            asking.write(f"{seconds}\n")
            asking.flush()
            return rate_of(answer())

        try:
            answer()
            yield run
        finally:
            process.kill()


def rate_of(line: str) -> float:
    """Return the rate that a peer's line ``DEBITS SECONDS`` says, per second."""
    count, seconds = line.split()
    return int(count) / float(seconds)
