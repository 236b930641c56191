"""Webhooks: is it from Stripe, and what does it say? Anything a stranger can send ends as ``ForgedEvent``."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NoReturn

from ..errors import ConfigurationError, ForgedEvent
from ..payments.gateway import StripeEvent
from .stripe_objects import read_object

if TYPE_CHECKING:
    import stripe

TOLERANCE_S: Final = 300
"""Oldest signature that is accepted, as Stripe recommends: bounds how long a stolen delivery can be replayed."""
LEEWAY_S: Final = 10
"""How far Stripe's clock may be ahead of ours."""
_MAX_HEADER: Final = 4_096
_TIMESTAMP: Final = re.compile(r"(?:^|,)t=([0-9]{1,12})(?:,|$)")
_EVENT_ID: Final = re.compile(r"[A-Za-z0-9_]{1,255}")
_EVENT_TYPE: Final = re.compile(r"[a-z0-9_.]{1,255}")
_LARGEST_TIME_S: Final = 2**40


def verify(raw: bytes, signature: str, *, secrets: Sequence[str], now_ms: int) -> dict[str, Any]:
    """Check the signature over the raw bytes with every secret and return the event's JSON.

    Raises:
        ForgedEvent: no valid signature, one that is too old or from the future, or no event inside.
        ConfigurationError: there is no secret to check with.
    """
    if not secrets or any(not secret.strip() for secret in secrets):
        msg = "STRIPE_WEBHOOK_SECRET is not set, so no webhook can be verified"
        raise ConfigurationError(msg)
    _require_fresh(signature, now_ms=now_ms)
    if not any(_is_signed(raw, signature, secret) for secret in secrets):
        _refuse("the signature matches none of our secrets")
    return _parse(raw)


def read_event(raw: bytes, signature: str, *, secrets: Sequence[str], now_ms: int) -> StripeEvent:
    """Verify a webhook and translate it; an object in an unknown shape becomes ``Unreadable``, not an error.

    Raises:
        ForgedEvent, ConfigurationError: as ``verify``.
    """
    return _translate(verify(raw, signature, secrets=secrets, now_ms=now_ms), payload=raw.decode(), now_ms=now_ms)


def stored_event(payload: str, *, now_ms: int) -> StripeEvent:
    """Translate an event that needs no signature: one of our own inbox, or of a list that Stripe gave us.

    Raises:
        ForgedEvent: it is no event.
    """
    return _translate(_parse(payload.encode()), payload=payload, now_ms=now_ms)


def _translate(event: dict[str, Any], *, payload: str, now_ms: int) -> StripeEvent:
    data = event["data"]["object"]
    return StripeEvent(
        id=event["id"],
        type=event["type"],
        api_version=_printable(event.get("api_version")),
        livemode=event.get("livemode") is True,
        connected_account=_connected_account(event),
        created_at_ms=_created_ms(event.get("created"), now_ms=now_ms),
        object_id=_printable(data.get("id")),
        object=read_object(data),
        payload=payload,
    )


def _require_fresh(signature: str, *, now_ms: int) -> None:
    """Check the signed timestamp; the library looks into the past only, and at the machine's own clock."""
    found = _TIMESTAMP.findall(signature) if signature.isascii() and len(signature) <= _MAX_HEADER else []
    if len(found) != 1:
        _refuse("the stripe-signature header is missing or malformed")
    age_s = now_ms // 1000 - int(found[0])
    if age_s > TOLERANCE_S:
        _refuse(f"the signature is {age_s} seconds old; at most {TOLERANCE_S} are accepted")
    if age_s < -LEEWAY_S:
        _refuse(f"the signature is {-age_s} seconds ahead of this machine's clock; check that clock")


def _is_signed(raw: bytes, signature: str, secret: str) -> bool:
    """Ask the official library, which compares in constant time."""
    verifier, mismatch = _verifier()
    try:
        return bool(verifier.verify_header(raw, signature, secret))
    except (mismatch, ValueError):  # ValueError: the body is not even UTF-8
        return False


@cache
def _verifier() -> tuple[type[stripe.WebhookSignature], type[Exception]]:
    """Load the library with the first webhook; it looks its names up anew whenever it is asked for them."""
    import stripe  # noqa: PLC0415 - 0.12 s, not at the host's start

    return stripe.WebhookSignature, stripe.SignatureVerificationError


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        event = _DECODER.decode(raw.decode())
    except (ValueError, RecursionError) as error:
        msg = f"the body is not valid JSON: {error}"
        raise ForgedEvent(msg) from error
    if not isinstance(event, dict) or event.get("object", "event") != "event":
        _refuse("the body is not an event")
    for name, pattern in (("id", _EVENT_ID), ("type", _EVENT_TYPE)):
        value = event.get(name)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            _refuse(f"the event has no valid {name}")
    data = event.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("object"), dict):
        _refuse("the event has no data")
    return event


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse duplicate keys: two readers of one signed body must never see two different amounts."""
    table = dict(pairs)
    if len(table) != len(pairs):
        msg = "a key appears twice"
        raise ValueError(msg)
    return table


def _no_constant(name: str) -> NoReturn:
    msg = f"{name} is not JSON"
    raise ValueError(msg)


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def _connected_account(event: dict[str, Any]) -> str | None:
    """Return whose event it is, if not our own account's; whatever is there counts, readable or not."""
    account = event.get("account")
    return None if account is None else _printable(account) or "an unreadable one"


def _created_ms(created: object, *, now_ms: int) -> int:
    return created * 1000 if isinstance(created, int) and 0 <= created <= _LARGEST_TIME_S else now_ms


def _printable(value: object) -> str | None:
    return value[:255] if isinstance(value, str) and value and value.isprintable() else None


def _refuse(reason: str) -> NoReturn:
    raise ForgedEvent(reason)
