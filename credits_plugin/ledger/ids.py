"""Time-ordered 63-bit ids, made by the host: no round trip to make one, and inserts stay at the tree's right edge."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from ..errors import InvalidValue

EPOCH_MS: Final = 1_735_689_600_000
"""2025-01-01T00:00:00Z. 41 bits of milliseconds from here reach the year 2094."""
CLOCKS_DIFFER_MS: Final = 86_400_000
"""Ids and times are out of order by less: hosts' clocks may differ, and what one sends may be committed late."""
_NODE_BITS: Final = 12
_COUNTER_BITS: Final = 9
_COUNTER_MASK: Final = (1 << _COUNTER_BITS) - 1
_SHIFT: Final = _NODE_BITS + _COUNTER_BITS + 1
_LONGEST_NAME: Final = 255


def now_ms() -> int:
    """Return the wall clock in Unix milliseconds. The only clock of the package; ask it at the edges."""
    return time.time_ns() // 1_000_000


class IdMaker:
    """Makes ids: 41 bits of milliseconds, 12 random bits of this process, 9 bits of counter, and a zero. Thread-safe.

    Ids of one maker strictly increase, also when the clock steps back or more than 512 are made in a millisecond: the
    maker then runs ahead of the clock. The last bit is left for the id's companion.
    """

    def __init__(self, clock: Callable[[], int] = now_ms) -> None:
        self._clock = clock
        self._node = secrets.randbits(_NODE_BITS) << (_COUNTER_BITS + 1)
        self._ticks = 0
        self._lock = threading.Lock()

    def __call__(self) -> int:
        """Return the next id."""
        ticks = (self._clock() - EPOCH_MS) << _COUNTER_BITS
        with self._lock:
            self._ticks = ticks = max(ticks, self._ticks + 1)
            node = self._node
        return ticks >> _COUNTER_BITS << _SHIFT | node | (ticks & _COUNTER_MASK) << 1

    def draw_again(self) -> None:
        """Take other random bits from the next millisecond on: another process may have drawn the same."""
        with self._lock:
            self._node ^= secrets.randbelow((1 << _NODE_BITS) - 1) + 1 << _COUNTER_BITS + 1
            self._ticks = (self._ticks >> _COUNTER_BITS) + 1 << _COUNTER_BITS


def companion_id(identifier: int) -> int:
    """Return the id reserved beside ``identifier``: of the breakage that a hold with that id finds due."""
    return identifier | 1


def id_time_ms(identifier: int) -> int:
    """Return when an id was made, in Unix milliseconds."""
    return (identifier >> _SHIFT) + EPOCH_MS


def first_id_at(at_ms: int) -> int:
    """Return the lowest id that can be made at ``at_ms``: a bound for range queries by time."""
    return max(at_ms - EPOCH_MS, 0) << _SHIFT


def id_at(cause: int, at_ms: int) -> int:
    """Return an id for what ``cause`` led to at ``at_ms``: always the same one, so that repeating it converges."""
    return first_id_at(at_ms) | cause & (1 << _SHIFT) - 1


@lru_cache(maxsize=65_536)
def account_key(external_id: str) -> int:
    """Return the ledger's id of the account that the host calls ``external_id``.

    A digest, so no look-up table sits on the hot path and rows can be placed by it. The row carries the external id
    and every command compares it, so two names that met in one key would be refused, never mixed (odds for a million
    accounts: 5e-8).

    Raises:
        InvalidValue: empty, longer than 255 characters, or with control characters or lone surrogates.
    """
    require_name(external_id, "an account id")
    return key_of_name(external_id)


def require_name(name: str, what: str) -> None:
    """Check a name that comes from outside, before a database has to refuse it.

    Raises:
        InvalidValue: no string, empty, longer than 255 characters, or with control characters or lone surrogates.
    """
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME:
        msg = f"{what} must be a string of 1 to {_LONGEST_NAME} characters; got {name!r:.60}"
        raise InvalidValue(msg)
    # isprintable refuses more, but takes a hundredth of the time: with each request several names come in.
    if not name.isprintable() and any(unicodedata.category(character) in {"Cc", "Cs"} for character in name):
        msg = f"{what} must not contain control characters; got {name!r:.60}"
        raise InvalidValue(msg)


def key_of_name(external_id: str) -> int:
    """Return :func:`account_key` of a name that was accepted before; checks nothing, remembers nothing."""
    digest = hashlib.blake2b(external_id.encode(), digest_size=8, person=b"credits.account").digest()
    return int.from_bytes(digest) >> 1
