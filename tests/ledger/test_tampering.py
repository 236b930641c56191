"""Each column of each table that holds money, changed row by row behind the ledger: what leaves a trace is found.

What leaves none is listed, with why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peewee
import pytest

from credits_plugin import Usage
from credits_plugin.database import Database, Dialect
from credits_plugin.jobs import TOMBSTONE_DAYS
from credits_plugin.ledger.audit import Finding, audit
from credits_plugin.ledger.auditing.heads import export_heads, verify_heads
from credits_plugin.ledger.auditing.streams import MONEY_BACK as REFUNDS_THAT_COUNT
from credits_plugin.ledger.auditing.streams import REUSED_AFTER_MS
from credits_plugin.ledger.budget_entries import BudgetKind, BudgetPeriod, SetBudget
from credits_plugin.ledger.entries import (
    Code,
    ExpireLots,
    LotTerms,
    PlaceHold,
    PostTransfer,
    ReleaseHold,
    RollOver,
    SettleHold,
)
from credits_plugin.ledger.ids import CLOCKS_DIFFER_MS, IdMaker, account_key, now_ms
from credits_plugin.ledger.queries import account_lots
from credits_plugin.ledger.writer import LedgerWriter
from credits_plugin.models import Account, Budget, Dispute, Hold, Lot, Payment, Refund, Transfer
from credits_plugin.payments.states import MONEY_BACK

ANNA, BORIS = account_key("anna"), account_key("boris")
DAY = 86_400_000
new_id = IdMaker()


class Life:
    """Two customers with a bit of everything, told to the real writer."""

    def __init__(self, database: Database, writer: LedgerWriter) -> None:
        self.database, self.writer = database, writer
        self.start = now_ms() - 2 * DAY

    def tell(self) -> None:
        for name in ("anna", "boris"):
            key = account_key(name)
            bought = self.buy(key, name, 10_000)
            gift = self.post(key, name, Code.PROMOTION, 500, LotTerms(1, self.start + DAY))
            self.use(key, name, 100, request_id=f"asked-{name}")
            self.post(key, name, Code.PROMOTION, 300, LotTerms(200, now_ms() + 9 * DAY))
            self.refund(key, name, bought, 2_000)
            self.dispute(
                key, name, self.buy(key, name, 3_000, ordered=6_000, amount_minor=9_000, paid_minor=4_500), 900
            )
            self.use(key, name, 150)
            self.writer.execute_sync(RollOver(key, gift, new_id(), self.start, now_ms() + 8 * DAY, 50))
            self.writer.execute_sync(ExpireLots(key, new_id(), now_ms()))
            self.post(key, name, Code.ADJUSTMENT_OUT, 70)
            self.use(key, name, 33)
            released = self.hold(key, name, 5)
            self.writer.execute_sync(ReleaseHold(key, released, now_ms()))
            for limit, kind in ((9_000, BudgetKind.ACCOUNT), (800, BudgetKind.KEY)):
                fields = (new_id(), kind, "k" if kind is BudgetKind.KEY else "", BudgetPeriod.NONE, limit, now_ms())
                self.writer.execute_sync(SetBudget(key, name, *fields))
            self.hold(key, name, 44, request_id=f"open-{name}", key_id="k")
            self.use(key, name, 21, key_id="k")

    def post(self, key: int, name: str, code: Code, amount: int, terms: LotTerms = LotTerms(), **fields: Any) -> int:  # noqa: B008 - a frozen value
        transfer_id = new_id()
        self.writer.execute_sync(PostTransfer(key, name, transfer_id, code, amount, self.start, terms=terms, **fields))
        return transfer_id

    def buy(self, key: int, name: str, amount: int, *, ordered: int = 0, **money: int) -> int:
        payment_id = new_id()
        grant = self.post(key, name, Code.PURCHASE, amount, payment_id=payment_id, reference=f"pi_{payment_id}")
        row = {"id": payment_id, "account_id": key, "status": "paid", "package_id": 1, "package_name": "Starter"}
        row |= {"microcredits": amount, "amount_minor": amount, "currency": "usd", "livemode": 0, "created_at_ms": 0}
        row |= {"idempotency_key": str(payment_id), "payment_intent_id": f"pi_{payment_id}", "updated_at_ms": 0}
        if ordered:  # more than was captured; a payment of an earlier version says only what was ordered
            row |= {"microcredits": ordered, "granted_microcredits": amount, **money}
        Payment.insert(row, grant_transfer_id=grant).execute(self.database.primary)
        return payment_id

    def refund(self, key: int, name: str, payment_id: int, amount: int) -> None:
        self.post(key, name, Code.REFUND, amount, payment_id=payment_id, reference=f"re_{payment_id}")
        row = {"id": new_id(), "payment_id": payment_id, "account_id": key, "reason": "", "actor": "stripe"}
        row |= {"stripe_refund_id": f"re_{payment_id}", "idempotency_key": f"seen {payment_id}", "status": "succeeded"}
        row |= {"amount_minor": amount, "currency": "usd", "created_at_ms": 0, "updated_at_ms": 0}
        Refund.insert(row).execute(self.database.primary)
        changes = {"refunded_minor": amount, "clawed_back": amount, "status": "partially_refunded"}
        Payment.update(changes).where(Payment.id == payment_id).execute(self.database.primary)

    def dispute(self, key: int, name: str, payment_id: int, amount: int) -> None:
        self.post(key, name, Code.DISPUTE, 600, payment_id=payment_id, reference=f"dp_{payment_id}")
        row = {"id": new_id(), "payment_id": payment_id, "account_id": key, "reason": "fraudulent", "status": "lost"}
        row |= {"stripe_dispute_id": f"dp_{payment_id}", "amount_minor": amount, "currency": "usd", "withdrawals": 1}
        row |= {"status_at_ms": 0, "created_at_ms": 0, "updated_at_ms": 0}
        Dispute.insert(row).execute(self.database.primary)
        changes = {"disputed_minor": amount, "clawed_back": 600, "status": "disputed"}
        Payment.update(changes).where(Payment.id == payment_id).execute(self.database.primary)

    def hold(self, key: int, name: str, amount: int, **named: str) -> int:
        hold_id, now = new_id(), now_ms()
        self.writer.execute_sync(PlaceHold(key, name, hold_id, amount, now, now + DAY, 1, 7, **named))
        return hold_id

    def use(self, key: int, name: str, cost: int, **named: str) -> None:
        hold_id = self.hold(key, name, cost, **named)
        self.writer.execute_sync(SettleHold(key, hold_id, cost, now_ms(), Usage(cost, 1, 0, 2, 0)))


@pytest.fixture
def life(database: Database, writer: LedgerWriter) -> Life:
    told = Life(database, writer)
    told.tell()
    assert audit(database).findings == []
    return told


WITHOUT_TRACE = {
    "account": {"created_at_ms", "email", "stripe_customer_id"},  # about the customer, not about money
    "transfer": set(),
    # What is held is proven by the account's sum, what was charged by its transfer; the rest is the hold's word alone.
    "hold": set(
        "id account_id amount state expires_at_ms price_version input_tokens request_id run_id budgets".split()
    ),
    # Limits are set by people, and no transfer says whose spending it was.
    "budget": set("kind name period limit spent state used_at_ms".split()),
    # Terms are not part of the chain; they show once they have mattered.
    "lot": {"priority", "expires_at_ms"},
    # What Stripe knows better, and what nobody computes with.
    "payment": set(
        "status package_id package_name currency livemode idempotency_key stripe_session_id payment_intent_id "
        "microcredits amount_minor allows_discounts "
        "charge_id payment_url email receipt_url detail created_at_ms updated_at_ms paid_at_ms".split()
    ),
    "refund": set(
        "id currency reason note actor idempotency_key stripe_refund_id detail created_at_ms updated_at_ms".split()
    ),
    # Whether its money is gone counts, not how often it went.
    "dispute": set(
        "id stripe_dispute_id status status_at_ms currency reason withdrawals reinstatements hold_id frozen "
        "evidence_due_at_ms created_at_ms updated_at_ms".split()
    ),
}
ONLY_WHERE = {
    ("hold", "account_id"): "state = 1",
    ("hold", "amount"): "state = 1",
    ("hold", "state"): "state <> 3",
    ("hold", "budgets"): "budgets IS NOT NULL",
    ("budget", "id"): "held > 0",
    ("budget", "starts_at_ms"): "held > 0",
    ("hold", "request_id"): "state = 2",
    ("hold", "price_version"): "state = 2",
    ("payment", "microcredits"): "granted_microcredits IS NULL",
    ("payment", "amount_minor"): "paid_minor IS NULL",
}
"""Rows of which a column listed above is proven all the same."""


def changes_of(value: Any, field: peewee.Field) -> Iterator[Any]:
    """Yield other values that the column can hold."""
    if field.null:
        yield from (None, 0) if field.field_type != "TEXT" else (None, "")
    if field.field_type == "TEXT":
        yield f"{value or ''}x"
    elif field.column_name.endswith("_minor"):
        yield 2 * (value or 0) + 100  # a cent may be lost in rounding
    elif field.field_type == "BLOB":
        yield bytes(value)[::-1]
        yield b""
    else:
        yield (value or 0) + 1
        yield (value or 0) - 1


def effective_lots(database: Database) -> list[Any]:
    with database.reader.connection_context():
        return [account_lots(database.reader, key) for key in (ANNA, BORIS)]


def changed_rows(database: Database, model: type[peewee.Model]) -> Iterator[str]:
    """Change one field of one row after the other, and back; yield what was changed while it is."""
    table, mark, primary = model._meta.table_name, database.primary.param, database.primary
    for field in model._meta.sorted_fields:
        column = field.column_name
        condition = ONLY_WHERE.get((table, column))
        if column in WITHOUT_TRACE[table] and condition is None:
            continue
        owner = "id" if model is Account else "account_id"
        query = f'SELECT id, "{column}" FROM "{table}" WHERE {owner} = {ANNA} AND {condition or "1 = 1"} ORDER BY id'
        limit = "" if database.dialect is Dialect.SQLITE else " LIMIT 3"  # the same checks, at a fifth of the speed
        for identifier, value in primary.execute_sql(query + limit).fetchall():
            for changed in changes_of(value, field):
                if changed == value:
                    continue
                update = f'UPDATE "{table}" SET "{column}" = {mark} WHERE id = {mark}'
                try:
                    with primary.atomic():
                        primary.execute_sql(update, (changed, identifier))
                except peewee.DatabaseError:
                    continue  # the table's own constraints refuse it
                yield f"{table}.{column} of {identifier}: {value!r} became {changed!r}"
                primary.execute_sql(update, (value, changed if column == "id" else identifier))


@pytest.mark.parametrize(
    "model", [Account, Transfer, Hold, Budget, Lot, Payment, Refund, Dispute], ids=lambda model: model.__name__
)
def test_a_changed_field_is_found(model: type[peewee.Model], life: Life, database: Database):
    unnoticed, tried, lots = [], 0, effective_lots(database)
    for what in changed_rows(database, model):
        tried += 1
        if audit(database).clean and not (".remaining" in what and effective_lots(database) == lots):
            unnoticed.append(what)
    assert unnoticed == []
    assert tried >= 5
    assert audit(database).findings == []


def invariants(database: Database) -> set[int]:
    return {finding.invariant for finding in audit(database).findings}


@pytest.mark.parametrize(
    ("table", "condition", "invariant"),
    [
        ("transfer", "seq = 3", 9),
        ("hold", "state = 1", 3),
        ("lot", "remaining > 0", 4),
        ("payment", "1 = 1", 5),
        ("refund", "1 = 1", 6),
    ],
)
def test_a_row_that_was_moved_to_another_account_is_found(
    table: str, condition: str, invariant: int, life: Life, database: Database
):
    query = f"SELECT MIN(id) FROM {table} WHERE account_id = {ANNA} AND {condition}"
    [identifier] = database.primary.execute_sql(query).fetchone()
    database.primary.execute_sql(f"UPDATE {table} SET account_id = {BORIS} WHERE id = {identifier}")
    found = audit(database).findings
    assert invariant in {finding.invariant for finding in found}
    assert ANNA in {finding.account_id for finding in found}


@pytest.mark.parametrize("columns", ["seq", "amount", "seq, previous_id, balance_after", "hash", "at_ms", "code"])
def test_two_transfers_that_changed_places_are_found(columns: str, life: Life, database: Database):
    names = columns.split(", ")
    query = f"SELECT id, {columns} FROM transfer WHERE account_id = {ANNA} AND seq IN (3, 5) ORDER BY seq"
    (first, *here), (second, *there) = database.primary.execute_sql(query).fetchall()
    assert here != there
    mark = database.primary.param
    for identifier, values in ((first, there), (second, here)):
        assignments = ", ".join(f"{name} = {mark}" for name in names)
        database.primary.execute_sql(f"UPDATE transfer SET {assignments} WHERE id = {mark}", [*values, identifier])
    assert 9 in invariants(database)


def _cut_newest(database: Database) -> int:
    """Delete anna's newest transfer and make her row fit what is left; return its code."""
    query = f"SELECT id, code, amount, balance_after FROM transfer WHERE account_id = {ANNA} ORDER BY seq DESC"
    (gone, code, *_), (last, _, _, balance) = database.primary.execute_sql(query).fetchall()[:2]
    mark = database.primary.param
    [digest] = database.primary.execute_sql(f"SELECT hash FROM transfer WHERE id = {last}").fetchone()
    database.primary.execute_sql(f"DELETE FROM transfer WHERE id = {gone}")
    database.primary.execute_sql(
        f"UPDATE account SET balance = {balance}, seq = seq - 1, last_transfer_id = {last}, last_hash = {mark} "
        f"WHERE id = {ANNA}",
        (bytes(digest),),
    )
    return code


