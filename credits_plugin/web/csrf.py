"""Purchases are started by the account's owner, not by another site that the owner's browser happens to visit.

JSON needs a content type that no foreign form can send, and comes from our own origin or from FRONTEND_URL's; clients
that are no browsers send neither Origin nor Sec-Fetch-Site. The page's form carries a token bound to the account.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Final

from aiohttp import web
from yarl import URL

from ..errors import CreditsError
from ..settings import Settings

TOKEN_LIFETIME_S: Final = 24 * 3600
_CLOCK_SKEW_S: Final = 300


class CrossSiteRequest(CreditsError):
    """The request came from another site's page."""

    code = "cross_site_request"

    def __init__(self) -> None:
        super().__init__("Purchases must be started from this site.")


class FormExpired(CreditsError):
    """The form's token is missing, too old, or of another account."""

    code = "form_expired"

    def __init__(self) -> None:
        super().__init__("This form has expired. Nothing was charged. Go back to your credits and choose again.")


def require_own_origin(request: web.Request, settings: Settings) -> None:
    """Refuse what a browser sends on behalf of another site; the scheme may differ behind a proxy that ends TLS.

    Raises:
        CrossSiteRequest: another origin, or ``null``.
    """
    origin = request.headers.get("Origin")
    site = request.headers.get("Sec-Fetch-Site")
    if origin is None:
        allowed = site in {None, "same-origin", "none"}
    elif origin == str(URL(settings.frontend_url).origin()):
        allowed = True
    else:
        own = {f"http://{request.host}", f"https://{request.host}"}
        allowed = site in {None, "same-origin"} and origin in own
    if not allowed:
        raise CrossSiteRequest


def form_key(settings: Settings) -> bytes:
    """Return the key of the form tokens: the same on all hosts that share a Stripe key, never the key itself."""
    secret = settings.stripe_secret_key.encode() or secrets.token_bytes(32)
    return hmac.digest(secret, b"credits-plugin: form token v1", "sha256")


def make_token(key: bytes, *, account_id: str, at_s: int) -> str:
    """Return a token for the forms of one account."""
    return f"{at_s}.{_signature(key, account_id, at_s)}"


def require_token(key: bytes, token: str, *, account_id: str, at_s: int) -> None:
    """Check a form's token in constant time.

    Raises:
        FormExpired: not ours, of another account, or older than ``TOKEN_LIFETIME_S``.
    """
    issued, _, signature = token.partition(".")
    if not (issued.isascii() and issued.isdigit() and len(issued) <= 12):
        raise FormExpired
    expected = _signature(key, account_id, int(issued))
    if not hmac.compare_digest(signature.encode(), expected.encode()):
        raise FormExpired
    if not -_CLOCK_SKEW_S <= at_s - int(issued) <= TOKEN_LIFETIME_S:
        raise FormExpired


def _signature(key: bytes, account_id: str, at_s: int) -> str:
    return hmac.new(key, f"{at_s}:{account_id}".encode(), hashlib.sha256).hexdigest()
