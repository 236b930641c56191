"""What users see: the JSON API and the pages, as aiohttp applications for any host to mount."""

from __future__ import annotations

from .app import CreditsService, ResolveAccount, create_app, create_pages, mount
from .problems import refusal_response

__all__ = ["CreditsService", "ResolveAccount", "create_app", "create_pages", "mount", "refusal_response"]
