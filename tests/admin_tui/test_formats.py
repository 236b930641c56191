"""Values in cells: exact, aligned, short."""

from __future__ import annotations

import pytest
from admin_seed import DAY, HOUR, MINUTE, NOW

from admin_tui.formats import (
    align_point,
    details_text,
    duration_text,
    plain_money,
    signed_credits,
    time_text,
    tokens_text,
)
from credits_plugin import Usage
from credits_plugin.ledger.entries import Code
from credits_plugin.ledger.queries import TransferLine


@pytest.mark.parametrize(
    ("microcredits", "shown"),
    [(1_000_000, "+1"), (-42_500, "\N{MINUS SIGN}0.0425"), (0, "0"), (1_234_567_000_001, "+1,234,567.000001")],
)
def test_credits_are_exact_and_signed(microcredits: int, shown: str):
    assert signed_credits(microcredits) == shown


def test_points_stand_below_each_other():
    shown = [align_point(text).rjust(18) for text in ("1,000", "0.5", "-12.345678")]
    assert [len(text) for text in shown] == [18, 18, 18]
    assert {text.find(".") for text in shown[1:]} == {11}
    assert shown[0].rstrip()[-1] == "0"
    assert len(shown[0].rstrip()) == 11


def test_a_number_too_wide_for_its_column_never_loses_leading_digits():
    assert align_point("4,611,686,018,427") == "4,611,686,018,427"
    assert align_point("4,611,686,018,427.387904") == "≈4,611,686,018,427"


@pytest.mark.parametrize(
    ("at", "shown"),
    [(NOW, "10:00:00"), (NOW - DAY, "19 Mar 10:00"), (NOW - 90 * DAY, "20 Dec 2025")],
)
def test_times_are_short_and_in_utc(at: int, shown: str):
    assert time_text(at, now_ms=NOW) == shown


@pytest.mark.parametrize(
    ("length", "shown"), [(0, "0s"), (71_000, "1m"), (3 * HOUR + 59 * MINUTE, "3h"), (12 * DAY, "12d"), (-5, "0s")]
)
def test_durations_name_their_largest_unit(length: int, shown: str):
    assert duration_text(length) == shown


@pytest.mark.parametrize(("count", "shown"), [(310, "310"), (1_250, "1.2k"), (48_900, "48k"), (2_100_000, "2.1M")])
def test_token_counts_are_short(count: int, shown: str):
    assert tokens_text(count) == shown


def test_usage_says_model_and_tokens_and_others_their_reference():
    usage = Usage(input=1_200, cache_read=800, output=310, reasoning=40)
    used = TransferLine(1, 1, Code.USAGE, -5, 95, NOW, "req-1", "gpt-x", usage)
    assert details_text(used) == "gpt-x 1.2k +800 cached → 310 +40 reasoning tok"
    bought = TransferLine(1, 1, Code.PURCHASE, 5, 100, NOW, "pi_1", None, None)
    assert details_text(bought) == "pi_1"


@pytest.mark.parametrize(
    ("minor", "currency", "shown"), [(800, "usd", "8.00"), (800, "jpy", "800"), (5, "kwd", "0.005")]
)
def test_money_is_shown_as_it_is_typed(minor: int, currency: str, shown: str):
    assert plain_money(minor, currency) == shown
