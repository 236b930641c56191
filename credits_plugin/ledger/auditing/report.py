"""What an audit says: counts, books and findings, as values and as JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from ..entries import INCOMING, SYSTEM_ACCOUNTS, Code
from .starts import ChainStart

MAX_FINDINGS: Final = 1_000
"""Findings kept; the count goes on."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken promise: which invariant of ARCHITECTURE.md, where, and what was expected.

    ``expected`` and ``found`` are set where two values were compared: microcredits, ids, or hashes in hexadecimal.
    """

    invariant: int
    subject: str
    message: str
    account_id: int | None = None
    transfer_id: int | None = None
    expected: int | str | None = None
    found: int | str | None = None


@dataclass(slots=True)
class AuditReport:
    """What was checked and what was found. ``findings`` is empty where all promises hold.

    ``turnover`` has the sum of the amounts of each code; ``opening`` is what archived transfers had left, by the word
    of ``anchored`` accounts' anchors. As of a time
    in the past, ``accounts`` are those that had a transfer by then, ``archived`` those whose balance then lies in an
    archive. ``next_account`` is where to go on, None when every account was checked.
    """

    as_of_ms: int | None = None
    accounts: int = 0
    transfers: int = 0
    open_holds: int = 0
    lots: int = 0
    payments: int = 0
    balance_total: int = 0
    debt_total: int = 0
    opening: int = 0
    anchored: int = 0
    archived: int = 0
    turnover: Counter[int] = field(default_factory=Counter)
    finding_count: int = 0
    findings: list[Finding] = field(default_factory=list)
    next_account: int | None = None

    @property
    def clean(self) -> bool:
        """Whether every invariant holds, as far as it was checked."""
        return self.finding_count == 0

    @property
    def complete(self) -> bool:
        """Whether every account was checked."""
        return self.next_account is None

    @property
    def books(self) -> dict[str, int]:
        """Balances of the system accounts; with ``balance_total`` they add up to ``opening``, which is mostly 0."""
        books: Counter[str] = Counter(dict.fromkeys(SYSTEM_ACCOUNTS.values(), 0))
        for code, amount in self.turnover.items():
            if code in SYSTEM_ACCOUNTS:
                books[SYSTEM_ACCOUNTS[Code(code)]] += -amount if code in INCOMING else amount
        return dict(books)

    def count_account(self, start: ChainStart, *, balance: int) -> None:
        """Count an account that has ``balance`` and whose chain starts there."""
        self.accounts += 1
        self.anchored += start.seq > 0
        self.opening += start.balance
        self.balance_total += balance
        self.debt_total += max(-balance, 0)

    def note(self, finding: Finding) -> None:
        """Add a finding; beyond ``MAX_FINDINGS`` it is only counted."""
        self.finding_count += 1
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(finding)

    def as_json(self) -> dict[str, Any]:
        """Return plain values for ``json.dumps``, stable in their names."""
        values = {**asdict(self), "turnover": {str(code): amount for code, amount in sorted(self.turnover.items())}}
        return {"clean": self.clean, "complete": self.complete, **values, "books": self.books}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> AuditReport:
        """Return the report that :meth:`as_json` described."""
        plain = {name: values[name] for name in cls.__slots__}
        plain["turnover"] = Counter({int(code): amount for code, amount in values["turnover"].items()})
        plain["findings"] = [Finding(**finding) for finding in values["findings"]]
        return cls(**plain)
