"""Both ends of a host that takes webhooks: a Stripe that delivers over many connections, and one that answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

_ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"


@dataclass(frozen=True, slots=True)
class Delivery:
    """A signed event, ready to be sent."""

    body: bytes
    signature: str

    def request(self, path: str) -> bytes:
        """Return the whole HTTP request."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json; charset=utf-8\r\n"
            f"User-Agent: Stripe/1.0\r\nStripe-Signature: {self.signature}\r\nContent-Length: {len(self.body)}\r\n\r\n"
        )
        return head.encode() + self.body


async def deliver_all(port: int, path: str, deliveries: Sequence[Delivery], *, connections: int) -> None:
    """Deliver everything, each connection one after the other.

    Raises:
        AssertionError: a delivery was not answered with 200.
    """
    waiting = list(deliveries)

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while waiting:
            writer.write(waiting.pop().request(path))
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(_content_length(head))
            if b" 200 " not in head.partition(b"\r\n")[0]:
                raise AssertionError(head, body)
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(connection() for _ in range(connections)))


async def serve_intents(intent: dict[str, Any]) -> asyncio.Server:
    """Start a server that answers every look-up of a payment intent with this one, under the id that was asked for."""
    template = json.dumps(intent).encode()
    own_id = intent["id"].encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not reader.at_eof():
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break
            path = head.split(b" ", 2)[1].partition(b"?")[0]
            body = template.replace(own_id, path.rpartition(b"/")[2])
            writer.write(_ANSWER % (len(body), body))
        writer.close()

    return await asyncio.start_server(answer, "127.0.0.1", 0)


def _content_length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
