"""The hosted pages: payment, what is shown when it is over, and a receipt. Plain HTML forms; nothing from elsewhere."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from credits_plugin.sandbox.bank_accounts import NAMES, accounts_for
from credits_plugin.sandbox.card_form import COUNTRIES, FIELDS, Asked, FormError, read_buyer
from credits_plugin.sandbox.cards import TEST_CARDS
from credits_plugin.sandbox.checkout_payments import Buyer, finish_authentication, pay_session
from credits_plugin.sandbox.checkout_totals import priced, totals
from credits_plugin.sandbox.errors import DECLINED_BY_CARD, StripeError
from credits_plugin.sandbox.protocol import base_url_of
from credits_plugin.sandbox.rendering import render
from credits_plugin.sandbox.resources.authentication import page_url, way_back
from credits_plugin.sandbox.resources.checkout_prices import apply_promotion_code
from credits_plugin.sandbox.resources.delayed_payments import session_of
from credits_plugin.sandbox.state import State
from credits_plugin.sandbox.store import Json

Page = Callable[[web.Request], Awaitable[web.StreamResponse]]

_BUTTONS = {"book": "Book", "donate": "Donate"}
_FIELD_OF_CODE = {"incorrect_cvc": "cvc", "expired_card": "exp"}
"""Where a decline is shown; all others at the card number, as in Stripe's form."""


def routes(state: State) -> list[web.RouteDef]:
    """The pages of one sandbox."""
    pages = Pages(state)
    return [
        web.get("/c/pay/{id}", pages.payment),
        web.post("/c/pay/{id}", pages.pay),
        web.get("/authenticate/{id}", pages.authentication),
        web.post("/authenticate/{id}", pages.authenticate),
        web.get("/receipts/{id}", pages.receipt),
    ]