NEWEST: dict[str, tuple[Callable[[Life], object], int]] = {
    "a grant": (lambda life: life.post(ANNA, "anna", Code.PROMOTION, 9), 4),
    "a purchase": (lambda life: life.buy(ANNA, "anna", 9), 5),
    "a withdrawal": (lambda life: life.post(ANNA, "anna", Code.ADJUSTMENT_OUT, 9), 4),
    "a claw-back": (lambda life: life.refund(ANNA, "anna", life.buy(ANNA, "anna", 20), 9), 6),
}


@pytest.mark.parametrize("what", NEWEST)
def test_a_newest_transfer_that_was_cut_off_with_its_row_leaves_its_lot_or_payment_behind(
    what: str, life: Life, database: Database
):
    do, invariant = NEWEST[what]
    do(life)
    _cut_newest(database)
    assert invariant in invariants(database)


def test_usage_that_was_cut_off_with_its_row_is_found_by_exported_heads(life: Life, database: Database, tmp_path: Path):
    life.use(ANNA, "anna", 9)
    export_heads(database, tmp_path / "heads")
    assert _cut_newest(database) == Code.USAGE
    assert audit(database).findings == []  # nothing here tells
    assert verify_heads(database, tmp_path / "heads").rewritten == [ANNA]


@pytest.mark.parametrize("amount", [0, 1])
def test_a_hold_that_was_placed_long_after_the_account_went_into_debt_is_found(
    amount: int, writer: LedgerWriter, database: Database
):
    life, now = Life(database, writer), now_ms()
    life.post(ANNA, "anna", Code.PROMOTION, 1_000)
    hold_id = IdMaker(lambda: life.start)()  # two days ago
    writer.execute_sync(PlaceHold(ANNA, "anna", hold_id, 10, now, now + DAY, 1, 7))
    writer.execute_sync(SettleHold(ANNA, hold_id, 5_000, life.start, Usage(1, 1, 0, 2, 0)))
    assert audit(database).findings == []
    row = {"id": new_id(), "account_id": ANNA, "amount": amount, "state": 1, "expires_at_ms": now + DAY}
    Hold.insert(row, price_version=1, input_tokens=7).execute(database.primary)
    database.primary.execute_sql(f"UPDATE account SET held = {amount}")
    assert invariants(database) == {4}


