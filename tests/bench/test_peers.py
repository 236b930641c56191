"""The peers group's machinery without a network: the script that runs a peer, and what is said of the figures."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from credits_plugin.bench.environment import Bench, Scale
from credits_plugin.bench.peers import (
    PEERS,
    Comparison,
    comparison_bars,
    debits,
    describe,
    installed,
    measure_peers,
    rate_of,
)

PLUTUS, NOSTRO, _ = PEERS
METER = """
import sqlite3
from types import SimpleNamespace

class Meter:
    def __init__(self, org, *, tier, db_path, config):
        self.conn = sqlite3.connect(db_path)
        self.paid = 0
    def topup(self, amount):
        self.paid = amount
    def track(self, provider, **usage):
        return SimpleNamespace(recorded=self.paid > 0)
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module with plutus-agent's name and calls, for the script to import in this Python."""
    (tmp_path / "plutus_agent.py").write_text(METER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_a_peer_debits_as_often_as_it_is_asked_and_for_as_long(stand_in: Path) -> None:
    with debits(PLUTUS, Path(sys.executable), f"sqlite:///{stand_in / 'peer.db'}") as debits_per_second:
        rates = [debits_per_second(0.01) for _ in range(3)]
    assert all(rate > 0 for rate in rates)


def test_a_peer_that_ends_before_its_time_is_named(stand_in: Path) -> None:
    (stand_in / "plutus_agent.py").write_text(METER.replace("self.paid > 0", "self.paid < 0"))
    with (
        pytest.raises(EOFError, match=r"plutus-agent 1\.1\.0 on SQLite: ended before its time"),
        debits(PLUTUS, Path(sys.executable), f"sqlite:///{stand_in / 'peer.db'}") as debits_per_second,
    ):
        debits_per_second(0.01)


def test_a_peer_that_cannot_be_installed_has_a_line_and_the_benchmark_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "build").write_text("a file where the environments' folder would be")
    monkeypatch.chdir(tmp_path)
    assert measure_peers(Bench(Scale(), tmp_path, _server="")) == []
    printed = capsys.readouterr().out
    for peer in PEERS:
        assert f"{peer.title}: not installed" in printed
    assert "bursar 2.0.4 is not among them" in printed


def test_an_environment_is_made_once_for_a_version(tmp_path: Path) -> None:
    home = tmp_path / PLUTUS.name
    home.mkdir()
    (home / f".ready-{PLUTUS.version}").touch()
    assert installed(PLUTUS, tmp_path) == home / "bin" / "python"


def test_what_a_peer_leaves_out_stands_beside_its_figure() -> None:
    alone = Comparison(PLUTUS, debits_per_second=500.0, pairs_per_second=400.0, pairs_by_64_per_second=10_000.0)
    assert describe(alone).startswith(
        "plutus-agent 1.1.0 on SQLite, one caller: debits/s 500; our pairs/s 400 (0.8 x), by 64 callers 10,000 (20.0 x)"
    )
    many = Comparison(NOSTRO, debits_per_second=1_500.0, pairs_per_second=4_500.0, pairs_by_64_per_second=4_500.0)
    assert describe(many).startswith(
        "hf-nostro 0.2.0 on PostgreSQL, 64 callers: debits/s 1,500; our pairs/s 4,500 (3.0 x)\n"
    )
    for peer in PEERS:
        assert "no holds" in peer.lacks
    assert [(one.value, one.goal) for one in comparison_bars(many)] == [(1_500.0, None), (4_500.0, None), (3.0, None)]


def test_a_rate_is_what_was_done_by_the_time_it_took() -> None:
    assert rate_of(b"512 2.0\n") == 256.0
