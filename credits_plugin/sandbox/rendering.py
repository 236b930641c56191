"""Pages from templates: escaped, and under a policy that runs and loads nothing of a stranger's."""

from __future__ import annotations

import secrets
import time
from typing import Any

from aiohttp import web
from jinja2 import Environment, PackageLoader

from credits_plugin.sandbox.currencies import format_money

_templates = Environment(
    loader=PackageLoader("credits_plugin.sandbox"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
_templates.filters["money"] = format_money
_templates.filters["grouped"] = lambda number: " ".join(number[i : i + 4] for i in range(0, len(number), 4))
_templates.filters["date"] = lambda seconds: time.strftime("%B %d, %Y", time.gmtime(seconds))
_templates.filters["moment"] = lambda seconds: time.strftime("%H:%M:%S", time.gmtime(seconds))
_templates.filters["words"] = lambda name: name.replace("_", " ")


def render(template: str, *, status: int = 200, **context: Any) -> web.Response:
    """The page as an answer that no cache keeps."""
    nonce = secrets.token_urlsafe(12)
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; img-src data:; base-uri 'none'; "
        "frame-ancestors 'none'"
    )
    return web.Response(
        text=_templates.get_template(template).render(nonce=nonce, **context),
        status=status,
        content_type="text/html",
        headers={
            "Content-Security-Policy": policy,
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        },
    )
