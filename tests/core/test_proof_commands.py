"""`credits audit`, `heads`, `lots` and `paid-by` as a person or a script runs them: exact lines, exact exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from credits_plugin import Usage
from credits_plugin.__main__ import main
from credits_plugin.cli.audit import Progress
from credits_plugin.database import Database
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.entries import Code, LotTerms, PlaceHold, PostTransfer, SettleHold
from credits_plugin.ledger.ids import IdMaker, account_key, now_ms
from credits_plugin.ledger.writer import LedgerWriter
from credits_plugin.models import Payment

CREDIT = 1_000_000
KEY = account_key("anna")
DAY = 86_400_000
new_id = IdMaker()


class Shop:
    """Anna's account, and the commands on its database."""

    def __init__(self, database: Database, url: str, writer: LedgerWriter, capsys: pytest.CaptureFixture[str]) -> None:
        self.database, self.url, self.writer, self.capsys = database, url, writer, capsys

    def credits(self, *arguments: str) -> tuple[int, str, str]:
        """Return the exit code, and what was written to both outputs."""
        code = main([*arguments, "--database", self.url])
        told = self.capsys.readouterr()
        return code, told.out, told.err

    def give(self, amount: int, *, at_ms: int | None = None, terms: LotTerms = LotTerms(), name: str = "anna") -> int:  # noqa: B008 - a frozen value
        transfer_id = new_id()
        command = PostTransfer(
            account_key(name), name, transfer_id, Code.PROMOTION, amount, at_ms or now_ms(), terms=terms
        )
        self.writer.execute_sync(command)
        return transfer_id

    def buy(self, amount: int, *, payment_id: int) -> int:
        grant = new_id()
        self.writer.execute_sync(
            PostTransfer(KEY, "anna", grant, Code.PURCHASE, amount, now_ms(), payment_id=payment_id)
        )
        row = {"id": payment_id, "account_id": KEY, "status": "paid", "package_id": 1, "package_name": "Starter"}
        row |= {"microcredits": amount, "amount_minor": 1_000, "currency": "usd", "livemode": 0, "created_at_ms": 0}
        row |= {"idempotency_key": str(payment_id), "payment_intent_id": f"pi_{payment_id}", "updated_at_ms": 0}
        Payment.insert(row, grant_transfer_id=grant).execute(self.database.primary)
        return grant

    def use(self, cost: int, *, request_id: str | None = None) -> int:
        hold_id, now = new_id(), now_ms()
        self.writer.execute_sync(PlaceHold(KEY, "anna", hold_id, cost, now, now + 60_000, 1, 7, request_id))
        self.writer.execute_sync(SettleHold(KEY, hold_id, cost, now, Usage(input=cost)))
        return hold_id


@pytest.fixture
def shop(database: Database, database_url: str, writer: LedgerWriter, capsys: pytest.CaptureFixture[str]) -> Shop:
    return Shop(database, database_url, writer, capsys)


def test_a_clean_audit_exits_0_and_says_what_it_counted(shop: Shop):
    shop.buy(10 * CREDIT, payment_id=11)
    shop.use(4 * CREDIT)
    code, told, errors = shop.credits("audit")
    assert (code, errors) == (0, "")
    assert told.splitlines() == [
        "audited 1 accounts, 2 transfers, 0 open holds, 1 lots, 1 payments; balances add up to 6 credits",
        "system accounts: cash -10, usage_revenue 4",
        "clean",
    ]


def test_a_finding_names_invariant_account_transfer_expected_and_found_and_exits_1(shop: Shop):
    shop.give(10 * CREDIT)
    charged = shop.use(4)
    shop.database.primary.execute_sql(f"UPDATE transfer SET balance_after = 7 WHERE id = {charged}")
    code, told, _ = shop.credits("audit")
    assert code == 1
    line = next(line for line in told.splitlines() if line.startswith("invariant 2"))
    assert line == (
        f"invariant 2, account anna, transfer {charged}: says balance 7, the sum of its chain is 9999996 "
        "(expected 9999996, found 7)"
    )


def test_the_json_is_the_whole_report(shop: Shop):
    shop.give(5)
    code, told, _ = shop.credits("audit", "--json")
    assert (code, json.loads(told)) == (0, audit(shop.database).as_json())


