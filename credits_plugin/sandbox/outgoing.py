"""Record an event and its deliveries, spoiled by the faults that were asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from credits_plugin.sandbox.faults import EventFault, take_fault
from credits_plugin.sandbox.objects import new_id
from credits_plugin.sandbox.shapes import newer_shape, of_live_mode, older_shape
from credits_plugin.sandbox.store import Json, Store

RELEASE = "release_delivery"
SEQUENCE = "sequence"
"""Kind of the rows that say: deliver these, one after the other."""


def send_event(store: Store, event: Json, endpoint_ids: tuple[str, ...]) -> None:
    """Store the event with a delivery for each endpoint."""
    rule = take_fault(store, "event", event["type"])
    if rule is None:
        _put(store, event, endpoint_ids)
    else:
        _SPOILERS[EventFault(rule["kind"])](store, event, endpoint_ids, rule)


def _duplicate(store: Store, event: Json, endpoint_ids: tuple[str, ...], _rule: Json) -> None:
    _put(store, event, endpoint_ids)
    deliver_again(store, event["id"], endpoint_ids)


def _second_event(store: Store, event: Json, endpoint_ids: tuple[str, ...], _rule: Json) -> None:
    _put(store, event, endpoint_ids)
    _put(store, event | {"id": new_id("evt")}, endpoint_ids)


def _put(
    store: Store, event: Json, endpoint_ids: tuple[str, ...], *, state: str = "pending", forged: bool = False
) -> list[str]:
    store.put("event", event)
    deliveries = [f"{event['id']}.{endpoint_id}" for endpoint_id in endpoint_ids]
    for delivery_id, endpoint_id in zip(deliveries, endpoint_ids, strict=True):
        row = {"id": delivery_id, "event": event["id"], "endpoint": endpoint_id, "state": state, "attempts": []}
        store.put("delivery", row | ({"forged": True} if forged else {}))
    return deliveries


def deliver_again(store: Store, event_id: str, endpoint_ids: tuple[str, ...], *, state: str = "pending") -> list[str]:
    """One more delivery of an event to each endpoint, whatever became of the others; returns their ids."""
    deliveries = [f"{event_id}.{endpoint_id}.{new_id('again')}" for endpoint_id in endpoint_ids]
    for delivery_id, endpoint_id in zip(deliveries, endpoint_ids, strict=True):
        row = {"id": delivery_id, "event": event_id, "endpoint": endpoint_id, "state": state, "attempts": []}
        store.put("delivery", row)
    return deliveries


def _delay(store: Store, event: Json, endpoint_ids: tuple[str, ...], rule: Json) -> None:
    for delivery_id in _put(store, event, endpoint_ids, state="held"):
        due_at = event["created"] + rule["seconds"]
        job = {"id": f"{RELEASE}.{delivery_id}", "action": RELEASE, "object_id": delivery_id, "due_at": due_at}
        store.put("job", job)


def _reorder(store: Store, event: Json, endpoint_ids: tuple[str, ...], rule: Json) -> None:
    batch = store.get("batch", rule["id"]) or {"id": rule["id"], "deliveries": []}
    batch["deliveries"] += _put(store, event, endpoint_ids, state="held")
    left = rule["times"] - 1
    if left % rule["size"]:
        store.put("batch", batch)
        return
    store.drop("batch", rule["id"])
    put_sequence(store, batch["deliveries"][::-1])


_Spoiler = Callable[[Store, Json, tuple[str, ...], Json], Any]
_SPOILERS: dict[EventFault, _Spoiler] = {
    EventFault.DUPLICATE: _duplicate,
    EventFault.SECOND_EVENT: _second_event,
    EventFault.DROP: lambda store, event, ids, _: _put(store, event, ids, state="lost"),
    EventFault.NEVER_CREATED: lambda *_: None,
    EventFault.DELAY: _delay,
    EventFault.HOLD: lambda store, event, ids, _: _put(store, event, ids, state="held"),
    EventFault.REORDER: _reorder,
    EventFault.OLDER_VERSION: lambda store, event, ids, _: _put(store, older_shape(event, store), ids),
    EventFault.NEWER_VERSION: lambda store, event, ids, _: _put(store, newer_shape(event), ids),
    EventFault.WRONG_LIVEMODE: lambda store, event, ids, _: _put(store, of_live_mode(event), ids),
    EventFault.BAD_SIGNATURE: lambda store, event, ids, _: _put(store, event, ids, forged=True),
}


def put_sequence(store: Store, delivery_ids: list[str]) -> None:
    """Have deliveries made one after the other, in this order."""
    store.put(SEQUENCE, {"id": new_id("seq"), "deliveries": delivery_ids})


def release(store: Store, *, newest_first: bool) -> int:
    """Deliver what is held, one after the other; returns how many deliveries that are."""
    held = [row["id"] for row in store.oldest_first("delivery", lambda row: row["state"] == "held")]
    for delivery_id in held:
        store.drop("job", f"{RELEASE}.{delivery_id}")
    if held:
        put_sequence(store, held[::-1] if newest_first else held)
    return len(held)
