"""Peewee models: every table and constraint, no queries.

Amounts are integer microcredits, times are Unix milliseconds, money is in minor units of its currency. There are no
foreign keys: on SQLite each would cost the hot path a lookup, and the distributed layout places rows by account id;
``credits audit`` checks what they would have. Migrations hold frozen copies of these models; a test compares the two.

The models are bound to no database, so that one process can serve several: every query names its own, as in
``Payment.select().where(...).dicts().execute(database)``.
"""

from __future__ import annotations

from peewee import SQL, BigAutoField, BigIntegerField, BlobField, Check, CompositeKey, IntegerField, Model, TextField

SPARSE_INDEX_STEP = 32
"""Every how many rows of an account's chain the index transfer_chain has an entry (seq & 31 = 0); ARCHITECTURE.md."""


class BaseModel(Model):
    """What all tables share: STRICT typing on SQLite."""

    class Meta:
        """Peewee options."""

        legacy_table_names = False
        strict_tables = True


class Account(BaseModel):
    """Holder of a balance. ``id`` is derived from ``external_id``, the host's own name for the payer.

    ``budgets`` counts its rows of that table, so that an account without any is never looked up there.
    """

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
    budgets = IntegerField(default=0)

    class Meta:
        """Peewee options."""

        indexes = (
            SQL("CREATE INDEX account_next_expiry ON account (next_expiry_at_ms) WHERE next_expiry_at_ms IS NOT NULL"),
        )


class Transfer(BaseModel):
    """Immutable movement between an account and the system account that its ``code`` names; one chain per account.

    A settle's transfer has its hold's id. The usage columns are set on usage transfers alone.
    """

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
        """Peewee options."""

        indexes = (
            SQL("CREATE INDEX transfer_chain ON transfer (account_id, seq) WHERE (seq & 31) = 0"),
            SQL("CREATE INDEX transfer_reference ON transfer (reference, id) WHERE code <> 2"),
        )


class ArchiveAnchor(BaseModel):
    """The last link of an account's chain that was moved out to an archive: what is still here follows it."""

    account_id = BigIntegerField(primary_key=True)
    seq = BigIntegerField(constraints=[Check("seq > 0")])
    transfer_id = BigIntegerField()
    hash = BlobField()
    balance = BigIntegerField()


class Hold(BaseModel):
    """Open holds, and ended ones that still have something to say.

    A settled hold without a ``request_id`` is deleted: the transfer with its id proves it. Released and expired holds,
    holds settled for nothing and holds with a request id stay until they are purged.
    """

    id = BigIntegerField(primary_key=True)
    account_id = BigIntegerField()
    amount = BigIntegerField(constraints=[Check("amount >= 0")])
    state = IntegerField()
    expires_at_ms = BigIntegerField()
    price_version = IntegerField()
    input_tokens = BigIntegerField()
    request_id = TextField(null=True)
    run_id = TextField(null=True)
    budgets = TextField(null=True)

    class Meta:
        """Peewee options."""

        indexes = (
            SQL("CREATE UNIQUE INDEX hold_request ON hold (account_id, request_id) WHERE request_id IS NOT NULL"),
        )


class Budget(BaseModel):
    """What an account, one of its members, keys or runs may spend: in a day, a month, or in all.

    ``spent`` and ``held`` belong to the period that began at ``starts_at_ms``. No constraint bounds them: a count that
    went wrong is the audit's to find, and must not keep a charge from being written.
    """

    id = BigIntegerField(primary_key=True)
    account_id = BigIntegerField()
    kind = TextField()
    name = TextField()
    period = TextField()
    limit = BigIntegerField(null=True)
    spent = BigIntegerField()
    held = BigIntegerField()
    starts_at_ms = BigIntegerField()
    state = TextField()
    used_at_ms = BigIntegerField()

    class Meta:
        """Peewee options."""

        indexes = (SQL("CREATE UNIQUE INDEX budget_key ON budget (account_id, kind, name, period)"),)


class Lot(BaseModel):
    """Credits that came in together; ``id`` is the granting transfer's. No spend is attributed to ``remaining`` yet."""

    id = BigIntegerField(primary_key=True)
    account_id = BigIntegerField()
    priority = IntegerField()
    expires_at_ms = BigIntegerField(null=True)
    amount = BigIntegerField(constraints=[Check("amount > 0")])
    remaining = BigIntegerField(constraints=[Check("remaining >= 0 AND remaining <= amount")])
    expired = BigIntegerField(default=0, constraints=[Check("expired >= 0")])
    payment_id = BigIntegerField(null=True)

    class Meta:
        """Peewee options."""

        indexes = (SQL("CREATE INDEX lot_account ON lot (account_id, id)"),)


class UsageDetail(BaseModel):
    """What a usage transfer's five columns do not tell: tokens of other kinds, which they include, and tool calls.

    ``detail`` is JSON by the names of :class:`hookspecs.Usage`. Written with its transfer, where there is any.
    """

    transfer_id = BigIntegerField(primary_key=True)
    account_id = BigIntegerField()
    detail = TextField()


