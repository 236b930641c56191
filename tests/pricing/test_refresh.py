"""A running host's prices follow their sources; what is wrong or half written changes nothing."""

from __future__ import annotations

import http.server
import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from credits_plugin.errors import ConfigurationError
from credits_plugin.pricing.price_book import PriceBook
from credits_plugin.pricing.refresh import FETCH_INTERVAL_S, PriceRefresher
from credits_plugin.settings import Settings, load_settings

NOW = 1_764_000_000_000
ONE = '[prices.m]\ninput = "1"\noutput = "1"\n'
TWO = ONE.replace('"1"', '"2"')


def provider(usd: str, name: str = "novel") -> list[dict]:
    """Price data in genai-prices' own form; no provider of the installed data is in it, so all of those stay."""
    model = {"id": "m1", "match": {"equals": "m1"}, "prices": {"input_mtok": usd, "output_mtok": usd}}
    return [{"id": name, "name": name, "api_pattern": "x", "models": [model]}]


class Host:
    """A host with a settings file, and what it looks at now and then."""

    def __init__(self, path: Path, text: str, **environment: str) -> None:
        self.path = path
        path.write_text(text)
        self.settings = load_settings({"CREDITS_SETTINGS": str(path), **environment})
        self.book = PriceBook.from_settings(self.settings)
        self.refresher = PriceRefresher(self.settings, self.book)
        self.look(times=2)

    def look(self, *, times: int, at_ms: int = NOW) -> list[bool]:
        return [self.refresher.look(at_ms=at_ms) for _ in range(times)]

    def rate(self, model: str = "m") -> int:
        return self.book.price_for(model, at_ms=NOW).rates.input // 10**8


def test_a_changed_settings_file_is_in_force_without_a_restart(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    host = Host(tmp_path / "credits.toml", ONE)
    caplog.set_level(logging.INFO)
    host.path.write_text(TWO + '[prices."new*"]\ninput = 9\noutput = 9\n')
    assert host.look(times=3) == [False, True, False]
    assert (host.rate(), host.rate("new-one")) == (2, 9)
    assert "the settings' own changed for m, new*" in caplog.text


def test_a_markup_a_tenant_and_a_tool_are_followed_too(tmp_path: Path):
    host = Host(tmp_path / "credits.toml", ONE)
    host.path.write_text(f'markup_bps = 7\n{ONE}[tools]\nx = "1"\n[tenants.anna]\nmarkup_bps = 3\n')
    host.look(times=2)
    price = host.book.price_for("m", at_ms=NOW)
    assert (price.markup_bps, price.tools) == (7, (("x", 10**14),))
    assert host.book.price_for("m", at_ms=NOW, account_id="anna").markup_bps == 3
    host.path.write_text(ONE)
    host.look(times=2)
    assert host.book.price_for("m", at_ms=NOW).markup_bps == 1_500  # what the file no longer says has its default


def test_what_the_environment_names_the_file_does_not_change(tmp_path: Path):
    host = Host(tmp_path / "credits.toml", ONE, CREDITS_MARKUP_BPS="42")
    host.path.write_text(f"markup_bps = 7\ncredits_per_usd = 200\n{ONE}")
    host.look(times=2)
    price = host.book.price_for("m", at_ms=NOW)
    assert (price.markup_bps, host.rate()) == (42, 2)


@pytest.mark.parametrize(
    "broken", ["[prices", '[prices.m]\ninput = "1"', "no_such = 1", "markup_bps = -1", "price_updates = 5", None]
)
def test_a_broken_file_is_refused_once_and_the_old_prices_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: str | None
):
    host = Host(tmp_path / "credits.toml", ONE)
    if broken is None:
        host.path.unlink()
    else:
        host.path.write_text(broken)
    assert host.look(times=4) == [False] * 4
    assert host.rate() == 1
    refused = [record for record in caplog.records if "the prices in force stay" in record.message]
    assert [record.levelname for record in refused] == ["ERROR"]
    assert str(host.path) in refused[0].message
    host.path.write_text(TWO)
    assert host.look(times=2) == [False, True]
    assert host.rate() == 2


def test_a_file_that_is_being_written_does_not_count_until_two_looks_see_the_same(tmp_path: Path):
    host = Host(tmp_path / "credits.toml", ONE + ONE.replace("prices.m", "prices.n"))
    host.path.write_text(ONE)  # whole as TOML, but half of the file
    assert host.look(times=1) == [False]
    host.path.write_text(TWO + TWO.replace("prices.m", "prices.n"))
    assert host.look(times=1) == [False]
    assert host.rate("n") == 1
    assert host.look(times=1) == [True]
    assert host.rate("n") == 2


def test_a_file_that_is_the_same_again_is_not_read_anew(tmp_path: Path):
    host = Host(tmp_path / "credits.toml", ONE)
    before = host.book.prices
    host.path.write_text(ONE)
    os.utime(host.path)
    assert host.look(times=3) == [False] * 3
    assert host.book.prices is before


def test_price_data_of_a_file_is_used_and_followed(tmp_path: Path):
    data = tmp_path / "prices.json"
    data.write_text(json.dumps(provider("1")))
    host = Host(tmp_path / "credits.toml", f'price_data = "{data}"')
    assert host.rate("novel/m1") == 1
    assert host.book.price_for("gpt-4o", at_ms=NOW).provider == "openai"
    data.write_text(json.dumps(provider("2")))
    assert host.look(times=2) == [False, True]
    assert host.rate("novel/m1") == 2
    data.write_text("[]")
    assert host.look(times=3) == [False] * 3
    assert host.rate("novel/m1") == 2


