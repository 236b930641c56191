"""``python tests/hosts/run.py [NAME …]``: test each adapter inside its real host, one virtual environment a host.

Hosts pin libraries that conflict with each other's, so no two share an environment. The environments are kept in
build/hosts and made anew when hosts.toml or pyproject.toml has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import shutil
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from python import find_python

ROOT: Final = Path(__file__).parents[2]
HERE: Final = Path(__file__).parent
ENVIRONMENTS: Final = ROOT / "build" / "hosts"
TOOLS: Final = ("pytest>=9", "pytest-aiohttp>=1.1")


@dataclass(frozen=True, slots=True)
class Host:
    """A host to test in: what to install, by which Python."""

    name: str
    packages: tuple[str, ...]
    light: bool = False
    python: str | None = None
    extras: tuple[str, ...] = ()

    @property
    def tests(self) -> Path:
        """The folder of the host's tests."""
        return HERE / self.name.replace("-", "_")


def main() -> int:
    """Run the named hosts' tests, or all of them; 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="hosts of hosts.toml; all without any")
    parser.add_argument("--light", action="store_true", help="only the light ones")
    parser.add_argument("--where-installable", action="store_true", help="a host that does not install is no failure")
    parser.add_argument("--within", type=float, metavar="MINUTES", help="begin with no heavy host after so long")
    options = parser.parse_args()
    hosts = load_hosts()
    unknown = set(options.names) - hosts.keys()
    if unknown:
        parser.error(f"unknown hosts {', '.join(sorted(unknown))}; known are {', '.join(hosts)}")
    chosen = [
        host
        for name, host in hosts.items()
        if (not options.names or name in options.names) and (host.light or not options.light)
    ]
    ends_at = time.monotonic() + options.within * 60 if options.within is not None else math.inf
    results = {}
    for host in sorted(chosen, key=lambda host: not host.light):
        begins = host.light or time.monotonic() < ends_at
        may_be_absent = options.where_installable and not host.light
        results[host.name] = run(host, may_be_absent=may_be_absent) if begins else "no time"
    print("\n".join(f"{name:32} {result}" for name, result in results.items()))
    return int(any(result == "failed" for result in results.values()))


def load_hosts() -> dict[str, Host]:
    """Return the hosts of hosts.toml by name."""
    table = tomllib.loads((HERE / "hosts.toml").read_text())
    return {
        name: Host(
            name,
            tuple(entry["packages"]),
            light=entry.get("light", False),
            python=entry.get("python"),
            extras=tuple(entry.get("extras", ())),
        )
        for name, entry in table.items()
    }


def run(host: Host, *, may_be_absent: bool) -> str:
    """Run a host's tests in its environment; returns passed, failed or not installed."""
    try:
        python = environment(host)
    except (subprocess.CalledProcessError, OSError) as error:
        print(f"{host.name} does not install: {error}", file=sys.stderr)
        return "not installed" if may_be_absent else "failed"
    # The suite's own conftest.py needs what these environments lack, and foreign packages warn of what is not ours.
    command = [python, "-m", "pytest", "-q", "--confcutdir", HERE, "-o", "filterwarnings=", host.tests]
    return "failed" if subprocess.run(command, cwd=ROOT, check=False).returncode else "passed"


def environment(host: Host) -> Path:
    """Return the Python of the host's environment, which is made if it is not there as described."""
    folder = ENVIRONMENTS / host.name
    python, stamp = folder / "bin" / "python", folder / "made-for"
    described = hashlib.sha256(f"{host!r}{(ROOT / 'pyproject.toml').read_text()}".encode()).hexdigest()
    if not stamp.exists() or stamp.read_text() != described:
        shutil.rmtree(folder, ignore_errors=True)
        made_by = find_python(host.python) if host.python else "python3"
        subprocess.run([made_by, "-m", "venv", folder], check=True)
        project = f"{ROOT}[{','.join(host.extras)}]" if host.extras else str(ROOT)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--editable", project, *TOOLS, *host.packages], check=True)
        stamp.write_text(described)
    return python


if __name__ == "__main__":
    sys.exit(main())
