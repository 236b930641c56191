"""What the web side needs of the running product, and the keys under which its applications carry it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeAlias

from aiohttp import web

from hookspecs import AIRequest, Estimate

from ..database import Reads
from ..errors import CreditsError
from ..metering.parking import Parking
from ..payments.shop import Shop
from ..settings import Settings

ResolveAccount: TypeAlias = Callable[[web.Request], Awaitable[str | None]]


class CreditsService(Protocol):
    """The part of ``bootstrap.Credits`` that pages and routes use; ``shop`` is None while Stripe has no keys."""

    @property
    def settings(self) -> Settings:
        """The frozen settings."""

    @property
    def reads(self) -> Reads:
        """Read-only connections in their own threads."""

    @property
    def shop(self) -> Shop | None:
        """What sells packages."""

    @property
    def parking(self) -> Parking:
        """Where refused requests wait for credits."""

    async def estimate(self, request: AIRequest) -> Estimate:
        """Return the upper bound of what a request can cost."""


class PaymentsNotConfigured(CreditsError):
    """The host runs without Stripe keys, so nothing can be bought here."""

    code = "payments_not_configured"

    def __init__(self) -> None:
        super().__init__("Credits cannot be bought here at the moment: the operator has not set up payments.")


CREDITS: Final = web.AppKey("credits", CreditsService)
RESOLVE_ACCOUNT: Final = web.AppKey[ResolveAccount]("resolve_account")
PAGES: Final = web.AppKey("pages", web.Application)
"""On the API's application: the pages that belong to it, where ``mount`` finds them."""


def require_shop(request: web.Request) -> Shop:
    """Return the shop.

    Raises:
        PaymentsNotConfigured: there are no Stripe keys.
    """
    shop = request.app[CREDITS].shop
    if shop is None:
        raise PaymentsNotConfigured
    return shop
