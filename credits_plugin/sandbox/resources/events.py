"""`/v1/events`."""

from __future__ import annotations

from fnmatch import fnmatchcase

from credits_plugin.sandbox.call import Call, Route, list_route, page_of
from credits_plugin.sandbox.errors import StripeError, resource_missing
from credits_plugin.sandbox.params import boolean, created_filter, list_of, text
from credits_plugin.sandbox.store import Json

KEPT_S = 30 * 24 * 3600
"""How far back Stripe lists events."""


def retrieve(call: Call) -> Json:
    """One event of the last 30 days, with the snapshot it was sent with."""
    event = call.fetch("event", call.path["id"])
    if event["created"] < call.now - KEPT_S:
        raise resource_missing("event", event["id"])
    return event


def list_all(call: Call) -> Json:
    """Events of the last 30 days, newest first.

    `type` may be a pattern like `charge.*`; `delivery_success` means that no webhook is pending.
    """
    patterns = call.params.get("types")
    if patterns is not None and "type" in call.params:
        raise StripeError("You may only specify one of these parameters: type, types.")
    patterns = patterns or [call.params.get("type", "*")]
    delivered = call.params.get("delivery_success")
    return page_of(
        call,
        "event",
        where=lambda row: (
            row["created"] >= call.now - KEPT_S
            and any(fnmatchcase(row["type"], pattern) for pattern in patterns)
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
