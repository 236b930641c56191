"""``GET openapi.json``: the API's description, made from the settings; a test compares it with the routes."""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from .service import CREDITS

VERSION: Final = "1"


async def describe_api(request: web.Request) -> web.Response:
    """Answer with the OpenAPI 3.1 document. Public: it holds nothing of anybody."""
    return web.json_response(document(request.app[CREDITS].settings.prefix))


def document(server: str) -> dict[str, Any]:
    """Return the OpenAPI document of an API that is mounted at ``server``."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Credits",
            "version": VERSION,
            "description": "Prepaid credits: packages, purchases, balance and history of the signed-in account. "
            "The host decides who is signed in. Amounts come as exact integers of microcredits (10^-6 credit) and as "
            "decimal strings of credits; ids of 63 bits are strings. Errors are RFC 9457 problems with a stable code.",
        },
        "servers": [{"url": server}],
        "paths": _PATHS,
        "components": {"schemas": _SCHEMAS},
    }


def _object(properties: dict[str, Any], *, optional: tuple[str, ...] = ()) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def _answer(properties: dict[str, Any]) -> dict[str, Any]:
    return _object({"success": {"const": True}, **properties})


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _list_of(name: str) -> dict[str, Any]:
    return {"type": "array", "items": _ref(name)}


_STRING: Final = {"type": "string"}
_INTEGER: Final = {"type": "integer"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_TIME: Final = {"type": "string", "format": "date-time"}
_CURRENCY: Final = {"type": "string", "pattern": "^[a-z]{3}$"}
_LONG_ID: Final = {"type": "string", "pattern": "^[0-9]{1,19}$"}

_SCHEMAS: Final[dict[str, Any]] = {
    "Amount": _object({"microcredits": _INTEGER, "credits": {"type": "string", "pattern": r"^-?\d+(\.\d{1,6})?$"}}),
    "Problem": _object(
        {
            "type": _STRING,
            "title": _STRING,
            "status": _INTEGER,
            "code": {"type": "string", "pattern": "^[a-z_]+$"},
            "detail": _STRING,
            "success": {"const": False},
            "field": _STRING,
            "needed": _ref("Amount"),
            "available": _ref("Amount"),
            "purchase_url": _nullable(_STRING),
            "retry_token": _STRING,
            "budget": _object(
                {
                    "kind": {"enum": ["account", "member", "key", "run"]},
                    "name": _STRING,
                    "period": {"enum": ["day", "month", "none"]},
                    "limit": _nullable(_ref("Amount")),
                    "ends_at": _nullable(_TIME),
                    "paused": {"type": "boolean"},
                }
            ),
        },
        optional=("field", "needed", "available", "purchase_url", "retry_token", "budget"),
    ),
    "Package": _object(
        {
            "id": _INTEGER,
            "name": _STRING,
            "credits": _INTEGER,
            "amount": _ref("Amount"),
            "price_minor": {"type": "integer", "description": "in the currency's minor unit"},
            "currency": _CURRENCY,
            "price": {"type": "string", "description": "for people"},
            "valid_days": {
                "type": ["integer", "null"],
                "minimum": 1,
                "description": "The credits expire so many days after they were granted; null: never.",
            },
        }
    ),
    "Session": _object(
        {
            "id": _STRING,
            "payment_status": {"enum": ["paid", "unpaid", "no_payment_required"]},
            "customer_email": _nullable(_STRING),
            "amount_total": _INTEGER,
            "currency": _CURRENCY,
            "metadata": _object({"user_id": _STRING, "package_id": _STRING, "credits": _STRING}),
            "payment_intent": _nullable(_STRING),
        }
    ),
    "Usage": _object(
        {"input": _COUNT, "cache_read": _COUNT, "cache_write": _COUNT, "output": _COUNT, "reasoning": _COUNT}
    ),
    "PaymentMetadata": _object(
        {
            "provider": {"const": "stripe"},
            "package_id": _INTEGER,
            "package_name": _STRING,
            "session_id": _nullable(_STRING),
            "customer_email": _nullable(_STRING),
            "amount_total": _INTEGER,
            "currency": _CURRENCY,
        }
    ),
    "Transaction": _object(
        {
            "id": _LONG_ID,
            "type": _STRING,
            "amount": _ref("Amount"),
            "balance_after": _ref("Amount"),
            "created_at": _TIME,
            "expires_at": _nullable(_TIME),
            "reference": _nullable(_STRING),
            "model": _nullable(_STRING),
            "usage": _nullable(_ref("Usage")),
            "payment_id": _nullable(_STRING),
            "metadata": _nullable(_ref("PaymentMetadata")),
        }
    ),
    "Estimate": _object(
        {
            "model": _STRING,
            "input_tokens": _COUNT,
            "audio_input_tokens": _COUNT,
            "input_tokens_are": {"enum": ["exact", "bound"]},
            "max_output_tokens": _COUNT,
            "tool_calls": {"type": "object", "additionalProperties": _COUNT},
            "cost": _ref("Amount"),
            "available": _ref("Amount"),
            "affordable": {"type": "boolean"},
        }
    ),
}

_PROBLEMS: Final = {
    "400": "A value is missing or wrong; `field` names it.",
    "401": "The host names no account for the request.",
    "403": "The request came from another site.",
    "404": "It does not exist, or is not the caller's; both look the same.",
    "413": "The body is too large; it was not looked at.",
    "415": "The content type is not the one this route takes.",
    "422": "No price is known for the model.",
    "502": "The payment provider refused.",
    "503": "Try again after `Retry-After` seconds.",
}


def _operation(name: str, summary: str, answer: dict[str, Any], problems: str, **more: Any) -> dict[str, Any]:
    responses: dict[str, Any] = {
        "200": {"description": "Done.", "content": {"application/json": {"schema": answer}}},
    }
    for status in problems.split():
        content = {"application/problem+json": {"schema": _ref("Problem")}}
        responses[status] = {"description": _PROBLEMS[status], "content": content}
    return {"operationId": name, "summary": summary, "responses": responses, **more}


def _parameter(name: str, *, place: str = "query", required: bool = False, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": place, "required": required, "schema": {"type": "string", **schema}}


def _json_body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


_PURCHASE: Final = _object(
    {"package_id": {"type": "integer", "minimum": 1}, "payment_method": {"const": "stripe"}},
    optional=("payment_method",),
)

_OBJECTS: Final = {"type": "array", "items": {"type": "object"}}
_CHAT: Final = _object(
    {
        "messages": _OBJECTS,
        "model": _STRING,
        "tools": _OBJECTS,
        "max_output_tokens": {"type": "integer", "minimum": 1},
        "max_tool_calls": {"type": "integer", "minimum": 1},
        "cache_control": {"type": "object"},
    },
    optional=("model", "tools", "max_output_tokens", "max_tool_calls", "cache_control"),
)

_PATHS: Final[dict[str, Any]] = {
    "/purchase": {
        "post": _operation(
            "createPurchase",
            "Start a Stripe Checkout for a package; follow payment_url to pay.",
            _answer({"message": _STRING, "payment_url": _STRING}),
            "400 401 403 404 413 415 502 503",
            requestBody=_json_body(_PURCHASE),
        )
    },
    "/webhook": {
        "post": _operation(
            "receiveStripeEvent",
            "Stripe's signed events. Needs no account; answers 200 only after the work is committed.",
            _answer({"received": {"const": True}}),
            "400 413 502 503",
            parameters=[_parameter("stripe-signature", place="header", required=True)],
            requestBody=_json_body({"type": "object"}),
        )
    },
    "/session/{id}": {
        "get": _operation(
            "getSession",
            "A Checkout Session of the caller's own.",
            _answer({"session": _ref("Session")}),
            "401 404 502 503",
            parameters=[_parameter("id", place="path", required=True)],
        )
    },
    "/estimate": {
        "get": _operation(
            "estimatePrompt",
            "The upper bound of what a prompt can cost; reserves nothing.",
            _answer({"estimate": _ref("Estimate")}),
            "400 401 422 503",
            parameters=[
                _parameter("prompt", required=True),
                _parameter("model"),
                _parameter("max_output_tokens", type="integer", minimum=1),
            ],
        ),
        "post": _operation(
            "estimateChat",
            "The upper bound of what a chat in the OpenAI format can cost; reserves nothing. At most 1 MB.",
            _answer({"estimate": _ref("Estimate")}),
            "400 401 413 415 422 503",
            requestBody=_json_body(_CHAT),
        ),
    },
    "/packages": {
        "get": _operation("listPackages", "What is sold.", _answer({"packages": _list_of("Package")}), "401")
    },
    "/balance": {
        "get": _operation(
            "getBalance",
            "Balance, what running requests hold of it, and what is available.",
            _answer(
                {
                    "balance": _ref("Amount"),
                    "held": _ref("Amount"),
                    "available": _ref("Amount"),
                    "next_expiry_at": _nullable(_TIME),
                }
            ),
            "401 503",
        )
    },
    "/transactions": {
        "get": _operation(
            "listTransactions",
            "The account's history, newest first.",
            _answer(
                {
                    "transactions": _list_of("Transaction"),
                    "next_cursor": _nullable(_LONG_ID),
                    "archived": {
                        "type": "integer",
                        "minimum": 0,
                        "description": "How many of the account's oldest transactions were archived: no page has them.",
                    },
                }
            ),
            "400 401 503",
            parameters=[_parameter("cursor", pattern="^[0-9]{1,19}$")],
        )
    },
    "/retry/{token}": {
        "get": _operation(
            "awaitRetry",
            "Wait until a refused request of the caller's own can be afforded; then send it again. Reserves nothing.",
            _answer(
                {
                    "retry": _object(
                        {"affordable": {"type": "boolean"}, "needed": _ref("Amount"), "available": _ref("Amount")}
                    )
                }
            ),
            "400 401 404 503",
            parameters=[
                _parameter("token", place="path", required=True),
                _parameter("wait_s", type="integer", minimum=0, maximum=30),
            ],
        )
    },
    "/openapi.json": {"get": _operation("describeApi", "This document.", {"type": "object"}, "")},
}
