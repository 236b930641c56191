"""``credits-admin``: one clear line where it cannot start, and a real terminal where it can."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from admin_seed import seed

from admin_tui.__main__ import main
from credits_plugin.database import migrate, open_database

ENVIRONMENT = ("DATABASE_URL", "CREDITS_SETTINGS", "STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("credits-admin: ")
    assert printed.err.count("\n") == 1
    return printed.err


def test_a_missing_database_is_one_line_and_is_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "nothing.db"
    assert "there is no database at" in refused(capsys, "--database", f"sqlite:///{path}")
    assert not path.exists()


def test_a_database_that_was_never_migrated_says_what_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "empty.db"
    path.touch()
    assert "credits migrate" in refused(capsys, "--database", f"sqlite:///{path}")


def test_a_newer_database_asks_for_an_upgrade(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    database = open_database(f"sqlite:///{tmp_path / 'credits.db'}")
    migrate(database)
    database.primary.execute_sql("INSERT INTO schema_migration (name, applied) VALUES ('9999_future', '2030-01-01')")
    database.close_thread()
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'credits.db'}")
    assert "upgrade" in refused(capsys)


def test_a_file_that_is_no_database_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "letter.db"
    path.write_text("Dear reader, this is not a database at all, it is a letter." * 20)
    assert "letter.db" in refused(capsys, "--database", f"sqlite:///{path}")


@pytest.mark.parametrize("url", ["mysql://x/y", "sqlite://", "credits.db"])
def test_an_unknown_url_says_what_to_write(url: str, capsys: pytest.CaptureFixture[str]):
    assert "DATABASE_URL" in refused(capsys, "--database", url)


def test_postgresql_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]):
    refused(capsys, "--database", "postgresql://nobody@127.0.0.1:1/nothing")


class Terminal:
    """A real terminal, by tmux on a server of its own."""

    def __init__(self, command: str, *, width: int = 80, height: int = 24) -> None:
        self._server = f"credits-{uuid4().hex[:12]}"
        size = ("-x", str(width), "-y", str(height))
        self.tmux("-f", "/dev/null", "new-session", "-d", *size, f"{command}; echo left with $?; sleep 30")

    def tmux(self, *arguments: str) -> str:
        done = subprocess.run(["tmux", "-L", self._server, *arguments], capture_output=True, text=True, check=True)
        return done.stdout

    def wait_for(self, text: str, *, styled: bool = False) -> str:
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            shown = self.tmux("capture-pane", "-p", *(["-e"] if styled else []))
            if text in shown:
                return shown
            time.sleep(0.05)
        pytest.fail(f"the terminal never showed {text!r}, but:\n{shown}")

    def close(self) -> None:
        self.tmux("kill-server")


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Start ``credits-admin`` on a seeded database in a real terminal."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed, so there is no real terminal to test in")
    url = f"sqlite:///{tmp_path / 'credits.db'}"
    seed(url)
    opened: list[Terminal] = []

    def start(**environment: str) -> Terminal:
        given = " ".join(f"{name}={value}" for name, value in environment.items())
        path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
        command = f"PYTHONPATH='{path}' {given} '{sys.executable}' -m admin_tui --database '{url}' --actor dana"
        opened.append(Terminal(command))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def test_it_runs_in_a_real_terminal_and_leaves_it_clean(terminal: Callable[..., Terminal]):
    shown = terminal(COLORTERM="truecolor")
    screen = shown.wait_for("usr_carla")
    assert "rows 1" in screen
    shown.tmux("send-keys", "3")
    assert "usage" in shown.wait_for("adjustment in")
    shown.tmux("send-keys", "q")
    assert "▸" not in shown.wait_for("left with 0")


def test_without_colour_everything_is_still_said(terminal: Callable[..., Terminal]):
    shown = terminal(COLORTERM="truecolor", NO_COLOR="1")
    shown.wait_for("usr_carla")
    shown.tmux("send-keys", "4")
    styled = shown.wait_for("partially refunded", styled=True)
    colours = set(re.findall(r"[34]8;2;(\d+);(\d+);(\d+)", styled))
    assert all(red == green == blue for red, green, blue in colours)
    others = re.sub(r"[34]8;2;\d+;\d+;\d+", "", styled)
    assert not re.search(r"\x1b\[([0-9;]*;)?(3[1-6]|4[1-6]|9[1-6])[;m]", others)
    assert "▸" in styled
