"""One file per real agent host: its seam before and after each provider call, bridged to ``credits.metered``.

What holds in which host is in docs/hosts.md. Each file imports its host's package; this one imports none of them.
"""

from .base import Identify, Payer

__all__ = ["Identify", "Payer"]
