"""The same metering for hosts that call their model in worker threads."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from peewee import PeeweeException

from hookspecs import AIRequest, Estimate, Hold, Outcome, Refusal

from ..errors import CreditsError, Overloaded
from ..ledger.entries import Settled
from .calls import Call
from .gate import Metering
from .parking import Parking
from .refusals import refusal_of
from .stretch import Need, Stretch

T = TypeVar("T")


class SyncCredits:
    """Admit, settle, estimate and wait for credits from any thread, whether or not event loops run there or elsewhere.

    The work is done by one event loop in a thread of its own, which starts with the first call, so there is one way in
    which money moves. A thread whose own event loop runs is blocked meanwhile; there, await the async methods. Hooks
    that are ``async def`` run in that loop as well.
    """

    def __init__(self, metering: Metering, parking: Parking) -> None:
        self._metering = metering
        self._parking = parking
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._is_closed = False

    def estimate(self, request: AIRequest) -> Estimate:
        """See :meth:`Metering.estimate`."""
        return self.run(self._metering.estimate(request))

    def admit(self, request: AIRequest) -> Hold | Refusal:
        """See :meth:`Metering.admit`."""
        try:
            return self.run(self._metering.admit(request))
        except Overloaded as error:
            return refusal_of(error, purchase_url=self._metering.settings.purchase_url)

    def settle(self, hold: Hold, outcome: Outcome) -> Settled | None:
        """See :meth:`Metering.settle`."""
        return self.run(self._metering.settle(hold, outcome))

    def wait_for_credits(self, refusal: Refusal, *, timeout_s: float) -> bool:
        """Block this thread until a refused request can be afforded. See :meth:`Parking.wait_for`."""
        return self.run(self._parking.wait_for(refusal, timeout_s=timeout_s))

    def metered(self, request: AIRequest, *, within: Call | None = None) -> SyncMeteredCall:
        """Meter a call that the caller makes itself: ``with credits.sync.metered(request) as call``."""
        return SyncMeteredCall(request, self._metering, self, within=within)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the metering and return its result.

        Raises:
            Overloaded: the service is closed, or was before the result came.
        """
        try:
            loop = self._started_loop()
        except Overloaded:
            work.close()
            raise
        if threading.current_thread() is self._thread:
            work.close()
            msg = "credits.sync was called in its own event loop, which would wait for itself: await the async methods"
            raise RuntimeError(msg)
        future = asyncio.run_coroutine_threadsafe(work, loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise _closed() from None
        except BaseException:
            future.cancel()  # Ctrl-C while waiting: what is undecided is undone, as for a cancelled task
            raise

    def begin(self, work: Callable[[], None]) -> None:
        """Run a plain function in the event loop, without waiting for it.

        Raises:
            Overloaded: the service is closed.
        """
        self._started_loop().call_soon_threadsafe(work)

    def close(self) -> None:
        """End the thread; what still waits there is cancelled, and its callers hear of it."""
        with self._lock:
            self._is_closed = True
        if self._loop is not None and self._stop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def _started_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._is_closed:
                raise _closed()
            if self._loop is None:
                up = threading.Event()
                self._thread = threading.Thread(target=self._serve, args=(up,), name="credits-sync", daemon=True)
                self._thread.start()
                up.wait()
            assert self._loop is not None  # noqa: S101 - set before ``up``
            return self._loop

    def _serve(self, up: threading.Event) -> None:
        async def serve() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            up.set()
            await self._stop.wait()

        asyncio.run(serve())


class SyncMeteredCall(Call):
    """``with credits.sync.metered(request) as call``; see :class:`MeteredCall`.

    Raises:
        RequestRefused: on entry, when the request must not be sent.
    """

    def __init__(
        self, request: AIRequest, metering: Metering, credits: SyncCredits, *, within: Call | None = None
    ) -> None:
        super().__init__(request, metering, within=within)
        self._credits = credits

    def deliver(self, text: str) -> bool:
        """Count a piece of streamed text; returns whether credits are left for more, as :meth:`MeteredCall.deliver`."""
        self.layer.text.add(text)
        try:
            return self._reach()
        except (CreditsError, PeeweeException) as error:
            return self._stopped_by(error)

    def _reach(self) -> bool:
        root, text = self.layer.root, self.layer.text
        if root.stretch is None:
            root.stretch = self._credits.run(Stretch.of(root, self._metering))
        match root.stretch.need(text):
            case Need.NOTHING:
                return True
            case Need.SOON:
                self._credits.begin(partial(root.stretch.go_ahead, text))
                return True
            case Need.NOW:
                return self._credits.run(root.stretch.reach(text))

    def __enter__(self) -> Self:
        if not self._joins():
            self._begin(self._credits.admit(self.request))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._settles(kind):
            self._credits.settle(self.hold, self.layer.outcome())


def _closed() -> Overloaded:
    return Overloaded("the service is closed; nothing more is admitted")
