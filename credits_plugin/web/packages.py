"""``GET packages``: what is sold, at the server's prices."""

from __future__ import annotations

from aiohttp import web

from ..money import format_money
from ..payments.packages import Package
from .amounts import amount_json
from .identity import require_account
from .service import CREDITS


async def list_packages(request: web.Request) -> web.Response:
    """Answer with all packages, smallest first; with none while payments are not set up."""
    await require_account(request)
    packages = [package_json(package) for package in packages_for_sale(request)]
    return web.json_response({"success": True, "packages": packages})


def packages_for_sale(request: web.Request) -> list[Package]:
    """Return what the shop sells, smallest first."""
    shop = request.app[CREDITS].shop
    return sorted(shop.packages.values(), key=lambda package: (package.credits, package.id)) if shop else []


def package_json(package: Package) -> dict[str, object]:
    """Return a package as JSON; ``price_minor`` is in the currency's minor unit, ``price`` for people.

    Its priority is left out: it says nothing to a buyer.
    """
    return {
        "id": package.id,
        "name": package.name,
        "credits": package.credits,
        "amount": amount_json(package.microcredits),
        "price_minor": package.price_minor,
        "currency": package.currency,
        "price": format_money(package.price_minor, package.currency),
        "valid_days": package.valid_days,
    }