def test_a_hold_of_more_than_the_account_ever_had_is_found_although_usage_may_leave_a_debt(
    life: Life, database: Database
):
    database.primary.execute_sql(f"UPDATE hold SET amount = 1000000 WHERE state = 1 AND account_id = {ANNA}")
    database.primary.execute_sql(f"UPDATE account SET held = 1000000 WHERE id = {ANNA}")
    database.primary.execute_sql(f"UPDATE budget SET held = 1000000 WHERE account_id = {ANNA}")
    assert invariants(database) == {4}


@pytest.mark.parametrize("hours_later", [0, 23, 49])
def test_a_request_that_was_charged_twice_is_found_unless_its_id_may_have_been_forgotten(
    hours_later: int, writer: LedgerWriter, database: Database
):
    first = IdMaker(lambda: now_ms() - hours_later * 3_600_000)
    Life(database, writer).post(ANNA, "anna", Code.PROMOTION, 1_000)
    for make_id, name in (
        (first, "one"),
        (first, "r"),
        (new_id, "r"),
        (new_id, "other"),
        (new_id, None),
        (new_id, None),
    ):
        hold_id, now = make_id(), now_ms()
        writer.execute_sync(PlaceHold(ANNA, "anna", hold_id, 10, now, now + DAY, 1, 7, name))
        writer.execute_sync(SettleHold(ANNA, hold_id, 5, now, Usage(input=5)))
        Hold.delete().execute(database.primary)  # as a purge does, two days later
    findings = audit(database).findings
    assert {finding.invariant for finding in findings} == (set() if hours_later > 24 else {7})
    assert ["charges a request that transfer" in finding.message for finding in findings] == [True] * len(findings)


