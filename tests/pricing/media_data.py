"""The smallest files of each format whose headers say what a test wants."""

from __future__ import annotations

import base64
import io
import wave


def encoded(data: bytes) -> str:
    """Return base64 text."""
    return base64.b64encode(data).decode()


def png(width: int, height: int) -> bytes:
    """Return the head of a PNG."""
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x06\0\0\0"


def gif(width: int, height: int) -> bytes:
    """Return the head of a GIF."""
    return b"GIF89a" + width.to_bytes(2, "little") + height.to_bytes(2, "little") + b"\0" * 20


def jpeg(width: int, height: int, *, before: int = 0) -> bytes:
    """Return the head of a progressive JPEG with ``before`` segments of 60,000 bytes before its frame."""
    segments = (b"\xff\xe2" + (60_000).to_bytes(2, "big") + b"\xff\xc0" * 29_999) * before
    segments += b"\xff\xc4\0\x09" + b"\x01" * 7  # a table, whose marker is near the frames' own
    frame = b"\xff\xc2\0\x11\x08" + height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return b"\xff\xd8" + segments + frame + b"\0" * 20


def webp(kind: bytes, width: int, height: int) -> bytes:
    """Return the head of a WebP of the kind VP8, VP8L or VP8X."""
    head = b"RIFF\0\0\0\0WEBP" + kind.ljust(4) + b"\0\0\0\0"
    if kind == b"VP8X":
        return head + b"\0" * 4 + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little") + b"\0" * 4
    if kind == b"VP8L":
        return head + b"\x2f" + (width - 1 | height - 1 << 14).to_bytes(4, "little") + b"\0" * 10
    return head + b"\0\0\0\x9d\x01\x2a" + width.to_bytes(2, "little") + height.to_bytes(2, "little") + b"\0" * 4


def wav(*, seconds: int, rate: int, channels: int = 1) -> bytes:
    """Return silence of 16 bits."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(b"\0" * (2 * channels * rate * seconds))
    return file.getvalue()