@pytest.mark.parametrize(
    ("model", "refused"),
    [
        ({"id": "gpt-4o", "match": {"regex": "("}, "prices": {"input_mtok": 1}}, True),
        ({"id": "gpt-4o", "match": {"equals": "gpt-4o"}, "prices": {"input_mtok": "1e40"}}, True),
        ({"id": "gpt-4o", "match": {"equals": "gpt-4o"}, "prices": []}, False),
    ],
)
def test_odd_price_data_is_refused_or_held_back(tmp_path: Path, model: dict, refused: bool):
    data = tmp_path / "prices.json"
    data.write_text(json.dumps([{"id": "openai", "name": "o", "api_pattern": "x", "models": [model]}]))
    if refused:
        with pytest.raises(ConfigurationError, match=rf"price_data names {data}: the price data cannot be compared"):
            PriceBook.from_settings(Settings(price_data=str(data)))
    else:
        book = PriceBook.from_settings(Settings(price_data=str(data)))
        assert book.price_for("gpt-4o", at_ms=NOW) == PriceBook().price_for("gpt-4o", at_ms=NOW)


@pytest.mark.parametrize("text", ["", "{}", "[]", "[1]", '[{"id": "x"}]', "\x00", "[" * 100_000])
def test_what_is_no_price_data_refuses_to_start(tmp_path: Path, text: str):
    data = tmp_path / "prices.json"
    data.write_text(text)
    with pytest.raises(ConfigurationError, match=r"price_data names .*: this is not the price data of genai-prices"):
        PriceBook.from_settings(Settings(price_data=str(data)))
    with pytest.raises(ConfigurationError, match="cannot be read"):
        PriceBook.from_settings(Settings(price_data=str(tmp_path / "missing")))


def test_a_price_that_is_held_back_is_reported_and_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    data = tmp_path / "prices.json"
    data.write_text(json.dumps(provider("0.0001", name="openai")))  # and so all of its models are gone
    book = PriceBook.from_settings(Settings(price_data=str(data)))
    assert book.price_for("gpt-4o", at_ms=NOW) == PriceBook().price_for("gpt-4o", at_ms=NOW)
    assert "held back: anthropic/*: the provider is gone" in caplog.text
    assert "more prices" in caplog.text


@pytest.fixture
def published() -> Iterator[tuple[str, list]]:
    """An address that answers with the last of a list."""
    answers: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answers[-1]
            self.send_response(200 if body else 503)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/data.json", answers
    server.shutdown()
    server.server_close()
    thread.join()


def test_updates_are_fetched_every_hour_and_survive_a_failure(
    tmp_path: Path, published: tuple[str, list], caplog: pytest.LogCaptureFixture
):
    url, answers = published
    answers.append(json.dumps(provider("1")).encode())
    host = Host(tmp_path / "credits.toml", f'price_updates = true\nprice_updates_url = "{url}"')
    assert host.rate("novel/m1") == 1
    answers.append(json.dumps(provider("2")).encode())
    assert host.look(times=2, at_ms=NOW + 1) == [False, False]
    assert host.look(times=2, at_ms=NOW + FETCH_INTERVAL_S * 1_000) == [True, False]
    assert host.rate("novel/m1") == 2
    for number, wrong in enumerate((b"", b"no JSON", b"[]"), start=2):
        answers.append(wrong)
        assert host.look(times=1, at_ms=NOW + number * FETCH_INTERVAL_S * 1_000) == [False]
    assert host.rate("novel/m1") == 2
    assert caplog.text.count("prices were not updated") == 3
    host.path.write_text(f"{ONE}price_updates = true\n".replace(ONE, "") + ONE)  # the settings change, the data stays
    host.look(times=2)
    assert (host.rate("novel/m1"), host.rate()) == (2, 1)
    host.path.write_text(ONE)
    host.look(times=2)
    with pytest.raises(Exception, match="no price is known"):
        host.rate("novel/m1")


def test_two_hosts_come_to_the_same_prices_whatever_they_had_fetched_before(published: tuple[str, list]):
    """What is held back depends on the installed data alone."""
    url, answers = published
    settings = Settings(price_updates=True, price_updates_url=url)
    old, new = PriceBook.from_settings(settings), PriceBook.from_settings(settings)
    first = PriceRefresher(settings, old)
    for step, usd in enumerate(("2", "1.5", "1", "0.5")):  # gpt-4o at 2.5: a small step each, too far in all
        model = {"id": "gpt-4o", "match": {"equals": "gpt-4o"}, "prices": {"input_mtok": usd, "output_mtok": "10"}}
        answers.append(json.dumps([{"id": "openai", "name": "o", "api_pattern": "x", "models": [model]}]).encode())
        first.look(at_ms=NOW + step * FETCH_INTERVAL_S * 1_000)
    PriceRefresher(settings, new).look(at_ms=NOW)
    assert old.price_for("gpt-4o", "openai", at_ms=NOW) == new.price_for("gpt-4o", "openai", at_ms=NOW)
    assert old.price_for("gpt-4o", "openai", at_ms=NOW).rates.input == 250_000_000


def test_both_sources_at_once_are_refused():
    with pytest.raises(ConfigurationError, match="set one of them"):
        Settings(price_updates=True, price_data="x.json")
