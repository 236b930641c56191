"""Request bodies: read with a limit and a deadline of our own, decoded strictly."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any, Final
from urllib.parse import parse_qsl

from aiohttp import web

from ..errors import CreditsError, InvalidValue

MAX_FORM_BYTES: Final = 8 * 1024
"""Bound of a purchase, JSON or form: the real ones have less than 200 bytes."""
MAX_CHAT_BYTES: Final = 1024 * 1024
"""Bound of a chat whose cost is asked for; larger images are named by URL."""
MAX_WEBHOOK_BYTES: Final = 1024 * 1024
READ_TIMEOUT_S: Final = 20.0


class BodyTooLarge(CreditsError):
    """The body exceeds the route's own limit; it was not looked at."""

    code = "body_too_large"


class BodyTooSlow(CreditsError):
    """The body did not arrive in time."""

    code = "body_too_slow"


class UnsupportedMediaType(CreditsError):
    """The content type is not the one that the route takes."""

    code = "unsupported_media_type"


async def read_body(request: web.Request, *, limit: int) -> bytes:
    """Return the raw body, at most ``limit`` bytes, whatever the host's ``client_max_size`` says.

    Raises:
        BodyTooLarge: by its declared or by its real length, counted after decompression.
        BodyTooSlow: it took longer than ``READ_TIMEOUT_S``.
        InvalidValue: its content encoding is broken.
    """
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    try:
        # A body that is all here, as most are, needs no clock.
        async with contextlib.nullcontext() if request.content.is_eof() else asyncio.timeout(READ_TIMEOUT_S):
            body = await _read_stream(request, limit)
            # A middleware of the host may have read the stream already; aiohttp keeps what it read.
            body = body or await request.read()
    except TimeoutError:
        msg = f"The body did not arrive within {READ_TIMEOUT_S:.0f} seconds."
        raise BodyTooSlow(msg) from None
    except web.RequestPayloadError:
        msg = "The body does not match its Content-Encoding."
        raise InvalidValue(msg) from None
    if len(body) > limit:
        raise _too_large(limit)
    return body


async def _read_stream(request: web.Request, limit: int) -> bytes:
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > limit:
            raise _too_large(limit)
    return bytes(body)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body may have at most {limit} bytes.")


async def read_json_object(request: web.Request, *, limit: int = MAX_FORM_BYTES) -> dict[str, Any]:
    """Return the body, at most ``limit`` bytes, as a JSON object.

    Raises:
        UnsupportedMediaType: the content type is not ``application/json``.
        InvalidValue: not UTF-8, not JSON, not an object, a key twice, or NaN.
        BodyTooLarge, BodyTooSlow: see :func:`read_body`.
    """
    _require_content_type(request, "application/json")
    raw = await read_body(request, limit=limit)
    try:
        document = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):  # bad bytes, bad syntax, numbers of 5,000 digits, nesting without end
        msg = "The body is not valid JSON in UTF-8."
        raise InvalidValue(msg) from None
    if not isinstance(document, dict):
        msg = "The body must be a JSON object."
        raise InvalidValue(msg)
    return document


async def read_form(request: web.Request) -> dict[str, str]:
    """Return the fields of a URL-encoded form.

    Raises:
        UnsupportedMediaType: it is another kind of body.
        InvalidValue: not a form, or a field twice.
        BodyTooLarge, BodyTooSlow: see :func:`read_body`.
    """
    _require_content_type(request, "application/x-www-form-urlencoded")
    raw = await read_body(request, limit=MAX_FORM_BYTES)
    try:
        return _unique_keys(parse_qsl(raw.decode("ascii"), errors="strict", max_num_fields=16))
    except ValueError:
        msg = "The body is not a valid form."
        raise InvalidValue(msg) from None


def _require_content_type(request: web.Request, expected: str) -> None:
    if request.content_type != expected:
        msg = f"Send the body with Content-Type: {expected}."
        raise UnsupportedMediaType(msg)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        msg = "The body has the same field twice."
        raise InvalidValue(msg)
    return fields


def _refuse_constant(name: str) -> Any:
    msg = f"{name} is not JSON"
    raise ValueError(msg)
