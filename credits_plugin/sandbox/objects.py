"""Ids and constants that every object shares."""

from __future__ import annotations

import secrets
import string

API_VERSION = "2026-10-28.endive"
ACCOUNT = "1SandboxCredits0"
"""Stands where the account's own letters stand in Stripe's ids (`pi_3…`, `ch_3…`)."""

_ALPHABET = string.ascii_letters + string.digits


def random_text(length: int) -> str:
    """Letters and digits from the system's random source."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def new_id(prefix: str) -> str:
    """A fresh id in the shape of its noun, e.g. `cus_` + 14, `cs_test_a1` + 58, `pi_3` + 23 characters."""
    match prefix:
        case "cus" | "prod" | "req":
            return f"{prefix}_{random_text(14)}"
        case "cs":
            return f"cs_test_a1{random_text(56)}"
        case "pi" | "ch" | "py" | "re" | "pyr" | "txn":
            return f"{prefix}_3{random_text(6)}{ACCOUNT[1:]}{random_text(8)}"
        case _:
            return f"{prefix}_1{random_text(6)}{ACCOUNT[1:]}{random_text(8)}"
