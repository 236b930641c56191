"""Which host leads an account: leases in the database, and an assignment that every host computes alike.

A host holds one row, renewed by one statement however many accounts there are. Accounts are hashed into partitions, and
a partition's leader is the live host with the highest digest of (partition, host): when a host comes or goes, only its
own share moves. Hosts may disagree for a moment; that costs speed and nothing else, for row locks decide over money.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import peewee

PARTITIONS: Final = 256
"""Of accounts; more than any number of hosts, so that each host's share is even."""
_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS writer_lease "
    "(owner TEXT PRIMARY KEY, address TEXT NOT NULL, expires_at_ms BIGINT NOT NULL, epoch BIGINT NOT NULL)"
)
_NOW_MS: Final = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
_RENEW: Final = (
    f"INSERT INTO writer_lease (owner, address, expires_at_ms, epoch) VALUES (%s, %s, {_NOW_MS} + %s, 1) "
    "ON CONFLICT (owner) DO UPDATE SET address = excluded.address, expires_at_ms = excluded.expires_at_ms, "
    f"epoch = writer_lease.epoch + CASE WHEN writer_lease.expires_at_ms < {_NOW_MS} THEN 1 ELSE 0 END"
)
_LIVE: Final = f"SELECT owner, address, epoch FROM writer_lease WHERE expires_at_ms > {_NOW_MS} ORDER BY owner"
_FORGET: Final = f"DELETE FROM writer_lease WHERE expires_at_ms < {_NOW_MS} - 3600000"


@dataclass(frozen=True, slots=True)
class Lease:
    """A live host: its name, where it listens (``host:port``), and how often its lease had lapsed, plus one."""

    owner: str
    address: str
    epoch: int


class Leases:
    """This host's lease on a PostgreSQL database. Used by one thread; Peewee gives it a connection of its own.

    The database's clock decides what has expired, so the hosts' clocks need not agree.
    """

    def __init__(self, database: peewee.Database, *, owner: str, ttl_ms: int = 3_000) -> None:
        self.owner = owner
        self.ttl_ms = ttl_ms
        self._database = database

    def prepare(self) -> None:
        """Make the table where it is missing, and forget hosts that left an hour ago."""
        with self._database.connection_context():
            try:
                self._database.execute_sql(_TABLE)
            except peewee.IntegrityError:  # two hosts made it at once: PostgreSQL's IF NOT EXISTS may still collide
                self._database.execute_sql(_TABLE)
            self._database.execute_sql(_FORGET)

    def renew(self, address: str) -> tuple[Lease, ...]:
        """Acquire or renew the lease, and return all live ones, this host's own among them, in the order of names."""
        self._database.connect(reuse_if_open=True)
        self._database.execute_sql(_RENEW, (self.owner, address, self.ttl_ms))
        return tuple(Lease(*row) for row in self._database.execute_sql(_LIVE).fetchall())

    def release(self) -> None:
        """Give the lease up, so that nobody has to wait until it expires."""
        self._database.connect(reuse_if_open=True)
        self._database.execute_sql("DELETE FROM writer_lease WHERE owner = %s", (self.owner,))

    def disconnect(self) -> None:
        """Close the calling thread's connection."""
        self._database.close()


def leaders(leases: Sequence[Lease]) -> tuple[Lease | None, ...]:
    """Return each partition's leader; None where no host is live."""
    return tuple(
        max(leases, key=lambda lease: _weight(partition, lease.owner), default=None) for partition in range(PARTITIONS)
    )


def partition_of(account_id: int) -> int:
    """Return the partition of an account; its id is a digest, so its low bits are even already."""
    return account_id % PARTITIONS


def _weight(partition: int, owner: str) -> bytes:
    return hashlib.blake2b(f"{partition} {owner}".encode(), digest_size=8).digest()
