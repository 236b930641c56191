"""The pages: balance, packages and history; the way to Stripe and back. Everything works without JavaScript."""

from __future__ import annotations

import logging
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler
from yarl import URL

from ..errors import CreditsError
from ..ledger.ids import account_key, now_ms
from ..ledger.queries import account_balance, lot_expiries
from ..money import format_money
from ..payments.checkout import start_purchase
from ..payments.packages import Package
from .body import read_form
from .csrf import form_key, make_token, require_own_origin, require_token
from .headers import checkout_origins, page_policy, security_headers
from .history import history_page
from .identity import require_account
from .packages import packages_for_sale
from .problems import UNEXPECTED, Problem, log_problem, problem_of, problem_of_http, route_of
from .purchase import parse_package_id
from .query import cursor_of, one_query_value
from .rendering import STATIC, Site, render, site_of
from .service import CREDITS, RESOLVE_ACCOUNT, CreditsService, ResolveAccount, require_shop
from .sessions import own_session
from .statement import balance_view, history_view
from .success import success_view

logger = logging.getLogger(__name__)

_SITE: Final = web.AppKey("site", Site)
_FORM_KEY: Final = web.AppKey("form_key", bytes)
_CHECKOUT_ORIGINS: Final = web.AppKey[frozenset[str]]("checkout_origins")


def create_pages(credits: CreditsService, resolve_account: ResolveAccount) -> web.Application:
    """Return the pages, to be mounted at ``settings.pages_prefix``."""
    settings = credits.settings
    app = web.Application(middlewares=[error_pages])
    app[CREDITS] = credits
    app[RESOLVE_ACCOUNT] = resolve_account
    app[_SITE] = site_of(settings)
    app[_FORM_KEY] = form_key(settings)
    app[_CHECKOUT_ORIGINS] = checkout_origins(settings.stripe_api_base)
    policy = page_policy(checkout_origins=app[_CHECKOUT_ORIGINS])
    security_headers(app, policy=policy, kept_routes={"static": "public, max-age=86400"})
    app.add_routes(
        [
            web.get("", show_account, allow_head=False),
            web.get("/", show_account, allow_head=False),
            web.post("/purchase", submit_purchase),
            web.get("/success", show_success, allow_head=False),
            web.get("/cancel", show_cancel, allow_head=False),
            web.static("/static", STATIC, name="static"),
        ]
    )
    return app


