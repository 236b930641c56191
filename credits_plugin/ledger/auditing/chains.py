"""The walk along an account's chain: every link's place, sums and hash, in one tight loop.

Two thirds of an audit's time pass here, so a link that is as expected costs one comparison; what is wrong with another
is found out afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

from ..entries import INCOMING, Code, link_hash, may_owe, pack_link
from ..ids import first_id_at
from .report import Finding
from .starts import ChainStart

_NUMBERS: Final = (
    "id, account_id, seq, previous_id, code, amount, balance_after, at_ms, COALESCE(price_version, 0), "
    "COALESCE(input, 0), COALESCE(cache_read, 0), COALESCE(cache_write, 0), COALESCE(output, 0), COALESCE(reasoning, 0)"
)
"""What a link's hash packs, in that order; NULL counts as 0 there."""
_PACKED: Final = 14
TRANSFERS: Final = (
    f"SELECT {_NUMBERS}, hash, reference FROM transfer WHERE account_id BETWEEN %s AND %s ORDER BY account_id, seq"
)
"""Sorted by the database, on disk, one range at a time: reading and sorting a million rows takes SQLite 2.4 s."""
MISSHAPEN: Final = (
    "SELECT account_id, id FROM transfer WHERE account_id BETWEEN %s AND %s AND (reference = '' OR "
    f"CASE WHEN code = {int(Code.USAGE)} THEN "
    "price_version IS NULL OR input IS NULL OR cache_read IS NULL OR cache_write IS NULL OR output IS NULL "
    "OR reasoning IS NULL ELSE COALESCE(price_version, input, cache_read, cache_write, output, reasoning) IS NOT NULL "
    "END)"
)
"""Where NULL became 0 or '', or the reverse: the hash takes them for the same. Few rows or none."""
NEVER: Final = 1 << 63
_USAGE: Final = int(Code.USAGE)
_INCOMING: Final = frozenset(map(int, INCOMING))
_CODES: Final = frozenset(map(int, Code))


class ByAccount:
    """Rows in the order of the account id that stands in ``column``; ``account`` is that of the next row."""

    __slots__ = ("account", "column", "head", "rows")

    def __init__(self, rows: Iterator[Any], *, column: int = 0) -> None:
        self.rows = rows
        self.column = column
        self.push(next(rows, None))

    def push(self, row: Any) -> None:
        """Put the row in front that was read too far; None ends the stream."""
        self.head = row
        self.account: int = NEVER if row is None else row[self.column]

    def take(self, account_id: int) -> list[Any]:
        """Return the account's rows; an account that is not next has none."""
        if self.account != account_id:
            return []
        taken = [self.head]
        for row in self.rows:
            if row[self.column] != account_id:
                self.push(row)
                return taken
            taken.append(row)
        self.push(None)
        return taken

    def skip(self, account_id: int) -> None:
        """Drop what is left of the account's rows."""
        self.push(next((row for row in self.rows if row[self.column] != account_id), None))


@dataclass(slots=True)
class Chain:
    """What the walk saw of one account. ``events`` are the transfers that lots or payments care about, as
    (id, code, amount, balance_after, at_ms, reference): all but usage, and usage that left a debt.

    ``hash_at`` is the hash at the asked-for seq, if the chain has it. ``sound`` says that no link was found wrong.
    ``most`` is the highest balance that the account can have had since a time; ``NEVER`` where an archive may tell.
    """

    seq: int = 0
    last_id: int = 0
    last_hash: bytes = b""
    balance: int = 0
    transfers: int = 0
    spent: int = 0
    may_owe: bool = False
    most: int = NEVER
    sound: bool = True
    hash_at: bytes | None = None
    events: list[Any] = field(default_factory=list)

    def turnover(self) -> Iterator[tuple[int, int]]:
        """Yield (code, amount): usage in one sum, every other transfer."""
        if self.spent:
            yield _USAGE, self.spent
        yield from ((event[1], event[2]) for event in self.events if event[1] != _USAGE)


Note = Callable[[Finding], None]


def walk(
    rows: ByAccount,
    account_id: int,
    start: ChainStart,
    note: Note,
    *,
    until_ms: int = NEVER,
    seq_asked: int = -1,
    since_ms: int = 0,
) -> Chain:
    """Check the account's links from ``start`` to the last before the first one that was made after ``until_ms``.

    What follows a wrong link is checked against what that link says, so a fault is noted where it is. ``most`` counts
    the balances from the last link on that was made before ``since_ms``.
    """
    found = Chain(*start, most=NEVER if start.seq else 0)
    if seq_asked == start.seq:
        found.hash_at = start.last_hash
    if rows.account == account_id:
        _follow(rows, found, note, until_ms=until_ms, seq_asked=seq_asked, since_ms=since_ms)
    owing = any(may_owe(event[1], event[5]) for event in found.events)
    found.may_owe = found.spent > 0 or start.seq > 0 or owing
    return found


def _follow(rows: ByAccount, found: Chain, note: Note, *, until_ms: int, seq_asked: int, since_ms: int) -> None:
    account_id = rows.account
    seq, last_id, last_hash, balance, most = found.seq, found.last_id, found.last_hash, found.balance, found.most
    links, spent, since_id = 0, 0, first_id_at(since_ms)
    for row in chain((rows.head,), rows.rows):
        identifier, owner, place, previous_id, code, amount, after, at_ms, _, _, _, _, _, _, digest, reference = row
        if owner != account_id:
            rows.push(row)
            break
        if at_ms > until_ms:
            rows.skip(account_id)
            break
        links += 1
        balance += amount if code in _INCOMING else -amount
        expected = link_hash(last_hash, pack_link(*row[:_PACKED]), reference)
        if (
            digest != expected
            or place != seq + 1
            or previous_id != last_id
            or after != balance
            or amount <= 0
            or code not in _CODES
        ):
            found.sound = False
            _explain(row, (seq, last_id, expected, balance), note)
            expected, balance = bytes(digest), after
        seq, last_id, last_hash = place, identifier, expected
        if after > most or (at_ms < since_ms and identifier < since_id):  # or it was noted later, such as an import
            most = after
        if code == _USAGE:
            spent += amount
        if code != _USAGE or after < 0:
            found.events.append((identifier, code, amount, after, at_ms, reference))
        if place == seq_asked:
            found.hash_at = expected
    else:
        rows.push(None)
    found.seq, found.last_id, found.last_hash, found.balance = seq, last_id, last_hash, balance
    found.transfers, found.spent, found.most = links, spent, most


def _explain(row: Any, wanted: tuple[int, int, bytes, int], note: Note) -> None:
    """Note what is wrong with a link; ``wanted``: the seq and id before it, its hash, the balance after it."""
    identifier, account_id, place, previous_id, code, amount, after, *_, digest, _ = row
    last_seq, last_id, hash_wanted, balance = wanted
    subject = f"account {account_id}, transfer {identifier}"

    def compare(wanted: int | str, is_: int | str, invariant: int, message: str) -> None:
        if wanted != is_:
            note(Finding(invariant, subject, message, account_id, identifier, wanted, is_))

    if amount <= 0 or code not in _CODES:
        note(Finding(1, subject, f"has code {code}, amount {amount}", account_id, identifier))
    compare(last_seq + 1, place, 9, f"is number {place} of its chain, after number {last_seq}")
    compare(last_id, previous_id, 9, f"says it follows transfer {previous_id}; the one before it is {last_id}")
    compare(balance, after, 2, f"says balance {after}, the sum of its chain is {balance}")
    message = "its hash does not match its content and its predecessor: history was changed"
    compare(hash_wanted.hex(), bytes(digest).hex(), 9, message)
