"""A closed loop of HTTP clients that costs little itself: each connection sends one request after another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from .host_process import HostProcess
from .rounds import quantile


def post(path: str, body: bytes, **headers: str) -> bytes:
    """Return a whole request; underscores in names of headers stand for hyphens."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


@dataclass(slots=True)
class Figures:
    """What was measured of several hosts by turns: ``NAME rate``, ``NAME p50``, ``NAME p99``, ``NAME cpu``."""

    values: dict[str, list[float]] = field(default_factory=dict)

    async def add(self, name: str, host: HostProcess, requests: Iterator[bytes], *, count: int, at_once: int) -> None:
        """Send the next ``count`` requests over ``at_once`` connections, after two that warm up a host not seen yet."""
        if f"{name} rate" not in self.values:
            await load(host, list(islice(requests, 2)), connections=1)
        measured = await load(host, list(islice(requests, max(count, at_once))), connections=at_once)
        for figure, value in measured.items():
            self.values.setdefault(f"{name} {figure}", []).append(value)


async def load(host: HostProcess, requests: Sequence[bytes], *, connections: int) -> dict[str, float]:
    """Send everything; returns requests per second, p50 and p99 in seconds, and the host's CPU seconds a request.

    Raises:
        AssertionError: a request was not answered with 200.
    """
    cpu, started = host.cpu_s(), time.perf_counter()
    latencies = await _send_all(host.port, requests, connections=connections)
    elapsed = time.perf_counter() - started
    cpu = host.cpu_s() - cpu
    return {
        "rate": len(requests) / elapsed,
        "p50": quantile(latencies, 0.5),
        "p99": quantile(latencies, 0.99),
        "cpu": cpu / len(requests),
    }


async def _send_all(port: int, requests: Sequence[bytes], *, connections: int) -> list[float]:
    waiting, latencies = list(requests), []

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while waiting:
            request = waiting.pop()
            started = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            body = await _read_body(reader, head.lower())
            latencies.append(time.perf_counter() - started)
            if b" 200 " not in head.partition(b"\r\n")[0]:
                raise AssertionError(head, body)
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(connection() for _ in range(connections)))
    return latencies


async def _read_body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    if b"transfer-encoding: chunked" in head:
        return await reader.readuntil(b"\r\n0\r\n\r\n")
    return await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0]))
