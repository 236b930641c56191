"""Retry tokens: who was refused, and for how much, signed by us so that waiting asks for nothing else.

A token grants nothing: who brings it waits until as much can be afforded, and asks anew. It is signed, not encrypted;
it says no more than its owner knows.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import json
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any, Final, NamedTuple

from hookspecs import AIRequest

from ..errors import NotFound
from ..settings import Settings

LIFE_S: Final = 3_600
"""How long a token may be waited with; a request that is refused again gets a new one."""
_DIGEST_BYTES: Final = 16
_PURPOSE: Final = b"credits retry token 1"


class RetryClaim(NamedTuple):
    """What a token says: as much is needed, by this account and those who ask for it, until ``expires_at_ms``."""

    account_id: str
    needed: int
    key_id: str | None
    member_id: str | None
    run_id: str | None
    expires_at_ms: int


class RetryTokens:
    """Signs and reads tokens, with a key derived from a secret that all hosts of the database share.

    That is the hosts' own secret, or else the Stripe key; without either it is made up, and this process's alone.
    """

    def __init__(self, settings: Settings) -> None:
        secret = settings.hosts_secret or settings.stripe_secret_key or secrets.token_hex(32)
        self._key = hmac.digest(secret.encode(), _PURPOSE, hashlib.sha256)

    def issue(self, request: AIRequest, *, needed: int, at_ms: int) -> str:
        """Return a token for a request that was refused for want of ``needed`` microcredits."""
        who = (request.account_id, needed, request.key_id, request.member_id, request.run_id)
        payload = urlsafe_b64encode(json.dumps([*who, at_ms + LIFE_S * 1_000]).encode()).rstrip(b"=")
        return f"{payload.decode()}.{self._sign(payload)}"

    def read(self, token: str, *, at_ms: int) -> RetryClaim:
        """Return what a token says.

        Raises:
            NotFound: it is not ours, was changed, or is over.
        """
        payload, _, signature = token.partition(".")
        if not token.isascii() or not self._has_signed(payload, signature):
            raise unknown_token()
        claim = RetryClaim(*_decoded(payload))
        if claim.expires_at_ms <= at_ms:
            raise unknown_token()
        return claim

    def _has_signed(self, payload: str, signature: str) -> bool:
        return hmac.compare_digest(signature, self._sign(payload.encode()))

    def _sign(self, payload: bytes) -> str:
        digest = hmac.digest(self._key, payload, hashlib.sha256)[:_DIGEST_BYTES]
        return urlsafe_b64encode(digest).rstrip(b"=").decode()


def _decoded(payload: str) -> list[Any]:
    try:
        fields: list[Any] = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, binascii.Error):  # unreachable for what we have signed
        raise unknown_token() from None
    return fields


def unknown_token() -> NotFound:
    """Return the error of every token that does not serve its bringer; all look the same from outside."""
    return NotFound("there is no such retry token, or it is over; send the request again for a new one")
