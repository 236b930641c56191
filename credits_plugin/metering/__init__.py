"""Metering of AI requests: the gate, calls around it, refusals."""

from .calls import Call, MeteredCall
from .gate import Metering
from .price_versions import PriceVersions
from .refusals import RequestRefused
from .sync import SyncCredits, SyncMeteredCall

__all__ = ["Call", "MeteredCall", "Metering", "PriceVersions", "RequestRefused", "SyncCredits", "SyncMeteredCall"]
