"""A migrated SQLite database, filled through the real ledger writer, and the admin UI on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from admin_seed import NOW, seed

from admin_tui.app import AdminApp
from admin_tui.backend import Backend, open_backend
from credits_plugin.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(database_url=f"sqlite:///{tmp_path / 'credits.db'}")


@pytest.fixture
def backend(settings: Settings) -> Iterator[Backend]:
    """A seeded database with the clock stopped at NOW."""
    seed(settings.database_url)
    opened = open_backend(settings, actor="dana", is_read_only=False)
    opened.clock = lambda: NOW
    yield opened
    opened.reads.close()


@pytest.fixture
def app(backend: Backend) -> AdminApp:
    return AdminApp(backend)
