"""Prepaid credits for AI agent servers: hooks, ledger, Stripe and an admin UI. Import public names from here."""

from __future__ import annotations

from hookspecs import (
    ASYNC_HOOKS,
    HOOKSPEC_VERSION,
    PROJECT_NAME,
    AIRequest,
    CreditEvent,
    CreditsSpecs,
    Estimate,
    Hold,
    HookCaller,
    HookContractError,
    Outcome,
    OutcomeStatus,
    Refusal,
    Usage,
    hookimpl,
    hookspec,
)

from .errors import CreditsError
from .settings import Settings, load_settings

__version__ = "0.1.0"

__all__ = [
    "ASYNC_HOOKS",
    "HOOKSPEC_VERSION",
    "PROJECT_NAME",
    "AIRequest",
    "CreditEvent",
    "CreditsError",
    "CreditsSpecs",
    "Estimate",
    "Hold",
    "HookCaller",
    "HookContractError",
    "Outcome",
    "OutcomeStatus",
    "Refusal",
    "Settings",
    "Usage",
    "hookimpl",
    "hookspec",
    "load_settings",
]
