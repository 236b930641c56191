"""Interleaved rounds: the machine drifts within minutes, so only what was measured side by side is compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeAlias

Measure: TypeAlias = Callable[[], Mapping[str, float]]
"""Measures once and returns its figures by name."""


@dataclass(frozen=True, slots=True)
class Rounds:
    """The figures of every round, by name."""

    figures: Mapping[str, Sequence[float]]

    def median(self, name: str) -> float:
        """Return the median of one figure."""
        return median(self.figures[name])

    def ratio(self, name: str, to: str) -> float:
        """Return the median of the rounds' ratios of one figure to another."""
        return median(one / other for one, other in zip(self.figures[name], self.figures[to], strict=True))


def interleave(rounds: int, *measures: Measure) -> Rounds:
    """Run all measures one after the other, ``rounds`` times."""
    figures: dict[str, list[float]] = {}
    for _ in range(rounds):
        for measure in measures:
            for name, value in measure().items():
                figures.setdefault(name, []).append(value)
    return Rounds(figures)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of the values do not exceed; ``values`` must not be empty."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]
