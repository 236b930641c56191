"""The demo's own sandbox, with every answer and event brought before Stripe's schema."""

from __future__ import annotations

import pytest
from stripe_schema import CheckedSandbox

from credits_plugin.sandbox import demo


@pytest.fixture(autouse=True)
def checked_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "Sandbox", CheckedSandbox)
