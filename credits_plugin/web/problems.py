"""Errors as ``application/problem+json`` (RFC 9457) with a stable ``code``. HTTP statuses live here alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler

from hookspecs import Refusal, SpentBudget

from ..errors import (
    AccountInDebt,
    BudgetExceeded,
    CreditsError,
    DatabaseError,
    ForgedEvent,
    GatewayError,
    InsufficientCredits,
    InvalidValue,
    LedgerError,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    PaymentError,
    UnknownModel,
    public_message,
)
from ..ledger.ids import now_ms
from ..metering.refusals import refusal_of
from ..money import MICROCREDITS_PER_CREDIT, ceil_div
from .amounts import amount_json, time_json
from .body import BodyTooLarge, BodyTooSlow, UnsupportedMediaType
from .csrf import CrossSiteRequest, FormExpired
from .identity import Unauthenticated
from .service import CREDITS, PaymentsNotConfigured

logger = logging.getLogger(__name__)

CONTENT_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = 2

# The first class that matches counts, so subclasses stand before their bases.
_STATUSES: Final[tuple[tuple[type[CreditsError], int], ...]] = (
    (Unauthenticated, 401),
    (CrossSiteRequest, 403),
    (FormExpired, 403),
    (BodyTooSlow, 408),
    (BodyTooLarge, 413),
    (UnsupportedMediaType, 415),
    (InvalidValue, 400),
    (ForgedEvent, 400),
    (NotFound, 404),
    (UnknownModel, 422),
    (InsufficientCredits, 402),
    (AccountInDebt, 402),
    (BudgetExceeded, 402),
    (PaymentsNotConfigured, 503),
    (Overloaded, 503),
    (OutcomeUnknown, 503),
    (DatabaseError, 503),
    (PaymentError, 409),
    (LedgerError, 409),
)


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as a client may see it. ``extra`` are further members of the JSON object."""

    status: int
    code: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The status in words: ``Not Found``."""
        return HTTPStatus(self.status).phrase

    def to_json(self) -> dict[str, Any]:
        """Return the members of the problem object."""
        return {
            "type": f"urn:credits-plugin:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            "success": False,
            **self.extra,
        }


def problem_of(error: CreditsError, *, purchase_url: str) -> Problem:
    """Translate an error; nothing of its fields gets out but the figures of a 402 and the name of a bad field."""
    status = _status_of(error)
    detail = _sentence(public_message(error))
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else {}
    match error:
        case InsufficientCredits() | AccountInDebt() | BudgetExceeded():
            return _payment_required(refusal_of(error, purchase_url=purchase_url))
        case InvalidValue(fields={"field": str(name)}):
            return Problem(status, error.code, detail, headers, {"field": name})
        case _:
            return Problem(status, error.code, detail, headers)


def _sentence(message: str) -> str:
    """Return a message as its reader expects it: with a capital and a full stop, unless it starts with a name."""
    start = message[:1].upper() if " " in message and message.split(" ", maxsplit=1)[0].isalpha() else message[:1]
    return start + message[1:] + ("" if message.endswith((".", "!", "?")) else ".")


def _status_of(error: CreditsError) -> int:
    if isinstance(error, GatewayError):
        return 503 if error.retryable else 502
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)


def _payment_required(refusal: Refusal) -> Problem:
    """Return the 402 that tells a client what is missing, where to get it, and what to wait with."""
    needed, available = refusal.needed_microcredits, refusal.available_microcredits
    if refusal.budget is not None:
        detail = refusal.message
    elif refusal.code == AccountInDebt.code:
        detail = "The balance is below zero. Buy credits to go on."
    else:
        detail = f"This needs {_credits(needed)} credits, and {_credits(available)} are available."
    extra = {"needed": amount_json(needed), "available": amount_json(available), "purchase_url": refusal.purchase_url}
    if refusal.retry_token is not None:
        extra["retry_token"] = refusal.retry_token
    if refusal.budget is not None:
        extra["budget"] = _budget_json(refusal.budget)
    return Problem(402, refusal.code, detail, _retry_after(refusal.budget), extra)


def _budget_json(budget: SpentBudget) -> dict[str, Any]:
    limit = budget.limit_microcredits
    return {
        "kind": budget.kind,
        "name": budget.name,
        "period": budget.period,
        "limit": amount_json(limit) if limit is not None else None,
        "ends_at": time_json(budget.ends_at_ms),
        "paused": budget.is_paused,
    }


def _retry_after(budget: SpentBudget | None) -> dict[str, str]:
    # Waiting helps where the budget starts anew; a balance does not grow by itself.
    if budget is None or budget.ends_at_ms is None or budget.is_paused:
        return {}
    return {"Retry-After": str(max(ceil_div(budget.ends_at_ms - now_ms(), 1_000), 1))}


def _credits(microcredits: int) -> str:
    # Two digits are enough for a sentence; the exact figures stand beside it. Up, so that 0.001 is never shown as 0.
    hundredths = -(-microcredits * 100 // MICROCREDITS_PER_CREDIT)
    sign, hundredths = ("-", -hundredths) if hundredths < 0 else ("", hundredths)
    return f"{sign}{hundredths // 100:,}.{hundredths % 100:02d}"


def respond(problem: Problem) -> web.Response:
    """Return the problem as an HTTP response."""
    return web.json_response(
        problem.to_json(), status=problem.status, headers=dict(problem.headers), content_type=CONTENT_TYPE
    )


def refusal_response(refusal: Refusal) -> web.Response:
    """Return a host's answer to a refused AI request: 402 with the figures and the purchase link.

    A refusal that money cannot cure is another status: 401 where nobody is named who pays, 409 where the request's id
    is used, 422 where the model has no price or the route cannot be metered, 503 where the gate failed.
    """
    match refusal.code:
        case InsufficientCredits.code | AccountInDebt.code | BudgetExceeded.code:
            problem = _payment_required(refusal)
        case UnknownModel.code | InvalidValue.code | "not_metered":
            problem = Problem(422, refusal.code, refusal.message)
        case "request_id_reused" | "request_under_way":
            problem = Problem(409, refusal.code, refusal.message)
        case "unidentified":
            problem = Problem(401, refusal.code, refusal.message)
        case _:
            problem = Problem(503, refusal.code, refusal.message, {"Retry-After": str(RETRY_AFTER_S)})
    return respond(problem)


def problem_of_http(error: web.HTTPException) -> Problem:
    """Translate what aiohttp itself answers: no such route, wrong method."""
    code = HTTPStatus(error.status).name.lower()
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    return Problem(error.status, code, f"{HTTPStatus(error.status).phrase}.", headers)


UNEXPECTED: Final = Problem(500, "internal_error", "Something went wrong on our side. It has been recorded.")


def log_problem(request: web.Request, error: CreditsError, problem: Problem) -> None:
    """Record errors that an operator must act on; the caller's own mistakes are no news."""
    if problem.status >= 500:
        logger.error("%s %s failed: %s: %s", request.method, route_of(request), error.code, error.message)


def route_of(request: web.Request) -> str:
    """Return the route's template for the log; paths and queries carry session ids and prompts."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "(no route)"


@web.middleware
async def problem_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error of the API as a problem."""
    try:
        return await handler(request)
    except CreditsError as error:
        problem = problem_of(error, purchase_url=request.app[CREDITS].settings.purchase_url)
        log_problem(request, error, problem)
        return respond(problem)
    except web.HTTPException as error:
        return respond(problem_of_http(error))
    except ConnectionError:  # the client has gone; there is nobody to answer
        raise
    except Exception:  # the border: a bug becomes a 500 without a traceback for strangers, and one in the log
        logger.exception("%s %s failed unexpectedly", request.method, route_of(request))
        return respond(UNEXPECTED)
