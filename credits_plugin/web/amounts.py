"""Amounts, ids and times as JSON carries them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ..money import format_credits


def amount_json(microcredits: int) -> dict[str, Any]:
    """Return an amount twice: as the exact integer, and in credits as an exact decimal string without separators."""
    return {"microcredits": microcredits, "credits": format_credits(microcredits).replace(",", "")}


def time_json(at_ms: int | None) -> str | None:
    """Return Unix milliseconds as ISO 8601 in UTC: ``2026-01-31T09:30:00.123Z``; None stays None."""
    if at_ms is None:
        return None
    at = datetime.fromtimestamp(at_ms // 1000, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at_ms % 1000:03d}Z"
