"""What one running sandbox consists of, and the work that falls due on its own."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aiohttp import web

from credits_plugin.sandbox import SandboxSettings
from credits_plugin.sandbox.call import Call, Cause
from credits_plugin.sandbox.store import Change, Json, Store
from credits_plugin.sandbox.webhooks import Deliveries

logger = logging.getLogger(__name__)

LONGEST_SLEEP_S = 60.0
KEPT_REQUESTS = 500
"""How many requests the page remembers; they are not written to the data file."""

DueWork = Callable[[Call, str], None]
"""Takes a call and the object's id; runs inside a transaction."""


@dataclass(frozen=True, slots=True)
class Noted:
    """One answered request; `error` is the message of a refusal."""

    seq: int
    at: int
    method: str
    path: str
    status: int
    request_id: str
    key: str
    error: str


class State:
    """Settings, store, deliveries, clock and due work of one sandbox."""

    def __init__(
        self, settings: SandboxSettings, *, clock: Callable[[], float] | None, due_work: Mapping[str, DueWork]
    ) -> None:
        self.settings = settings
        self.store = Store(settings.data_path)
        self.deliveries = Deliveries(self.store, settings, clock=clock or time.time)
        self._clock = clock or time.time
        self._due_work = due_work
        self._base_url = "http://127.0.0.1"
        self.requests: deque[Noted] = deque(maxlen=KEPT_REQUESTS)
        self._job_added = asyncio.Event()
        self.store.on_commit(self._wake)

    def now(self) -> int:
        """Seconds since the epoch, as everywhere in Stripe's API."""
        return int(self._clock())

    def note_request(self, request: web.Request, response: web.StreamResponse) -> None:
        """Remember an answer of the API for the page; a broken connection counts as status 0."""
        gone = request.transport is None or request.transport.is_closing()
        error = ""
        if isinstance(response, web.Response) and response.status >= 400:
            error = json.loads(response.text or "{}").get("error", {}).get("message", "")
        noted = Noted(
            seq=self.store.last_seq,
            at=self.now(),
            method=request.method,
            path=request.rel_url.path_qs,
            status=0 if gone else response.status,
            request_id=response.headers.get("Request-Id", ""),
            key=request.headers.get("Idempotency-Key", ""),
            error=error,
        )
        self.requests.append(noted)

    def call(
        self,
        base_url: str | None = None,
        *,
        cause: Cause | None = None,
        params: Json | None = None,
        path: Mapping[str, str] | None = None,
    ) -> Call:
        """A call at the present time; open a transaction around its use. `base_url` defaults to the latest one."""
        return Call(
            store=self.store,
            now=self.now(),
            base_url=base_url or self._base_url,
            merchant_name=self.settings.merchant_name,
            endpoint_ids=self.deliveries.endpoint_ids,
            tax_percent=self.settings.tax_percent,
            bank_debits=self.settings.bank_debits,
            cause=cause or Cause(),
            params=params or {},
            path=path or {},
        )

    def run_due(self, base_url: str | None = None) -> None:
        """Do what has fallen due (an expired session, a refund that fails late), earliest first."""
        self._base_url = base_url or self._base_url
        now = self.now()
        due = sorted(self.store.oldest_first("job", lambda job: job["due_at"] <= now), key=lambda job: job["due_at"])
        for job in due:
            with self.store.transaction():
                self.store.drop("job", job["id"])
                self._due_work[job["action"]](self.call(), job["object_id"])

    async def run_clock(self) -> None:
        """Run due work until cancelled; asleep until the next job is due or a new one is added."""
        while True:
            self._job_added.clear()
            self.run_due()
            due_at = min((job["due_at"] for job in self.store.oldest_first("job")), default=float("inf"))
            pause_s = min(max(due_at - self._clock(), 0.01), LONGEST_SLEEP_S)
            try:
                await asyncio.wait_for(self._job_added.wait(), pause_s)
            except TimeoutError:
                continue

    def _wake(self, changes: list[Change]) -> None:
        if any(kind == "job" for kind, _ in changes):
            self._job_added.set()
