"""Stripe's published test cards: what a number, or a `pm_card_…` token, does when it is charged; pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from credits_plugin.sandbox.errors import DECLINED_BY_CARD, StripeError


class Fate(StrEnum):
    """What happens to a payment with this card."""

    SUCCEEDS = "succeeds"
    AVAILABLE_AT_ONCE = "available_at_once"
    NEEDS_AUTHENTICATION = "needs_authentication"
    REFUND_FAILS = "refund_fails"
    REFUND_PENDING = "refund_pending"
    DISPUTED_AS_FRAUD = "disputed_as_fraud"
    DISPUTED_AS_NOT_RECEIVED = "disputed_as_not_received"
    INQUIRED = "inquired"
    DEBIT_SUCCEEDS = "debit_succeeds"
    DEBIT_WAITS = "debit_waits"
    ACCOUNT_CLOSED = "account_closed"
    ACCOUNT_EMPTY = "account_empty"
    GENERIC_DECLINE = "generic_decline"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    LOST_CARD = "lost_card"
    STOLEN_CARD = "stolen_card"
    EXPIRED_CARD = "expired_card"
    INCORRECT_CVC = "incorrect_cvc"
    PROCESSING_ERROR = "processing_error"
    FAILS_ONLY_WHEN_CHARGED = "fails_only_when_charged"


@dataclass(frozen=True, slots=True)
class TestCard:
    """A test card as Stripe publishes it; `tokens` name it in the API, `note` describes it on the payment page."""

    number: str
    brand: str
    fate: Fate
    note: str
    tokens: tuple[str, ...] = ()
    funding: str = "credit"

    @property
    def last4(self) -> str:
        """The only part of a number that is ever stored."""
        return self.number[-4:]


@dataclass(frozen=True, slots=True)
class Decline:
    """How Stripe words a refusal by the card's bank."""

    code: str
    message: str
    decline_code: str | None = None
    advice_code: str = "try_again_later"
    network_decline_code: str = "01"

    @property
    def reason(self) -> str:
        """The charge's `outcome.reason`."""
        return self.decline_code or self.code


TEST_CARDS = (
    TestCard("4242424242424242", "visa", Fate.SUCCEEDS, "Succeeds", ("pm_card_visa", "tok_visa")),
    TestCard(
        "4000000000000002", "visa", Fate.GENERIC_DECLINE, "Declined",
        ("pm_card_chargeDeclined", "pm_card_visa_chargeDeclined"),
    ),
    TestCard(
        "4000000000009995", "visa", Fate.INSUFFICIENT_FUNDS, "Insufficient funds",
        ("pm_card_chargeDeclinedInsufficientFunds", "pm_card_visa_chargeDeclinedInsufficientFunds"),
    ),
    TestCard(
        "4000000000000069", "visa", Fate.EXPIRED_CARD, "Expired card",
        ("pm_card_chargeDeclinedExpiredCard", "pm_card_visa_chargeDeclinedExpiredCard"),
    ),
    TestCard(
        "4000000000000127", "visa", Fate.INCORRECT_CVC, "Incorrect CVC",
        ("pm_card_chargeDeclinedIncorrectCvc", "pm_card_visa_chargeDeclinedIncorrectCvc"),
    ),
    TestCard(
        "4000000000000077", "visa", Fate.AVAILABLE_AT_ONCE, "Succeeds, funds available at once",
        ("pm_card_bypassPending",),
    ),
    TestCard(
        "4000002500003155", "visa", Fate.NEEDS_AUTHENTICATION, "Asks for 3-D Secure",
        ("pm_card_authenticationRequiredOnSetup",),
    ),
    TestCard(
        "4000002760003184", "visa", Fate.NEEDS_AUTHENTICATION, "Asks for 3-D Secure each time",
        ("pm_card_authenticationRequired", "pm_card_threeDSecure2Required"),
    ),
    TestCard(
        "4000000000005126", "visa", Fate.REFUND_FAILS, "Succeeds, its refund fails later", ("pm_card_refundFail",)
    ),
    TestCard(
        "4000000000007726", "visa", Fate.REFUND_PENDING, "Succeeds, its refund takes a while",
        ("pm_card_pendingRefund",),
    ),
    TestCard(
        "4000000000000259", "visa", Fate.DISPUTED_AS_FRAUD, "Succeeds, then is disputed as fraud",
        ("pm_card_createDispute",),
    ),
    TestCard(
        "4000000000002685", "visa", Fate.DISPUTED_AS_NOT_RECEIVED, "Succeeds, then is disputed as not received",
        ("pm_card_createDisputeProductNotReceived",),
    ),
    TestCard(
        "4000000000001976", "visa", Fate.INQUIRED, "Succeeds, then the bank inquires",
        ("pm_card_createDisputeInquiry",),
    ),
    TestCard("5555555555554444", "mastercard", Fate.SUCCEEDS, "Succeeds (Mastercard)", ("pm_card_mastercard",)),
    TestCard("378282246310005", "amex", Fate.SUCCEEDS, "Succeeds (American Express)", ("pm_card_amex",)),
    TestCard("6011111111111117", "discover", Fate.SUCCEEDS, "Succeeds (Discover)", ("pm_card_discover",)),
    TestCard("4000056655665556", "visa", Fate.SUCCEEDS, "Succeeds (Visa debit)", ("pm_card_visa_debit",), "debit"),
    TestCard("4000000000009987", "visa", Fate.LOST_CARD, "Lost card", ("pm_card_visa_chargeDeclinedLostCard",)),
    TestCard("4000000000009979", "visa", Fate.STOLEN_CARD, "Stolen card", ("pm_card_visa_chargeDeclinedStolenCard",)),
    TestCard(
        "4000000000000119", "visa", Fate.PROCESSING_ERROR, "Processing error",
        ("pm_card_chargeDeclinedProcessingError", "pm_card_visa_chargeDeclinedProcessingError"),
    ),
    TestCard(
        "4000000000000341", "visa", Fate.FAILS_ONLY_WHEN_CHARGED, "Attaches, then declines",
        ("pm_card_chargeCustomerFail",),
    ),
)  # fmt: skip

