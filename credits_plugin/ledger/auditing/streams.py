"""One range of accounts as a merge of its tables, each read in the order of account ids. Reads only, judges nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from ..attribution import claw_back_references
from ..entries import Code, HoldStatus, LotState
from ..ids import CLOCKS_DIFFER_MS, EPOCH_MS, first_id_at, id_time_ms
from ..snapshots import Snapshot
from ..store import LOT_COLUMNS
from .chains import MISSHAPEN, NEVER, TRANSFERS, ByAccount, Chain, Note, walk
from .report import Finding
from .starts import ChainStart, chain_starts, start_of

_IN_RANGE: Final = "account_id BETWEEN %s AND %s"
_ACCOUNTS: Final = (
    "SELECT id, external_id, balance, held, seq, last_transfer_id, last_hash, next_expiry_at_ms, budgets FROM account "
    "WHERE id BETWEEN %s AND %s ORDER BY id"
)
_HOLDS: Final = (
    "SELECT h.account_id, h.id, h.amount, h.state, t.id, h.budgets FROM hold h LEFT JOIN transfer t ON t.id = h.id "
    f"AND t.account_id = h.account_id WHERE h.{_IN_RANGE} AND (h.state <> {int(HoldStatus.SETTLED)} "
    "OR (t.id IS NOT NULL AND (COALESCE(t.reference, '') <> COALESCE(h.request_id, '') "
    "OR COALESCE(t.price_version, 0) <> h.price_version))) ORDER BY h.account_id, h.id"
)
REUSED_AFTER_MS: Final = 86_400_000
"""An ended hold keeps its request id from being used again for longer than that, whatever hosts' clocks say."""
_CHARGED_AGAIN: Final = (
    "SELECT account_id, id, earlier FROM (SELECT account_id, id, "
    "LAG(id) OVER (PARTITION BY account_id, reference ORDER BY id) AS earlier FROM transfer "
    f"WHERE {_IN_RANGE} AND code = {int(Code.USAGE)} AND reference IS NOT NULL) AS named "
    f"WHERE id - earlier < {first_id_at(EPOCH_MS + REUSED_AFTER_MS)}"
)
"""Sorted by the database, on disk. Few rows or none."""
_BUDGETS: Final = (
    "SELECT account_id, id, kind, name, spent, held, starts_at_ms FROM budget "
    f"WHERE {_IN_RANGE} ORDER BY account_id, id"
)
_LOTS: Final = f"SELECT {LOT_COLUMNS} FROM lot WHERE {_IN_RANGE} ORDER BY account_id, id"
MONEY_BACK: Final = ("pending", "requires_action", "succeeded")
"""Refunds that take credits back: what ``payments.states`` says, which stands above the ledger; a test compares."""
_SUM: Final = "CAST(COALESCE(SUM(r.amount_minor), 0) AS BIGINT)"
_IS_WITHDRAWN: Final = "(r.withdrawals > r.reinstatements OR (r.status = 'lost' AND r.reinstatements = 0))"
_PAYMENTS: Final = (
    "SELECT account_id, id, COALESCE(granted_microcredits, microcredits), clawed_back, grant_transfer_id, status, "
    "COALESCE(paid_minor, amount_minor), refunded_minor, disputed_minor, "
    f"(SELECT {_SUM} FROM refund r WHERE r.payment_id = payment.id "
    f"AND r.account_id = payment.account_id AND r.status IN {MONEY_BACK}), "
    f"(SELECT {_SUM} FROM dispute r WHERE r.payment_id = payment.id "
    f"AND r.account_id = payment.account_id AND {_IS_WITHDRAWN}) FROM payment "
    f"WHERE {_IN_RANGE} ORDER BY account_id, id"
)
_RERATED: Final = (
    f"SELECT account_id, CAST(SUM(corrected) AS BIGINT) FROM rerated_usage WHERE {_IN_RANGE} "
    "GROUP BY account_id ORDER BY account_id"
)


class PaymentRow(NamedTuple):
    """What the audit reads of a payment: credits and money as granted and paid, as ordered until then.

    ``refunds_minor`` adds up its refunds whose money is on its way or gone, ``disputes_minor`` its withdrawn disputes.
    """

    account_id: int
    id: int
    microcredits: int
    clawed_back: int
    grant_id: int | None
    status: str
    paid_minor: int
    refunded_minor: int
    disputed_minor: int
    refunds_minor: int
    disputes_minor: int