def test_the_audit_and_the_jobs_agree_how_long_a_request_id_is_remembered():
    assert REUSED_AFTER_MS == TOMBSTONE_DAYS * DAY - CLOCKS_DIFFER_MS


def test_a_true_debt_with_holds_of_before_it_is_no_finding(life: Life, database: Database):
    life.post(ANNA, "anna", Code.REFUND, 50_000, reference="re_x")
    assert invariants(database) == {6}  # no payment says so; what is held is explained


def _copy_row(database: Database, table: str, **changes: Any) -> None:
    cursor = database.primary.execute_sql(f'SELECT * FROM "{table}" WHERE account_id = {ANNA} LIMIT 1')
    row = dict(zip([column[0] for column in cursor.description], cursor.fetchone(), strict=True)) | changes
    marks = ", ".join([database.primary.param] * len(row))
    database.primary.execute_sql(f'INSERT INTO "{table}" ({", ".join(row)}) VALUES ({marks})', list(row.values()))


def test_a_payment_or_a_refund_that_was_doubled_is_found(life: Life, database: Database):
    own = {"idempotency_key": "k", "stripe_session_id": None, "payment_intent_id": None}
    _copy_row(database, "payment", id=1, grant_transfer_id=None, **own)
    assert 5 in invariants(database)
    database.primary.execute_sql("DELETE FROM payment WHERE id = 1")
    with pytest.raises(peewee.IntegrityError):
        _copy_row(database, "payment", id=1, **own)  # of the same grant
    _copy_row(database, "refund", id=1, idempotency_key="k", stripe_refund_id="re_2")
    assert invariants(database) == {6}