_DECLINED = "Your card was declined."
DECLINES = {
    Fate.GENERIC_DECLINE: Decline("card_declined", _DECLINED, "generic_decline"),
    Fate.FAILS_ONLY_WHEN_CHARGED: Decline("card_declined", _DECLINED, "generic_decline"),
    Fate.INSUFFICIENT_FUNDS: Decline("card_declined", "Your card has insufficient funds.", "insufficient_funds"),
    Fate.LOST_CARD: Decline("card_declined", _DECLINED, "lost_card", advice_code="do_not_try_again"),
    Fate.STOLEN_CARD: Decline("card_declined", _DECLINED, "stolen_card", advice_code="do_not_try_again"),
    Fate.EXPIRED_CARD: Decline("expired_card", "Your card has expired.", advice_code="do_not_try_again"),
    Fate.INCORRECT_CVC: Decline(
        "incorrect_cvc", "Your card's security code is incorrect.", "incorrect_cvc", advice_code="confirm_card_data"
    ),
    Fate.PROCESSING_ERROR: Decline(
        "processing_error", "An error occurred while processing your card. Try again in a little bit."
    ),
}
"""Fates that are absent here let the payment through."""

_BY_NUMBER = {card.number: card for card in TEST_CARDS}
_BY_TOKEN = {token: card for card in TEST_CARDS for token in card.tokens}


def card_of_number(number: str) -> TestCard | None:
    """The test card with this number (digits only), or None."""
    return _BY_NUMBER.get(number)


def card_of_token(token: str) -> TestCard | None:
    """The test card behind `pm_card_visa` and the like, or None."""
    return _BY_TOKEN.get(token)


def passes_luhn(number: str) -> bool:
    """Whether the check digit of a card number is right."""
    digits = [int(digit) for digit in reversed(number)]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return (sum(digits[0::2]) + sum(doubled)) % 10 == 0


def looks_like_card_number(value: str) -> bool:
    """Whether a free-text field holds what could be a card number, which must then not be stored."""
    compact = re.sub(r"[\s.\-]", "", value)
    return any(passes_luhn(run) for run in re.findall(r"[0-9]{13,19}", compact))


def declined(decline: Decline, *, details: dict[str, Any], param: str | None = None) -> StripeError:
    """The 402 of a declined card; what the attempt left behind (a failed charge) stays."""
    known = {
        "advice_code": decline.advice_code,
        "decline_code": decline.decline_code,
        "network_decline_code": decline.network_decline_code,
    }
    return StripeError(
        decline.message,
        status=402,
        kind=DECLINED_BY_CARD,
        code=decline.code,
        param=param,
        details={name: value for name, value in known.items() if value} | details,
        keeps_changes=True,
    )
