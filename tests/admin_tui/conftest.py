"""A migrated SQLite database, filled through the real ledger writer, and the admin UI on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from admin_seed import NOW, Opener, Screen, seed

from admin_tui.app import AdminApp
from admin_tui.backend import Backend, open_backend
from credits_plugin.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(database_url=f"sqlite:///{tmp_path / 'credits.db'}")


@pytest.fixture
def backend(settings: Settings) -> Backend:
    """A seeded database with the clock stopped at NOW; the app that gets it closes it."""
    seed(settings.database_url)
    opened = open_backend(settings, actor="dana", is_read_only=False)
    opened.clock = lambda: NOW
    return opened


@pytest.fixture
def open_screen(backend: Backend) -> Opener:
    """Run the UI in a terminal of a given size and press keys: ``async with open_screen("3") as screen``."""

    @asynccontextmanager
    async def opened(*keys: str, customer: str = "", size: tuple[int, int] = (120, 40)) -> AsyncIterator[Screen]:
        app = AdminApp(backend)
        async with app.run_test(size=size, notifications=True) as pilot:
            screen = Screen(app, pilot)
            if customer:
                await screen.open_customer(customer)
            await screen.press(*keys)
            yield screen

    return opened
