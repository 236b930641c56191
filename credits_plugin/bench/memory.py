"""How much memory the plugin adds to an idle aiohttp host."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

from .environment import Bench
from .report import Bar, at_most, bar, not_measured
from .rounds import interleave

_NAME: Final = "Memory of the plugin in an idle host, above aiohttp"
_GOAL: Final = at_most(30)
_HOST: Final = Path(__file__).with_name("idle_host.py")


def measure_memory(bench: Bench) -> list[Bar]:
    """Start the same host with and without the plugin, each in a process of its own, and compare resident memory.

    The bar is a host on SQLite as the core install makes it. Peewee loads PostgreSQL's driver wherever that is
    installed, so a host with the extra ``postgres`` is larger, and shown beside it.
    """
    if not Path("/proc/self/status").exists():
        return [not_measured(_NAME, "MB", _GOAL, why="no /proc on this system")]
    rounds = interleave(
        bench.scale.rounds,
        lambda: {"bare": _resident_mb("bare")},
        lambda: {"core": _resident_mb("core", bench.sqlite())},
        lambda: {"extra": _resident_mb("extra", bench.sqlite())},
    )
    bare = rounds.median("bare")
    return [
        bar(_NAME, rounds.median("core") - bare, "MB", _GOAL),
        bar("Memory, with the extra postgres installed", rounds.median("extra") - bare, "MB"),
        bar("Memory of a bare aiohttp host", bare, "MB"),
    ]


def _resident_mb(*arguments: str) -> float:
    # -P: the script's own folder must not be searched for modules; as a script it does not import our package itself.
    command = [sys.executable, "-P", str(_HOST), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own file
    return float(done.stdout)
