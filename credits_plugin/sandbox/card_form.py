"""Check what a buyer typed on the payment page, in the words of Stripe's own form; pure."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from credits_plugin.sandbox.bank_accounts import accounts_for
from credits_plugin.sandbox.cards import TestCard, card_of_number, looks_like_card_number, passes_luhn
from credits_plugin.sandbox.checkout_payments import Buyer, SavedMethod
from credits_plugin.sandbox.params import is_email

FIELDS = ("email", "card_number", "exp", "cvc", "name", "country", "account", "method", "saved", "keep")
COUNTRIES = ("AT", "CH", "DE", "FR", "GB", "JP", "NL", "US")
"""Offered where tax depends on the country."""

NOT_A_TEST_CARD = (
    "Your card was declined. Your request was in test mode, but used a non test card. For a list of valid test cards, "
    "visit: https://stripe.com/docs/testing."
)


@dataclass(frozen=True, slots=True)
class FormError:
    """One message for each field that is wrong."""

    messages: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the form has to hold for a session; an e-mail that is known cannot be changed."""

    currency: str
    known_email: str | None
    is_free: bool
    asks_country: bool


def read_buyer(form: Mapping[str, str], *, now: int, asked: Asked) -> Buyer | FormError:
    """A buyer, or what is wrong in which field; `method` is `card` (default), `bank` or `saved`."""
    values = {field: form.get(field, "").strip() for field in FIELDS}
    email = asked.known_email or values["email"]
    problems = {"email": _email_problem(email), "name": _name_problem(values["name"])}
    if asked.asks_country and values["country"] not in COUNTRIES:
        problems["country"] = "Select a country."
    country = values["country"] if asked.asks_country else None
    buyer = Buyer(pays_with=None, name=values["name"], email=email, country=country, keep=values["keep"] == "yes")
    if not asked.is_free:
        buyer, more = _with_method(buyer, values, now=now, currency=asked.currency)
        problems |= more
    problems = {field: message for field, message in problems.items() if message}
    return FormError(problems) if problems else buyer


def _with_method(buyer: Buyer, values: Mapping[str, str], *, now: int, currency: str) -> tuple[Buyer, dict[str, str]]:
    match values["method"]:
        case "saved":
            return replace(buyer, pays_with=SavedMethod(values["saved"])), {}
        case "bank":
            account = next((one for one in accounts_for(currency) if one.number == values["account"]), None)
            problem = "" if account else "Choose one of the test accounts."
            return replace(buyer, pays_with=account), {"account": problem}
        case _:
            return _with_card(buyer, values, now=now)


def _with_card(buyer: Buyer, values: Mapping[str, str], *, now: int) -> tuple[Buyer, dict[str, str]]:
    number = re.sub(r"[\s\-]", "", values["card_number"])
    card, expires = card_of_number(number), _expiry(values["exp"])
    problems = {
        "card_number": _number_problem(number),
        "exp": _expiry_problem(values["exp"], expires, now=now),
        "cvc": _cvc_problem(values["cvc"], card),
    }
    return replace(buyer, pays_with=card, expires=expires), problems


def _number_problem(number: str) -> str:
    if not number.isascii() or not number.isdigit() or len(number) < 13:
        return "Your card number is invalid." if re.search(r"[^0-9]", number) else "Your card number is incomplete."
    if len(number) > 19 or not passes_luhn(number):
        return "Your card number is invalid."
    return "" if card_of_number(number) else NOT_A_TEST_CARD


def _expiry(text: str) -> tuple[int, int] | None:
    match = re.fullmatch(r"(0?[1-9]|1[0-2])\s*[/\-]\s*([0-9]{2}|20[0-9]{2})|(0[1-9]|1[0-2])([0-9]{2})", text, re.ASCII)
    if match is None:
        return None
    month, year = match[1] or match[3], match[2] or match[4]
    return int(month), int(year) % 100 + 2000


def _expiry_problem(text: str, expires: tuple[int, int] | None, *, now: int) -> str:
    if expires is None:
        complete = re.fullmatch(r"[0-9]{2}\s*/?\s*([0-9]{2}|[0-9]{4})", text, re.ASCII)
        return f"Your card's expiration date is {'invalid' if complete else 'incomplete'}."
    month, year = expires
    today = time.gmtime(now)
    if year < today.tm_year:
        return "Your card's expiration year is in the past."
    if (year, month) < (today.tm_year, today.tm_mon):
        return "Your card's expiration date is in the past."
    return "Your card's expiration year is invalid." if year > today.tm_year + 50 else ""


def _cvc_problem(cvc: str, card: TestCard | None) -> str:
    length = 4 if card is not None and card.brand == "amex" else 3
    if re.fullmatch(r"[0-9]{3,4}", cvc, re.ASCII) is None or len(cvc) < length:
        return "Your card's security code is incomplete."
    return "" if len(cvc) == length else "Your card's security code is invalid."


def _email_problem(email: str) -> str:
    if not email:
        return "Required"
    if looks_like_card_number(email):
        return "Your email is invalid."
    return "" if is_email(email) else "Your email is incomplete."


def _name_problem(name: str) -> str:
    if not name:
        return "Required"
    # A card number in the wrong field must not reach the store.
    return "Your name is invalid." if len(name) > 200 or looks_like_card_number(name) else ""
