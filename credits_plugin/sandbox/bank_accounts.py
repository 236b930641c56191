"""Test bank accounts for payments whose money arrives, or fails to, days later (here: seconds); pure.

Numbers from https://docs.stripe.com/payments/ach-direct-debit and https://docs.stripe.com/payments/sepa-debit; the ones
that wait are the sandbox's own.
"""

from __future__ import annotations

from dataclasses import dataclass

from credits_plugin.sandbox.cards import Decline, Fate


@dataclass(frozen=True, slots=True)
class TestAccount:
    """A bank account; `kind` is Stripe's payment method type."""

    number: str
    kind: str
    fate: Fate
    note: str

    @property
    def last4(self) -> str:
        """The only part of a number that is ever stored."""
        return self.number[-4:]


_CURRENCIES = {"us_bank_account": "usd", "sepa_debit": "eur"}
NAMES = {"us_bank_account": "US bank account", "sepa_debit": "SEPA Direct Debit"}

TEST_ACCOUNTS = (
    TestAccount("000123456789", "us_bank_account", Fate.DEBIT_SUCCEEDS, "Succeeds after a while"),
    TestAccount("000111111113", "us_bank_account", Fate.ACCOUNT_CLOSED, "Fails after a while: account closed"),
    TestAccount("000222222227", "us_bank_account", Fate.ACCOUNT_EMPTY, "Fails after a while: insufficient funds"),
    TestAccount("000999999990", "us_bank_account", Fate.DEBIT_WAITS, "Waits until somebody decides at the sandbox"),
    TestAccount("AT611904300234573201", "sepa_debit", Fate.DEBIT_SUCCEEDS, "Succeeds after a while"),
    TestAccount("AT861904300235473202", "sepa_debit", Fate.ACCOUNT_EMPTY, "Fails after a while"),
    TestAccount("AT321904300235473204", "sepa_debit", Fate.DEBIT_SUCCEEDS, "Succeeds after a while"),
    TestAccount("AT981904300235473205", "sepa_debit", Fate.ACCOUNT_EMPTY, "Fails after a while"),
    TestAccount("AT000000000000009990", "sepa_debit", Fate.DEBIT_WAITS, "Waits until somebody decides at the sandbox"),
)

DEBIT_FAILURES = {
    Fate.ACCOUNT_CLOSED: Decline("account_closed", "The customer's bank account has been closed."),
    Fate.ACCOUNT_EMPTY: Decline(
        "insufficient_funds", "The customer's account has insufficient funds to cover this payment."
    ),
}
"""Fates that are absent here let the debit succeed."""


def accounts_for(currency: str) -> tuple[TestAccount, ...]:
    """The accounts that pay in this currency; empty for most."""
    return tuple(account for account in TEST_ACCOUNTS if _CURRENCIES[account.kind] == currency)


def kinds_for(currency: str) -> list[str]:
    """The payment method types of `accounts_for`."""
    return sorted({account.kind for account in accounts_for(currency)})
