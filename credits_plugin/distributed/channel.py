"""Authenticated frames between hosts that share a secret. Not encrypted: for a private network or inside a tunnel.

Both sides send 16 random bytes; the key of the connection is a digest of both under the secret, and each frame carries
a MAC over its direction, its number and its content. So nothing can be forged, replayed, reordered or reflected.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from typing import Final

MAX_FRAME: Final = 16 << 20
_NONCE: Final = 16
_MAC: Final = 32
_HEAD: Final = 4


class ForgedFrame(ConnectionError):
    """The other side does not know the secret, or somebody changed what it sent."""


class Channel:
    """One connection after its handshake. One task reads, one writes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, key: bytes, calls: bool) -> None:
        self._reader = reader
        self._writer = writer
        self._key = key
        self._out, self._in = (b"call", b"back") if calls else (b"back", b"call")
        self._sent = self._received = 0

    def send(self, payload: bytes) -> None:
        """Queue a frame for sending."""
        mac = self._mac(self._out, self._sent, payload)
        self._sent += 1
        self._writer.write((len(payload) + _MAC).to_bytes(_HEAD) + mac + payload)

    async def drain(self) -> None:
        """Wait while the other side is slow to take what was sent."""
        await self._writer.drain()

    async def receive(self) -> bytes:
        """Return the next frame's payload.

        Raises:
            ForgedFrame: it was not made with the secret.
            OSError, asyncio.IncompleteReadError: the connection ended.
        """
        size = int.from_bytes(await self._reader.readexactly(_HEAD))
        if not _MAC <= size <= MAX_FRAME:
            msg = f"a frame of {size} bytes"
            raise ForgedFrame(msg)
        frame = await self._reader.readexactly(size)
        mac, payload = frame[:_MAC], frame[_MAC:]
        if not hmac.compare_digest(mac, self._mac(self._in, self._received, payload)):
            msg = "a frame whose MAC does not match: is the shared secret the same on all hosts?"
            raise ForgedFrame(msg)
        self._received += 1
        return payload

    def close(self) -> None:
        """Close the connection at once; what was queued may be lost."""
        if self._writer.transport is not None:
            self._writer.transport.abort()

    def _mac(self, direction: bytes, number: int, payload: bytes) -> bytes:
        return hmac.digest(self._key, direction + number.to_bytes(8) + payload, "sha256")


async def open_channel(host: str, port: int, *, secret: bytes) -> Channel:
    """Connect to another host and shake hands."""
    reader, writer = await asyncio.open_connection(host, port)
    return await _shake_hands(reader, writer, secret=secret, calls=True)


async def accept_channel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, secret: bytes) -> Channel:
    """Shake hands with whoever connected; who it is shows with the first frame."""
    return await _shake_hands(reader, writer, secret=secret, calls=False)


async def _shake_hands(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, secret: bytes, calls: bool
) -> Channel:
    ours = secrets.token_bytes(_NONCE)
    writer.write(ours)
    try:
        theirs = await reader.readexactly(_NONCE)
    except (OSError, asyncio.IncompleteReadError):
        writer.transport.abort()
        raise
    nonces = ours + theirs if calls else theirs + ours
    key = hmac.digest(secret, b"credits writer " + nonces, hashlib.sha256)
    return Channel(reader, writer, key=key, calls=calls)
