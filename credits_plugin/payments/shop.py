"""What every payment use case works with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hookspecs import HookCaller

from ..database import Reads
from ..ledger.ids import IdMaker
from ..ledger.writer import LedgerWriter
from ..settings import Settings
from .gateway import PaymentGateway
from .packages import Package


def no_host() -> HookCaller | None:
    """Answer for a process without a host: the terminal UI, a command."""
    return None


@dataclass(frozen=True, slots=True)
class Shop:
    """The parts that a purchase, an event or a refund needs; built once per process.

    ``hooks`` returns the host's caller once the host is ready.
    """

    settings: Settings
    writer: LedgerWriter
    reads: Reads
    new_id: IdMaker
    gateway: PaymentGateway
    packages: Mapping[int, Package]
    hooks: Callable[[], HookCaller | None] = no_host