class Pages:
    """Render and receive the forms; every change goes through `checkout_payments`."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def payment(self, request: web.Request) -> web.Response:
        """The form, or why there is none."""
        session = self._session(request)
        if session is None or session["status"] != "open":
            return self._closed(session)
        return self._form(session, values={}, errors={}, status=200)

    async def pay(self, request: web.Request) -> web.Response:
        """Take the form: 303 to the success page, or the form again with what is wrong."""
        form = await request.post()
        values = {field: str(form.get(field, "")) for field in FIELDS}
        session = self._session(request)
        if session is None or session["status"] != "open":
            return self._closed(session, status=409)
        if "code" in form:
            return self._apply_code(request, session, str(form["code"]))
        buyer = read_buyer(values, now=self._state.now(), asked=_asked(session))
        if isinstance(buyer, FormError):
            return self._form(session, values=values, errors=dict(buyer.messages), status=400)
        return self._charge(request, session, buyer, values)

    def _charge(self, request: web.Request, session: Json, buyer: Buyer, values: dict[str, str]) -> web.Response:
        call = self._state.call(base_url_of(request))
        try:
            with self._state.store.transaction(keep_on=lambda error: getattr(error, "keeps_changes", False)):
                completed = pay_session(call, session["id"], buyer)
        except StripeError as error:
            field = _FIELD_OF_CODE.get(error.code or "", "saved" if values["saved"] else "card_number")
            session = self._session(request) or session  # the attempt may have added its tax
            status = 402 if error.kind == DECLINED_BY_CARD else 400
            return self._form(session, values=values, errors={field: error.message}, status=status)
        if completed["status"] == "open":
            return _see(page_url(call, completed["payment_intent"]))
        return _see(_success_url(completed))

    async def authentication(self, request: web.Request) -> web.Response:
        """What the bank asks its cardholder."""
        intent = self._state.store.get("payment_intent", request.match_info["id"])
        if intent is None or intent["status"] != "requires_action":
            message = "There is no payment to authenticate."
            return render("closed.html", status=404, title="Nothing to do", message=message, back=None)
        return render("authenticate.html", intent=intent, merchant=self._state.settings.merchant_name)

    async def authenticate(self, request: web.Request) -> web.Response:
        """The cardholder's answer: on to the merchant, or back to the payment page with what went wrong."""
        succeed = (await request.post()).get("outcome") == "complete"
        intent = self._state.store.get("payment_intent", request.match_info["id"])
        if intent is None or intent["status"] != "requires_action":
            return await self.authentication(request)
        call = self._state.call(base_url_of(request))
        with self._state.store.transaction():
            outcome = finish_authentication(call, intent, succeed=succeed)
            session = session_of(call, intent)
        if session is None:
            back = way_back(intent, outcome)
            return _see(back) if back else render("closed.html", title="Thank you", message="You may go.", back=None)
        if session["status"] == "complete":
            return _see(_success_url(session))
        message = "We are unable to authenticate your payment method. Please choose a different one and try again."
        return self._form(session, values={}, errors={"card_number": message}, status=402)

    def _apply_code(self, request: web.Request, session: Json, code: str) -> web.Response:
        try:
            with self._state.store.transaction():
                apply_promotion_code(self._state.call(base_url_of(request)), session, code)
        except StripeError as error:
            return self._form(session, values={"code": code}, errors={"code": error.message}, status=400)
        return _see(request.path)

    async def receipt(self, request: web.Request) -> web.Response:
        """What was paid and given back."""
        charge = self._state.store.get("charge", request.match_info["id"])
        if charge is None or not charge["paid"]:
            return render("closed.html", status=404, title="Not found", message="There is no such receipt.", back=None)
        return render("receipt.html", charge=charge, merchant=self._state.settings.merchant_name)

    def _session(self, request: web.Request) -> Json | None:
        self._state.run_due(base_url_of(request))
        return self._state.store.get("checkout.session", request.match_info["id"])

    def _form(self, session: Json, *, values: dict[str, str], errors: dict[str, str], status: int) -> web.Response:
        items = (self._state.store.get("checkout_lines", session["id"]) or {"items": []})["items"]
        products = {
            item["price"]["product"]: self._state.store.get("product", item["price"]["product"]) or {} for item in items
        }
        asked, due = _asked(session), self._due(session, items)
        return render(
            "checkout.html",
            status=status,
            session=session,
            due=due,
            items=items,
            products=products,
            merchant=self._state.settings.merchant_name,
            # Card number and security code never travel back to the browser.
            values={
                name: value for name, value in values.items() if name in {"email", "name", "exp", "code", "country"}
            },
            errors=errors,
            email=asked.known_email,
            asked=asked,
            countries=COUNTRIES,
            button=_BUTTONS.get(session["submit_type"] or "", "Pay"),
            cards=TEST_CARDS,
            accounts=accounts_for(session["currency"]) if len(session["payment_method_types"]) > 1 else (),
            bank=NAMES.get(session["payment_method_types"][-1]),
            saved=self._saved_methods(session),
            next_year=f"{(time.gmtime(self._state.now()).tm_year + 2) % 100:02d}",
        )

    def _due(self, session: Json, items: list[Json]) -> Json:
        """What the buyer will pay, tax included, also before the session itself knows it."""
        if session["automatic_tax"]["status"] != "requires_location_inputs":
            return session
        coupon_id = session["discounts"][0]["coupon"] if session["discounts"] else ""
        coupon = self._state.store.get("coupon", coupon_id)
        return totals(priced(items, coupon=coupon, tax_percent=self._state.settings.tax_percent))

    def _saved_methods(self, session: Json) -> list[Json]:
        shown = (session["saved_payment_method_options"] or {}).get("allow_redisplay_filters") or []
        return [
            method
            for method in self._state.store.newest_first("payment_method")
            if session["customer"]
            and method["customer"] == session["customer"]
            and method["type"] == "card"
            and method["allow_redisplay"] in shown
        ]

    def _closed(self, session: Json | None, *, status: int | None = None) -> web.Response:
        if session is None:
            title, message = "Something went wrong", "The page you were looking for could not be found."
            return render("closed.html", status=404, title=title, message=message, back=None)
        if session["status"] == "complete":
            title, message = "You're all done here", "Your payment has already been processed, you can close this page."
            return render("closed.html", status=status or 200, title=title, message=message, back=None)
        title, message = "You're all done here", "This checkout session has timed out. Please start again."
        return render("closed.html", status=status or 410, title=title, message=message, back=session["cancel_url"])


def _see(address: str) -> web.Response:
    return web.Response(status=303, headers={"Location": address, "Cache-Control": "no-store"})


def _success_url(session: Json) -> str:
    return str(session["success_url"]).replace("{CHECKOUT_SESSION_ID}", session["id"])


def _asked(session: Json) -> Asked:
    return Asked(
        currency=session["currency"],
        known_email=_known_email(session),
        is_free=session["amount_total"] == 0,
        asks_country=session["automatic_tax"]["status"] == "requires_location_inputs",
    )


def _known_email(session: Json) -> str | None:
    if session["customer"] is None and session["customer_email"] is None:
        return None
    details = session["customer_details"] or {}
    return details.get("email") or None