def test_balances_as_of_a_time_are_those_of_then(shop: Shop):
    then = 1_793_491_200_000  # 2026-11-01T00:00:00Z
    shop.give(3 * CREDIT, at_ms=then - 1)
    shop.give(4 * CREDIT, at_ms=then + 1)
    for text in ("2026-11-01T00:00:00Z", "2026-11-01T01:00:00+01:00"):
        code, told, _ = shop.credits("audit", "--as-of", text)
        assert code == 0
        assert "as of 2026-11-01T00:00:00+00:00; balances add up to 3 credits" in told
    beyond = ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00")  # years 0 and 10000 of UTC
    for wrong in ("yesterday", "2026-11-01T00:00:00", *beyond):
        code, _, errors = shop.credits("audit", "--as-of", wrong)
        assert (code, "with its zone" in errors) == (2, True)


def test_an_audit_that_ran_out_of_time_exits_2_and_goes_on_from_its_checkpoint(shop: Shop, tmp_path: Path):
    shop.give(5)
    file = tmp_path / "audit.json"
    audit(shop.database, checkpoint=file, time_limit_s=0, transfers_per_range=1)
    assert file.exists()
    limited = ("audit", "--checkpoint", str(file), "--time-limit")
    code, told, errors = shop.credits(*limited, "60")
    assert (code, errors, told.splitlines()[-1]) == (0, "", "clean")
    assert not file.exists()
    for nonsense in ("-1", "nan", "inf"):
        code, told, errors = shop.credits(*limited, nonsense)
        assert (code, told, "from 0 on" in errors) == (2, "", True)
    code, _, errors = shop.credits("audit", "--time-limit", "5")
    assert (code, "needs --checkpoint" in errors) == (2, True)


def test_an_audit_that_is_not_complete_never_passes_for_clean(shop: Shop, tmp_path: Path, monkeypatch):
    shop.give(5)
    report = audit(shop.database, time_limit_s=0, transfers_per_range=1)
    assert not report.complete
    monkeypatch.setattr("credits_plugin.cli.audit.audit", lambda *_, **__: report)
    code, told, errors = shop.credits("audit", "--checkpoint", str(tmp_path / "file"), "--time-limit", "0")
    assert (code, told.splitlines()[-1]) == (2, "clean so far")
    assert "run the same command again" in errors


def test_progress_is_told_on_standard_error_now_and_then(capsys: pytest.CaptureFixture[str]):
    progress = Progress(begun_s=100.0)
    progress.tell(1 << 61, now_s=104.0)
    progress.tell(1 << 62, now_s=106.0)
    progress.tell(3 << 61, now_s=107.0)
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "credits: 50 % of the accounts, 0 in this run\n")


def test_exported_heads_show_later_that_history_was_not_rewritten(shop: Shop, tmp_path: Path):
    shop.give(9)
    file = tmp_path / "heads"
    code, told, _ = shop.credits("heads", "export", str(file))
    digest = file.read_text().split()[-1]
    assert code == 0
    assert told == f"{file}: the heads of 1 accounts, 1 transfers\nsha256 {digest}\n"
    assert shop.credits("heads", "export", str(file))[0] == 2

    shop.use(4)
    code, told, _ = shop.credits("heads", "verify", str(file))
    assert (code, told.splitlines()[-1]) == (0, "every chain passes through its head")

    shop.database.primary.execute_sql("UPDATE transfer SET at_ms = at_ms + 1 WHERE seq = 1")
    code, told, _ = shop.credits("heads", "verify", str(file))
    assert (code, told.splitlines()[-1]) == (1, "1 accounts were rewritten")
    assert "invariant 9, account anna" in told

    file.write_text(file.read_text().replace(" 1 ", " 2 "))
    code, _, errors = shop.credits("heads", "verify", str(file))
    assert (code, "digest does not match" in errors) == (2, True)
    assert shop.credits("heads", "verify", str(tmp_path / "absent"))[0] == 2


def _cells(line: str) -> list[str]:
    return re.split(r" {2,}", line.strip())


