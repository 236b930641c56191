"""Who asks. The host's ``resolve_account`` alone decides; bodies, headers and queries are never believed."""

from __future__ import annotations

from aiohttp import web

from ..errors import CreditsError
from .service import RESOLVE_ACCOUNT


class Unauthenticated(CreditsError):
    """The host names no account for the request."""

    code = "unauthenticated"

    def __init__(self) -> None:
        super().__init__("Sign in first; the request belongs to no account.")


async def require_account(request: web.Request) -> str:
    """Return the host's id of the account that the request belongs to.

    Raises:
        Unauthenticated: no plugin names one.
        TypeError: a plugin returned something else than a string; that is its bug, and nobody gets in by it.
    """
    account_id: object = await request.app[RESOLVE_ACCOUNT](request)
    if account_id is None or account_id == "":
        raise Unauthenticated
    if not isinstance(account_id, str):
        msg = f"resolve_account must return a string or None; got {type(account_id).__name__}"
        raise TypeError(msg)
    return account_id
