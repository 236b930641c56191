"""A ledger on both databases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rerating_seed import Ledger

from credits_plugin.database import Database, Reads
from credits_plugin.ledger.writer import LedgerWriter


@pytest.fixture
def ledger(database: Database, writer: LedgerWriter) -> Iterator[Ledger]:
    reads = Reads(database, threads=1)
    yield Ledger(database, writer, reads)
    reads.close()
