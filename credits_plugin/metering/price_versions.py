"""Which version each price has in this database."""

from __future__ import annotations

from ..database import Reads
from ..ledger.writer import LedgerWriter
from ..pricing.price import Price
from ..pricing.versions import ensure_version, load_version


class PriceVersions:
    """Which version each price has in this database. Remembers what it has seen; there are few."""

    def __init__(self, writer: LedgerWriter, reads: Reads) -> None:
        self._writer = writer
        self._reads = reads
        self._ids: dict[str, int] = {}
        self._prices: dict[int, Price] = {}

    async def id_of(self, price: Price) -> int:
        """Return the version to stamp on a hold, storing the price when it is first used."""
        known = self._ids.get(price.digest())
        if known is not None:
            return known
        version = await self._writer.work((), lambda tx: ensure_version(tx.database, price, at_ms=tx.at_ms))
        self._ids[price.digest()] = version
        self._prices[version] = price
        return version

    async def price_of(self, version: int) -> Price:
        """Return the price that a hold was stamped with, also when another process stamped it."""
        known = self._prices.get(version)
        if known is None:
            known = self._prices[version] = await self._reads.run(lambda database: load_version(database, version))
        return known
