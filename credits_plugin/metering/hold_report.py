"""How good holds were, by model: a hold should cover its call, and keep little else from the account."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .observations import ALL_ACCOUNTS, PERCENT_STEP, Event, Kind, Seen, highest_in, percentile_of


@dataclass(frozen=True, slots=True)
class ModelReport:
    """The holds of one model since they are counted, by all hosts.

    ``charged_percent`` is what of a hold was charged, at the 10th, 50th and 90th of 100 holds, to 5 percent;
    ``output_tokens`` the lengths of answers at the 50th and 95th, to a quarter. Both are of completed calls with usage.
    """

    model: str
    settled: int
    charged_percent: tuple[int, int, int]
    output_tokens: tuple[int, int]
    cut: int
    extended: int
    refused: int
    overrun: int


def report_of(stored: Iterable[Seen]) -> list[ModelReport]:
    """Return a report for each model, by name."""
    by_model: dict[str, dict[int, dict[int, int]]] = {}
    for seen in stored:
        if seen.account_id == ALL_ACCOUNTS:
            by_model.setdefault(seen.model, {}).setdefault(seen.kind, {})[seen.bucket] = seen.times
    return [_of_model(model, histograms) for model, histograms in sorted(by_model.items())]


def _of_model(model: str, histograms: Mapping[int, Mapping[int, int]]) -> ModelReport:
    charged, output, events = (histograms.get(kind, {}) for kind in (Kind.CHARGED, Kind.OUTPUT, Kind.EVENT))
    low, middle, high = (percentile_of(charged, percentile) * PERCENT_STEP for percentile in (10, 50, 90))
    return ModelReport(
        model=model,
        settled=sum(charged.values()),
        charged_percent=(low, middle, high),
        output_tokens=(highest_in(percentile_of(output, 50)), highest_in(percentile_of(output, 95))),
        cut=events.get(Event.CUT, 0),
        extended=events.get(Event.EXTENDED, 0),
        refused=events.get(Event.REFUSED, 0),
        overrun=events.get(Event.OVERRUN, 0),
    )
