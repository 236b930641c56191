"""What the ledger is made of: states, commands and answers. Values only; the rules that move them are in rules.py.

The values that every request makes are named tuples: they are made in a fifth of a frozen dataclass's time (0.4 against
2 microseconds), and in the order of their table's columns they are written as they are.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from hashlib import blake2b
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

from hookspecs import Usage

from .budget_entries import BudgetCommand, Budgeted
from .usage_columns import usage_of


class Code(IntEnum):
    """Why a transfer was made. The code names the system account on its other side, and the direction."""

    PURCHASE = 1
    USAGE = 2
    REFUND = 3
    REFUND_FAILED = 4
    DISPUTE = 5
    DISPUTE_WON = 6
    PROMOTION = 7
    EXPIRY = 8
    ADJUSTMENT_IN = 9
    ADJUSTMENT_OUT = 10
    ROLLED_OUT = 11
    ROLLED_IN = 12


SYSTEM_ACCOUNTS: Final[Mapping[Code, str]] = MappingProxyType(
    {
        Code.PURCHASE: "cash",
        Code.USAGE: "usage_revenue",
        Code.REFUND: "cash",
        Code.REFUND_FAILED: "cash",
        Code.DISPUTE: "cash",
        Code.DISPUTE_WON: "cash",
        Code.PROMOTION: "promotions",
        Code.EXPIRY: "breakage",
        Code.ADJUSTMENT_IN: "adjustments",
        Code.ADJUSTMENT_OUT: "adjustments",
        Code.ROLLED_OUT: "rollover",
        Code.ROLLED_IN: "rollover",
    }
)
INCOMING: Final = frozenset(
    {
        Code.PURCHASE,
        Code.REFUND_FAILED,
        Code.DISPUTE_WON,
        Code.PROMOTION,
        Code.ADJUSTMENT_IN,
        Code.ROLLED_IN,
    }
)
"""Codes that move credits from their system account to the account; all others move them away from it."""
CLAW_BACKS: Final = frozenset({Code.REFUND, Code.DISPUTE})
"""Codes that may leave an account in debt: the money has already gone back."""


RERATING: Final = "rerate:"
"""How the references of corrections begin that follow from charging usage anew; a rerating's id comes after it."""


def may_owe(code: int, reference: str | None) -> bool:
    """Whether a transfer may take more than there is: the money has gone back, or usage had been charged too little."""
    return code in CLAW_BACKS or (code == Code.ADJUSTMENT_OUT and (reference or "").startswith(RERATING))


OPEN_ENDED_MS: Final = 2**62
"""When a hold ends that waits for a person's decision instead of an answer: never by itself."""


class HoldStatus(IntEnum):
    """Life of a hold: placed, then exactly one of the others; a late settle turns expired into settled."""

    PLACED = 1
    SETTLED = 2
    RELEASED = 3
    EXPIRED = 4


@dataclass(slots=True)
class AccountState:
    """An account's row in a batch. Mutable: the rules change it in place, the store writes it once.

    ``budgets`` says how many it has, its members', keys' and runs' included: with none, nobody looks for any.
    """

    id: int
    external_id: str
    balance: int = 0
    held: int = 0
    seq: int = 0
    last_transfer_id: int = 0
    last_hash: bytes = b""
    next_expiry_at_ms: int | None = None
    budgets: int = 0

    @property
    def available(self) -> int:
        """Balance minus open holds, in microcredits; negative after an overrun or a claw-back."""
        return self.balance - self.held


class HoldState(NamedTuple):
    """A hold's row, in the order of the table's columns; ``status`` compares equal to :class:`HoldStatus`.

    ``budgets`` says what it is counted in; budgets.py writes and reads it.
    """

    id: int
    account_id: int
    amount: int
    status: int
    expires_at_ms: int
    price_version: int
    input_tokens: int
    request_id: str | None
    run_id: str | None
    budgets: str | None = None


@dataclass(slots=True)
class LotState:
    """A lot's row in a batch."""

    id: int
    account_id: int
    priority: int
    expires_at_ms: int | None
    amount: int
    remaining: int
    payment_id: int | None
    expired: int = 0


class TransferRow(NamedTuple):
    """One immutable row of an account's chain, in the order of the table's columns.

    ``hash`` covers the other fields and the previous row's hash. The token counts are None but on usage transfers.
    """

    id: int
    account_id: int
    seq: int
    previous_id: int
    code: int
    amount: int
    balance_after: int
    at_ms: int
    hash: bytes
    price_version: int | None
    input: int | None
    cache_read: int | None
    cache_write: int | None
    output: int | None
    reasoning: int | None
    reference: str | None

    @property
    def usage(self) -> Usage | None:
        """The measured tokens of a usage transfer."""
        return usage_of(self.input, self.cache_read, self.cache_write, self.output, self.reasoning)


def chain_hash(
    previous_hash: bytes,
    *,
    transfer_id: int,
    account_id: int,
    seq: int,
    previous_id: int,
    code: int,
    amount: int,
    balance_after: int,
    at_ms: int,
    price_version: int | None,
    usage: Usage | None,
    reference: str | None,
) -> bytes:
    """Return the 16-byte BLAKE2b digest that binds a transfer to everything before it in its account's chain."""
    tokens = (
        (usage.input, usage.cache_read, usage.cache_write, usage.output, usage.reasoning) if usage else (0, 0, 0, 0, 0)
    )
    version = price_version or 0
    content = pack_link(transfer_id, account_id, seq, previous_id, code, amount, balance_after, at_ms, version, *tokens)
    return link_hash(previous_hash, content, reference)


