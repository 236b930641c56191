"""What a handler is given: the parsed request, the store, the time, and the means to emit events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from credits_plugin.sandbox.errors import resource_missing
from credits_plugin.sandbox.objects import API_VERSION, new_id
from credits_plugin.sandbox.outgoing import send_event
from credits_plugin.sandbox.params import EXPAND, PAGING, Spec
from credits_plugin.sandbox.store import Json, Store


@dataclass(frozen=True, slots=True)
class Cause:
    """The API request that an event names as its origin; both None for what happens on its own."""

    request_id: str | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One request (or one step of the hosted page, or of the clock) inside an open transaction of the store."""

    store: Store
    now: int
    base_url: str
    merchant_name: str
    endpoint_ids: tuple[str, ...]
    tax_percent: int = 20
    bank_debits: bool = True
    cause: Cause = Cause()
    params: Json = field(default_factory=dict)
    path: Mapping[str, str] = field(default_factory=dict)

    def fetch(self, kind: str, object_id: str, *, param: str = "id", status: int = 404) -> Json:
        """The object, or Stripe's `resource_missing` (404 for the path; pass 400 for ids in parameters)."""
        found = self.store.get(kind, object_id)
        if found is None:
            raise resource_missing(NOUNS.get(kind, kind), object_id, param=param, status=status)
        return found

    def fetch_named(self, kind: str, param: str) -> Json | None:
        """The object that a parameter names; None when the parameter is absent."""
        object_id = self.params.get(param)
        return None if object_id is None else self.fetch(kind, object_id, param=param, status=400)

    def emit(self, event_type: str, obj: Json, *, previous: Json | None = None) -> None:
        """Record an event with a snapshot of `obj`, and a delivery for each webhook endpoint."""
        data: Json = {"object": obj} if previous is None else {"object": obj, "previous_attributes": previous}
        event: Json = {
            "id": new_id("evt"),
            "object": "event",
            "api_version": API_VERSION,
            "created": self.now,
            "data": data,
            "livemode": False,
            "pending_webhooks": len(self.endpoint_ids),
            "request": {"id": self.cause.request_id, "idempotency_key": self.cause.idempotency_key},
            "type": event_type,
        }
        send_event(self.store, event, self.endpoint_ids)

    def schedule(self, action: str, object_id: str, *, due_at: int) -> None:
        """Have `action` (see `resources.DUE_WORK`) done to the object at a time; replaces an earlier time."""
        job = {"id": f"{action}.{object_id}", "action": action, "object_id": object_id, "due_at": due_at}
        self.store.put("job", job)

    def unschedule(self, action: str, object_id: str) -> None:
        """Forget scheduled work that may be there."""
        self.store.drop("job", f"{action}.{object_id}")

    def save(self, obj: Json) -> Json:
        """Put an object under its own kind; returns a copy, so that no two answers share a nested value."""
        self.store.put(obj["object"], obj)
        return deepcopy(obj)

    def update(self, obj: Json, changes: Json, *, event_type: str | None = None) -> Json:
        """Save the object with `changes`; emit the event with `previous_attributes` if anything is different."""
        previous = {name: obj.get(name) for name, value in changes.items() if obj.get(name) != value}
        updated = self.save({**obj, **changes})
        if previous and event_type:
            self.emit(event_type, updated, previous=previous)
        return updated


NOUNS = {
    "checkout.session": "checkout.session",
    "payment_method": "PaymentMethod",
    "payment_intent": "payment_intent",
    "event": "event",
}
"""How Stripe words a kind in `No such …`, where that differs from the kind's name."""

DEFAULT_LIMIT = 10

Handler = Callable[[Call], Json]


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint. The handler runs without awaiting, inside a transaction; `path` uses aiohttp's `{name}`."""

    method: str
    path: str
    handler: Handler
    params: Spec = field(default_factory=dict)

    @property
    def spec(self) -> Spec:
        """The accepted parameters, `expand` included."""
        return {**EXPAND, **self.params}


def page_of(
    call: Call,
    kind: str,
    *,
    where: Callable[[Json], bool] = lambda _: True,
    present: Callable[[Json], Json] | None = None,
) -> Json:
    """A list object, newest first, cut by `limit`, `starting_after`, `ending_before` and the `created` filter.

    A cursor keeps its place in time even when the filter no longer matches it (an event that was delivered meanwhile).
    The list's url is filled in by the protocol; an unknown cursor is a 400.
    """
    created = call.params.get("created", lambda _: True)
    ids = call.store.ids_newest_first(kind)
    start, end = _bounds(call, kind, ids)
    between = set(ids[start:end])

    def fits(row: Json) -> bool:
        return row["id"] in between and where(row) and created(row.get("created", 0))

    # One row more than asked for tells whether there is more; the rest is never copied.
    wanted = call.params.get("limit", DEFAULT_LIMIT) + 1
    if "ending_before" in call.params:
        rows = list(islice(call.store.oldest_first(kind, fits), wanted))[::-1]
    else:
        rows = list(islice(call.store.newest_first(kind, fits), wanted))
    return _cut(call, [row if present is None else present(row) for row in rows])


def cut_page(call: Call, kind: str, rows: list[Json]) -> Json:
    """The same for a list that is at hand, in its own order."""
    start, end = _bounds(call, kind, [row["id"] for row in rows])
    return _cut(call, rows[start:end])


def _bounds(call: Call, kind: str, ids: list[str]) -> tuple[int, int]:
    after, before = call.params.get("starting_after"), call.params.get("ending_before")
    start = 0 if after is None else _place(kind, ids, after, "starting_after") + 1
    end = len(ids) if before is None else _place(kind, ids, before, "ending_before")
    return start, end


def _place(kind: str, ids: list[str], cursor: str, param: str) -> int:
    if cursor not in ids:
        raise resource_missing(NOUNS.get(kind, kind), cursor, param=param, status=400)
    return ids.index(cursor)


def _cut(call: Call, rows: list[Json]) -> Json:
    limit: int = call.params.get("limit", DEFAULT_LIMIT)
    kept = rows[-limit:] if "ending_before" in call.params else rows[:limit]
    return _list_object(kept, more=len(rows) > limit)


def _list_object(rows: list[Json], *, more: bool) -> Json:
    return {"object": "list", "data": rows, "has_more": more, "url": ""}


def list_route(path: str, handler: Handler, **filters: Any) -> Route:
    """A GET endpoint that pages; `filters` are its further parameters."""
    return Route("GET", path, handler, {**PAGING, **filters})
