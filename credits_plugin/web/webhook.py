"""``POST webhook``: Stripe's events. No identity: the signature over the raw bytes is the only proof."""

from __future__ import annotations

from aiohttp import web

from ..payments.inbox import receive
from .body import MAX_WEBHOOK_BYTES, read_body
from .service import require_shop


async def receive_event(request: web.Request) -> web.Response:
    """Answer 200 after the event's work is committed, and never before; Stripe repeats everything else."""
    shop = require_shop(request)
    raw = await read_body(request, limit=MAX_WEBHOOK_BYTES)
    await receive(shop, raw, request.headers.get("stripe-signature", ""))
    return web.json_response({"success": True, "received": True})
