"""The page for people, and the same actions over HTTP for tests in other languages: everything below `/sandbox`."""

from __future__ import annotations

import json

from aiohttp import web

from credits_plugin.sandbox.actions import act
from credits_plugin.sandbox.activity import recent_happenings, recent_payments
from credits_plugin.sandbox.errors import StripeError
from credits_plugin.sandbox.faults import ABOUT, EventFault
from credits_plugin.sandbox.forms import decode_form
from credits_plugin.sandbox.protocol import authenticate, base_url_of
from credits_plugin.sandbox.rendering import render
from credits_plugin.sandbox.state import State

PAYMENTS_SHOWN = 30
HAPPENINGS_SHOWN = 100
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def routes(state: State) -> list[web.RouteDef]:
    """The page and the API of one sandbox."""
    dashboard = Dashboard(state)
    return [
        web.get("/sandbox", dashboard.page),
        web.get("/sandbox/events/{id}", dashboard.event),
        web.post("/sandbox/do/{name}", dashboard.do),
        web.post("/sandbox/api/{name}", dashboard.api),
    ]


class Dashboard:
    """Shows what happened and lets a person, or a program with the secret key, do what is in `actions.ACTIONS`."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def page(self, request: web.Request) -> web.Response:
        """What happened, newest first."""
        _refuse_strangers(request)
        self._state.run_due(base_url_of(request))
        return self._render(problem="", status=200)

    async def event(self, request: web.Request) -> web.Response:
        """One event with its whole content."""
        _refuse_strangers(request)
        event = self._state.store.get("event", request.match_info["id"])
        if event is None:
            return render(
                "closed.html", status=404, title="Not found", message="There is no such event.", back="/sandbox"
            )
        return render("event.html", event=event, content=json.dumps(event, indent=2, ensure_ascii=False))

    async def do(self, request: web.Request) -> web.Response:
        """A button of the page: 303 back to it, or the page with what was wrong."""
        _refuse_strangers(request)
        form = await request.post()
        values = {name: str(value) for name, value in form.items() if value != ""}
        self._state.run_due(base_url_of(request))
        try:
            act(self._state, request.match_info["name"], **values)
        except StripeError as error:
            return self._render(problem=error.message, status=error.status)
        return web.Response(status=303, headers={"Location": "/sandbox", "Cache-Control": "no-store"})

    async def api(self, request: web.Request) -> web.Response:
        """The same for programs: parameters in a form, the object as JSON, errors in Stripe's envelope."""
        try:
            authenticate(request, self._state.settings.secret_key)
            values = decode_form(await request.read())
            done = act(self._state, request.match_info["name"], **values)
        except StripeError as error:
            return web.json_response(error.body(None), status=error.status)
        return web.json_response(done)

    def _render(self, *, problem: str, status: int) -> web.Response:
        state, store = self._state, self._state.store
        return render(
            "dashboard.html",
            status=status,
            problem=problem,
            merchant=state.settings.merchant_name,
            endpoints=state.deliveries.endpoint_urls,
            payments=recent_payments(store, limit=PAYMENTS_SHOWN),
            happenings=recent_happenings(state, limit=HAPPENINGS_SHOWN),
            faults=list(store.oldest_first("fault")),
            about=ABOUT,
            event_faults=list(EventFault),
            held=sum(1 for _ in store.oldest_first("delivery", lambda row: row["state"] == "held")),
        )


def _refuse_strangers(request: web.Request) -> None:
    """No other site may read the page or press its buttons: not by a form of its own, nor by a name that leads here."""
    here = request.url.host in LOOPBACK
    if (site := request.headers.get("Sec-Fetch-Site")) is not None:
        from_here = site in {"same-origin", "none"}
    else:  # the page's own forms send the origin "null", since it sends no referrer; but such browsers say the site
        from_here = request.headers.get("Origin", base_url_of(request)) == base_url_of(request)
    # A link from elsewhere may open the page, it only cannot read it.
    if not here or (request.method == "POST" and not from_here):
        raise web.HTTPForbidden(text="This page is for people at this machine.")
