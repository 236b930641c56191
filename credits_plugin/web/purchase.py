"""``POST purchase``: start a Stripe Checkout for a package. The client names a package; everything else is ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from ..errors import InvalidValue
from ..payments.checkout import start_purchase
from .body import read_json_object
from .csrf import require_own_origin
from .identity import require_account
from .service import CREDITS, require_shop

PAYMENT_METHOD: Final = "stripe"
_MAX_PACKAGE_ID: Final = 2**31 - 1


async def create_purchase(request: web.Request) -> web.Response:
    """Answer with the address of the payment page. Prices, credits and currencies in the body are not read."""
    account_id = await require_account(request)
    require_own_origin(request, request.app[CREDITS].settings)
    package_id = _package_id(await read_json_object(request))
    purchase = await start_purchase(require_shop(request), account_id=account_id, package_id=package_id, email=None)
    return web.json_response(
        {"success": True, "message": "Checkout session created", "payment_url": purchase.payment_url}
    )


def _package_id(fields: Mapping[str, Any]) -> int:
    if fields.get("payment_method", PAYMENT_METHOD) != PAYMENT_METHOD:
        msg = f'payment_method must be "{PAYMENT_METHOD}".'
        raise InvalidValue(msg, field="payment_method")
    package_id = fields.get("package_id")
    # type(), not isinstance(): true is an int to Python, and 1.0 equals 1
    if type(package_id) is not int or not 0 < package_id <= _MAX_PACKAGE_ID:
        msg = "package_id must be the whole number of a package, like 1."
        raise InvalidValue(msg, field="package_id")
    return package_id


def parse_package_id(text: str) -> int:
    """Return the package id that a form's field holds.

    Raises:
        InvalidValue: not a whole number in plain digits.
    """
    if not (text.isascii() and text.isdigit() and 0 < len(text) <= 10):
        msg = "package_id must be the whole number of a package, like 1."
        raise InvalidValue(msg, field="package_id")
    return _package_id({"package_id": int(text)})
