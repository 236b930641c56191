"""litellm's proxy with prepaid credits: what litellm_proxy.yaml beside this file loads.

    OPENAI_BASE_URL=http://127.0.0.1:9999/v1 OPENAI_API_KEY=none CREDITS_SETTINGS=examples/credits.toml \\
        litellm --config examples/litellm_proxy.yaml --port 4000
"""

from __future__ import annotations

import hmac
import os
from typing import Final

from fastapi import Request
from litellm.proxy._types import UserAPIKeyAuth

from credits_plugin import build, load_settings
from credits_plugin.adapters.litellm_proxy import MeteredProxy

KEYS: Final = {"sk-ann": "ann", "sk-bob": "bob"}
"""Demo keys and whose they are. With litellm's own keys leave `custom_auth` out: a key's team or user pays."""


async def authenticate(request: Request, api_key: str) -> UserAPIKeyAuth:  # noqa: ARG001 - litellm's signature
    """Return whose key this is.

    Raises:
        ValueError: nobody's.
    """
    for key, user in KEYS.items():
        if hmac.compare_digest(key.encode(), api_key.encode()):
            return UserAPIKeyAuth(api_key=key, user_id=user)
    msg = "this key is not known"
    raise ValueError(msg)


# DATABASE_URL is litellm's own in its process.
metered_proxy = MeteredProxy(build(load_settings({**os.environ, "DATABASE_URL": os.environ["CREDITS_DATABASE_URL"]})))
