"""The panels of a customer as plain lines."""

from __future__ import annotations

from dataclasses import replace

import pytest
from admin_seed import CREDIT, DAY, NOW, SECOND

from admin_tui.screens.account_panels import (
    AccountFacts,
    balance_lines,
    hold_lines,
    lot_lines,
    merge_sums,
    slim_lines,
    why_lines,
)
from credits_plugin.ledger.entries import Code
from credits_plugin.ledger.queries import Balance, ChainSums, CodeSum, LotLine, OpenHold

BALANCE = Balance(1, "anna", 70 * CREDIT, 20 * CREDIT, 50 * CREDIT, NOW + 2 * DAY, None, 3, NOW - DAY)
SUMS = ChainSums(1, 3, 0, 70 * CREDIT, {Code.PURCHASE: CodeSum(1, 100 * CREDIT), Code.USAGE: CodeSum(2, -30 * CREDIT)})
HOLD = OpenHold(9, 1, "anna", 20 * CREDIT, NOW - 5 * SECOND, NOW + SECOND, "gpt-x", 10, "req-1", None)
LOT = LotLine(1, Code.PURCHASE, 100, NOW + 2 * DAY, 100 * CREDIT, 70 * CREDIT, 7, "pi_1", NOW - DAY)
FACTS = AccountFacts(BALANCE, SUMS, [HOLD], [LOT], NOW)


def texts(lines) -> list[str]:
    return ["".join(cell.text for cell in line) for line in lines]


def test_balance_says_available_held_and_next_expiry():
    lines = texts(balance_lines(FACTS))
    assert [line.split() for line in lines[:3]] == [["available", "50"], ["held", "20"], ["balance", "70"]]
    assert lines[3] == "next expiry in 2d"


def test_why_adds_up_to_the_stored_balance():
    lines = texts(why_lines(FACTS))
    assert [line.split() for line in lines[:2]] == [
        ["+", "purchase", "1", "100"],
        ["\N{MINUS SIGN}", "usage", "2", "30"],
    ]
    assert lines[-1] == "= 70 ✓ adds up"


def test_a_chain_that_does_not_add_up_is_said_loudly():
    assert "✗ does not add up" in texts(why_lines(replace(FACTS, sums=replace(SUMS, closing=1))))[-1]
    stored = replace(BALANCE, balance=71 * CREDIT)
    assert "✗ stored balance differs" in texts(why_lines(replace(FACTS, balance=stored)))[-1]
    ahead = replace(BALANCE, balance=71 * CREDIT, transfers=4)
    assert "✓" in texts(why_lines(replace(FACTS, balance=ahead)))[-1]


def test_many_codes_are_folded_without_losing_a_credit():
    amounts = {code: CodeSum(1, (1 + code) * CREDIT * (1 if code != Code.USAGE else -1)) for code in Code}
    total = sum(part.amount for part in amounts.values())
    sums = ChainSums(5, 14, 10 * CREDIT, 10 * CREDIT + total, amounts)
    lines = texts(why_lines(replace(FACTS, sums=sums)))
    assert len(lines) == 6
    shown = sum(int(line.split()[-1]) * (1 if line.startswith("+") else -1) for line in lines[:-1])
    assert shown * CREDIT == sums.closing
    assert lines[0].startswith("+ before no. 5")
    assert "others" in lines[-2]


def test_a_hold_past_its_time_is_called_stale():
    assert texts(hold_lines(FACTS)) == ["\N{MINUS SIGN}20 5s gpt-x req-1"]
    late = replace(FACTS, at_ms=NOW + 71 * SECOND)
    assert "1m STALE" in texts(hold_lines(late))[0]
    assert texts(hold_lines(replace(FACTS, holds=[HOLD] * 9)))[-1] == "and 4 more"


def test_lots_and_slim_lines():
    assert texts(lot_lines(FACTS)) == ["70 in 2d purchase pi_1"]
    slim = texts(slim_lines(FACTS))
    assert slim[0] == "available 50  held 20  balance 70"
    assert slim[1] == "✓ adds up  +100 purchase  \N{MINUS SIGN}30 usage"
    assert slim[2] == "open holds 1  lots 1  next expiry in 2d"


@pytest.mark.parametrize(("oldest", "merged_from"), [(4, 1), (6, 6)])
def test_sums_are_joined_only_where_nothing_is_missing_between(oldest: int, merged_from: int):
    newer = ChainSums(oldest, 7, 70 * CREDIT, 60 * CREDIT, {Code.USAGE: CodeSum(4, -10 * CREDIT)})
    merged = merge_sums(SUMS, newer)
    assert merged.oldest_seq == merged_from
    assert merged.opening + merged.total == merged.closing
