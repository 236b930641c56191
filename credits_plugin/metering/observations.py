"""How long answers were and how good holds were: histograms in memory, exchanged with the other hosts by a job.

A bucket is a fourth of a doubling, so a size is known to a quarter. What is remembered is bounded, by forgetting all of
it: the job brings back what is asked for.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum
from itertools import islice
from typing import Final, NamedTuple, TypeAlias

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


Key: TypeAlias = tuple[int, int, str]
"""Whose histogram it is: account or ``ALL_ACCOUNTS``, kind, model."""
Histogram: TypeAlias = dict[int, int]


class Seen(NamedTuple):
    """One bucket of a histogram."""

    account_id: int
    kind: int
    model: str
    bucket: int
    times: int


class Observations:
    """The histograms of one process. Safe between threads; what several hosts have seen is added up in the database."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stored: dict[Key, Histogram] = {}
        self._fresh: dict[Key, Histogram] = {}
        self._wanted: set[int] = set()
        self._likely: dict[tuple[int, str, int], tuple[int, int | None]] = {}

    def note_event(self, model: str, event: Event) -> None:
        """Count an event of a model."""
        with self._lock:
            self._add((ALL_ACCOUNTS, _EVENT, model), int(event))

    def note_settled(self, account_id: int, model: str, *, held: int, cost: int, output: int, hidden: int) -> None:
        """Count a measured call: its completion tokens, shown and ``hidden``, and its cost beside its hold."""
        bucket = bucket_of(output + hidden)
        percent = min(cost * 100 // held if held else 0, _MOST_PERCENT)
        with self._lock:
            self._add((account_id, _OUTPUT, model), bucket)
            self._add((ALL_ACCOUNTS, _OUTPUT, model), bucket)
            self._add((ALL_ACCOUNTS, _CHARGED, model), percent // PERCENT_STEP)
            if hidden:
                self._add((ALL_ACCOUNTS, _EVENT, model), int(Event.HIDDEN))
            if cost > held:
                self._add((ALL_ACCOUNTS, _EVENT, model), int(Event.OVERRUN))

    def likely_output_tokens(self, account_id: int, model: str, *, percentile: int) -> int | None:
        """Return how long an answer is at most in ``percentile`` of 100 cases, by the account's own calls or all.

        None where too few were seen, or where more than one hold in a hundred was overrun. Where tokens were hidden a
        stream cannot extend its hold in time, so twice the longest answer seen is returned.
        """
        with self._lock:
            if len(self._wanted) < _MOST_REMEMBERED:
                self._wanted.add(account_id)
            for owner, enough in ((account_id, _ENOUGH_OF_AN_ACCOUNT), (ALL_ACCOUNTS, _ENOUGH_OF_ALL)):
                total = self._total((owner, _OUTPUT, model))
                if total >= enough:
                    return self._likely_of(owner, model, percentile, total)
        return None

    def take_fresh(self, most: int) -> list[Seen]:
        """Return what was counted since it was last taken, in order of the keys; at most ``most`` buckets."""
        with self._lock:
            fresh = (Seen(*key, *one) for key in sorted(self._fresh) for one in sorted(self._fresh[key].items()))
            taken = list(islice(fresh, most))
            self._move(taken, self._fresh, self._stored)
        return taken

    def give_back(self, taken: Iterable[Seen]) -> None:
        """Take back what could not be stored, for the next time."""
        with self._lock:
            self._move(taken, self._stored, self._fresh)

    def wanted_accounts(self) -> list[int]:
        """Return the accounts whose histograms were asked for since they were last taken."""
        with self._lock:
            wanted, self._wanted = self._wanted, set()
        return sorted(wanted)

    def learn(self, stored: Iterable[Seen]) -> None:
        """Replace what is known by what all hosts have stored."""
        known: dict[Key, Histogram] = {}
        for seen in stored:
            known.setdefault(seen[:3], {})[seen.bucket] = seen.times
        with self._lock:
            self._stored.update(known)
            self._likely.clear()

    def _add(self, key: Key, bucket: int) -> None:
        counts = self._fresh.get(key)
        if counts is None:
            if len(self._stored) + len(self._fresh) >= _MOST_REMEMBERED:
                self._stored.clear()
                self._fresh.clear()
                self._likely.clear()
            counts = self._fresh[key] = {}
        counts[bucket] = counts.get(bucket, 0) + 1

    @staticmethod
    def _move(taken: Iterable[Seen], source: dict[Key, Histogram], target: dict[Key, Histogram]) -> None:
        for seen in taken:
            key, bucket = seen[:3], seen.bucket
            counts = target.setdefault(key, {})
            counts[bucket] = counts.get(bucket, 0) + seen.times
            left = source.get(key, {}).get(bucket, 0) - seen.times
            if left > 0:
                source[key][bucket] = left
            elif source.get(key, {}).pop(bucket, None) is not None and not source[key]:
                del source[key]

    def _total(self, key: Key) -> int:
        return sum(self._stored.get(key, {}).values()) + sum(self._fresh.get(key, {}).values())

    def _histogram(self, key: Key) -> Counter[int]:
        return Counter(self._stored.get(key, {})) + Counter(self._fresh.get(key, {}))

    def _likely_of(self, owner: int, model: str, percentile: int, total: int) -> int | None:
        """Remembered for as long as less than a sixteenth came in addition."""
        known = self._likely.get((owner, model, percentile))
        if known is None or known[0] + known[0] // 16 < total:
            likely = self._compute_likely(model, percentile, self._histogram((owner, _OUTPUT, model)))
            known = self._likely[owner, model, percentile] = (total, likely)
        return known[1]

    def _compute_likely(self, model: str, percentile: int, counts: Mapping[int, int]) -> int | None:
        events = self._histogram((ALL_ACCOUNTS, _EVENT, model))
        if events[Event.OVERRUN] * 100 > self._total((ALL_ACCOUNTS, _CHARGED, model)) * _OVERRUNS_ALLOWED_PERCENT:
            return None
        if events[Event.HIDDEN]:
            return 2 * highest_in(max(counts))
        return highest_in(percentile_of(counts, percentile))


_OUTPUT: Final = int(Kind.OUTPUT)
_CHARGED: Final = int(Kind.CHARGED)
_EVENT: Final = int(Kind.EVENT)


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
