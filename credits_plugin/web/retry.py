"""``GET retry/{token}``: wait until a refused request can be afforded. Reserves nothing."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from ..errors import InvalidValue
from .amounts import amount_json
from .identity import require_account
from .query import one_query_value
from .service import CREDITS

LONGEST_WAIT_S: Final = 30


async def await_retry(request: web.Request) -> web.Response:
    """Answer once it can be afforded, or after ``wait_s`` seconds; a token of another account is a missing one."""
    account_id = await require_account(request)
    state = await request.app[CREDITS].parking.wait_with(
        request.match_info["token"], account_id=account_id, timeout_s=_wait_s(one_query_value(request, "wait_s"))
    )
    return web.json_response(
        {
            "success": True,
            "retry": {
                "affordable": state.is_affordable,
                "needed": amount_json(state.needed),
                "available": amount_json(state.available),
            },
        }
    )


def _wait_s(text: str | None) -> int:
    if text is None:
        return LONGEST_WAIT_S
    if not (text.isascii() and text.isdigit() and len(text) <= 2 and int(text) <= LONGEST_WAIT_S):
        msg = f"wait_s must be a whole number of seconds from 0 to {LONGEST_WAIT_S}."
        raise InvalidValue(msg, field="wait_s")
    return int(text)
