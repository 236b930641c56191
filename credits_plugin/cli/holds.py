"""``credits holds``: how good the holds were."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from ..metering.hold_report import ModelReport, report_of
from ..metering.observation_rows import load
from .access import read
from .options import add_database

_HEADINGS = ("model", "settled", "charged 10/50/90 %", "tokens 50/95 %", "cut", "extended", "refused", "overrun")


def add_parser(commands: Any) -> None:
    """Add the command and its part."""
    holds = commands.add_parser("holds", help="what was held beside what was charged: report")
    parts = holds.add_subparsers(required=True, metavar="PART")
    report = parts.add_parser(
        "report", help="by model: how much of a hold was charged, how many were cut, refused, overrun"
    )
    report.add_argument("--json", action="store_true", help="print the report as JSON")
    report.set_defaults(run=_report)
    add_database(report)


def _report(options: argparse.Namespace) -> int:
    models = report_of(read(options, lambda database: load(database, ())))
    if options.json:
        print(json.dumps([asdict(model) for model in models], indent=2, ensure_ascii=False))
        return 0
    rows = [_HEADINGS, *map(_row, models)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    for name, *figures in rows:
        print("  ".join([name.ljust(widths[0]), *map(str.rjust, figures, widths[1:])]))
    return 0


def _row(model: ModelReport) -> tuple[str, ...]:
    charged, tokens = "/".join(map(str, model.charged_percent)), "/".join(map(str, model.output_tokens))
    counts = (model.cut, model.extended, model.refused, model.overrun)
    return (model.model, str(model.settled), charged, tokens, *map(str, counts))
