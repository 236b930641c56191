"""A host as a process of its own, apart from what loads it: it prints its port, and runs until its input ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web


@dataclass(frozen=True, slots=True)
class HostProcess:
    """A running host."""

    port: int
    pid: int

    def cpu_s(self) -> float:
        """Return the CPU time that all its threads have used; 0 on a system without /proc."""
        stat = Path(f"/proc/{self.pid}/stat")
        if not stat.exists():
            return 0
        fields = stat.read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime, proc(5)


@contextlib.asynccontextmanager
async def host_process(module: str, *arguments: str) -> AsyncIterator[HostProcess]:
    """Start ``python -m credits_plugin.bench.MODULE``, and end it afterwards."""
    command = [sys.executable, "-m", f"credits_plugin.bench.{module}", *arguments]
    host = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert host.stdin is not None  # noqa: S101 - started with pipes
    assert host.stdout is not None  # noqa: S101 - see above
    try:
        yield HostProcess(int(await host.stdout.readline()), host.pid)
    finally:
        host.stdin.close()
        await host.wait()


async def serve_until_told(app: web.Application, *, handler_cancellation: bool = False) -> None:
    """Do a host's side of it."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1, handler_cancellation=handler_cancellation)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1_024).start()
    print(runner.addresses[0][1], flush=True)  # noqa: T201 - the measuring process reads it
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()