async def show_account(request: web.Request) -> web.Response:
    """Show the balance, what can be bought, and a page of the history."""
    account_id = await require_account(request)
    key, cursor = account_key(account_id), cursor_of(request)
    reads = request.app[CREDITS].reads
    balance, page = await reads.run(
        lambda database: (account_balance(database, key), history_page(database, key, before_seq=cursor))
    )
    return _page(
        request,
        "account.html",
        balance=balance_view(balance),
        packages=_package_views(packages_for_sale(request)),
        token=make_token(request.app[_FORM_KEY], account_id=account_id, at_s=now_ms() // 1000),
        history=history_view(page, is_first=cursor is None),
    )


async def submit_purchase(request: web.Request) -> web.StreamResponse:
    """Start a Checkout from the page's form and lead on to Stripe."""
    account_id = await require_account(request)
    require_own_origin(request, request.app[CREDITS].settings)
    fields = await read_form(request)
    token = fields.get("token", "")
    require_token(request.app[_FORM_KEY], token, account_id=account_id, at_s=now_ms() // 1000)
    package_id = parse_package_id(fields.get("package_id", ""))
    purchase = await start_purchase(require_shop(request), account_id=account_id, package_id=package_id, email=None)
    if str(URL(purchase.payment_url).origin()) in request.app[_CHECKOUT_ORIGINS]:
        return web.Response(status=303, headers={"Location": purchase.payment_url})
    # A payment page on a domain of the shop's own: form-action would stop the redirect, a page in between does not.
    return _page(request, "continue.html", payment_url=purchase.payment_url)


async def show_success(request: web.Request) -> web.Response:
    """Show the receipt of the caller's own session, or that the payment is still on its way."""
    session = await own_session(request, one_query_value(request, "session_id") or "")
    payment = session.payment
    key, grants = payment.account_id, [] if payment.grant_transfer_id is None else [payment.grant_transfer_id]
    balance, expiries = await request.app[CREDITS].reads.run(
        lambda database: (account_balance(database, key), lot_expiries(database, key, grants))
    )
    expires_at_ms = next(iter(expiries.values()), None)
    return _page(request, "success.html", **success_view(payment, balance, expires_at_ms=expires_at_ms))


async def show_cancel(request: web.Request) -> web.Response:
    """Tell a buyer who came back that nothing was charged. Says nothing personal, so it asks for no identity."""
    return _message(
        request,
        heading="Purchase cancelled",
        explanation="Nothing was charged. Your credits are as they were.",
    )


def _package_views(packages: list[Package]) -> list[dict[str, Any]]:
    """Return the cards; a saving is measured against the smallest package of the same currency, rounded down.

    ``validity`` is said of all packages where one of them expires, and of none where none does.
    """
    some_expire = any(package.valid_days for package in packages)
    base: dict[str, Package] = {}
    for package in packages:
        base.setdefault(package.currency, package)
    return [
        {
            "id": package.id,
            "name": package.name,
            "credits": f"{package.credits:,}",
            "price": format_money(package.price_minor, package.currency),
            "validity": _validity(package) if some_expire else "",
            "saving": _saving_percent(package, base[package.currency]),
        }
        for package in packages
    ]


def _validity(package: Package) -> str:
    if package.valid_days is None:
        return "never expire"
    return f"valid for {package.valid_days:,} day{'s' if package.valid_days > 1 else ''}"


def _saving_percent(package: Package, base: Package) -> int:
    full_price = base.price_minor * package.credits  # over base.credits, as is the package's price below
    return max(100 * (full_price - package.price_minor * base.credits) // full_price, 0)


def _page(request: web.Request, template: str, **values: Any) -> web.Response:
    return render(template, site=request.app[_SITE], **values)


def _message(
    request: web.Request, *, heading: str, explanation: str, status: int = 200, to_host: bool = False
) -> web.Response:
    site = request.app[_SITE]
    link, link_text = (site.host_url, "Go to the app") if to_host else (site.home, "Back to your credits")
    return render(
        "message.html",
        site=site,
        status=status,
        heading=heading,
        explanation=explanation,
        link=link,
        link_text=link_text,
    )


_HEADINGS: Final = {
    401: "Please sign in",
    403: "Please try again",
    404: "Page not found",
    503: "Please try again in a moment",
}
_EXPLANATIONS: Final = {401: "Sign in to the app first; your credits are shown to you alone."}


def _error_page(request: web.Request, problem: Problem) -> web.Response:
    answer = _message(
        request,
        heading=_HEADINGS.get(problem.status, "That did not work"),
        explanation=_EXPLANATIONS.get(problem.status, problem.detail),
        status=problem.status,
        to_host=problem.status == 401,
    )
    answer.headers.update(problem.headers)
    return answer


@web.middleware
async def error_pages(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error of the pages as a page."""
    try:
        return await handler(request)
    except CreditsError as error:
        problem = problem_of(error, purchase_url=request.app[CREDITS].settings.purchase_url)
        log_problem(request, error, problem)
        return _error_page(request, problem)
    except web.HTTPException as error:
        return _error_page(request, problem_of_http(error))
    except ConnectionError:  # the client has gone; there is nobody to answer
        raise
    except Exception:  # the border: a bug becomes a 500 without a traceback for strangers, and one in the log
        logger.exception("%s %s failed unexpectedly", request.method, route_of(request))
        return _error_page(request, UNEXPECTED)