def test_the_lots_of_an_account_are_a_table_whose_rows_add_up(shop: Shop):
    gift = shop.give(5 * CREDIT, terms=LotTerms(priority=1, expires_at_ms=now_ms() + DAY))
    bought = shop.buy(10 * CREDIT, payment_id=11)
    shop.use(7 * CREDIT)

    code, told, _ = shop.credits("lots", "anna")

    head, *rows, total = map(_cells, told.splitlines())
    assert code == 0
    assert head[:2] == ["lot", "from"]
    assert [row[0] for row in rows] == [str(gift), str(bought)]
    assert rows[0][1] == "promotion"
    assert rows[1][1] == "purchase: Starter, $10.00, payment 11, pi_11"
    assert rows[1][4] == "never"
    assert [row[5:] for row in (*rows, ["", "", "", "", *total])] == [
        ["5", "5", "0", "0", "0", "0", "0"],
        ["10", "2", "0", "0", "0", "0", "8"],
        ["15", "7", "0", "0", "0", "0", "8"],
    ]


def test_a_request_is_traced_to_its_purchase_by_either_of_its_ids(shop: Shop):
    gift, bought = shop.give(5 * CREDIT, terms=LotTerms(priority=1)), shop.buy(10 * CREDIT, payment_id=11)
    charged = shop.use(7 * CREDIT, request_id="req-1")
    expected = [
        f"transfer {charged}, usage: 7 credits",
        f"  5 from lot {gift}",
        f"  2 from lot {bought}, Starter, $10.00, payment 11, pi_11",
    ]
    for name in (str(charged), "req-1"):
        code, told, _ = shop.credits("paid-by", "anna", name)
        assert (code, told.splitlines()) == (0, expected)


def test_what_is_still_owed_is_said(shop: Shop):
    shop.give(5)
    hold_id, now = new_id(), now_ms()
    shop.writer.execute_sync(PlaceHold(KEY, "anna", hold_id, 5, now, now + 60_000, 1, 7))
    shop.writer.execute_sync(SettleHold(KEY, hold_id, 8, now, Usage(input=1)))
    _, told, _ = shop.credits("paid-by", "anna", str(hold_id))
    assert told.splitlines()[-1] == "  0.000003 owed: whatever comes in next repays it"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("lots", "nobody"), "no such account"),
        (("paid-by", "nobody", "5"), "no such account"),
        (("paid-by", "anna", "5"), "no transfer of this account has the id '5'"),
        (("paid-by", "anna", "9" * 40), "no request with that id"),
        (("paid-by", "anna", "req'--"), "no request with that id"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(shop: Shop, arguments: tuple[str, ...], said: str):
    shop.give(5)
    code, told, errors = shop.credits(*arguments)
    assert (code, told, len(errors.splitlines())) == (2, "", 1)
    assert said in errors
    other = shop.give(6, name="boris")
    assert shop.credits("paid-by", "anna", str(other))[0] == 2  # nobody sees another's transfers under their own name


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE transfer SET previous_id = id + 1 WHERE seq = 2",
        "UPDATE transfer SET balance_after = 25 WHERE seq = 2",
        "UPDATE account SET last_transfer_id = last_transfer_id + 2",
        "DELETE FROM lot WHERE payment_id IS NOT NULL",
        "DELETE FROM transfer WHERE seq = 1",
    ],
)
def test_a_broken_chain_is_not_answered_with_a_guess(shop: Shop, damage: str):
    shop.buy(10, payment_id=11)
    shop.give(10)
    charged = shop.use(15)
    shop.database.primary.execute_sql(damage)
    for command in (("lots", "anna"), ("paid-by", "anna", str(charged))):
        code, told, errors = shop.credits(*command)
        assert (code, told) == (2, "")
        assert "credits audit" in errors or "no transfer of this account" in errors


def test_a_ring_of_links_ends(shop: Shop):
    shop.buy(10, payment_id=11)
    charged = shop.use(4)
    shop.database.primary.execute_sql(f"UPDATE transfer SET previous_id = {charged} WHERE seq = 1")
    assert shop.credits("paid-by", "anna", "no-such-request")[0] == 2
    assert shop.credits("lots", "anna")[0] == 0
