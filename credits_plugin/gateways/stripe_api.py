"""Every call to Stripe, through the official library. Its objects end here: only our own values leave.

``import stripe`` costs 0.12 s, so it happens with the first call, not with the host's start.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

import aiohttp

from ..errors import GatewayError, GatewayOutcomeUnknown
from ..ledger.ids import now_ms as clock_ms
from ..payments.gateway import (
    Charge,
    CheckoutOrder,
    CheckoutSession,
    EventObject,
    EventPage,
    Listed,
    Listing,
    ObjectPage,
    PaymentIntent,
    RefundOrder,
    RefundResult,
    StripeEvent,
)
from . import stripe_events, stripe_objects

if TYPE_CHECKING:
    import stripe

T = TypeVar("T")

TIMEOUT_S: Final = 20
NETWORK_RETRIES: Final = 2
"""How often the library repeats a call by itself, with the same idempotency key."""
_MAX_REFERENCE: Final = 200
_PAGE: Final = 100
_NOT_FOUND: Final = 404
_PATHS: Final[Mapping[Listing, str]] = MappingProxyType(
    {
        Listing.SESSIONS: "/v1/checkout/sessions",
        Listing.INTENTS: "/v1/payment_intents",
        Listing.CHARGES: "/v1/charges",
        Listing.REFUNDS: "/v1/refunds",
        Listing.DISPUTES: "/v1/disputes",
    }
)


class StripeGateway:
    """Implements ``payments.gateway.PaymentGateway``. Used by one event loop at a time; ``close`` ends its connections.

    ``api_base`` is another address than Stripe's own, of the sandbox, without a trailing slash.
    """

    def __init__(self, secret_key: str, *, api_base: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self._secret_key = secret_key
        self._api_base = api_base.rstrip("/") if api_base else None
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._http: aiohttp.ClientSession | None = None
        self._client: stripe.StripeClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"StripeGateway(api_base={self._api_base!r})"

    async def create_session(self, order: CheckoutOrder, *, idempotency_key: str) -> CheckoutSession:
        """See the protocol."""
        sessions = (await self._api()).v1.checkout.sessions
        return await _call(
            lambda: sessions.create_async(_session_params(order), {"idempotency_key": idempotency_key}),
            stripe_objects.checkout_session,
            changes_something=True,
        )

    async def session(self, session_id: str) -> CheckoutSession:
        """See the protocol."""
        sessions = (await self._api()).v1.checkout.sessions
        return await _call(lambda: sessions.retrieve_async(session_id), stripe_objects.checkout_session)

    async def session_of_intent(self, payment_intent_id: str) -> CheckoutSession | None:
        """See the protocol."""
        sessions = (await self._api()).v1.checkout.sessions
        params: Any = {"payment_intent": payment_intent_id, "limit": 1}
        return await _call(partial(sessions.list_async, params), _first_session)

    async def payment_intent(self, payment_intent_id: str) -> PaymentIntent:
        """See the protocol."""
        client = await self._api()
        # Raw: the library's objects take longer to build than all else that a webhook does, and this is on its way.
        path = f"/v1/payment_intents/{quote(payment_intent_id, safe='')}"
        return await _call(
            lambda: client.raw_request_async("get", path, expand=["latest_charge"]), stripe_objects.payment_intent
        )

    async def refunds_of_intent(self, payment_intent_id: str) -> list[RefundResult]:
        """See the protocol."""
        refunds = (await self._api()).v1.refunds
        params: Any = {"payment_intent": payment_intent_id, "limit": _PAGE}
        found: list[RefundResult] = []
        while True:
            page, has_more = await _call(partial(refunds.list_async, params), _refund_page)
            found += page
            if not has_more:
                return found[::-1]
            params = {**params, "starting_after": page[-1].id}

    async def charge(self, charge_id: str) -> Charge:
        """See the protocol."""
        charges = (await self._api()).v1.charges
        return await _call(lambda: charges.retrieve_async(charge_id), stripe_objects.charge)

    async def events_page(
        self, *, created_from_ms: int, types: Sequence[str] = (), before_id: str | None = None
    ) -> EventPage:
        """See the protocol."""
        events = (await self._api()).v1.events
        params: Any = {"limit": _PAGE, "created": {"gte": created_from_ms // 1000}}
        if types:
            params["types"] = list(types)
        if before_id is not None:
            params["starting_after"] = before_id
        return await _call(partial(events.list_async, params), _event_page)

    async def objects_page(
        self, listing: Listing, *, created_from_ms: int | None = None, before_id: str | None = None
    ) -> ObjectPage:
        """See the protocol."""
        client = await self._api()
        params: dict[str, Any] = {"limit": _PAGE}
        if created_from_ms is not None:
            params["created"] = {"gte": created_from_ms // 1000}
        if before_id is not None:
            params["starting_after"] = before_id
        return await _call(lambda: client.raw_request_async("get", _PATHS[listing], **params), _object_page)

    async def find_object(self, listing: Listing, object_id: str) -> EventObject:
        """See the protocol."""
        client = await self._api()
        path = f"{_PATHS[listing]}/{quote(object_id, safe='')}"
        try:
            return await _call(lambda: client.raw_request_async("get", path), stripe_objects.read_object)
        except GatewayError as error:
            if error.fields.get("http_status") == _NOT_FOUND:
                return None
            raise

    async def create_refund(self, order: RefundOrder, *, idempotency_key: str) -> RefundResult:
        """See the protocol."""
        refunds = (await self._api()).v1.refunds
        params: Any = {
            "payment_intent": order.payment_intent_id,
            "amount": order.amount_minor,
            "reason": order.reason.value,
            "metadata": {stripe_objects.OWN_REFUND_ID: str(order.refund_id)},
        }
        return await _call(
            lambda: refunds.create_async(params, {"idempotency_key": idempotency_key}),
            stripe_objects.refund,
            changes_something=True,
        )

    def read_event(self, raw: bytes, signature: str, *, secrets: Sequence[str], now_ms: int) -> StripeEvent:
        """See the protocol."""
        return stripe_events.read_event(raw, signature, secrets=secrets, now_ms=now_ms)

    def stored_event(self, payload: str) -> StripeEvent:
        """See the protocol."""
        return stripe_events.stored_event(payload, now_ms=clock_ms())

    async def close(self) -> None:
        """See the protocol."""
        http, self._http, self._client = self._http, None, None
        if http is not None:
            await http.close()

    async def _api(self) -> stripe.StripeClient:
        """Return the client of the running event loop, made with the first call."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            await self.close()
            import stripe  # noqa: PLC0415 - see the module

            stripe.enable_telemetry = False  # it would write a file below the user's ~/.config
            self._http, self._loop = aiohttp.ClientSession(timeout=self._timeout), loop
            self._client = stripe.StripeClient(
                self._secret_key,
                base_addresses={"api": self._api_base} if self._api_base else {},
                http_client=stripe.AIOHTTPClient(session=self._http, timeout=self._timeout),
                max_network_retries=NETWORK_RETRIES,
            )
        return self._client


