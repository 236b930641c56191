"""``credits audit``: checks the ledger's invariants on a consistent snapshot, while hosts go on writing.

Rows are streamed in chain order and forgotten as they pass: memory is bounded by one account's lots and holds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final
from uuid import uuid4

import peewee

from hookspecs import Usage

from ..database import Database, Dialect
from ..money import format_credits
from .entries import CLAW_BACKS, INCOMING, Code, HoldStatus, chain_hash
from .ids import account_key

MAX_FINDINGS: Final = 1_000
"""Findings kept; the count goes on."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken promise: which invariant of ARCHITECTURE.md, where, and what was expected."""

    invariant: int
    subject: str
    message: str


@dataclass(slots=True)
class AuditReport:
    """What was checked and what was found. ``findings`` is empty where all promises hold."""

    accounts: int = 0
    transfers: int = 0
    open_holds: int = 0
    payments: int = 0
    balance_total: int = 0
    finding_count: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether every invariant holds."""
        return self.finding_count == 0

    def expect(self, holds: bool, invariant: int, subject: str, message: str) -> None:
        """Note a finding unless ``holds``."""
        if not holds:
            self.finding_count += 1
            if len(self.findings) < MAX_FINDINGS:
                self.findings.append(Finding(invariant, subject, message))


def audit(database: Database) -> AuditReport:
    """Check every invariant and return what was found; blocks no writer."""
    report = AuditReport()
    with _snapshot(database) as rows:
        holds = _open_holds(rows)
        report.open_holds = sum(len(amounts) for amounts in holds.values())
        chains = _chains(rows)
        lots = _lots_remaining(rows)
        chain_of: tuple[int, list[Any] | Iterable[Any]] | None = next(chains, None)
        for account in rows.stream(
            "SELECT id, external_id, balance, held, seq, last_transfer_id, last_hash FROM account ORDER BY id"
        ):
            while chain_of is not None and chain_of[0] < account[0]:
                report.expect(False, 2, f"account {chain_of[0]}", "has transfers but no account row")
                chain_of = next(chains, None)
            links: Iterable[Any] = ()
            mine = chain_of is not None and chain_of[0] == account[0]
            if mine and chain_of is not None:
                links = chain_of[1]
            _check_account(report, account, links, held=holds.pop(account[0], []), lots=lots.get(account[0], 0))
            if mine:
                chain_of = next(chains, None)
        for account_id in holds:
            report.expect(False, 3, f"account {account_id}", "has open holds but no account row")
        _check_payments(report, rows)
        _check_settled_holds(report, rows)
    return report


def _check_account(report: AuditReport, row: Any, links: Iterable[Any], *, held: list[int], lots: int) -> None:
    account_id, external_id, balance, stored_held, seq, last_id, last_hash = row
    subject = f"account {external_id}"
    report.accounts += 1
    report.balance_total += balance
    chain = _walk_chain(report, subject, links)
    report.expect(
        account_id == account_key(external_id), 2, subject, f"its id {account_id} does not belong to its external id"
    )
    report.expect(chain.seq == seq, 2, subject, f"says {seq} transfers, its chain has {chain.seq}")
    report.expect(
        chain.balance == balance,
        2,
        subject,
        f"balance {format_credits(balance)}, its transfers add up to {format_credits(chain.balance)}",
    )
    report.expect(
        (chain.last_id, chain.last_hash) == (last_id, bytes(last_hash)), 9, subject, "its head is not its chain's end"
    )
    report.expect(
        stored_held == sum(held), 3, subject, f"held {format_credits(stored_held)}, open holds add up to {sum(held)}"
    )
    report.expect(
        balance >= stored_held or chain.may_owe, 4, subject, "spent more than it had, without overrun or claw-back"
    )
    report.expect(
        lots >= max(balance, 0), 4, subject, f"its lots have {format_credits(lots)} left, less than its balance"
    )


@dataclass(slots=True)
class _Chain:
    seq: int = 0
    balance: int = 0
    last_id: int = 0
    last_hash: bytes = b""
    may_owe: bool = False


def _walk_chain(report: AuditReport, subject: str, links: Iterable[Any]) -> _Chain:
    chain = _Chain()
    for link in links:
        report.transfers += 1
        identifier, account_id, seq, previous_id, code, amount, balance_after, at_ms, digest, version, *rest = link
        tokens, reference = rest[:5], rest[5]
        usage = Usage(*tokens) if tokens[0] is not None else None
        balance = chain.balance + (amount if code in INCOMING else -amount)
        where = f"{subject}, transfer {identifier}"
        report.expect(code in set(Code) and amount > 0, 1, where, f"has code {code}, amount {amount}")
        report.expect(
            (seq, previous_id) == (chain.seq + 1, chain.last_id), 9, where, f"does not follow transfer {chain.last_id}"
        )
        report.expect(
            balance_after == balance, 2, where, f"says balance {balance_after}, the sum of its chain is {balance}"
        )
        expected = chain_hash(
            chain.last_hash,
            transfer_id=identifier,
            account_id=account_id,
            seq=seq,
            previous_id=previous_id,
            code=code,
            amount=amount,
            balance_after=balance_after,
            at_ms=at_ms,
            price_version=version,
            usage=usage,
            reference=reference,
        )
        report.expect(bytes(digest) == expected, 9, where, "its hash does not match its content: history was changed")
        # Usage may overrun its hold and a claw-back may find too little; only then is a debt explained.
        may_owe = chain.may_owe or code == Code.USAGE or code in CLAW_BACKS
        chain = _Chain(seq, balance, identifier, bytes(digest), may_owe)
    return chain


def _check_payments(report: AuditReport, rows: _Snapshot) -> None:
    """Each grant belongs to one payment, for the credits that were ordered; claw-backs never exceed it."""
    for row in rows.stream(
        "SELECT p.id, p.account_id, p.microcredits, p.clawed_back, p.grant_transfer_id, p.status, "
        "t.account_id, t.amount, t.code, l.payment_id FROM payment p "
        "LEFT JOIN transfer t ON t.id = p.grant_transfer_id LEFT JOIN lot l ON l.id = p.grant_transfer_id ORDER BY p.id"
    ):
        payment_id, account_id, microcredits, clawed_back, grant_id, status, owner, amount, code, lot_payment = row
        subject = f"payment {payment_id}"
        report.payments += 1
        granted = (account_id, microcredits, Code.PURCHASE, payment_id)
        report.expect(
            grant_id is None or (owner, amount, code, lot_payment) == granted,
            5,
            subject,
            f"its grant {grant_id} is not {format_credits(microcredits)} credits to its account",
        )
        report.expect(status != "paid" or grant_id is not None, 5, subject, "is paid, but was never granted")
        report.expect(
            0 <= clawed_back <= microcredits, 6, subject, f"claw-backs of {clawed_back} exceed its grant {microcredits}"
        )
    orphans = rows.stream(
        "SELECT t.id FROM transfer t LEFT JOIN payment p ON p.grant_transfer_id = t.id "
        f"WHERE t.code = {int(Code.PURCHASE)} AND p.id IS NULL"
    )
    for (identifier,) in orphans:
        report.expect(False, 5, f"transfer {identifier}", "is a purchase without a payment")
    _check_claw_backs(report, rows)


def _check_claw_backs(report: AuditReport, rows: _Snapshot) -> None:
    """What the payments say was clawed back is what the transfers took, in total of each account."""
    took, gave = f"{int(Code.REFUND)}, {int(Code.DISPUTE)}", f"{int(Code.REFUND_FAILED)}, {int(Code.DISPUTE_WON)}"
    sums = (
        f"SELECT account_id, SUM(CASE WHEN code IN ({took}) THEN amount ELSE -amount END) "
        f"FROM transfer WHERE code IN ({took}, {gave}) GROUP BY account_id"
    )
    taken = {row[0]: int(row[1]) for row in rows.stream(sums)}
    for account_id, said in rows.stream("SELECT account_id, SUM(clawed_back) FROM payment GROUP BY account_id"):
        real = taken.pop(account_id, 0)
        report.expect(
            real == said, 6, f"account {account_id}", f"payments say {said} were clawed back, transfers say {real}"
        )
    for account_id, amount in taken.items():
        report.expect(amount == 0, 6, f"account {account_id}", f"{amount} were clawed back without a payment")


def _check_settled_holds(report: AuditReport, rows: _Snapshot) -> None:
    settled = int(HoldStatus.SETTLED)
    query = f"SELECT h.id FROM hold h JOIN transfer t ON t.id = h.id WHERE h.state <> {settled} ORDER BY h.id"
    for (identifier,) in rows.stream(query):
        report.expect(False, 7, f"hold {identifier}", "was charged, but has not ended as settled")


def _open_holds(rows: _Snapshot) -> dict[int, list[int]]:
    holds: dict[int, list[int]] = {}
    for account_id, amount in rows.stream(
        f"SELECT account_id, amount FROM hold WHERE state = {int(HoldStatus.PLACED)}"
    ):
        holds.setdefault(account_id, []).append(amount)
    return holds


def _lots_remaining(rows: _Snapshot) -> dict[int, int]:
    query = "SELECT account_id, SUM(remaining) FROM lot WHERE remaining > 0 GROUP BY account_id"
    return {row[0]: int(row[1]) for row in rows.stream(query)}


def _chains(rows: _Snapshot) -> Iterator[tuple[int, Iterator[Any]]]:
    query = (
        "SELECT id, account_id, seq, previous_id, code, amount, balance_after, at_ms, hash, price_version, "
        "input, cache_read, cache_write, output, reasoning, reference FROM transfer ORDER BY account_id, seq"
    )
    return groupby(rows.stream(query), key=lambda row: row[1])


class _Snapshot:
    """Streams rows of one consistent snapshot; several streams may be open at once."""

    def __init__(self, connection: Any, cursors: contextlib.ExitStack, *, server_side: bool) -> None:
        self._connection = connection
        self._cursors = cursors
        self._server_side = server_side

    def stream(self, sql: str) -> Iterator[Any]:
        if not self._server_side:
            return iter(self._connection.execute(sql))
        # PostgreSQL's client would otherwise hold the whole result.
        cursor = self._cursors.enter_context(self._connection.cursor(name=f"audit_{uuid4().hex}"))
        cursor.itersize = 5_000
        cursor.execute(sql)
        return iter(cursor)


@contextlib.contextmanager
def _snapshot(database: Database) -> Iterator[_Snapshot]:
    reader: peewee.Database = database.reader
    reader.connect(reuse_if_open=True)
    connection = reader.connection()
    postgresql = database.dialect is Dialect.POSTGRESQL
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" if postgresql else "BEGIN")
    try:
        with contextlib.ExitStack() as cursors:
            yield _Snapshot(connection, cursors, server_side=postgresql)
    finally:
        connection.execute("ROLLBACK")
        reader.close()
