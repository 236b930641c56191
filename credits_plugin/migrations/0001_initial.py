"""The first schema: accounts, transfers, holds, lots, prices, payments, inbox, outbox. Frozen; never edit it."""

from __future__ import annotations

from typing import Any

from peewee import SQL, BigAutoField, BigIntegerField, BlobField, Check, IntegerField, Model, SqliteDatabase, TextField


class BaseModel(Model):
    class Meta:
        legacy_table_names = False
        strict_tables = True


class Account(BaseModel):
    id = BigIntegerField(primary_key=True)
    external_id = TextField(unique=True)
    balance = BigIntegerField(default=0)
    held = BigIntegerField(default=0, constraints=[Check("held >= 0")])
    seq = BigIntegerField(default=0)
    last_transfer_id = BigIntegerField(default=0)
    last_hash = BlobField(default=b"")
    next_expiry_at_ms = BigIntegerField(null=True)
    created_at_ms = BigIntegerField()
    email = TextField(null=True)
    stripe_customer_id = TextField(null=True)

    class Meta:
        indexes = (
            SQL("CREATE INDEX account_next_expiry ON account (next_expiry_at_ms) WHERE next_expiry_at_ms IS NOT NULL"),
        )


class Transfer(BaseModel):
    id = BigIntegerField(primary_key=True)
    account_id = BigIntegerField()
    seq = BigIntegerField()
    previous_id = BigIntegerField()
    code = IntegerField()
    amount = BigIntegerField(constraints=[Check("amount > 0")])
    balance_after = BigIntegerField()
    at_ms = BigIntegerField()
    hash = BlobField()
    price_version = IntegerField(null=True)
    input = BigIntegerField(null=True)
    cache_read = BigIntegerField(null=True)
    cache_write = BigIntegerField(null=True)
    output = BigIntegerField(null=True)
    reasoning = BigIntegerField(null=True)
    reference = TextField(null=True)

    class Meta:
        indexes = (
            SQL("CREATE INDEX transfer_chain ON transfer (account_id, seq) WHERE (seq & 31) = 0"),
            SQL("CREATE INDEX transfer_reference ON transfer (reference, id) WHERE code <> 2"),
        )


class Hold(BaseModel):
    id = BigIntegerField(primary_key=True)
    account_id = BigIntegerField()
    amount = BigIntegerField(constraints=[Check("amount >= 0")])
    state = IntegerField()
    expires_at_ms = BigIntegerField()
    price_version = IntegerField()
    input_tokens = BigIntegerField()
    request_id = TextField(null=True)
    run_id = TextField(null=True)

    class Meta:
        indexes = (
            SQL("CREATE UNIQUE INDEX hold_request ON hold (account_id, request_id) WHERE request_id IS NOT NULL"),
        )


class Lot(BaseModel):
    id = BigIntegerField(primary_key=True)
    account_id = BigIntegerField()
    priority = IntegerField()
    expires_at_ms = BigIntegerField(null=True)
    amount = BigIntegerField(constraints=[Check("amount > 0")])
    remaining = BigIntegerField(constraints=[Check("remaining >= 0 AND remaining <= amount")])
    expired = BigIntegerField(default=0, constraints=[Check("expired >= 0")])
    payment_id = BigIntegerField(null=True)

    class Meta:
        indexes = (SQL("CREATE INDEX lot_account ON lot (account_id, id)"),)


class PriceVersion(BaseModel):
    id = BigAutoField()
    digest = TextField(unique=True)
    provider = TextField()
    model = TextField()
    record = TextField()
    created_at_ms = BigIntegerField()


