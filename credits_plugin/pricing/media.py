"""What images, audio and files cost in tokens, by the bytes in the request: an upper bound, after a bounded look.

Sizes come from the headers of PNG, JPEG, GIF and WebP data, which is what the provider reads too; nothing is decoded.
An image by URL, or one whose header cannot be read, is charged as the dearest that its model's provider documents.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from ..money import ceil_div

Payload: TypeAlias = str | bytes | bytearray
"""Base64 text, bare or behind ``data:…,``; or the bytes themselves."""

MAX_READ_BYTES: Final = 1_000_000
"""Bytes of one file that are looked at, about two milliseconds; a longer one is charged by its length alone."""

_JPEG_SEGMENTS: Final = 200
_DATA_URL_PREFIX: Final = 256


class Size(NamedTuple):
    """Pixels."""

    width: int
    height: int


ImageRule: TypeAlias = Callable[[Size | None, object], int]
"""Tokens of an image by its size (None: unknown) and the ``detail`` that was asked for."""


@dataclass(frozen=True, slots=True)
class Data:
    """The bytes of a payload, readable from anywhere without decoding all of it."""

    payload: Payload
    start: int

    @classmethod
    def of(cls, payload: Payload) -> Data:
        """Return the data of a payload, without its ``data:`` prefix."""
        if isinstance(payload, str) and payload.startswith("data:"):
            return cls(payload, payload.find(",", 0, _DATA_URL_PREFIX) + 1)
        return cls(payload, 0)

    def __len__(self) -> int:
        """Return how many bytes there are, or up to two more."""
        length = len(self.payload) - self.start
        return -(-length // 4) * 3 if isinstance(self.payload, str) else length

    def read(self, at: int, count: int) -> bytes:
        """Return at most ``count`` bytes from ``at`` on; none where it is no clean base64."""
        if not isinstance(self.payload, str):
            return bytes(self.payload[at : at + count])
        groups, skipped = divmod(at, 3)
        begin = self.start + groups * 4
        text = self.payload[begin : begin + (count + skipped + 2) // 3 * 4]
        try:
            return b64decode(text + "=" * (-len(text) % 4), validate=True)[skipped : skipped + count]
        except (NotBase64, ValueError):
            return b""


def image_size(payload: Payload) -> Size | None:
    """Return the size that the header names, or None where it cannot be read."""
    data = Data.of(payload)
    head = data.read(0, 32)
    if head.startswith(b"\x89PNG\r\n\x1a\n") and head[12:16] == b"IHDR":
        size = Size(_big(head[16:20]), _big(head[20:24]))
    elif head[:6] in (b"GIF87a", b"GIF89a"):
        size = Size(_little(head[6:8]), _little(head[8:10]))
    elif head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        size = _webp_size(head)
    elif head.startswith(b"\xff\xd8"):
        size = _jpeg_size(data)
    else:
        return None
    return size if min(size) > 0 else None


def _webp_size(head: bytes) -> Size:
    if head[12:16] == b"VP8X":
        return Size(_little(head[24:27]) + 1, _little(head[27:30]) + 1)
    if head[12:16] == b"VP8L":
        packed = _little(head[21:25])
        return Size((packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1)
    return Size(_little(head[26:28]) & 0x3FFF, _little(head[28:30]) & 0x3FFF)


def _jpeg_size(data: Data) -> Size:
    # From segment to segment: thumbnails and colour profiles before the frame may be long.
    at = 2
    for _ in range(_JPEG_SEGMENTS):
        segment = data.read(at, 9)
        if len(segment) < 9 or segment[0] != 0xFF:
            break
        marker = segment[1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return Size(_big(segment[7:9]), _big(segment[5:7]))
        at += 1 if marker == 0xFF else 2 + _big(segment[2:4])
    return Size(0, 0)


def tiles(base: int, tile: int) -> ImageRule:
    """Count the 512-pixel tiles of the image after it was fitted into 2048 x 2048 and its short side into 768.

    Low detail is ``base`` alone. https://platform.openai.com/docs/guides/images-vision
    """

    def tokens(size: Size | None, detail: object) -> int:
        if detail == "low":
            return base
        if size is None:
            return base + 8 * tile
        long, short = max(size), min(size)
        long, short = (2_048, ceil_div(short * 2_048, long)) if long > 2_048 else (long, short)
        long, short = (ceil_div(long * 768, short), 768) if short > 768 else (long, short)
        return base + ceil_div(long, 512) * ceil_div(short, 512) * tile

    return tokens


def patches(hundredths: int, most: int = 1_536) -> ImageRule:
    """Count the 32-pixel patches, ``most`` after scaling down, times a multiplier; ``detail`` is not relied on.

    https://platform.openai.com/docs/guides/images-vision
    """

    def tokens(size: Size | None, _detail: object) -> int:
        count = most if size is None else min(most, ceil_div(size.width, 32) * ceil_div(size.height, 32))
        return ceil_div(count * hundredths, 100)

    return tokens


def claude_patches(most: int) -> ImageRule:
    """Count the 28-pixel patches, and not less than a token per 750 pixels; both rules have been documented.

    https://platform.claude.com/docs/en/build-with-claude/vision
    """

    def tokens(size: Size | None, _detail: object) -> int:
        if size is None:
            return most
        width, height = size
        return min(most, max(ceil_div(width, 28) * ceil_div(height, 28), ceil_div(width * height, 750)))

    return tokens


def gemini_tiles(least: int) -> ImageRule:
    """Count 258 tokens per tile, whose side is two thirds of the short side, 256 to 768 pixels; at least ``least``.

    Gemini 3 takes a fixed number for each ``media_resolution``. https://ai.google.dev/gemini-api/docs/tokens
    """

    def tokens(size: Size | None, _detail: object) -> int:
        if size is None:
            return DEAREST_IMAGE_TOKENS
        if max(size) <= 384:
            return max(258, least)
        side = min(768, max(256, min(size) * 2 // 3))
        return max(least, 258 * ceil_div(size.width, side) * ceil_div(size.height, side))

    return tokens


DEAREST_IMAGE_TOKENS: Final = 16_384
"""The largest number of visual tokens that a model of Qwen's takes for one image; no other documents more."""


