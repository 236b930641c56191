"""The walk along the chains of one part: what an audit checks of rows in the database, checked of those in a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, groupby
from operator import itemgetter
from typing import Final

from ...errors import InvalidValue
from ...ledger.auditing.starts import ChainStart
from ...ledger.entries import Code, link_hash, pack_link
from .rows import ArchivedRow, link_before, signed_amount

_NOTHING: Final = ChainStart()
_CODES: Final = frozenset(map(int, Code))

OnAccount = Callable[[int, ChainStart, ChainStart], None]
"""Hears of an account of the part: its key, the link before its first row there, and the link of its last."""


@dataclass(slots=True)
class PartSums:
    """What a part holds. ``opening`` and ``closing`` sum its accounts' balances before and after it, in microcredits.

    ``transfers`` and ``amounts`` are by code; ``end`` is the last link of the last account.
    """

    rows: int = 0
    accounts: int = 0
    opening: int = 0
    closing: int = 0
    first_account: int = 0
    last_account: int = 0
    end: ChainStart = _NOTHING
    transfers: Counter[int] = field(default_factory=Counter)
    amounts: Counter[int] = field(default_factory=Counter)


def walk_part(rows: Iterable[ArchivedRow], on_account: OnAccount | None = None) -> PartSums:
    """Check every link of a part and return its sums.

    Raises:
        InvalidValue: a link is not what its hash, its predecessor or the balance say; the message names it.
    """
    sums = PartSums()
    for account_id, links in groupby(rows, key=itemgetter(0)):
        if sums.accounts and account_id <= sums.last_account:
            msg = f"account {account_id} comes after account {sums.last_account}: a part goes by accounts"
            raise InvalidValue(msg)
        start, end = _walk_account(links, sums)
        if on_account is not None:
            on_account(account_id, start, end)
        sums.first_account = sums.first_account if sums.accounts else account_id
        sums.accounts += 1
        sums.opening += start.balance
        sums.closing += end.balance
        sums.last_account, sums.end = account_id, end
    return sums


def _walk_account(links: Iterator[ArchivedRow], sums: PartSums) -> tuple[ChainStart, ChainStart]:
    first = next(links)
    start = link_before(first)
    if (start.seq == 0) != (start == _NOTHING) or (start.seq > 0 and first.previous_hash is None):
        msg = f"account {first.account_id}, transfer {first.id}: does not say which link it follows"
        raise InvalidValue(msg)
    seq, last_id, last_hash, balance = start
    transfers, amounts = sums.transfers, sums.amounts
    for row in chain((first,), links):
        account_id, place, identifier, previous_id, code, amount, after, at_ms, version, *tokens, digest, _, text = row
        counted = [count or 0 for count in tokens]
        content = pack_link(
            identifier, account_id, place, previous_id, code, amount, after, at_ms, version or 0, *counted
        )
        balance += signed_amount(code, amount)
        seq += 1
        if (
            digest != link_hash(last_hash, content, text)
            or (place, previous_id, after) != (seq, last_id, balance)
            or amount <= 0
            or code not in _CODES
        ):
            msg = (
                f"account {account_id}, transfer {identifier}: number {place} is not what its hash, its predecessor "
                f"(number {seq - 1}, transfer {last_id}) and the balance before it say"
            )
            raise InvalidValue(msg)
        last_id, last_hash = identifier, digest
        transfers[code] += 1
        amounts[code] += amount
        sums.rows += 1
    return start, ChainStart(seq, last_id, last_hash, balance)
