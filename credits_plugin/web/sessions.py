"""``GET session/{id}``: a Checkout Session, shown to its owner; to everybody else it does not exist."""

from __future__ import annotations

import re
from typing import Final

from aiohttp import web

from ..errors import NotFound
from ..payments.checkout import SessionView, find_session
from .identity import require_account
from .service import require_shop

_SESSION_ID: Final = re.compile(r"cs_[A-Za-z0-9_]{1,250}", re.ASCII)


async def show_session(request: web.Request) -> web.Response:
    """Answer with the session; one that Stripe calls paid is fulfilled on the way."""
    view = await own_session(request, request.match_info["id"])
    return web.json_response({"success": True, "session": view.as_json()})


async def own_session(request: web.Request, session_id: str) -> SessionView:
    """Return a session of the caller's.

    Raises:
        NotFound: it is malformed, missing or another's: all look the same.
    """
    account_id = await require_account(request)
    shop = require_shop(request)
    if not _SESSION_ID.fullmatch(session_id):
        msg = "there is no such checkout session"  # word for word what find_session says
        raise NotFound(msg)
    return await find_session(shop, account_id=account_id, session_id=session_id)