def _refund_page(answer: dict[str, Any]) -> tuple[list[RefundResult], bool]:
    return [stripe_objects.refund(row) for row in _rows(answer)], answer.get("has_more") is True


def _event_page(answer: dict[str, Any]) -> EventPage:
    events = [stripe_events.stored_event(json.dumps(row), now_ms=clock_ms()) for row in _rows(answer)]
    return EventPage(events, events[-1].id if events and answer.get("has_more") is True else None)


def _object_page(answer: dict[str, Any]) -> ObjectPage:
    listed = [Listed(str(row.get("id")), stripe_objects.read_object(row)) for row in _rows(answer)]
    return ObjectPage(listed, listed[-1].id if listed and answer.get("has_more") is True else None)


def _first_session(answer: dict[str, Any]) -> CheckoutSession | None:
    return next((stripe_objects.checkout_session(row) for row in _rows(answer)), None)


def _rows(answer: dict[str, Any]) -> list[dict[str, Any]]:
    rows = answer.get("data")
    if not isinstance(rows, list):
        msg = "a list without rows"
        raise stripe_objects.UnreadableObject(msg)
    return rows


def _session_params(order: CheckoutOrder) -> Any:
    """Build the page's parameters. The metadata is for people who look at Stripe's dashboard; we never rely on it."""
    metadata = {
        "user_id": order.external_id,
        "package_id": str(order.package_id),
        "credits": str(order.credits),
        "payment_id": str(order.payment_id),
    }
    price = {
        "currency": order.currency,
        "unit_amount": order.amount_minor,
        "product_data": {"name": order.package_name},
    }
    # Explicit, because a grant from the event alone relies on it: paid is captured.
    intent: dict[str, Any] = {"capture_method": "automatic_async", "metadata": metadata}
    params: dict[str, Any] = {
        "mode": "payment",
        "line_items": [{"quantity": 1, "price_data": price}],
        "success_url": order.success_url,
        "cancel_url": order.cancel_url,
        "metadata": metadata,
        "payment_intent_data": intent,
    }
    if order.allows_discounts:
        params["allow_promotion_codes"] = True
    if order.taxed:
        params["automatic_tax"] = {"enabled": True}
    if len(order.external_id) <= _MAX_REFERENCE:
        params["client_reference_id"] = order.external_id
    if order.email is not None:
        intent["receipt_email"] = order.email
    if order.customer_id is not None:
        update = {"customer_update": {"address": "auto"}} if order.taxed else {}  # tax needs an address
        return params | {"customer": order.customer_id} | update
    return params | {"customer_creation": "always"} | ({"customer_email": order.email} if order.email else {})


