"""Errors that carry data. Each class has a stable ``code``; HTTP statuses live in ``web/``, exit codes in the CLI."""

from __future__ import annotations

from typing import Any, ClassVar, Final


class CreditsError(Exception):
    """Base of every error of this package. ``str()`` says what was wrong and what to do, fit for a user's eyes."""

    code: ClassVar[str] = "credits_error"

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.fields = fields


class InvalidValue(CreditsError):
    """A value from outside has the wrong shape, sign, type or size."""

    code = "invalid_value"


class ConfigurationError(CreditsError):
    """A setting is missing or wrong; the message names it and says what to write."""

    code = "configuration_error"


class DatabaseError(CreditsError):
    """The database cannot be used as it is: unsafe settings, not migrated, unreachable."""

    code = "database_error"


class DatabaseTooNew(DatabaseError):
    """The database was migrated by a newer version of this package; upgrade the package."""

    code = "database_too_new"


class NotFound(CreditsError):
    """The thing does not exist, or is not the caller's: both look the same from outside."""

    code = "not_found"


class UnknownModel(CreditsError):
    """No price is known for a model, so the request is refused unless a fallback is configured."""

    code = "unknown_model"


class LedgerError(CreditsError):
    """A command was refused by the ledger's rules; nothing was written."""

    code = "ledger_error"


class InsufficientCredits(LedgerError):
    """Available credits do not cover the amount. Fields: ``needed``, ``available`` (microcredits)."""

    code = "insufficient_credits"

    def __init__(self, account_id: str, *, needed: int, available: int) -> None:
        super().__init__(
            f"needs {needed} microcredits, {available} available",
            account_id=account_id,
            needed=needed,
            available=available,
        )
        self.needed = needed
        self.available = available


class AccountInDebt(LedgerError):
    """The balance is below zero, so no new hold is placed. Fields: ``needed``, ``available`` (microcredits)."""

    code = "account_in_debt"

    def __init__(self, account_id: str, *, needed: int, available: int) -> None:
        super().__init__(
            f"the balance is {available} microcredits below zero",
            account_id=account_id,
            needed=needed,
            available=available,
        )
        self.needed = needed
        self.available = available


class BudgetExceeded(LedgerError):
    """A budget does not cover the amount, or its run is paused. Fields: ``needed``, ``available`` (microcredits),

    ``kind``, ``name`` and ``period`` of the budget, its ``limit``, ``period_ends_at_ms`` (None: never), ``paused``.
    """

    code = "budget_exceeded"

    def __init__(self, message: str, *, needed: int, available: int, **fields: Any) -> None:
        super().__init__(message, needed=needed, available=available, **fields)
        self.needed = needed
        self.available = available


class UnknownHold(LedgerError):
    """No hold with this id was ever placed on this account, or it ended so long ago that it was purged."""

    code = "unknown_hold"


class HoldEnded(LedgerError):
    """The hold has already ended in another way (released, or settled by somebody else with another cost)."""

    code = "hold_ended"


class RequestIdReused(LedgerError):
    """The request id was already used on this account for a request that has ended or differs."""

    code = "request_id_reused"


class MaybeArchived(LedgerError):
    """A transfer with this id may have been made and archived: its account's archive reaches as far as the id."""

    code = "maybe_archived"

    def __init__(self, transfer_id: int) -> None:
        super().__init__(
            f"transfer {transfer_id} is as old as archived ones of its account; if it is new, give it a new id",
            transfer_id=transfer_id,
        )


class Overloaded(CreditsError):
    """The ledger's queue is full; nothing was written. Answer 503 and try again."""

    code = "overloaded"


class OutcomeUnknown(CreditsError):
    """The commit's result is unknown; repeat the same command with the same ids, it converges."""

    code = "outcome_unknown"


class PaymentError(CreditsError):
    """A payment cannot do what was asked: wrong state, too much, not ours."""

    code = "payment_error"


class RefundRefused(PaymentError):
    """The refund exceeds what is left of the payment, or the payment cannot be refunded."""

    code = "refund_refused"


class GatewayError(CreditsError):
    """Stripe refused or failed. ``retryable`` says whether the same call with the same key may be repeated."""

    code = "gateway_error"

    def __init__(self, message: str, *, retryable: bool = False, **fields: Any) -> None:
        super().__init__(message, **fields)
        self.retryable = retryable


class GatewayOutcomeUnknown(GatewayError):
    """No answer came: Stripe may or may not have done it. Repeat with the same idempotency key."""

    code = "gateway_outcome_unknown"

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message, retryable=True, **fields)


class ForgedEvent(CreditsError):
    """A webhook that Stripe did not sign with one of our secrets, or that is not an event at all."""

    code = "forged_event"


_PUBLIC_MESSAGES: Final[tuple[tuple[type[CreditsError], str], ...]] = (
    (UnknownModel, "No price is known for this model."),
    (Overloaded, "Too many requests are waiting. Try again in a moment."),
    (OutcomeUnknown, "The result is not known yet. Try again in a moment."),
    (DatabaseError, "The service cannot reach its database. Try again in a moment."),
    (ConfigurationError, "The service is not set up correctly. The operator has been told."),
    (GatewayError, "The payment provider did not answer as expected. Nothing was charged. Try again in a moment."),
)


def public_message(error: CreditsError) -> str:
    """Return what a client may read of an error; what an operator must read belongs in the log."""
    return next((text for kind, text in _PUBLIC_MESSAGES if isinstance(error, kind)), error.message)
