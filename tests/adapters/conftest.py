"""A running service and a user with credits."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from credits_plugin import Credits, Settings, build
from credits_plugin.ledger.entries import Code, PostTransfer
from credits_plugin.ledger.ids import account_key, now_ms


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Credits]:
    prices = {"toy": {"input": "1", "output": "2"}}
    built = build(Settings(database_url=f"sqlite:///{tmp_path / 'credits.db'}", prices=prices))
    yield built
    built.close_sync()


@pytest.fixture
def granted(service: Credits) -> str:
    """The name of a user with credits."""
    grant = PostTransfer(account_key("ada"), "ada", service.new_id(), Code.PROMOTION, 10**9, now_ms())
    service.writer.execute_sync(grant)
    return "ada"