class ReratedUsage(BaseModel):
    """A usage transfer that was charged anew: ``corrected`` is all that reratings took (or, below 0, gave) for it.

    ``rerating_id`` is the last of them, an admin action.
    """

    transfer_id = BigIntegerField(primary_key=True)
    account_id = BigIntegerField()
    corrected = BigIntegerField()
    rerating_id = BigIntegerField()


class PriceVersion(BaseModel):
    """A price as it was applied; written once, when it is first used. ``record`` is the JSON that reproduces costs."""

    id = BigAutoField()
    digest = TextField(unique=True)
    provider = TextField()
    model = TextField()
    record = TextField()
    created_at_ms = BigIntegerField()


class Payment(BaseModel):
    """Our record of one Stripe Checkout Session: what was ordered, at what price, and what became of it."""

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
    allows_discounts = IntegerField(default=0)
    paid_minor = BigIntegerField(null=True)
    granted_microcredits = BigIntegerField(null=True)
    disputed_minor = BigIntegerField(default=0)

    class Meta:
        """Peewee options."""

        indexes = (SQL("CREATE INDEX payment_account ON payment (account_id, id)"),)


class Refund(BaseModel):
    """Money on its way back to a buyer, asked for by an admin here or seen in Stripe's events."""

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
        """Peewee options."""

        indexes = (SQL("CREATE INDEX refund_payment ON refund (payment_id, id)"),)


class Dispute(BaseModel):
    """A buyer's bank asking for the money back. ``hold_id`` freezes what was there of its credits when it opened.

    ``withdrawals`` and ``reinstatements`` count how often Stripe took the money and gave it back.
    """

    id = BigIntegerField(primary_key=True)
    payment_id = BigIntegerField()
    account_id = BigIntegerField()
    stripe_dispute_id = TextField(unique=True)
    status = TextField()
    status_at_ms = BigIntegerField()
    amount_minor = BigIntegerField(constraints=[Check("amount_minor > 0")])
    currency = TextField()
    reason = TextField()
    withdrawals = IntegerField(default=0, constraints=[Check("withdrawals >= 0")])
    reinstatements = IntegerField(default=0, constraints=[Check("reinstatements >= 0")])
    hold_id = BigIntegerField(null=True)
    frozen = BigIntegerField(null=True)
    evidence_due_at_ms = BigIntegerField(null=True)
    created_at_ms = BigIntegerField()
    updated_at_ms = BigIntegerField()

    class Meta:
        """Peewee options."""

        indexes = (
            SQL("CREATE INDEX dispute_payment ON dispute (payment_id, id)"),
            SQL("CREATE INDEX dispute_account ON dispute (account_id, id)"),
        )


class InboxEvent(BaseModel):
    """An incoming Stripe event, kept for ever by its id: what came, and what it did."""

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
        """Peewee options."""

        indexes = (
            SQL("CREATE INDEX inbox_event_received ON inbox_event (received_at_ms, event_id)"),
            SQL("CREATE INDEX inbox_event_object ON inbox_event (object_id)"),
        )


class StripeCursor(BaseModel):
    """How far one of Stripe's lists has been read, under a name; ``position`` is its reader's own JSON."""

    name = TextField(primary_key=True)
    position = TextField()
    updated_at_ms = BigIntegerField()


class OutboxMessage(BaseModel):
    """A hook event to deliver after the commit that caused it; removed once every plugin has heard it."""

    id = BigIntegerField(primary_key=True)
    account_id = BigIntegerField()
    kind = TextField()
    payload = TextField()
    attempts = IntegerField(default=0)
    next_attempt_at_ms = BigIntegerField()
    detail = TextField(null=True)

    class Meta:
        """Peewee options."""

        indexes = (SQL("CREATE INDEX outbox_message_due ON outbox_message (next_attempt_at_ms)"),)


class Observation(BaseModel):
    """One bucket of a histogram over calls and their holds; ``account_id`` 0 is all accounts. No balance needs it."""

    account_id = BigIntegerField()
    kind = IntegerField()
    model = TextField()
    bucket = IntegerField()
    count = BigIntegerField(constraints=[Check("count >= 0")])
    updated_at_ms = BigIntegerField()

    class Meta:
        """Peewee options."""

        primary_key = CompositeKey("account_id", "kind", "model", "bucket")
        indexes = (SQL("CREATE INDEX observation_updated ON observation (updated_at_ms)"),)


class AdminAction(BaseModel):
    """What an operator did: who, what, to which subject, why, and the values before and after."""

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
    ArchiveAnchor,
    Hold,
    Budget,
    Lot,
    UsageDetail,
    ReratedUsage,
    PriceVersion,
    Payment,
    Refund,
    Dispute,
    InboxEvent,
    StripeCursor,
    OutboxMessage,
    AdminAction,
    Observation,
)
