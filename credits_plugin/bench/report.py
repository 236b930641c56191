"""What a benchmark says: one bar per line, with its goal, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Bar:
    """One figure. ``goal`` is the smallest value that holds, or None for a figure that is shown for context."""

    name: str
    value: float
    unit: str
    goal: float | None
    holds: bool


def bar(name: str, value: float, unit: str, goal: float | None = None) -> Bar:
    """Round a figure and compare it with its goal."""
    rounded = round(value, 3 if value < 10 else 1)
    return Bar(name, rounded, unit, goal, goal is None or rounded >= goal)


def write(bars: Sequence[Bar], path: Path) -> None:
    """Write the bars as a JSON list of ``{name, value, unit, goal, holds}``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(one) for one in bars], indent=2) + "\n", encoding="utf-8")


def table(bars: Sequence[Bar]) -> str:
    """Return the bars as a table for a person."""
    width = max(len(one.name) for one in bars)
    lines = [f"{'figure':<{width}}  {'value':>12}  {'goal':>8}"]
    for one in bars:
        goal = "" if one.goal is None else f"≥ {one.goal:g}"
        verdict = "" if one.goal is None else ("  holds" if one.holds else "  MISSED")
        lines.append(f"{one.name:<{width}}  {f'{one.value:,g} {one.unit}':>12}  {goal:>8}{verdict}")
    return "\n".join(lines)
