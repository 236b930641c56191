"""How long answers were and how good holds were: histograms in memory, exchanged with the other hosts by a job.

A bucket is a fourth of a doubling, so a size is known to a quarter. What is remembered is bounded, by forgetting all of
it: the job brings back what is asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum
from typing import Final, NamedTuple

ALL_ACCOUNTS: Final = 0
PERCENT_STEP: Final = 5
"""Width of the buckets of :attr:`Kind.CHARGED`, in percent of the hold."""
_MOST_PERCENT: Final = 200
_MOST_REMEMBERED: Final = 50_000
_ENOUGH_OF_AN_ACCOUNT: Final = 50
_ENOUGH_OF_ALL: Final = 200
_OVERRUNS_ALLOWED_PERCENT: Final = 1
_MANTISSA_BITS: Final = 2
_SMALL: Final = 1 << _MANTISSA_BITS


class Kind(IntEnum):
    """What a histogram counts."""

    OUTPUT = 1
    """Completion tokens of measured calls, in buckets of :func:`bucket_of`."""
    CHARGED = 2
    """The cost of settled holds in percent of the hold, in steps of ``PERCENT_STEP``."""
    EVENT = 3
    """:class:`Event` by number."""


class Event(IntEnum):
    """What happened to holds."""

    CUT = 1
    EXTENDED = 2
    REFUSED = 3
    OVERRUN = 4
    HIDDEN = 5
    """The answer had tokens that no stream shows."""


class Key(NamedTuple):
    """Whose histogram it is; ``account_id`` is ``ALL_ACCOUNTS`` for that of all."""

    account_id: int
    kind: int
    model: str


class Seen(NamedTuple):
    """One bucket of a histogram."""

    account_id: int
    kind: int
    model: str
    bucket: int
    times: int


class Observations:
    """The histograms of one process. Safe between threads; what two hosts have seen is added up in the database."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[Key, dict[int, int]] = {}
        self._fresh: dict[tuple[int, int, str, int], int] = {}
        self._wanted: set[int] = set()
        self._likely: dict[tuple[int, str, int], tuple[int, int | None]] = {}

    def note_event(self, model: str, event: Event) -> None:
        """Count an event of a model."""
        with self._lock:
            self._add(ALL_ACCOUNTS, Kind.EVENT, model, event)

    def note_settled(self, account_id: int, model: str, *, held: int, cost: int, output: int, hidden: int) -> None:
        """Count a measured call: its completion tokens, shown and ``hidden``, and its cost beside its hold."""
        bucket = bucket_of(output + hidden)
        percent = min(cost * 100 // held if held else 0, _MOST_PERCENT)
        with self._lock:
            self._add(account_id, Kind.OUTPUT, model, bucket)
            self._add(ALL_ACCOUNTS, Kind.OUTPUT, model, bucket)
            self._add(ALL_ACCOUNTS, Kind.CHARGED, model, percent // PERCENT_STEP)
            if hidden:
                self._add(ALL_ACCOUNTS, Kind.EVENT, model, Event.HIDDEN)
            if cost > held:
                self._add(ALL_ACCOUNTS, Kind.EVENT, model, Event.OVERRUN)

    def likely_output_tokens(self, account_id: int, model: str, *, percentile: int) -> int | None:
        """Return how long an answer is at most in ``percentile`` of 100 cases, by the account's own calls or all.

        None where too few were seen, or where more than one hold in a hundred was overrun. Where tokens were hidden a
        stream cannot extend its hold in time, so twice the longest answer seen is returned.
        """
        with self._lock:
            self._want(account_id)
            for owner, enough in ((account_id, _ENOUGH_OF_AN_ACCOUNT), (ALL_ACCOUNTS, _ENOUGH_OF_ALL)):
                counts = self._seen.get(Key(owner, Kind.OUTPUT, model), {})
                total = sum(counts.values())
                if total >= enough:
                    return self._likely_of(owner, model, percentile, counts, total)
        return None

    def take_fresh(self, most: int) -> list[Seen]:
        """Return what was counted since it was last taken, in order of the keys; at most ``most`` buckets."""
        with self._lock:
            taken = [Seen(*key, self._fresh[key]) for key in sorted(self._fresh)[:most]]
            for seen in taken:
                del self._fresh[seen[:4]]
        return taken

    def give_back(self, taken: Iterable[Seen]) -> None:
        """Count again what could not be stored."""
        with self._lock:
            for seen in taken:
                self._fresh[seen[:4]] = self._fresh.get(seen[:4], 0) + seen.times

    def wanted_accounts(self) -> list[int]:
        """Return the accounts whose histograms were asked for since they were last taken."""
        with self._lock:
            wanted, self._wanted = self._wanted, set()
        return sorted(wanted)

    def learn(self, stored: Iterable[Seen]) -> None:
        """Replace what is known by what all hosts have stored, and add what this one has not stored yet."""
        known: dict[Key, dict[int, int]] = {}
        for seen in stored:
            known.setdefault(Key(*seen[:3]), {})[seen.bucket] = seen.times
        with self._lock:
            self._seen.update(known)
            self._likely.clear()
            for (account_id, kind, model, bucket), count in self._fresh.items():
                key = Key(account_id, kind, model)
                if key in known:
                    known[key][bucket] = known[key].get(bucket, 0) + count

    def _add(self, account_id: int, kind: int, model: str, bucket: int) -> None:
        if len(self._seen) + len(self._fresh) > _MOST_REMEMBERED:
            self._seen.clear()
            self._fresh.clear()
            self._likely.clear()
        counts = self._seen.setdefault(Key(account_id, kind, model), {})
        counts[bucket] = counts.get(bucket, 0) + 1
        where = (account_id, int(kind), model, int(bucket))
        self._fresh[where] = self._fresh.get(where, 0) + 1

    def _want(self, account_id: int) -> None:
        if len(self._wanted) < _MOST_REMEMBERED:
            self._wanted.add(account_id)

    def _likely_of(self, owner: int, model: str, percentile: int, counts: Mapping[int, int], total: int) -> int | None:
        """Remembered for as long as less than a sixteenth came in addition."""
        known = self._likely.get((owner, model, percentile))
        if known is None or known[0] + known[0] // 16 < total:
            known = self._likely[owner, model, percentile] = (total, self._compute_likely(model, percentile, counts))
        return known[1]

    def _compute_likely(self, model: str, percentile: int, counts: Mapping[int, int]) -> int | None:
        events = self._seen.get(Key(ALL_ACCOUNTS, Kind.EVENT, model), {})
        settled = sum(self._seen.get(Key(ALL_ACCOUNTS, Kind.CHARGED, model), {}).values())
        if events.get(Event.OVERRUN, 0) * 100 > settled * _OVERRUNS_ALLOWED_PERCENT:
            return None
        if events.get(Event.HIDDEN):
            return 2 * highest_in(max(counts))
        return highest_in(percentile_of(counts, percentile))


def bucket_of(count: int) -> int:
    """Return the bucket of a count: four to each doubling, exact below four."""
    if count < _SMALL:
        return count
    shift = count.bit_length() - 1 - _MANTISSA_BITS
    return (shift + 1) * _SMALL + ((count >> shift) & (_SMALL - 1))


def highest_in(bucket: int) -> int:
    """Return the largest count that falls into ``bucket``."""
    if bucket < _SMALL:
        return bucket
    shift, mantissa = bucket // _SMALL - 1, bucket % _SMALL
    return ((_SMALL + mantissa + 1) << shift) - 1


def percentile_of(counts: Mapping[int, int], percentile: int) -> int:
    """Return the lowest bucket up to which ``percentile`` of 100 counts lie."""
    needed = -(-sum(counts.values()) * percentile // 100)
    for bucket, so_far in _cumulated(counts):
        if so_far >= needed:
            return bucket
    return max(counts, default=0)


def _cumulated(counts: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    so_far = 0
    for bucket in sorted(counts):
        so_far += counts[bucket]
        yield bucket, so_far
