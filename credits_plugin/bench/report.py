"""What a benchmark says: one bar per line, with its goal, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Direction(StrEnum):
    """On which side of its goal a figure holds."""

    AT_LEAST = "≥"
    AT_MOST = "≤"


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure has to reach, or must not exceed."""

    value: float
    direction: Direction

    def holds(self, figure: float) -> bool:
        """Whether the figure is on the right side; the goal itself is."""
        return figure >= self.value if self.direction is Direction.AT_LEAST else figure <= self.value

    def __str__(self) -> str:
        return f"{self.direction} {self.value:,g}"


def at_least(value: float) -> Goal:
    """Return the goal of a figure that is better when it is larger."""
    return Goal(value, Direction.AT_LEAST)


def at_most(value: float) -> Goal:
    """Return the goal of a figure that is better when it is smaller."""
    return Goal(value, Direction.AT_MOST)


@dataclass(frozen=True, slots=True)
class Bar:
    """One figure, for context where it has no goal. ``value`` is None where it was not measured; ``note`` says why."""

    name: str
    value: float | None
    unit: str
    goal: Goal | None
    holds: bool
    note: str = ""


def bar(name: str, value: float, unit: str, goal: Goal | None = None) -> Bar:
    """Round a figure and compare it with its goal."""
    rounded = round(value, 3 if abs(value) < 10 else 1)
    return Bar(name, rounded, unit, goal, goal is None or goal.holds(rounded))


def not_measured(name: str, unit: str, goal: Goal | None, *, why: str) -> Bar:
    """Return a bar without a figure. It does not hold: nothing was shown."""
    return Bar(name, None, unit, goal, goal is None, f"not measured: {why}")


def require_writable(path: Path) -> None:
    """Make the folder of ``path`` and see that the file can be written; one that is there stays as it is.

    Raises:
        OSError: it cannot.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    existed = path.exists()
    path.open("a").close()
    if not existed:
        path.unlink()


def write(bars: Sequence[Bar], path: Path) -> None:
    """Write the bars as a JSON list of ``{name, value, unit, goal, holds}``; those with a goal come first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = [
        {
            "name": one.name,
            "value": one.value,
            "unit": one.unit,
            "goal": None if one.goal is None else one.goal.value,
            "holds": one.holds,
        }
        for one in goals_first(bars)
    ]
    path.write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def goals_first(bars: Sequence[Bar]) -> list[Bar]:
    """Return the bars that have a goal, then the figures for context, each in their order."""
    return sorted(bars, key=lambda one: one.goal is None)


def table(bars: Sequence[Bar]) -> str:
    """Return the bars as a table for a person, one line each."""
    width = max((len(one.name) for one in bars), default=0)
    return "\n".join([f"{'figure':<{width}}  {'value':>14}  {'goal':>8}", *(_line(one, width) for one in bars)])


def _line(one: Bar, width: int) -> str:
    value = "-" if one.value is None else f"{one.value:,.10g} {one.unit}"
    verdict = "" if one.goal is None else ("holds" if one.holds else "MISSED")
    words = (f"{one.name:<{width}}", f"{value:>14}", f"{one.goal or ''!s:>8}", one.note or verdict)
    return "  ".join(words).rstrip()
