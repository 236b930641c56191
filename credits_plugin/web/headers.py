"""Response headers that every answer carries: nothing runs inline, nothing is framed, nothing personal is kept."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from aiohttp import web
from yarl import URL

STRIPE_CHECKOUT: Final = "https://checkout.stripe.com"

API_POLICY: Final = "default-src 'none'; frame-ancestors 'none'"
_COMMON: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # same-origin, not no-referrer: with that, browsers send "Origin: null" on the purchase form
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def page_policy(*, checkout_origins: frozenset[str]) -> str:
    """Return the pages' Content-Security-Policy.

    Browsers apply ``form-action`` to the redirects that follow a form too, so the payment page's origin is named.
    """
    destinations = " ".join(["'self'", *sorted(checkout_origins)])
    return (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        f"form-action {destinations}; base-uri 'none'; frame-ancestors 'none'"
    )


def checkout_origins(api_base: str | None) -> frozenset[str]:
    """Return the origins that the purchase form may lead to: Stripe's, or the stand-in's that replaces it."""
    return frozenset({STRIPE_CHECKOUT, *([str(URL(api_base).origin())] if api_base else [])})


def security_headers(
    app: web.Application, *, policy: str, kept_routes: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Put the headers on every response of ``app``, files and errors too.

    ``kept_routes`` maps names of routes to the Cache-Control of their 200s; nothing else is stored anywhere.
    """

    async def add(request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(_COMMON)
        response.headers["Content-Security-Policy"] = policy
        resource = request.match_info.route.resource
        name = resource.name if resource is not None else None
        kept = kept_routes.get(name or "") if response.status in {200, 304} else None
        response.headers["Cache-Control"] = kept or "no-store"

    app.on_response_prepare.append(add)