async def _call(
    send: Callable[[], Awaitable[Any]], read: Callable[[dict[str, Any]], T], *, changes_something: bool = False
) -> T:
    """Make a call and translate its answer and its errors, once, here."""
    import stripe  # noqa: PLC0415 - see the module

    try:
        answer = await send()
    except stripe.StripeError as error:
        raise _translate(error, changes_something=changes_something) from error
    except (TimeoutError, aiohttp.ClientError) as error:  # the library lets both through while it reads a body
        raise _no_answer(type(error).__name__, changes_something=changes_something) from error
    try:
        return read(_plain(answer))
    except stripe_objects.UnreadableObject as error:
        if changes_something:  # it was done, only not understood: never to be taken for a refusal
            raise _no_answer(f"an answer in an unknown shape: {error}", changes_something=True) from error
        msg = f"Stripe answered in an unknown shape: {error}"
        raise GatewayError(msg) from error


def _plain(answer: Any) -> dict[str, Any]:
    """Leave the library's own kind of object behind; it is no dict, and no answer that makes sense is anything else."""
    import stripe  # noqa: PLC0415 - see the module

    if isinstance(answer, stripe.StripeResponse) and isinstance(answer.data, dict):
        return answer.data
    if not isinstance(answer, stripe.StripeObject):
        msg = f"an answer of type {type(answer).__name__}"
        raise stripe_objects.UnreadableObject(msg)
    return answer.to_dict(for_json=True)


def _translate(error: stripe.StripeError, *, changes_something: bool) -> GatewayError:
    import stripe  # noqa: PLC0415 - see the module

    status = error.http_status
    if isinstance(error, stripe.APIConnectionError) or status is None or status >= 500:
        return _no_answer(f"HTTP {status}" if status else "no connection", changes_something=changes_something)
    fields: dict[str, Any] = {
        "http_status": status,
        "stripe_code": error.code,
        "param": getattr(error, "param", None),
        "request_id": error.request_id,
    }
    if status in {409, 429}:
        return GatewayError("Stripe is busy; try again shortly", retryable=True, **fields)
    if isinstance(error, stripe.AuthenticationError | stripe.PermissionError):
        msg = "Stripe refused our key: check STRIPE_SECRET_KEY"  # its own message shows parts of the key
        return GatewayError(msg, **fields)
    if isinstance(error, stripe.APIError):
        return _no_answer(f"HTTP {status} without sense", changes_something=changes_something)
    return GatewayError(error.user_message or "Stripe refused the call", **fields)


def _no_answer(what: str, *, changes_something: bool) -> GatewayError:
    if changes_something:
        return GatewayOutcomeUnknown(
            f"no answer came from Stripe ({what}), so it may or may not have been done; repeat it with the same key"
        )
    return GatewayError(f"Stripe could not be reached ({what}); try again shortly", retryable=True)
