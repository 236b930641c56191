"""What goes wrong on purpose: rules that the next matching events or requests meet, in the order of their making.

Rules live in the store, so they are taken with the change that they spoil, undone with it, and survive a restart.
"""

from __future__ import annotations

from enum import StrEnum
from fnmatch import fnmatchcase

from credits_plugin.sandbox.objects import new_id
from credits_plugin.sandbox.store import Json, Store


class EventFault(StrEnum):
    """What can happen to an event; the rule's `match` is a pattern over its type, like `charge.*`."""

    DUPLICATE = "duplicate"
    SECOND_EVENT = "second_event"
    DROP = "drop"
    NEVER_CREATED = "never_created"
    DELAY = "delay"
    HOLD = "hold"
    REORDER = "reorder"
    OLDER_VERSION = "older_version"
    NEWER_VERSION = "newer_version"
    WRONG_LIVEMODE = "wrong_livemode"
    BAD_SIGNATURE = "bad_signature"


class RequestFault(StrEnum):
    """What can happen to a request; the rule's `match` is a pattern over `METHOD /path`, like `POST /v1/refunds`."""

    RATE_LIMITED = "rate_limited"
    LOCKED = "locked"
    CONFLICT = "conflict"
    SERVER_ERROR = "server_error"
    HANG_UP = "hang_up"
    TIMEOUT = "timeout"
    ERROR_AFTER_EFFECT = "error_after_effect"
    ANSWER_LOST = "answer_lost"
    ANSWER_STALLED = "answer_stalled"


ABOUT: dict[EventFault | RequestFault, str] = {
    EventFault.DUPLICATE: "the event is delivered twice",
    EventFault.SECOND_EVENT: "a second event with its own id tells the same",
    EventFault.DROP: "the event is listed, but never delivered",
    EventFault.NEVER_CREATED: "the event does not exist at all, as happens at Stripe",
    EventFault.DELAY: "the event is delivered after some seconds",
    EventFault.HOLD: "the event waits until held events are released",
    EventFault.REORDER: "so many events are collected, then delivered last one first",
    EventFault.OLDER_VERSION: "the event has the shape of an older API version",
    EventFault.NEWER_VERSION: "the event has the shape of a newer API version",
    EventFault.WRONG_LIVEMODE: "the event claims to be of live mode",
    EventFault.BAD_SIGNATURE: "the event is signed with a wrong secret, each time",
    RequestFault.RATE_LIMITED: "429, nothing happened",
    RequestFault.LOCKED: "429 lock_timeout, nothing happened",
    RequestFault.CONFLICT: "409, as if the key were in use",
    RequestFault.SERVER_ERROR: "500, nothing happened",
    RequestFault.HANG_UP: "the connection breaks, nothing happened",
    RequestFault.TIMEOUT: "no answer ever comes, nothing happened",
    RequestFault.ERROR_AFTER_EFFECT: "500, although it happened",
    RequestFault.ANSWER_LOST: "it happened, then the connection breaks",
    RequestFault.ANSWER_STALLED: "it happened, half of the answer arrives",
}
"""Each fault in words, for the page and the documentation."""

KINDS = (*(fault.value for fault in EventFault), *(fault.value for fault in RequestFault))
EVERYTHING = "*"


def add_fault(
    store: Store, kind: str, *, match: str = EVERYTHING, times: int = 1, seconds: int = 60, size: int = 2
) -> Json:
    """Add a rule for the next `times` matches; `seconds` is for a delay, `size` for how many events are reordered."""
    scope = "event" if kind in set(EventFault) else "request"
    times = times * size if kind == EventFault.REORDER else times
    rule: Json = {
        "id": new_id("fault"), "scope": scope, "kind": kind, "match": match, "times": times, "seconds": seconds,
        "size": size,
    }  # fmt: skip
    store.put("fault", rule)
    return rule


def take_fault(store: Store, scope: str, name: str) -> Json | None:
    """The first rule that matches, one of its times used up; None for an undisturbed life."""
    fits = lambda rule: rule["scope"] == scope and fnmatchcase(name, rule["match"])  # noqa: E731 - the store's own shape
    rule = next(store.oldest_first("fault", fits), None)
    if rule is None:
        return None
    if rule["times"] > 1:
        store.put("fault", rule | {"times": rule["times"] - 1})
    else:
        store.drop("fault", rule["id"])
    return rule


def clear_faults(store: Store) -> None:
    """Forget all rules; events that are held stay so until they are released."""
    for rule in list(store.oldest_first("fault")):
        store.drop("fault", rule["id"])
