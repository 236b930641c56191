"""Usage charged anew: what is different, and corrections exactly once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rerating_seed import DAY_MS, Ledger, book, date, day

from credits_plugin import Usage, rerating
from credits_plugin.errors import AccountInDebt, DatabaseError, NotFound
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.entries import Code, PlaceHold
from credits_plugin.ledger.ids import IdMaker, account_key, now_ms
from credits_plugin.ledger.queries import account_lots
from credits_plugin.models import AdminAction, ReratedUsage
from credits_plugin.moving.archiving.run import archive_transfers
from credits_plugin.pricing.patterns import Pattern
from credits_plugin.rerating import Tally, allot

ONE, TWO, HALF = book("1"), book("2"), book("0.5")


def actions(ledger: Ledger) -> list[dict]:
    query = AdminAction.select().order_by(AdminAction.id).dicts()
    return ledger.reads.run_sync(lambda database: list(query.execute(database)))


def rows(ledger: Ledger) -> list[tuple]:
    query = ReratedUsage.select(ReratedUsage.corrected, ReratedUsage.rerating_id).order_by(ReratedUsage.transfer_id)
    return ledger.reads.run_sync(lambda database: list(query.tuples().execute(database)))


def test_without_posting_the_difference_is_shown_and_nothing_written(ledger: Ledger):
    for name in ("anna", "boris"):
        ledger.give(name, 10_000)
        ledger.use(name, Usage(input=10, output=5), ONE)
    ledger.use("anna", Usage(input=3), ONE)
    found = ledger.rerate(TWO)
    assert found.accounts == {
        "anna": Tally(requests=2, charged=1_800, due=3_600), "boris": Tally(requests=1, charged=1_500, due=3_000)
    }  # fmt: skip
    assert found.total == Tally(requests=3, charged=3_300, due=6_600)
    assert found.total.difference == 3_300
    assert (ledger.lines("anna"), rows(ledger), actions(ledger)) == ([], [], [])


@pytest.mark.parametrize(
    ("prices", "code", "amount"), [(TWO, Code.ADJUSTMENT_OUT, -1_800), (HALF, Code.ADJUSTMENT_IN, 900)]
)
def test_the_difference_is_one_transfer_an_account_that_names_the_rerating(
    ledger: Ledger, prices: object, code: Code, amount: int
):
    ledger.give("anna", 10_000)
    ledger.use("anna", Usage(input=15), ONE)
    ledger.use("anna", Usage(input=3), ONE)
    done = ledger.rerate(prices, apply=True)
    assert [(line.code, line.amount, line.reference) for line in ledger.lines("anna")] == [
        (code, amount, f"rerate:{done.rerating_id}")
    ]
    assert (done.total.posted, done.total.short) == (-amount, 0)
    assert ledger.balance("anna") == 10_000 - 1_800 + amount
    assert rows(ledger) == [(-amount * 15 // 18, done.rerating_id), (-amount * 3 // 18, done.rerating_id)]
    assert audit(ledger.database).findings == []
    with ledger.database.reader.connection_context():
        assert sum(lot.remaining for lot in account_lots(ledger.database.reader, account_key("anna"))) == 8_200 + amount


def test_who_why_and_what_came_of_it_is_recorded(ledger: Ledger):
    ledger.give("anna", 10_000)
    ledger.use("anna", Usage(input=15), ONE)
    done = ledger.rerate(TWO, apply=True, account_id="anna")
    (action,) = actions(ledger)
    assert (action["id"], action["actor"], action["action"]) == (done.rerating_id, "tests", "rerate")
    assert (action["subject"], action["reason"]) == ("usage of m", "a wrong price")
    assert action["account_id"] == account_key("anna")
    assert json.loads(action["before"])["from_ms"] == day(-3)
    assert json.loads(action["after"])["posted"] == 1_500


def test_a_repetition_corrects_nothing_and_leaves_no_record(ledger: Ledger):
    ledger.give("anna", 10_000)
    ledger.use("anna", Usage(input=15), ONE)
    ledger.rerate(TWO, apply=True)
    before = ledger.lines("anna"), rows(ledger), actions(ledger)
    again = ledger.rerate(TWO, apply=True)
    assert again.total == Tally(requests=1, charged=3_000, due=3_000)
    assert (ledger.lines("anna"), rows(ledger), actions(ledger)) == before


def test_a_second_rerating_corrects_only_the_further_difference(ledger: Ledger):
    ledger.give("anna", 100_000)
    ledger.use("anna", Usage(input=10), ONE)
    for usd, posted in (("3", 2_000), ("4", 1_000), ("0.25", -3_750), ("1", 750), ("0", -1_000), ("1", 1_000)):
        assert ledger.rerate(book(usd), apply=True).total.posted == posted
        assert ledger.balance("anna") == 100_000 - int(float(usd) * 1_000)
    assert audit(ledger.database).findings == []


def test_periods_that_overlap_correct_each_request_once(ledger: Ledger):
    ledger.give("anna", 100_000)
    for number in (-3, -2, -1):
        ledger.use("anna", Usage(input=10), ONE, at_ms=day(number) + 5)
    assert ledger.rerate(TWO, apply=True, from_ms=day(-3), to_ms=day(-1)).total.posted == 2_000
    assert ledger.rerate(TWO, apply=True, from_ms=day(-2), to_ms=day(0)).total.posted == 1_000
    assert ledger.rerate(TWO, apply=True, from_ms=day(-9), to_ms=day(9)).total.posted == 0


def test_the_period_and_the_price_go_by_the_moment_of_the_hold(ledger: Ledger):
    ledger.give("anna", 100_000)
    moments = (day(-2) - 1, day(-2), day(-1) - 1, day(-1))
    for at_ms in moments:
        ledger.use("anna", Usage(input=1), ONE, at_ms=at_ms)
    dated = {"m": {"input": "1", "output": "1", "changes": [{"effective_from": date(-1), "input": "9", "output": "9"}]}}
    prices = book("1", prices=dated)
    assert ledger.rerate(prices, from_ms=day(-2), to_ms=day(-1)).total == Tally(requests=2, charged=200, due=200)
    assert ledger.rerate(prices, from_ms=day(-2), to_ms=day(-1) + 1).total == Tally(requests=3, charged=300, due=1_100)


def test_a_model_an_account_and_a_beginning_narrow_it_down(ledger: Ledger):
    prices = book("1", prices={name: {"input": "1", "output": "1"} for name in ("m", "mini", "other")})
    dearer = book("1", prices={name: {"input": "2", "output": "2"} for name in ("m", "mini", "other")})
    for name in ("anna", "boris"):
        ledger.give(name, 100_000)
        for model in ("m", "mini", "other"):
            ledger.use(name, Usage(input=1), prices, model=model)
    assert ledger.rerate(dearer).total.requests == 2
    assert ledger.rerate(dearer, model=Pattern("M", is_prefix=True)).total.requests == 4
    assert ledger.rerate(dearer, model=Pattern("", is_prefix=True)).total.requests == 6
    assert ledger.rerate(dearer, model=Pattern("settings/m")).total.requests == 2
    assert ledger.rerate(dearer, account_id="anna").accounts.keys() == {"anna"}
    with pytest.raises(NotFound, match="no account 'nobody'"):
        ledger.rerate(dearer, account_id="nobody")


def test_the_tenants_markup_is_part_of_the_price_and_may_be_kept_as_charged(ledger: Ledger):
    ledger.give("anna", 100_000)
    ledger.use("anna", Usage(input=10), book("1", markup_bps=2_000))
    now = book("2", markup_bps=9_000, tenants={"anna": {"markup_bps": 1_000}})
    assert ledger.rerate(now).total == Tally(requests=1, charged=1_200, due=2_200)
    assert ledger.rerate(now, keeps_markup=True).total == Tally(requests=1, charged=1_200, due=2_400)


def test_audio_and_tool_calls_are_rerated_from_their_details(ledger: Ledger):
    ledger.give("anna", 10_000_000)
    usage = Usage(input=1, audio_input=10, tool_calls={"web_search": 2})
    assert ledger.use("anna", usage, ONE) == 1_100
    table = {"m": {"input": "1", "output": "1", "audio_input": "3", "tools": {"web_search": "0.01"}}}
    assert ledger.rerate(book("1", prices=table)).total.due == 100 + 3_000 + 2 * 1_000_000


def test_more_than_there_is_is_not_taken_and_the_rest_when_it_is_there(ledger: Ledger):
    ledger.give("anna", 2_500)
    ledger.use("anna", Usage(input=10), ONE)
    ledger.use("anna", Usage(input=10), ONE)
    done = ledger.rerate(TWO, apply=True)
    assert (done.total.posted, done.total.short, ledger.balance("anna")) == (500, 1_500, 0)
    nothing = ledger.rerate(TWO, apply=True)
    assert (nothing.total.posted, nothing.total.short, len(ledger.lines("anna"))) == (0, 1_500, 1)
    ledger.give("anna", 10_000, at_ms=day(0))
    assert ledger.rerate(TWO, apply=True).total.posted == 1_500
    assert ledger.balance("anna") == 8_500
    assert audit(ledger.database).findings == []


def test_what_open_holds_keep_is_not_taken(ledger: Ledger):
    ledger.give("anna", 2_000)
    ledger.use("anna", Usage(input=10), ONE)
    now = now_ms()
    ledger.writer.execute_sync(PlaceHold(account_key("anna"), "anna", IdMaker()(), 700, now, now + DAY_MS, 1, 1))
    done = ledger.rerate(TWO, apply=True)
    assert (done.total.posted, done.total.short) == (300, 700)


def test_a_debt_is_left_only_where_it_is_allowed_and_the_audit_knows_why(ledger: Ledger):
    ledger.give("anna", 2_500)
    ledger.use("anna", Usage(input=20), ONE)
    done = ledger.rerate(TWO, apply=True, allows_debt=True)
    assert (done.total.posted, done.total.short, ledger.balance("anna")) == (2_000, 0, -1_500)
    assert audit(ledger.database).findings == []
    now = now_ms()
    with pytest.raises(AccountInDebt):
        ledger.writer.execute_sync(PlaceHold(account_key("anna"), "anna", IdMaker()(), 1, now, now + 9, 1, 1))
    assert ledger.rerate(ONE, apply=True).total.posted == -2_000
    assert ledger.balance("anna") == 500
    assert audit(ledger.database).findings == []


def test_a_charge_that_its_hold_had_capped_is_never_raised(ledger: Ledger):
    ledger.give("anna", 10_000)
    ledger.use("anna", Usage(input=10), ONE, cost=400)
    assert ledger.rerate(TWO).total == Tally(requests=1, charged=400, due=400)
    assert ledger.rerate(book("0.1")).total == Tally(requests=1, charged=400, due=100)


def test_what_cannot_be_rerated_is_counted_and_left_alone(ledger: Ledger):
    ledger.give("anna", 10_000)
    ledger.use("anna", Usage(input=10), ONE, cost=1_001)
    ledger.use("anna", Usage(input=10), book("1", model="m*"), model="mini")
    done = ledger.rerate(book("2", model="x"), apply=True, model=Pattern("m", is_prefix=True))
    assert done.total == Tally(unexplained=1, unpriced=1)
    assert ledger.lines("anna") == []


def test_archived_transfers_are_said_and_skipped(ledger: Ledger, tmp_path: Path):
    ledger.give("anna", 10_000)
    ledger.use("anna", Usage(input=10), ONE, at_ms=day(-20))
    ledger.use("anna", Usage(input=10), ONE, at_ms=day(-1))
    archive_transfers(ledger.database, tmp_path / "archive", before_ms=day(-10), at_ms=now_ms())
    done = ledger.rerate(TWO, apply=True, from_ms=day(-30))
    assert done.total == Tally(requests=1, charged=1_000, due=2_000, posted=1_000, archived=2)
    assert ledger.rerate(TWO, from_ms=day(-3)).total.archived == 0


def test_a_long_chain_is_read_in_pages_and_corrected_in_parts(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rerating, "_PAGE", 40)
    monkeypatch.setattr(rerating, "_MOST_AT_ONCE", 30)
    monkeypatch.setattr(rerating, "_ROWS_AT_ONCE", 7)
    ledger.give("anna", 10**9)
    charged = sum(ledger.use("anna", Usage(input=n % 7 + 1), ONE) for n in range(100))
    done = ledger.rerate(TWO, apply=True)
    assert done.total == Tally(requests=100, charged=charged, due=2 * charged, posted=charged)
    assert [line.reference for line in ledger.lines("anna")] == [f"rerate:{done.rerating_id}"] * 4
    assert ledger.rerate(TWO, apply=True).total.posted == 0
    assert ledger.rerate(ONE, apply=True).total.posted == -charged
    assert ledger.balance("anna") == 10**9 - charged
    assert audit(ledger.database).findings == []


def test_many_accounts_are_walked_by_key_page_by_page(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rerating, "_PAGE", 3)
    for number in range(10):
        ledger.give(f"user-{number}", 10_000)
        ledger.use(f"user-{number}", Usage(input=number + 1), ONE)
    done = ledger.rerate(TWO, apply=True)
    assert {name: tally.posted for name, tally in done.accounts.items()} == {
        f"user-{number}": 100 * (number + 1) for number in range(10)
    }


@pytest.mark.parametrize("change", ["UPDATE rerated_usage SET corrected = corrected + 1", "DELETE FROM rerated_usage"])
def test_the_audit_finds_corrections_that_no_transfer_made(ledger: Ledger, change: str):
    for name in ("anna", "boris"):
        ledger.give(name, 10_000)
        ledger.use(name, Usage(input=10), ONE)
    ledger.rerate(TWO, apply=True)
    with ledger.database.primary.connection_context():
        ledger.database.primary.execute_sql(f"{change} WHERE account_id = {account_key('anna')}")
    findings = audit(ledger.database).findings
    assert [(finding.invariant, finding.account_id) for finding in findings] == [(7, account_key("anna"))]
    assert "reratings took" in findings[0].message


@pytest.mark.parametrize("detail", ['{"audio_input":11}', '{"audio":1}', "[]", "no JSON", '{"tool_calls":{"x":-1}}'])
def test_a_detail_that_does_not_fit_its_transfer_stops_the_rerating(ledger: Ledger, detail: str):
    ledger.give("anna", 10_000)
    ledger.use("anna", Usage(input=5, audio_input=5), ONE)
    with ledger.database.primary.connection_context():
        ledger.database.primary.execute_sql(f"UPDATE usage_detail SET detail = '{detail}'")
    with pytest.raises(DatabaseError, match="does not fit its transfer"):
        ledger.rerate(TWO, apply=True)
    assert ledger.lines("anna") == []


@given(st.lists(st.integers(-1_000, 1_000), max_size=20), st.integers(0, 5_000))
def test_what_is_taken_fits_and_nothing_is_taken_twice_or_kept(missing: list[int], most: int):
    posted = allot(missing, most=most)
    assert sum(posted) == min(sum(missing), most)
    for wanted, got in zip(missing, posted, strict=True):
        assert min(wanted, 0) <= got <= max(wanted, 0)
        assert got == wanted or wanted > 0  # what is owed to the account is always given
    assert allot(missing, most=None) == missing
