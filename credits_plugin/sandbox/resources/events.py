"""`/v1/events`."""

from __future__ import annotations

from fnmatch import fnmatchcase

from credits_plugin.sandbox.call import Call, Route, list_route, page_of
from credits_plugin.sandbox.errors import StripeError
from credits_plugin.sandbox.params import boolean, created_filter, list_of, text
from credits_plugin.sandbox.store import Json


def retrieve(call: Call) -> Json:
    """One event, with the snapshot it was sent with."""
    return call.fetch("event", call.path["id"])


def list_all(call: Call) -> Json:
    """Events, newest first; `type` may be a pattern like `charge.*`, `delivery_success` means no webhook is pending."""
    patterns = call.params.get("types")
    if patterns is not None and "type" in call.params:
        raise StripeError("You may only specify one of these parameters: type, types.")
    patterns = patterns or [call.params.get("type", "*")]
    delivered = call.params.get("delivery_success")
    return page_of(
        call,
        "event",
        where=lambda row: (
            any(fnmatchcase(row["type"], pattern) for pattern in patterns)
            and (delivered is None or (row["pending_webhooks"] == 0) == delivered)
        ),
    )


ROUTES = (
    list_route(
        "/v1/events", list_all, type=text(), types=list_of(text(), maximum=20), created=created_filter(),
        delivery_success=boolean(),
    ),
    Route("GET", "/v1/events/{id}", retrieve),
)  # fmt: skip
