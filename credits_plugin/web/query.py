"""Query parameters, read strictly."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from ..errors import InvalidValue

_MAX_CURSOR: Final = 2**63 - 1


def one_query_value(request: web.Request, name: str) -> str | None:
    """Return a query parameter's value, or None where it is absent.

    Raises:
        InvalidValue: it is given twice; two readers could each believe another one.
    """
    values = request.query.getall(name, [])
    if len(values) > 1:
        msg = f"{name} is given twice."
        raise InvalidValue(msg, field=name)
    return values[0] if values else None


def cursor_of(request: web.Request) -> int | None:
    """Return the ``cursor`` parameter, a position in the caller's own history, or None at its start.

    Raises:
        InvalidValue: it is not one that an earlier page handed out.
    """
    text = one_query_value(request, "cursor")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and 0 < int(text) <= _MAX_CURSOR):
        msg = "cursor must be the next_cursor of an earlier answer."
        raise InvalidValue(msg, field="cursor")
    return int(text)