def dearest_image(_size: Size | None, _detail: object) -> int:
    """Charge every image as the dearest that is documented: nothing is known of the model."""
    return DEAREST_IMAGE_TOKENS


# The lowest bit rate of a format, in bytes a second: MP3 8 kbit/s, Opus and all others 4 kbit/s.
_RAW_RATE: Final = 8_000
_MP3_RATE: Final = 1_000
_LOWEST_RATE: Final = 500
_WAV_UNCOMPRESSED: Final = (1, 3, 0xFFFE)
_WAV_CHUNKS: Final = 50


def audio_tokens(payload: Payload, named: object, per_s: int) -> int:
    """Return the tokens of inline audio at ``per_s`` tokens a second.

    The length of an uncompressed WAV follows from its header. Any other is taken to have the lowest bit rate of its
    format, which is read from the data; headerless samples go by the name of the format that was given.
    """
    data = Data.of(payload)
    head = data.read(0, 12)
    rate = _LOWEST_RATE
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        rate = _wav_rate(data) or _LOWEST_RATE
    elif head[:3] == b"ID3" or (head[:1] == b"\xff" and head[1:2] >= b"\xe0"):
        rate = _MP3_RATE
    elif named == "pcm16":
        rate = _RAW_RATE
    return ceil_div(len(data) * per_s, rate)


def _wav_rate(data: Data) -> int | None:
    # Bytes a second as the samples' own sizes say, not as the header's redundant field does.
    at = 12
    for _ in range(_WAV_CHUNKS):
        chunk = data.read(at, 24)
        if len(chunk) < 24:
            break
        if chunk[:4] == b"fmt ":
            kind, channels, samples_per_s = _little(chunk[8:10]), _little(chunk[10:12]), _little(chunk[12:16])
            rate = channels * samples_per_s * _little(chunk[22:24]) // 8
            return min(rate, _little(chunk[16:20])) if kind in _WAV_UNCOMPRESSED else None
        at += 8 + (_little(chunk[4:8]) + 1) // 2 * 2
    return None


TOKENS_PER_PAGE: Final = 3_000
"""Text of a page of a PDF, at most: https://platform.claude.com/docs/en/build-with-claude/pdf-support"""

MAX_PAGES: Final = 1_000
"""No provider takes a longer PDF: https://ai.google.dev/gemini-api/docs/document-processing"""

_SMALLEST_PAGE_BYTES: Final = 2_500
_PAGE: Final = re.compile(rb"/Type\s*/Page(?![\w])")


def pdf_pages(payload: Payload) -> int | None:
    """Return how many pages a PDF has, or at most has; None for other data.

    They are counted in files up to ``MAX_READ_BYTES`` that list them openly. Compressed lists are not read: such a file
    is taken to have a page for each 2,500 bytes.
    """
    data = Data.of(payload)
    if not data.read(0, 5).startswith(b"%PDF-"):
        return None
    listed = len(_PAGE.findall(data.read(0, MAX_READ_BYTES))) if len(data) <= MAX_READ_BYTES else 0
    return min(MAX_PAGES, listed or ceil_div(len(data), _SMALLEST_PAGE_BYTES))


def file_text(payload: Payload) -> str | None:
    """Return the text of an inline file that is UTF-8 text, or None."""
    data = Data.of(payload)
    if len(data) > MAX_READ_BYTES:
        return None
    content = data.read(0, MAX_READ_BYTES)
    try:
        return content.decode() if content and b"\0" not in content else None
    except UnicodeDecodeError:
        return None


def _big(octets: bytes) -> int:
    return int.from_bytes(octets, "big")


def _little(octets: bytes) -> int:
    return int.from_bytes(octets, "little")
