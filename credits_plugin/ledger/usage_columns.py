"""A usage in the five token columns of a transfer, and what those do not tell of it beside them."""

from __future__ import annotations

import json
from operator import attrgetter
from typing import Final

from hookspecs import PLAIN_KINDS, SPECIAL_KINDS, Usage

_special_of: Final = attrgetter(*SPECIAL_KINDS)


def usage_of(*columns: int | None) -> Usage | None:
    """Return the usage that a transfer's five token columns say; None where it is no usage transfer."""
    if columns[0] is None:
        return None
    input_, cache_read, cache_write, output, reasoning = (count or 0 for count in columns)
    return Usage(input_, cache_read, cache_write, output, reasoning)


def split_usage(usage: Usage) -> tuple[Usage, str | None]:
    """Return a usage in the five kinds that a transfer has columns for, and, as JSON, what those do not tell of it."""
    if not usage.tool_calls and not any(_special_of(usage)):
        return usage, None
    special = {kind: getattr(usage, kind) for kind in SPECIAL_KINDS if getattr(usage, kind)}
    plain = {kind: getattr(usage, kind) for kind in PLAIN_KINDS}
    for kind, count in special.items():
        plain[SPECIAL_KINDS[kind]] += count
    calls = {"tool_calls": dict(usage.tool_calls)} if usage.tool_calls else {}
    return Usage(**plain), json.dumps(special | calls, separators=(",", ":"))


def join_usage(usage: Usage, detail: str | None) -> Usage:
    """Return the usage that :func:`split_usage` had split.

    Raises:
        ValueError: the detail is none, or has more of a kind than the columns.
    """
    if detail is None:
        return usage
    counts = json.loads(detail)
    calls = counts.pop("tool_calls", {})
    plain = {kind: getattr(usage, kind) for kind in PLAIN_KINDS}
    for kind, count in counts.items():
        plain[SPECIAL_KINDS[kind]] -= count
    return Usage(**plain, **counts, tool_calls=calls)
