"""Deliver events to the webhook endpoints: signed, retried with back-off, never in the way of the API."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp

from credits_plugin.sandbox import SandboxSettings, WebhookEndpoint
from credits_plugin.sandbox.errors import resource_missing
from credits_plugin.sandbox.outgoing import SEQUENCE, deliver_again
from credits_plugin.sandbox.store import Change, Json, Store

logger = logging.getLogger(__name__)

AT_ONCE = 8
"""Deliveries under way at the same time."""

ATTEMPT_TIMEOUT_S = 10.0
LONGEST_PAUSE_S = 3600.0

_HEADERS = {
    "Accept": "*/*; q=0.5, application/xml",
    "Cache-Control": "no-cache",
    "Content-Type": "application/json; charset=utf-8",
    "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
}


def signature_header(payload: bytes, *secrets: str, timestamp: int) -> str:
    """`t=…,v1=…`: HMAC-SHA256 over `TIMESTAMP.PAYLOAD`, the raw bytes that are sent; a `v1` for each valid secret."""
    signed = f"{timestamp}.".encode() + payload
    digests = (hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets)
    return ",".join([f"t={timestamp}", *(f"v1={digest}" for digest in digests)])


class Deliveries:
    """One task per undelivered event and endpoint; a delivery ends as `delivered`, `failed` or `dropped`.

    Faults add `held` (until it is released) and `lost` (never sent).
    """

    def __init__(self, store: Store, settings: SandboxSettings, *, clock: Callable[[], float]) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._endpoints: dict[str, WebhookEndpoint] = {}
        self._old_secrets: dict[str, tuple[str, float]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._http: aiohttp.ClientSession | None = None
        self.set_endpoints(settings.endpoints())
        store.on_commit(self._on_commit)

    @property
    def endpoint_ids(self) -> tuple[str, ...]:
        """The endpoints that a new event goes to."""
        return tuple(self._endpoints)

    @property
    def endpoint_urls(self) -> tuple[str, ...]:
        """Where new events go."""
        return tuple(endpoint.url for endpoint in self._endpoints.values())

    def set_endpoints(self, endpoints: tuple[WebhookEndpoint, ...]) -> None:
        """Replace all endpoints; the first one inherits what is pending for the first one, and so on."""
        self._endpoints = {f"we_{number}": endpoint for number, endpoint in enumerate(endpoints, 1)}
        self._old_secrets = {}

    def rotate_secret(self, secret: str, *, keep_old_s: float) -> None:
        """Sign for the first endpoint with a new secret, and for so long with the old one too, as Stripe does."""
        endpoint_id, endpoint = next(iter(self._endpoints.items()))
        self._old_secrets[endpoint_id] = (endpoint.secret, self._clock() + keep_old_s)
        self._endpoints[endpoint_id] = WebhookEndpoint(endpoint.url, secret)

    def _secrets(self, endpoint_id: str) -> tuple[str, ...]:
        old, valid_until = self._old_secrets.get(endpoint_id, ("", 0.0))
        newest = self._endpoints[endpoint_id].secret
        return (newest, old) if self._clock() < valid_until else (newest,)

    async def start(self) -> None:
        """Begin, with what a previous run has left undelivered."""
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ATTEMPT_TIMEOUT_S))
        for delivery in self._store.oldest_first("delivery", _is_pending):
            self._schedule(delivery["id"])
        for sequence in self._store.oldest_first(SEQUENCE):
            self._start_sequence(sequence["id"])

    async def close(self) -> None:
        """Cancel what is under way; it stays pending in the store."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def drain(self) -> None:
        """Wait until no delivery is pending."""
        while self._tasks:
            await asyncio.gather(*self._tasks.values())

    async def deliver_now(self) -> int:
        """Attempt each undelivered event once, without the pauses; returns how many remain."""
        waiting = [row["id"] for row in self._store.oldest_first("delivery", _is_undelivered)]
        await asyncio.gather(*(self._attempt(delivery_id) for delivery_id in waiting))
        return sum(1 for _ in self._store.oldest_first("delivery", _is_undelivered))

    def _on_commit(self, changes: list[Change]) -> None:
        for kind, row_id in changes:
            if kind == "delivery":
                self._schedule(row_id)
            elif kind == SEQUENCE:
                self._start_sequence(row_id)

    def _start_sequence(self, sequence_id: str) -> None:
        if self._http is not None and self._store.get(SEQUENCE, sequence_id) is not None:
            self._start(sequence_id, self._deliver_sequence(sequence_id))

    async def _deliver_sequence(self, sequence_id: str) -> None:
        sequence = self._store.get(SEQUENCE, sequence_id) or {"deliveries": []}
        for delivery_id in sequence["deliveries"]:
            with self._store.transaction():
                release_delivery(self._store, delivery_id)
            if (task := self._tasks.get(delivery_id)) is not None:
                await task
        with self._store.transaction():
            self._store.drop(SEQUENCE, sequence_id)

    def _schedule(self, delivery_id: str) -> None:
        delivery = self._store.get("delivery", delivery_id)
        if self._http is None or delivery_id in self._tasks or delivery is None or not _is_pending(delivery):
            return
        self._start(delivery_id, self._deliver(delivery_id))

    def _start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[name] = task
        task.add_done_callback(lambda done: self._forget(name, done))

    def _forget(self, delivery_id: str, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            logger.error("Delivery %s broke off", delivery_id, exc_info=error)
        self._tasks.pop(delivery_id, None)
        self._locks.pop(delivery_id, None)

    async def _deliver(self, delivery_id: str) -> None:
        while (delivery := self._store.get("delivery", delivery_id)) and _is_pending(delivery):
            failures = len(delivery["attempts"])
            if failures:
                await asyncio.sleep(min(self._settings.retry_base_s * 2 ** (failures - 1), LONGEST_PAUSE_S))
            await self._attempt(delivery_id)

    async def _attempt(self, delivery_id: str) -> None:
        async with self._locks[delivery_id], self._slots:
            delivery = self._store.get("delivery", delivery_id)
            if delivery is None or not _is_undelivered(delivery):
                return
            event = self._store.get("event", delivery["event"])
            endpoint = self._endpoints.get(delivery["endpoint"])
            if event is None or endpoint is None:
                self._record(delivery, state="dropped")
                return
            secrets = ("whsec_forged",) if delivery.get("forged") else self._secrets(delivery["endpoint"])
            outcome = await self._post(event, endpoint.url, secrets)
            attempts = [*delivery["attempts"], {"at": int(self._clock()), **outcome}]
            if 200 <= outcome.get("status", 0) < 300:
                self._record({**delivery, "attempts": attempts}, state="delivered")
            elif delivery["state"] == "by_hand":
                self._record({**delivery, "attempts": attempts}, state="by_hand_failed")
            else:
                exhausted = len(attempts) >= self._settings.max_delivery_attempts
                self._record({**delivery, "attempts": attempts}, state="failed" if exhausted else "pending")

    async def deliver_event(self, event_id: str) -> list[int]:
        """Send a stored event to every endpoint now, whatever was sent before; returns the statuses (0: no answer)."""
        event = self._store.get("event", event_id)
        if event is None:
            raise resource_missing("event", event_id)
        with self._store.transaction():
            deliveries = deliver_again(self._store, event_id, self.endpoint_ids, state="by_hand")
        statuses = []
        for delivery_id in deliveries:
            await self._attempt(delivery_id)
            done = self._store.get("delivery", delivery_id) or {"attempts": [{}]}
            statuses.append(done["attempts"][-1].get("status", 0))
        return statuses

    async def _post(self, event: Json, url: str, secrets: tuple[str, ...]) -> Json:
        if self._http is None:
            raise RuntimeError("The sandbox delivers events only while it is running.")
        payload = json.dumps(event, indent=2).encode()
        # Each attempt is signed anew, as Stripe does: a late retry must not look like a replay.
        signature = signature_header(payload, *secrets, timestamp=int(self._clock()))
        headers = {**_HEADERS, "Stripe-Signature": signature}
        try:
            async with self._http.post(url, data=payload, headers=headers, allow_redirects=False) as response:
                return {"status": response.status}
        except (aiohttp.ClientError, OSError, ValueError) as error:  # TimeoutError is an OSError; ValueError: bad URL
            return {"error": type(error).__name__}

    def _record(self, delivery: Json, *, state: str) -> None:
        with self._store.transaction():
            self._store.put("delivery", {**delivery, "state": state})
            event = self._store.get("event", delivery["event"])
            if state == "delivered" and event is not None:
                self._store.put("event", {**event, "pending_webhooks": max(event["pending_webhooks"] - 1, 0)})


def _is_pending(delivery: Json) -> bool:
    return bool(delivery["state"] == "pending")


def _is_undelivered(delivery: Json) -> bool:
    return delivery["state"] in {"pending", "failed", "by_hand"}


def release_delivery(store: Store, delivery_id: str) -> None:
    """Let a held delivery go; it is nothing to the others."""
    delivery = store.get("delivery", delivery_id)
    if delivery is not None and delivery["state"] == "held":
        store.put("delivery", delivery | {"state": "pending"})