class AccountRows(NamedTuple):
    """All that one snapshot has of an account. ``account`` is None where rows belong to no account.

    ``account``: id, external_id, balance, held, seq, last_transfer_id, last_hash, next_expiry_at_ms, budgets.
    ``holds``: account id, id, amount, state, id of the transfer that charged it, budgets; of settled ones, those that
    are not what their transfer says. ``budgets``: account id, id, kind, name, spent, held, starts_at_ms.
    ``references`` maps what a claw-back refers to to its payment. Of the past there is the chain alone.
    """

    account_id: int
    account: Any
    start: ChainStart
    chain: Chain
    holds: list[Any]
    budgets: list[Any]
    lots: list[LotState]
    payments: list[PaymentRow]
    references: Mapping[str, int]
    rerated: int = 0
    """What its requests say that reratings took for them, in all."""

    @property
    def is_anchored(self) -> bool:
        """Whether the chain's beginning was archived, so that only what needs no beginning can be checked."""
        return self.start is not _WHOLE


_WHOLE: Final = ChainStart()
_NO_ROW: Final = (None,)


def accounts_of(rows: Snapshot, bounds: tuple[int, int], note: Note, *, until_ms: int | None) -> Iterator[AccountRows]:
    """Yield every account of the range that any row names, its chain walked; ``until_ms`` asks for the past."""
    for account_id, transfer_id in rows.stream(MISSHAPEN, bounds):
        message = "has no tokens where usage has some, tokens where nothing was used, or an empty reference"
        note(Finding(9, f"account {account_id}, transfer {transfer_id}", message, account_id, transfer_id))
    if until_ms is None:
        for account_id, transfer_id, earlier in rows.stream(_CHARGED_AGAIN, bounds):
            message = f"charges a request that transfer {earlier} had charged"
            note(Finding(7, f"account {account_id}, transfer {transfer_id}", message, account_id, transfer_id))
    streams = _open(rows, bounds, past=until_ms is not None)
    ends = NEVER if until_ms is None else until_ms
    while (account_id := streams.next_account()) < NEVER:
        start, holds = _start(streams.starts, account_id), streams.holds.take(account_id)
        yield AccountRows(
            account_id,
            (streams.accounts.take(account_id) or _NO_ROW)[0],
            start,
            walk(streams.transfers, account_id, start, note, until_ms=ends, since_ms=_newest_placed_ms(holds)),
            holds=holds,
            budgets=streams.budgets.take(account_id),
            lots=[LotState(*lot) for lot in streams.lots.take(account_id)],
            payments=[PaymentRow._make(row) for row in streams.payments.take(account_id)],
            references={row[1]: row[2] for row in streams.references.take(account_id)},
            rerated=sum(int(row[1]) for row in streams.rerated.take(account_id)),
        )


def _newest_placed_ms(holds: list[Any]) -> int:
    """Return a time before which the newest open hold cannot have been placed; 0 without any."""
    newest = max((hold[1] for hold in holds if hold[3] == HoldStatus.PLACED), default=None)
    return 0 if newest is None else id_time_ms(newest) - CLOCKS_DIFFER_MS


def _start(anchors: ByAccount, account_id: int) -> ChainStart:
    return start_of(anchors.take(account_id)[0]) if anchors.account == account_id else _WHOLE


@dataclass(frozen=True, slots=True)
class _Streams:
    accounts: ByAccount
    starts: ByAccount
    transfers: ByAccount
    holds: ByAccount
    budgets: ByAccount
    lots: ByAccount
    payments: ByAccount
    references: ByAccount
    rerated: ByAccount

    def next_account(self) -> int:
        return min(
            self.accounts.account,
            self.starts.account,
            self.transfers.account,
            self.holds.account,
            self.budgets.account,
            self.lots.account,
            self.payments.account,
            self.references.account,
            self.rerated.account,
        )


def _open(rows: Snapshot, bounds: tuple[int, int], *, past: bool) -> _Streams:
    def present(sql: str) -> Iterator[Any]:
        return iter(()) if past else rows.stream(sql, bounds)

    return _Streams(
        accounts=ByAccount(rows.stream(_ACCOUNTS, bounds)),
        starts=ByAccount(chain_starts(rows, bounds)),
        transfers=ByAccount(rows.stream(TRANSFERS, bounds), column=1),
        holds=ByAccount(present(_HOLDS)),
        budgets=ByAccount(present(_BUDGETS)),
        lots=ByAccount(present(_LOTS), column=1),
        payments=ByAccount(present(_PAYMENTS)),
        rerated=ByAccount(present(_RERATED)),
        references=ByAccount(iter(()) if past else claw_back_references(rows, _IN_RANGE, bounds)),
    )
