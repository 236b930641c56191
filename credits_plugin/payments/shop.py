"""What every payment use case works with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..database import Reads
from ..ledger.ids import IdMaker
from ..ledger.writer import LedgerWriter
from ..settings import Settings
from .gateway import PaymentGateway
from .packages import Package


@dataclass(frozen=True, slots=True)
class Shop:
    """The parts that a purchase, an event or a refund needs; built once per process."""

    settings: Settings
    writer: LedgerWriter
    reads: Reads
    new_id: IdMaker
    gateway: PaymentGateway
    packages: Mapping[int, Package]
