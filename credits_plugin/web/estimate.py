"""``GET`` and ``POST estimate``: the upper bound of what a prompt or a whole chat can cost. Reserves nothing."""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from hookspecs import AIRequest

from ..errors import InvalidValue
from ..ledger.ids import account_key
from ..ledger.queries import account_balance
from .amounts import amount_json
from .body import MAX_CHAT_BYTES, read_json_object
from .identity import require_account
from .query import one_query_value
from .service import CREDITS

DEFAULT_MODEL: Final = "gpt-4o-mini"
"""What an estimate that names no model is made for; the answer says so."""
_MAX_NAME_LENGTH: Final = 200


async def estimate_prompt(request: web.Request) -> web.Response:
    """Answer with tokens and cost of ``prompt``, and whether the available credits cover it."""
    account_id = await require_account(request)
    prompt = one_query_value(request, "prompt")
    if prompt is None:
        msg = "prompt is missing: add ?prompt= and the text."
        raise InvalidValue(msg, field="prompt")
    asked = AIRequest(
        account_id=account_id,
        model=_model(one_query_value(request, "model")),
        messages=[{"role": "user", "content": prompt}],
        max_output_tokens=_limit("max_output_tokens", one_query_value(request, "max_output_tokens")),
    )
    return await _answer(request, asked)


async def estimate_chat(request: web.Request) -> web.Response:
    """Answer the same for the ``messages`` and ``tools`` of a body in the OpenAI chat format."""
    account_id = await require_account(request)
    fields = await read_json_object(request, limit=MAX_CHAT_BYTES)
    cache = fields.get("cache_control")
    if not isinstance(cache, dict | None):
        msg = 'cache_control must be an object, as in {"type": "ephemeral", "ttl": "1h"}.'
        raise InvalidValue(msg, field="cache_control")
    asked = AIRequest(
        account_id=account_id,
        model=_model(fields.get("model")),
        messages=_objects(fields, "messages"),
        tools=_objects(fields, "tools", default=[]),
        max_output_tokens=_limit_in(fields, "max_output_tokens"),
        max_tool_calls=_limit_in(fields, "max_tool_calls"),
        cache_control=cache,
    )
    return await _answer(request, asked)


async def _answer(request: web.Request, asked: AIRequest) -> web.Response:
    service = request.app[CREDITS]
    estimate = await service.estimate(asked)
    key = account_key(asked.account_id)
    balance = await service.reads.run(lambda database: account_balance(database, key))
    available = balance.available if balance else 0
    return web.json_response(
        {
            "success": True,
            "estimate": {
                "model": estimate.model,
                "input_tokens": estimate.input_tokens,
                "audio_input_tokens": estimate.audio_input_tokens,
                "input_tokens_are": "exact" if estimate.is_exact else "bound",
                "max_output_tokens": estimate.max_output_tokens,
                "tool_calls": dict(estimate.tool_calls),
                "cost": amount_json(estimate.cost_microcredits),
                "available": amount_json(available),
                "affordable": available >= estimate.cost_microcredits,
            },
        }
    )


def _model(name: object) -> str:
    if name is None or name == "":
        return DEFAULT_MODEL
    if not isinstance(name, str) or len(name) > _MAX_NAME_LENGTH:
        msg = f"model must be a name of at most {_MAX_NAME_LENGTH} characters."
        raise InvalidValue(msg, field="model")
    return name


def _objects(fields: dict[str, Any], name: str, *, default: list[Any] | None = None) -> list[dict[str, Any]]:
    objects = fields.get(name, default)
    if not isinstance(objects, list) or not all(isinstance(item, dict) for item in objects):
        msg = f"{name} must be a list of objects, as in the OpenAI chat format."
        raise InvalidValue(msg, field=name)
    return objects


def _limit_in(fields: dict[str, Any], name: str) -> int | None:
    # The digits of a JSON number: one rule for both routes, and true is no number.
    return _limit(name, None if fields.get(name) is None else repr(fields[name]))


def _limit(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) > 0):
        msg = f"{name} must be a whole number above 0."
        raise InvalidValue(msg, field=name)
    return int(text)
