"""The writer of a host among several on one PostgreSQL: each account's commands meet in one host's batches.

A hot account that several hosts write would wait for its row's lock once per batch and host; led to one host, its
commands share batches and the lock is never waited for. Safety does not depend on it: any host may execute any command.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Final

import peewee

from ..database import Database
from ..errors import ConfigurationError
from ..ledger.entries import Command
from ..ledger.ids import IdMaker
from ..ledger.writer import LedgerWriter
from .leases import PARTITIONS, Lease, Leases, leaders
from .peers import Call, Desk, Peer

logger = logging.getLogger(__name__)

_SHORTEST_SECRET: Final = 16
_START_S: Final = 10.0


class RoutedWriter(LedgerWriter):
    """A :class:`LedgerWriter` that sends single commands to their account's leading host, and executes its own.

    ``secret`` is shared by all hosts. It listens on ``host``:``port`` (0: any free one) and is known to the others as
    ``advertise``, ``host`` by default. Units of work run here: they are functions. A leader that does not answer within
    ``answer_within_s`` is left, and its commands run here with the same ids.

    Raises:
        ConfigurationError: the secret is too short, or the database is not PostgreSQL's kind.
    """

    def __init__(
        self,
        database: Database,
        *,
        new_id: IdMaker,
        secret: bytes,
        host: str = "127.0.0.1",
        port: int = 0,
        advertise: str | None = None,
        ttl_ms: int = 3_000,
        answer_within_s: float = 5.0,
        queue_limit: int = 20_000,
        run_budget: int = 0,
    ) -> None:
        super().__init__(database, new_id=new_id, queue_limit=queue_limit, run_budget=run_budget)
        if len(secret) < _SHORTEST_SECRET:
            msg = f"the secret that hosts share must have {_SHORTEST_SECRET} bytes or more"
            raise ConfigurationError(msg)
        if database.path is not None:
            msg = "a SQLite file has one home already; leases are for several hosts on one PostgreSQL"
            raise ConfigurationError(msg)
        self._peers_limit = queue_limit
        self._secret = secret
        self._listen = (host, port)
        self._advertise = advertise or host
        self._answer_within_s = answer_within_s
        self._leases = Leases(database.primary, owner=secrets.token_hex(8), ttl_ms=ttl_ms)
        self._routes: tuple[Peer | None, ...] = (None,) * PARTITIONS
        self._peers: dict[str, Peer] = {}
        self._left: dict[str, float] = {}
        self._live: tuple[Lease, ...] = ()
        self._tasks: set[asyncio.Task[None]] = set()
        self._router_loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._up = threading.Event()
        self._router = threading.Thread(target=self._run_router, name="credits-router", daemon=True)

    @property
    def forwarded(self) -> int:
        """How many commands were sent to the hosts that are known now."""
        return sum(peer.forwarded for peer in list(self._peers.values()))

    @property
    def live_hosts(self) -> int:
        """How many hosts held a lease when it was last looked, this one included."""
        return len(self._live)

    def start(self) -> None:
        """Start the writer, then listen and take part; returns when the first look at the leases is over."""
        super().start()
        self._router.start()
        self._up.wait(_START_S)

    def close(self) -> None:
        """Leave the leases, write what is queued and end the threads."""
        if self._router_loop is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended already
                self._router_loop.call_soon_threadsafe(self._stop.set)
        if self._router.is_alive():
            self._router.join()
        super().close()

    def execute(self, command: Any) -> asyncio.Future[Any]:
        """See :meth:`LedgerWriter.execute`."""
        peer = self._routes[command.account_id % PARTITIONS]
        if peer is None:
            return super().execute(command)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        peer.put(Call(command, loop, future))
        return future

    def execute_sync(self, command: Command) -> Any:
        """See :meth:`LedgerWriter.execute_sync`."""
        peer = self._routes[command.account_id % PARTITIONS]
        if peer is None:
            return super().execute_sync(command)
        future: Future[Any] = Future()
        peer.put(Call(command, None, future))
        return future.result()

    def _run_router(self) -> None:
        try:
            asyncio.run(self._take_part())
        except OSError:
            logger.exception("this host cannot listen for other hosts; it executes all of its commands itself")
        finally:
            self._routes = (None,) * PARTITIONS
            self._up.set()

    async def _take_part(self) -> None:
        self._router_loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        desk = Desk(secret=self._secret, run_here=super().execute)
        server = await asyncio.start_server(desk.serve, *self._listen)
        address = f"{self._advertise}:{server.sockets[0].getsockname()[1]}"
        with ThreadPoolExecutor(1, thread_name_prefix="credits-lease") as thread:
            try:
                await self._keep_lease(address, thread)
            finally:
                await self._leave(server, desk, thread)

    async def _keep_lease(self, address: str, thread: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        prepared = False
        assert self._stop is not None  # noqa: S101 - made before
        while not self._stop.is_set():
            try:
                if not prepared:
                    await loop.run_in_executor(thread, self._leases.prepare)
                    prepared = True
                self._live = await loop.run_in_executor(thread, self._leases.renew, address)
                self._meet()
            except peewee.PeeweeException as error:
                logger.warning("the lease could not be renewed: %s", error)
                await loop.run_in_executor(thread, self._leases.disconnect)
            self._up.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._leases.ttl_ms / 3_000):
                    await self._stop.wait()

    def _meet(self) -> None:
        """Connect to hosts that are new, and route anew. A host that was left is met again after a lease's time."""
        now = asyncio.get_running_loop().time()
        for lease in self._live:
            known = lease.owner == self._leases.owner or lease.owner in self._peers
            if not known and self._left.get(lease.owner, 0.0) <= now:
                peer = Peer(
                    lease,
                    secret=self._secret,
                    run_here=super().execute,
                    queue_limit=self._peers_limit,
                    answer_within_s=self._answer_within_s,
                )
                self._peers[lease.owner] = peer
                task = asyncio.create_task(peer.run(self._route))
                self._tasks.add(task)
                task.add_done_callback(partial(self._forget, lease.owner))
        self._route()

    def _route(self) -> None:
        routes = []
        for leader in leaders(self._live):
            peer = None if leader is None else self._peers.get(leader.owner)
            routes.append(peer if peer is not None and peer.usable else None)
        self._routes = tuple(routes)

    def _forget(self, owner: str, ended: asyncio.Task[None]) -> None:
        self._tasks.discard(ended)
        del self._peers[owner]
        now = ended.get_loop().time()
        self._left = {name: until for name, until in self._left.items() if until > now}
        self._left[owner] = now + self._leases.ttl_ms / 1_000

    async def _leave(self, server: asyncio.Server, desk: Desk, thread: ThreadPoolExecutor) -> None:
        """Give the lease up and end every connection; what was not answered runs at whoever sent it."""
        loop = asyncio.get_running_loop()
        self._routes = (None,) * PARTITIONS
        with contextlib.suppress(peewee.PeeweeException):
            await loop.run_in_executor(thread, self._leases.release)
        await loop.run_in_executor(thread, self._leases.disconnect)
        server.close()
        await desk.close()
        peers = list(self._peers.values())
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for peer in peers:
            await peer.settled()
