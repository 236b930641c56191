"""``GET estimate``: the upper bound of what a prompt can cost. Reserves nothing."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from hookspecs import AIRequest

from ..errors import InvalidValue
from ..ledger.ids import account_key
from ..ledger.queries import account_balance
from .amounts import amount_json
from .identity import require_account
from .query import one_query_value
from .service import CREDITS

DEFAULT_MODEL: Final = "gpt-4o-mini"
"""What an estimate that names no model is made for; the answer says so."""
_MAX_NAME_LENGTH: Final = 200


async def estimate_prompt(request: web.Request) -> web.Response:
    """Answer with tokens and cost of ``prompt``, and whether the available credits cover it."""
    account_id = await require_account(request)
    service = request.app[CREDITS]
    estimate = await service.estimate(_request_of(request, account_id))
    key = account_key(account_id)
    balance = await service.reads.run(lambda database: account_balance(database, key))
    available = balance.available if balance else 0
    return web.json_response(
        {
            "success": True,
            "estimate": {
                "model": estimate.model,
                "input_tokens": estimate.input_tokens,
                "max_output_tokens": estimate.max_output_tokens,
                "cost": amount_json(estimate.cost_microcredits),
                "available": amount_json(available),
                "affordable": available >= estimate.cost_microcredits,
            },
        }
    )


def _request_of(request: web.Request, account_id: str) -> AIRequest:
    prompt = one_query_value(request, "prompt")
    if prompt is None:
        msg = "prompt is missing: add ?prompt= and the text."
        raise InvalidValue(msg, field="prompt")
    model = one_query_value(request, "model") or DEFAULT_MODEL
    if len(model) > _MAX_NAME_LENGTH:
        msg = f"model must have at most {_MAX_NAME_LENGTH} characters."
        raise InvalidValue(msg, field="model")
    return AIRequest(
        account_id=account_id,
        model=model,
        messages=[{"role": "user", "content": prompt}],
        max_output_tokens=_max_output_tokens(one_query_value(request, "max_output_tokens")),
    )


def _max_output_tokens(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) > 0):
        msg = "max_output_tokens must be a whole number above 0."
        raise InvalidValue(msg, field="max_output_tokens")
    return int(text)
