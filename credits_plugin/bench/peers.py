"""Other prepaid ledgers for Python, from PyPI, on the same databases with the same durability, against our pairs.

A debit takes credits once they were used; a pair reserves them before and settles after, in two commits' answers. What
else a peer leaves out stands beside its figure. Each runs in a process and a virtual environment of its own.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from .environment import Bench, Scale
from .ledger import Load, ledger_of, pairs_per_second, writers
from .report import Bar, bar
from .rounds import interleave

ENVIRONMENTS: Final = Path("build/peers")
_CALLERS: Final = 64
_INSTALL_LIMIT_S: Final = 180
_PIP: Final = ("--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "15")
_SCRIPT: Final = Path(__file__).with_name("peer_host.py")
_NOT_RUN: Final = (
    "bursar 2.0.4 is not among them: it needs Python 3.12 and a server with the extensions pg_jsonschema and "
    "pg_partman, which the embedded PostgreSQL server does not have."
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


def measure_peers(bench: Bench) -> list[Bar]:
    """Print each peer's line; return the figures as bars without goals, for context."""
    lines, bars = [], []
    for peer in PEERS:
        new_url = bench.postgresql if peer.on_postgresql else bench.sqlite
        python = installed(peer, ENVIRONMENTS)
        theirs, ours = new_url(), new_url()
        if python is None or theirs is None or ours is None:
            lines.append(f"{peer.title}: not installed")
            continue
        try:
            found = _compare(peer, python, theirs, ours, bench.scale)
        except EOFError as error:
            lines.append(str(error))
            continue
        lines.append(describe(found))
        bars += comparison_bars(found)
    print("\n".join(["", "Debits of peers against our hold and settle", *lines, _NOT_RUN, ""]), flush=True)  # noqa: T201 - a command prints
    return bars


def describe(found: Comparison) -> str:
    """Return a peer's line: its figure, ours beside it, and what it does not do."""
    peer = found.peer
    callers = "one caller" if peer.callers == 1 else f"{peer.callers} callers"
    ours = f"our pairs/s {found.pairs_per_second:,.0f} ({found.pairs_per_second / found.debits_per_second:.1f} x)"
    if peer.callers != _CALLERS:
        times = found.pairs_by_64_per_second / found.debits_per_second
        ours += f", by {_CALLERS} callers {found.pairs_by_64_per_second:,.0f} ({times:.1f} x)"
    return f"{peer.title}, {callers}: debits/s {found.debits_per_second:,.0f}; {ours}\n    {peer.lacks}"


def comparison_bars(found: Comparison) -> list[Bar]:
    """Return a peer's figures for the record."""
    times = found.pairs_by_64_per_second / found.debits_per_second
    return [
        bar(f"{found.peer.title}: debits/s", found.debits_per_second, "/s"),
        bar(f"{found.peer.title}: our pairs/s, {_CALLERS} callers", found.pairs_by_64_per_second, "/s"),
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


def _compare(peer: Peer, python: Path, theirs: str, ours: str, scale: Scale) -> Comparison:
    with (
        ledger_of(ours, accounts=_CALLERS) as database,
        debits(peer, python, theirs) as debits_per_second,
        writers(database, count=1) as running,
    ):

        def measured(seconds: float) -> dict[str, float]:
            return {
                "debits": debits_per_second(seconds),
                "pairs": pairs_per_second(running, Load(peer.callers, peer.callers, seconds)),
                "pairs by 64": pairs_per_second(running, Load(_CALLERS, _CALLERS, seconds)),
            }

        measured(scale.seconds / 4)  # pools are open afterwards, statements prepared
        rounds = interleave(scale.rounds, partial(measured, scale.seconds))
    return Comparison(peer, rounds.median("debits"), rounds.median("pairs"), rounds.median("pairs by 64"))


@contextlib.contextmanager
def debits(peer: Peer, python: Path, target: str) -> Iterator[Callable[[float], float]]:
    """Start the peer's process; yields a function of seconds that returns debits per second.

    Raises:
        EOFError: the peer did not start, or ended before its time; what it said is on standard error.
    """
    command = [str(python), str(_SCRIPT), peer.name, target, str(peer.callers)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:  # noqa: S603 - our own script
        assert process.stdin is not None  # noqa: S101 - piped
        assert process.stdout is not None  # noqa: S101 - piped
        asked, answers = process.stdin, process.stdout

        def answer() -> bytes:
            line = answers.readline()
            if not line:
                msg = f"{peer.title}: ended before its time; what it said stands above"
                raise EOFError(msg)
            return line

        def run(seconds: float) -> float:
            with contextlib.suppress(BrokenPipeError):  # it has ended, which its answer says
                asked.write(f"{seconds}\n".encode())
            return rate_of(answer())

        try:
            answer()
            yield run
        finally:
            process.kill()


def rate_of(line: bytes) -> float:
    """Return the rate that a peer's line ``DEBITS SECONDS`` says, per second."""
    count, seconds = line.split()
    return int(count) / float(seconds)
