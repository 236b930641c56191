"""What every host's test gets: a service on a SQLite file, a provider with known usage, and a look at the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from host_ledger import PRICES, Ledger
from stub_provider import StubProvider

from credits_plugin import Credits, Settings, build


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Credits]:
    """The credits service, as an adapter is given it."""
    built = build(Settings(database_url=f"sqlite:///{tmp_path / 'credits.db'}", prices=PRICES))
    yield built
    built.close_sync()


@pytest.fixture
def ledger(service: Credits) -> Ledger:
    """The ledger behind the service."""
    return Ledger(service)


@pytest.fixture
def provider() -> Iterator[StubProvider]:
    """A running provider with known usage."""
    with StubProvider() as running:
        yield running
