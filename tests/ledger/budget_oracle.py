"""Naive budgets: each keeps every hold that was ever counted in it, and adds them up anew whenever it is asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

NO_LIMIT = 10**30


def period_of(period, at_ms):
    """The UTC day or month, as a number that grows."""
    day = datetime.fromtimestamp(at_ms / 1_000, UTC)
    return {"day": day.toordinal(), "month": 12 * day.year + day.month, "none": 0}[period]


@dataclass
class NaiveBudget:
    kind: str
    name: str
    period: str
    limit: int | None
    now: int
    status: str = "open"
    counts: dict = field(default_factory=dict)  # hold id -> [period, held, spent]

    def sum(self, column):
        return sum(count[column] for count in self.counts.values() if count[0] == self.now)

    @property
    def left(self):
        return NO_LIMIT if self.limit is None else self.limit - self.sum(1) - self.sum(2)

    def begin(self, at_ms):
        self.now = max(self.now, period_of(self.period, at_ms))

    def facts(self):
        return self.limit, self.sum(2), self.sum(1), self.status


@dataclass
class NaiveBudgets:
    """One account's. ``told`` counts how often the host heard that a run stopped."""

    run_budget: int = 0
    rows: dict = field(default_factory=dict)  # (kind, name, period) -> NaiveBudget
    told: int = 0

    def run(self, run_id):
        return self.rows.get(("run", run_id, "none"))

    def stop(self, run, status):
        if run is not None and run.status not in {status, "paused"}:
            run.status = status
            self.told += 1

    def place(self, command, amount, least):
        """What may be held of ``amount``, or None if a budget refuses."""
        who = {("account", ""), ("member", command.member_id), ("key", command.key_id), ("run", command.run_id)}
        mine = [budget for (kind, name, _), budget in self.rows.items() if (kind, name) in who]
        run = self.run(command.run_id)
        for budget in mine:
            budget.begin(command.at_ms)
        is_new = run is None and command.run_id is not None and self.run_budget > 0
        if is_new:
            run = NaiveBudget("run", command.run_id, "none", self.run_budget, 0)
            mine.append(run)
        left = min((budget.left for budget in mine), default=NO_LIMIT)
        refused = left < least or (run is not None and run.status == "paused")
        if is_new and (not refused or run.left < least):
            self.rows["run", command.run_id, "none"] = run
        if refused:
            if run is not None and (run.left < least or run.status == "paused"):
                self.stop(run, "paused")
            elif not is_new:
                self.stop(run, "waiting")
            return None
        for budget in mine:
            budget.counts[command.hold_id] = [budget.now, min(amount, left), 0]
        if run is not None:
            run.status = "open"
        return min(amount, left)

    def counting(self, hold_id):
        return [budget for budget in self.rows.values() if hold_id in budget.counts]

    def room(self, command, held):
        """What the hold may be raised to."""
        rooms = []
        for budget in self.counting(command.hold_id):
            budget.begin(command.at_ms)
            is_current = budget.counts[command.hold_id][0] == budget.now
            rooms.append(budget.left + (held if is_current else 0))
        return min(rooms, default=NO_LIMIT)

    def raise_to(self, hold_id, amount):
        for budget in self.counting(hold_id):
            budget.counts[hold_id] = [budget.now, amount, 0]

    def refuse_to_raise(self, command, held, least):
        for run in (one for one in self.counting(command.hold_id) if one.kind == "run"):
            tightest = self.room(command, held)
            own = run.left + held == tightest or run.left < least - held
            self.stop(run, "paused" if own else "waiting")

    def end(self, hold_id, *, spent=0):
        for budget in self.counting(hold_id):
            count = budget.counts[hold_id]
            budget.counts[hold_id] = [count[0], 0, count[2] + spent]

    def set(self, command):
        key = (command.kind, command.name, command.period)
        if key in self.rows:
            self.rows[key].begin(command.at_ms)
            self.rows[key].limit, self.rows[key].status = command.limit, "open"
        else:
            self.rows[key] = NaiveBudget(*key, command.limit, period_of(command.period, command.at_ms))
        return self.rows[key].facts()

    def start(self, command):
        run = self.rows.setdefault(
            ("run", command.run_id, "none"), NaiveBudget("run", command.run_id, "none", command.limit, 0)
        )
        return run.facts()

    def pause(self, command):
        run = self.run(command.run_id)
        self.stop(run, "paused")
        return None if run is None else run.facts()

    def remove(self, command):
        key = (command.kind, command.name, command.period)
        found = self.rows.get(key)
        if found is None:
            return (None, 0, 0, "open")
        if command.unused_since_ms is None:
            del self.rows[key]
        return found.facts()