@pytest.mark.parametrize("status", ["open", "failed", "expired"])
def test_a_grant_of_what_was_never_paid_is_found(status: str, life: Life, database: Database):
    database.primary.execute_sql(f"UPDATE payment SET status = '{status}' WHERE account_id = {ANNA}")
    assert invariants(database) == {5}


def test_a_promotion_cannot_be_passed_off_as_paid(life: Life, database: Database):
    [payment_id] = database.primary.execute_sql(f"SELECT id FROM payment WHERE account_id = {ANNA}").fetchone()
    gifts = f"SELECT id FROM transfer WHERE code = {int(Code.PROMOTION)} AND account_id = {ANNA}"
    database.primary.execute_sql(f"UPDATE lot SET payment_id = {payment_id} WHERE id IN ({gifts})")
    assert invariants(database) == {4, 5}


def test_a_withdrawal_that_left_a_debt_is_found_although_usage_may(life: Life, database: Database):
    """Forged with all its hashes, as an insider could: the rules still say that it cannot have been."""
    report = audit(database)
    assert report.findings == []
    from credits_plugin.ledger.auditing.checks import check_account
    from credits_plugin.ledger.auditing.streams import accounts_of
    from credits_plugin.ledger.snapshots import snapshot

    with database.reader.connection_context(), snapshot(database.reader) as rows:
        findings: list[Finding] = []
        anna = next(one for one in accounts_of(rows, (ANNA, ANNA), findings.append, until_ms=None))
        event = anna.chain.events[-1]
        anna.chain.events[-1] = (event[0], int(Code.ADJUSTMENT_OUT), event[2], -5, *event[4:])
        check_account(report, anna)
    assert any("left balance -5" in finding.message for finding in report.findings)


def test_the_audit_and_the_payments_agree_which_refunds_count():
    assert set(REFUNDS_THAT_COUNT) == {str(status) for status in MONEY_BACK}
