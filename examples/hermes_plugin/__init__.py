"""hermes with prepaid credits: copy this folder to ``$HERMES_HOME/plugins/accounts`` and enable both plugins there.

    # config.yaml
    plugins: {enabled: [accounts, credits]}
    auxiliary: {title_generation: {enabled: false}}  # auxiliary calls are not metered, see docs/hosts.md

``credits`` is the installed adapter; this plugin tells it who pays. Users send their token to hermes' API server as the
API key of any OpenAI client; hermes' own key stays its operator's.
"""

from __future__ import annotations

import hmac
from typing import Any, Final

from aiohttp import web

from credits_plugin import build, load_settings
from credits_plugin.adapters import Payer, hermes

TOKENS: Final = {"token-of-ann": "ann", "token-of-bob": "bob"}
"""Demo tokens and whose they are; yours come from where your users sign in."""


def payer_of_token(request: web.Request) -> Payer | None:
    """Name who pays for a request to the API server: the token's owner, whatever the body says."""
    given = request.headers.get("Authorization", "").removeprefix("Bearer ").encode(errors="surrogateescape")
    return next((Payer(user) for token, user in TOKENS.items() if hmac.compare_digest(token.encode(), given)), None)


def payer_of_chat(session: hermes.Session) -> Payer | None:
    """Name who pays for a turn from Telegram and the like: the sender, whom the platform has authenticated."""
    return Payer(f"{session.platform}:{session.user_id}") if session.user_id else None


def register(_context: Any) -> None:
    """Be loaded by hermes."""
    service = build(load_settings())
    hermes.plugin.configure(service, identify_request=payer_of_token, identify_session=payer_of_chat)
