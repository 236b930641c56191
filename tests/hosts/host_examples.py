"""Runs an example as its reader does: a process of its own, offline, on the ledger that the test looks at."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from host_ledger import Ledger

EXAMPLES: Final = Path(__file__).parents[2] / "examples"


def run_example(name: str, *arguments: str, ledger: Ledger, home: Path) -> str:
    """Return what an example printed; it fails if the example does."""
    environment = {
        **os.environ,
        "DATABASE_URL": ledger.service.settings.database_url,
        "CREDITS_SETTINGS": str(EXAMPLES / "credits.toml"),
        "HOME": str(home),
    }
    command = [sys.executable, EXAMPLES / name, *arguments]
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
