"""``credits prices``: what it says, what it changes, and its exit codes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rerating.rerating_seed import Ledger, book, day

from credits_plugin import Usage
from credits_plugin.__main__ import main
from credits_plugin.database import Database, Reads
from credits_plugin.ledger.writer import LedgerWriter

SETTINGS = """
markup_bps = 0
[prices.m]
input = "2"
output = "2"
[[prices.m.changes]]
effective_from = 2027-01-01T00:00:00Z
input = "5"
output = "5"
[tenants.anna]
markup_bps = 5000
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "credits.toml"
    path.write_text(SETTINGS)
    monkeypatch.setenv("CREDITS_SETTINGS", str(path))
    return path


@pytest.fixture
def ledger(database: Database, writer: LedgerWriter) -> Ledger:
    reads = Reads(database, threads=1)
    yield Ledger(database, writer, reads)
    reads.close()


def iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1_000, UTC).isoformat()


def credits(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(["prices", *words])
    out, err = capsys.readouterr()
    return code, out + err


def test_check_counts_what_the_settings_say_and_names_what_is_wrong(settings: Path, capsys):
    code, text = credits(capsys, "check")
    assert code == 0
    assert "1 prices of your own, 1 of them with a date\n0 markups by model, 1 by tenant\n" in text
    settings.write_text("[prices.m]\ninput = 0.5\noutput = '1'")
    code, text = credits(capsys, "check")
    assert (code, "a float is not exact" in text) == (2, True)


def test_check_says_what_of_new_data_is_held_back(settings: Path, tmp_path: Path, capsys):
    data = tmp_path / "data.json"
    data.write_text(json.dumps([{"id": "new", "name": "new", "api_pattern": "x", "models": []}]))
    settings.write_text(f'price_data = "{data}"')
    code, text = credits(capsys, "check")
    assert (code, "held back: openai/*: the provider is gone" in text) == (1, True)
    code, text = credits(capsys, "diff", "--price-data", str(data))
    assert (code, "held back: openai/*" in text, "0 models cost something else" in text) == (1, True, True)


def test_show_tells_a_price_with_its_markup_for_an_account_and_at_a_time(settings: Path, capsys):
    code, text = credits(capsys, "show", "m", "--at", "2026-12-01")
    assert (code, "m, from your settings; markup 0 %" in text) == (0, True)
    assert "  200 credits a million tokens of input\n" in text
    _, text = credits(capsys, "show", "m", "--at", "2027-01-01", "--account", "anna")
    assert ("markup 50 %" in text, "  750 credits a million tokens of output\n" in text) == (True, True)
    _, text = credits(capsys, "show", "gemini-2.5-pro")
    assert "of input of prompts above 200,000 tokens" in text
    code, text = credits(capsys, "show", "nonsense")
    assert (code, "no price is known for model 'nonsense'" in text) == (2, True)


def test_diff_shows_what_other_settings_would_change(settings: Path, tmp_path: Path, capsys):
    other = tmp_path / "other.toml"
    other.write_text(SETTINGS)
    assert credits(capsys, "diff", str(other)) == (
        0, "0 models cost something else now, to accounts without terms of their own\n"
    )  # fmt: skip
    other.write_text(SETTINGS.replace('"2"', '"3"').replace("markup_bps = 0", "markup_bps = 100"))
    code, text = credits(capsys, "diff", str(other))
    assert code == 1
    assert "the general markup becomes 100 instead of 0\nm\n- 200 credits a million tokens of input\n" in text
    assert "+ 303 credits a million tokens of input\n" in text
    code, text = credits(capsys, "diff")
    assert (code, "compares with one thing" in text) == (2, True)


def test_rerate_shows_then_corrects_then_has_nothing_left(settings: Path, ledger: Ledger, database_url: str, capsys):
    for name in ("anna", "boris"):
        ledger.give(name, 10_000_000)
        ledger.use(name, Usage(input=10_000), book("1"))
    words = ("rerate", "--model", "m", "--from", iso(day(-3)), "--to", iso(day(0)), "--database", database_url)
    code, text = credits(capsys, *words)
    assert code == 1
    assert "anna: 1 requests were charged 1 credits, cost 3, difference 2\n" in text  # with her markup
    assert "boris: 1 requests were charged 1 credits, cost 2, difference 1\n" in text
    assert "all: 2 requests were charged 2 credits, cost 5, difference 3\nnothing was changed" in text
    assert credits(capsys, *words, "--apply")[0] == 2
    code, text = credits(capsys, *words, "--apply", "--reason", "typed 1 for 2")
    assert code == 0
    assert "difference 3; 3 taken\ncorrected; the transfers refer to rerate:" in text
    code, text = credits(capsys, *words, "--apply", "--reason", "again")
    assert (code, text) == (0, "all: 2 requests were charged 5 credits, cost 5, difference 0\n")
    price_file = settings.with_name("prices.toml")
    price_file.write_text('[prices.m]\ninput = "1"\noutput = "1"')
    code, text = credits(capsys, *words, "--price-file", str(price_file), "--account", "boris")
    assert (code, "all: 1 requests were charged 2 credits, cost 1, difference -1\n" in text) == (1, True)


def test_rerate_says_what_was_not_there_to_take(settings: Path, ledger: Ledger, database_url: str, capsys):
    ledger.give("boris", 1_500_000)
    ledger.use("boris", Usage(input=10_000), book("1"))
    words = ("rerate", "--model", "*", "--from", iso(day(-3)), "--to", iso(day(0)), "--database", database_url)
    code, text = credits(capsys, *words, "--apply", "--reason", "x")
    assert (code, "difference 1; 0.5 taken; 0.5 not taken, for it is not there" in text) == (1, True)
    code, text = credits(capsys, *words, "--apply", "--reason", "x", "--allow-debt")
    assert (code, ledger.balance("boris")) == (0, -500_000)


@pytest.mark.parametrize("words", ["--from 2026-02-01 --to 2026-01-01", "--from yesterday --to 2026-01-01"])
def test_a_period_that_is_none_is_refused(settings: Path, capsys, words: str):
    assert credits(capsys, "rerate", "--model", "m", *words.split())[0] == 2
