"""A running service on a real database."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from metering_seed import PRICES

from credits_plugin import Settings
from credits_plugin.bootstrap import Credits, build


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Credits]:
    built = build(Settings(database_url=database_url, prices=PRICES, sweep_interval_s=0.05, hold_ttl_s=1))
    yield built
    await built.close()