class Payment(BaseModel):
    id = BigIntegerField(primary_key=True)
    account_id = BigIntegerField()
    status = TextField()
    package_id = IntegerField()
    package_name = TextField()
    microcredits = BigIntegerField(constraints=[Check("microcredits > 0")])
    amount_minor = BigIntegerField(constraints=[Check("amount_minor > 0")])
    currency = TextField()
    livemode = IntegerField()
    idempotency_key = TextField(unique=True)
    stripe_session_id = TextField(null=True, unique=True)
    payment_intent_id = TextField(null=True, unique=True)
    charge_id = TextField(null=True)
    payment_url = TextField(null=True)
    email = TextField(null=True)
    receipt_url = TextField(null=True)
    grant_transfer_id = BigIntegerField(null=True, unique=True)
    refunded_minor = BigIntegerField(default=0, constraints=[Check("refunded_minor >= 0")])
    clawed_back = BigIntegerField(default=0, constraints=[Check("clawed_back >= 0 AND clawed_back <= microcredits")])
    detail = TextField(null=True)
    created_at_ms = BigIntegerField()
    updated_at_ms = BigIntegerField()
    paid_at_ms = BigIntegerField(null=True)

    class Meta:
        indexes = (SQL("CREATE INDEX payment_account ON payment (account_id, id)"),)


class Refund(BaseModel):
    id = BigIntegerField(primary_key=True)
    payment_id = BigIntegerField()
    account_id = BigIntegerField()
    status = TextField()
    amount_minor = BigIntegerField(constraints=[Check("amount_minor > 0")])
    currency = TextField()
    reason = TextField()
    note = TextField(null=True)
    actor = TextField()
    idempotency_key = TextField(unique=True)
    stripe_refund_id = TextField(null=True, unique=True)
    detail = TextField(null=True)
    created_at_ms = BigIntegerField()
    updated_at_ms = BigIntegerField()

    class Meta:
        indexes = (SQL("CREATE INDEX refund_payment ON refund (payment_id, id)"),)


class InboxEvent(BaseModel):
    event_id = TextField(primary_key=True)
    type = TextField()
    status = TextField()
    object_id = TextField(null=True)
    account_id = BigIntegerField(null=True)
    api_version = TextField(null=True)
    livemode = IntegerField()
    attempts = IntegerField()
    detail = TextField(null=True)
    payload = TextField()
    created_at_ms = BigIntegerField()
    received_at_ms = BigIntegerField()

    class Meta:
        indexes = (
            SQL("CREATE INDEX inbox_event_received ON inbox_event (received_at_ms, event_id)"),
            SQL("CREATE INDEX inbox_event_object ON inbox_event (object_id)"),
        )


class OutboxMessage(BaseModel):
    id = BigIntegerField(primary_key=True)
    account_id = BigIntegerField()
    kind = TextField()
    payload = TextField()
    attempts = IntegerField(default=0)
    next_attempt_at_ms = BigIntegerField()
    detail = TextField(null=True)

    class Meta:
        indexes = (SQL("CREATE INDEX outbox_message_due ON outbox_message (next_attempt_at_ms)"),)


class AdminAction(BaseModel):
    id = BigIntegerField(primary_key=True)
    at_ms = BigIntegerField()
    actor = TextField()
    action = TextField()
    subject = TextField()
    account_id = BigIntegerField(null=True)
    reason = TextField()
    before = TextField(null=True)
    after = TextField(null=True)


MODELS = (
    Account,
    Transfer,
    Hold,
    Lot,
    PriceVersion,
    Payment,
    Refund,
    InboxEvent,
    OutboxMessage,
    AdminAction,
)


def up(migrator: Any, db: Any) -> None:
    """Create every table; STRICT typing is SQLite's own."""
    on_sqlite = isinstance(db, SqliteDatabase)
    for model in MODELS:
        model._meta.strict_tables = on_sqlite
    with db.bind_ctx(MODELS):
        db.create_tables(MODELS)
    # For the admin's search by prefix; PostgreSQL's LIKE needs an index of its own kind in most collations.
    kind = "" if on_sqlite else " text_pattern_ops"
    db.execute_sql(f"CREATE INDEX account_search_email ON account (lower(email){kind})")
    if not on_sqlite:
        db.execute_sql("CREATE INDEX account_search_id ON account (external_id text_pattern_ops)")
        # Room in every account page, so that a new balance stays in its page.
        db.execute_sql("ALTER TABLE account SET (fillfactor = 50)")