TransferValues: TypeAlias = tuple[Any, ...]
"""The fields of a :class:`TransferRow`, as a plain tuple: what the store writes and ``TransferRow._make`` names."""
_new_hasher: Final = blake2b(digest_size=16).copy  # a copy is made in half the time that the constructor takes
pack_link: Final = struct.Struct(">14q").pack
"""Packs the integers of a transfer in the order of :func:`chain_hash`, five token counts last; None counts as 0."""


def link_hash(previous_hash: bytes, content: bytes, reference: str | None) -> bytes:
    """Return the digest of a transfer whose integers are packed; the hot half of :func:`chain_hash`."""
    hasher = _new_hasher()
    hasher.update(previous_hash + content if reference is None else previous_hash + content + reference.encode())
    return hasher.digest()


class PlaceHold(NamedTuple):
    """Reserve ``amount`` for one request; with ``least``, what is available where that is less, down to ``least``.

    ``key_id`` and ``member_id`` say who asks for the account, as ``run_id`` says for what. Answer: :class:`Placed`.
    """

    account_id: int
    external_id: str
    hold_id: int
    amount: int
    at_ms: int
    expires_at_ms: int
    price_version: int
    input_tokens: int
    request_id: str | None = None
    run_id: str | None = None
    key_id: str | None = None
    member_id: str | None = None
    least: int | None = None


class ExtendHold(NamedTuple):
    """Raise an open hold to ``amount`` in total, or, with ``least``, to what is available, down to ``least``.

    It is never lowered, and never ends sooner than it would have. Answer: :class:`Extended`.
    """

    account_id: int
    hold_id: int
    amount: int
    at_ms: int
    expires_at_ms: int
    least: int | None = None


class SettleHold(NamedTuple):
    """Charge what a request cost (0 is allowed) and end its hold. Answer: :class:`Settled`."""

    account_id: int
    hold_id: int
    amount: int
    at_ms: int
    usage: Usage


class ReleaseHold(NamedTuple):
    """End a hold without a charge. Answer: :class:`Released`."""

    account_id: int
    hold_id: int
    at_ms: int


class ExpireHold(NamedTuple):
    """End a hold whose time is over; ``charge`` (0 by default) is the documented cost of unknown usage.

    Does nothing to a hold that has ended or is not due. Answer: :class:`Released`.
    """

    account_id: int
    hold_id: int
    at_ms: int
    charge: int = 0
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class LotTerms:
    """How credits that come in are burned down: lower priority first, then sooner expiry, then older."""

    priority: int = 100
    expires_at_ms: int | None = None


class PostTransfer(NamedTuple):
    """Move credits for any reason but usage and expiry. Incoming credits become a lot. Answer: :class:`Posted`.

    ``payment_id`` ties a lot to its payment; a claw-back takes from that payment's lot first.
    """

    account_id: int
    external_id: str
    transfer_id: int
    code: Code
    amount: int
    at_ms: int
    reference: str | None = None
    payment_id: int | None = None
    terms: LotTerms = LotTerms()


class ExpireLots(NamedTuple):
    """Turn what is left of the account's due lots into breakage; open holds are honoured. Answer: :class:`Posted`."""

    account_id: int
    transfer_id: int
    at_ms: int


class RollOver(NamedTuple):
    """Move what is left of a lot, at most ``cap``, into a new lot with a later expiry. Answer: :class:`Posted`.

    Two transfers of one amount, out and in, the second with the companion of ``transfer_id``: the balance stays and the
    chain tells. The new lot keeps priority and payment. Moves nothing where nothing is left or the lot is due.
    """

    account_id: int
    lot_id: int
    transfer_id: int
    at_ms: int
    expires_at_ms: int | None
    cap: int | None = None


Command: TypeAlias = (
    PlaceHold
    | ExtendHold
    | SettleHold
    | ReleaseHold
    | ExpireHold
    | PostTransfer
    | ExpireLots
    | RollOver
    | BudgetCommand
)


class Placed(NamedTuple):
    """The hold stands, for ``amount``. ``repeated`` says that an earlier request with the same id had placed it."""

    hold_id: int
    account_id: int
    amount: int
    expires_at_ms: int
    price_version: int
    input_tokens: int
    available: int
    repeated: bool = False


class Extended(NamedTuple):
    """The hold stands, for ``amount`` in total until ``expires_at_ms``."""

    hold_id: int
    amount: int
    expires_at_ms: int
    available: int


class Settled(NamedTuple):
    """The charge stands. ``repeated`` says that it had been settled before, for ``amount``."""

    hold_id: int
    amount: int
    balance: int
    repeated: bool = False


class Released(NamedTuple):
    """The hold has ended without a charge, or with the documented one for unknown usage."""

    hold_id: int
    changed: bool


class Posted(NamedTuple):
    """The transfer stands; ``balance`` is what it left."""

    amount: int
    balance: int


Answer: TypeAlias = Placed | Extended | Settled | Released | Posted | Budgeted
