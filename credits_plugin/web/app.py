"""The API and the pages as aiohttp sub-applications, and the host's one line that mounts both.

Where a host authenticates application-wide, it must spare ``{prefix}/webhook``: Stripe has no session there.
"""

from __future__ import annotations

import logging
from typing import Any, Final

import pluggy
from aiohttp import web

from ..errors import ConfigurationError
from .account import list_transactions, show_balance
from .estimate import estimate_chat, estimate_prompt
from .headers import API_POLICY, security_headers
from .openapi import describe_api
from .packages import list_packages
from .pages import create_pages
from .problems import problem_middleware
from .purchase import create_purchase
from .retry import await_retry
from .service import CREDITS, PAGES, RESOLVE_ACCOUNT, CreditsService, ResolveAccount
from .sessions import show_session
from .webhook import receive_event

__all__ = ["CreditsService", "ResolveAccount", "create_app", "create_pages", "mount"]

_MOUNTED: Final = web.AppKey("credits_mounted", bool)

logger = logging.getLogger(__name__)


def create_app(credits: CreditsService, resolve_account: ResolveAccount) -> web.Application:
    """Return the JSON API, to be mounted at ``settings.prefix``; it carries the pages along for :func:`mount`.

    ``resolve_account(request)`` is the only source of identity; None means 401.
    """
    app = web.Application(middlewares=[problem_middleware])
    app[CREDITS] = credits
    app[RESOLVE_ACCOUNT] = resolve_account
    app[PAGES] = create_pages(credits, resolve_account)
    security_headers(app, policy=API_POLICY)
    app.on_shutdown.append(_let_go)
    app.add_routes(
        [
            web.post("/purchase", create_purchase),
            web.post("/webhook", receive_event),
            web.get("/session/{id}", show_session, allow_head=False),
            web.get("/estimate", estimate_prompt, allow_head=False),
            web.post("/estimate", estimate_chat),
            web.get("/packages", list_packages, allow_head=False),
            web.get("/balance", show_balance, allow_head=False),
            web.get("/transactions", list_transactions, allow_head=False),
            web.get("/retry/{token}", await_retry, allow_head=False),
            web.get("/openapi.json", describe_api, allow_head=False),
        ]
    )
    return app


async def _let_go(app: web.Application) -> None:
    """Answer those who wait for credits: the server is about to wait for them."""
    app[CREDITS].parking.close()


def mount(app: web.Application, plugin_manager: pluggy.PluginManager) -> None:
    """Mount the API and the pages that the host's plugins provide; call it before ``runner.setup()`` or ``run_app``.

    Raises:
        ConfigurationError: the application is frozen already, no plugin provides ours, or it was mounted before.
    """
    if app.frozen:
        msg = "the application is frozen: mount the credits before the runner is set up (before run_app)"
        raise ConfigurationError(msg)
    provided = [provides for provides in plugin_manager.hook.provide_web_app() if provides is not None]
    ours = [provides for provides in provided if _is_ours(provides)]
    if not ours:
        msg = "no plugin provides the credits' web application: register CreditsPlugin before mount()"
        raise ConfigurationError(msg)
    if len(provided) > len(ours):
        logger.warning("%d web applications of other plugins were not mounted", len(provided) - len(ours))
    if _MOUNTED in app or len(ours) > 1:
        msg = "the credits' web application is mounted already, or two plugins provide it; mount one, once"
        raise ConfigurationError(msg)
    app[_MOUNTED] = True
    _mount_one(app, ours[0])


def _is_ours(provided: Any) -> bool:
    return isinstance(provided, web.Application) and PAGES in provided


def _mount_one(app: web.Application, api: web.Application) -> None:
    settings = api[CREDITS].settings
    parts = ((settings.prefix, api), (settings.pages_prefix, api[PAGES]))
    # The longer prefix first, so that one may lie below the other.
    for prefix, part in sorted(parts, key=lambda item: len(item[0]), reverse=True):
        app.add_subapp(prefix, part)
