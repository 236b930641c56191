"""Prepaid credits for AI agent servers: hooks, ledger, Stripe and an admin UI. Import public names from here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
    RefundProposal,
    Refusal,
    SpentBudget,
    Usage,
    hookimpl,
    hookspec,
)

from .errors import CreditsError
from .settings import Settings, load_settings

if TYPE_CHECKING:
    from .bootstrap import Credits, build
    from .metering import RequestRefused
    from .plugin import CreditsPlugin
    from .pricing.usage import usage_from_anthropic, usage_from_gemini, usage_from_openai
    from .web.app import mount

__version__ = "0.1.0"

__all__ = [
    "ASYNC_HOOKS",
    "HOOKSPEC_VERSION",
    "PROJECT_NAME",
    "AIRequest",
    "CreditEvent",
    "Credits",
    "CreditsError",
    "CreditsPlugin",
    "CreditsSpecs",
    "Estimate",
    "Hold",
    "HookCaller",
    "HookContractError",
    "Outcome",
    "OutcomeStatus",
    "RefundProposal",
    "Refusal",
    "RequestRefused",
    "Settings",
    "SpentBudget",
    "Usage",
    "build",
    "hookimpl",
    "hookspec",
    "load_settings",
    "mount",
    "usage_from_anthropic",
    "usage_from_gemini",
    "usage_from_openai",
]

# Loaded when first asked for: a plugin that needs the contract alone pays for no database and no web server.
_LAZY = {
    "Credits": ".bootstrap",
    "CreditsPlugin": ".plugin",
    "RequestRefused": ".metering",
    "build": ".bootstrap",
    "mount": ".web.app",
    "usage_from_anthropic": ".pricing.usage",
    "usage_from_gemini": ".pricing.usage",
    "usage_from_openai": ".pricing.usage",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
