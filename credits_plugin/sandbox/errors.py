"""Stripe's error envelope, and the errors that more than one noun raises."""

from __future__ import annotations

from typing import Any

DECLINED_BY_CARD = "card_error"
INVALID_REQUEST = "invalid_request_error"
IDEMPOTENCY = "idempotency_error"


class StripeError(Exception):
    """An answer that is not a success.

    `keeps_changes` marks the ones that leave a trace (a declined payment creates a failed charge); all others undo what
    the request had changed. `details` are the further members of the `error` object.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = INVALID_REQUEST,
        code: str | None = None,
        param: str | None = None,
        details: dict[str, Any] | None = None,
        keeps_changes: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.kind = kind
        self.code = code
        self.param = param
        self.details = details or {}
        self.keeps_changes = keeps_changes

    def body(self, request_id: str | None) -> dict[str, Any]:
        """The `{"error": {…}}` object as Stripe words it."""
        error: dict[str, Any] = {**self.details, "message": self.message, "type": self.kind}
        if self.code:
            error |= {
                "code": self.code,
                "doc_url": f"https://stripe.com/docs/error-codes/{self.code.replace('_', '-')}",
            }
        if self.param is not None:
            error["param"] = self.param
        if request_id:
            error["request_log_url"] = f"https://dashboard.stripe.com/test/logs/{request_id}"
        return {"error": dict(sorted(error.items()))}


def resource_missing(noun: str, object_id: str, *, param: str = "id", status: int = 404) -> StripeError:
    """404 for an id in the path; pass 400 for an id that came as a parameter."""
    return StripeError(f"No such {noun}: '{object_id}'", status=status, code="resource_missing", param=param)


def parameter_missing(param: str) -> StripeError:
    """400 for a required parameter that is absent."""
    return StripeError(f"Missing required param: {param}.", code="parameter_missing", param=param)


def parameter_unknown(param: str) -> StripeError:
    """400 for a parameter the endpoint does not have in this API version."""
    return StripeError(f"Received unknown parameter: {param}", code="parameter_unknown", param=param)


def unsupported_parameter(param: str) -> StripeError:
    """400 for a parameter that Stripe takes and the sandbox does not; nothing is ever ignored in silence."""
    return StripeError(f"Stripe takes this parameter, but the sandbox does not support it: {param}", param=param)


def unsupported_value(param: str, value: str) -> StripeError:
    """400 for a value that Stripe takes and the sandbox does not."""
    return StripeError(f"Stripe takes this value, but the sandbox does not support it: {param}={value}", param=param)


def unrecognized_url(method: str, path: str) -> StripeError:
    """404 for a path that is not an endpoint of the sandbox."""
    return StripeError(
        f"Unrecognized request URL ({method}: {path}). Please see https://stripe.com/docs or we can help at "
        "https://support.stripe.com/.",
        status=404,
    )
