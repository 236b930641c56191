"""What a reconciliation came to, as a value, as JSON, and as the last one is kept for the admin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import peewee

from ..ledger.work import Transaction
from .cursors import RECONCILIATION, read_cursor, store_cursor
from .reconciliation import REPAIR_TEXTS, Finding, FindingKind, Repair

_MOST_KEPT: Final = 500
"""Findings that are kept with the last report; a full run finds them all again."""


@dataclass(frozen=True, slots=True)
class Result:
    """A finding and what came of it. ``note`` says why a repair that was tried did not help."""

    finding: Finding
    repaired: bool = False
    note: str | None = None

    @property
    def is_left(self) -> bool:
        """Whether our books still differ there."""
        return self.finding.is_difference and not self.repaired


@dataclass(frozen=True, slots=True)
class Report:
    """A run. ``from_ms`` is where it began to look, None for everything; ``compared`` counts objects by list."""

    at_ms: int
    from_ms: int | None
    applied: bool
    compared: Mapping[str, int]
    results: Sequence[Result]

    @property
    def left(self) -> list[Result]:
        """What an operator, or a run that applies its repairs, still has to mend."""
        return [result for result in self.results if result.is_left]

    @property
    def repaired(self) -> int:
        """How many findings this run has mended."""
        return sum(result.repaired for result in self.results)


@dataclass(frozen=True, slots=True)
class KeptReport:
    """The last run that applied its repairs: when, how many findings it mended, and what is left."""

    at_ms: int
    repaired: int
    left: Sequence[Result]


def as_json(report: Report) -> dict[str, Any]:
    """Return the report as the command prints it."""
    return {
        "at_ms": report.at_ms,
        "from_ms": report.from_ms,
        "applied": report.applied,
        "compared": dict(report.compared),
        "repaired": report.repaired,
        "left": len(report.left),
        "findings": [_result_json(result) for result in report.results],
    }


def keep_report(tx: Transaction, report: Report) -> None:
    """Keep a run that applied its repairs; the next incremental one begins where it began."""
    left = [_result_json(result) for result in report.left[:_MOST_KEPT]]
    position = {"until_ms": report.at_ms, "repaired": report.repaired, "findings": left}
    store_cursor(tx, name=RECONCILIATION, position=position)


def last_report(database: peewee.Database) -> KeptReport | None:
    """Return the last report that was kept; None before the first."""
    position = read_cursor(database, RECONCILIATION)
    if not position:
        return None
    left = [_result_of(one) for one in position["findings"]]
    return KeptReport(position["until_ms"], position["repaired"], left)


def _result_json(result: Result) -> dict[str, Any]:
    finding = result.finding
    return {
        "kind": finding.kind,
        "subject": finding.subject,
        "payment_id": None if finding.payment_id is None else str(finding.payment_id),
        "cause": finding.cause,
        "repair": finding.repair,
        "proposal": REPAIR_TEXTS[finding.repair],
        "repaired": result.repaired,
        "note": result.note,
    }


def _result_of(kept: Mapping[str, Any]) -> Result:
    payment_id = None if kept["payment_id"] is None else int(kept["payment_id"])
    finding = Finding(FindingKind(kept["kind"]), kept["subject"], kept["cause"], Repair(kept["repair"]), payment_id)
    return Result(finding, kept["repaired"], kept["note"])
