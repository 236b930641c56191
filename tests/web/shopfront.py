"""What the web tests work with: a running host with everything behind it, browsers, signatures, parsed pages."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

from aiohttp import ClientSession, CookieJar, DummyCookieJar, web

from credits_plugin.bootstrap import Credits
from credits_plugin.ledger.entries import Code, LotTerms, PlaceHold, PostTransfer, SettleHold
from credits_plugin.ledger.ids import account_key, now_ms
from credits_plugin.sandbox import Sandbox
from credits_plugin.web import create_app, create_pages
from hookspecs import Usage

WEBHOOK_SECRET = "whsec_web_tests"


async def account_in_cookie(request: web.Request) -> str | None:
    """The test host's login: whoever the cookie names. Nothing else of a request counts."""
    return request.cookies.get("user")


@dataclass
class Shopfront:
    """One running host with everything behind it."""

    url: str
    credits: Credits
    sandbox: Sandbox
    sessions: list[ClientSession] = field(default_factory=list)

    def browser(self, user: str | None) -> ClientSession:
        """A client that is logged in as ``user``."""
        jar = DummyCookieJar() if user is None else CookieJar(unsafe=True)
        session = ClientSession(self.url, cookies={"user": user} if user else None, cookie_jar=jar)
        self.sessions.append(session)
        return session

    async def grant(
        self, user: str, credits: int, *, expires_at_ms: int | None = None, reference: str | None = None
    ) -> None:
        """Give promotional credits."""
        command = PostTransfer(
            account_key(user),
            user,
            self.credits.new_id(),
            Code.PROMOTION,
            credits * 1_000_000,
            now_ms(),
            reference=reference,
            terms=LotTerms(expires_at_ms=expires_at_ms),
        )
        await self.credits.writer.execute(command)

    async def hold(self, user: str, microcredits: int) -> int:
        """Place a hold; returns its id."""
        hold_id, at = self.credits.new_id(), now_ms()
        await self.credits.writer.execute(
            PlaceHold(account_key(user), user, hold_id, microcredits, at, at + 600_000, 1, 10)
        )
        return hold_id

    async def spend(self, user: str, microcredits: int, usage: Usage | None = None) -> None:
        """Hold and settle one AI request."""
        hold_id = await self.hold(user, microcredits)
        usage = usage or Usage(input=56, cache_read=64, output=30)
        await self.credits.writer.execute(SettleHold(account_key(user), hold_id, microcredits, now_ms(), usage))

    async def pay(self, payment_url: str, *, email: str = "ada@example.com", card: str = "4242424242424242") -> str:
        """Fill in the hosted payment page; returns where it leads."""
        form = {"email": email, "card_number": card, "exp": "12/34", "cvc": "123", "name": "Ada Lovelace"}
        async with ClientSession() as session, session.post(payment_url, data=form, allow_redirects=False) as answer:
            assert answer.status == 303, await answer.text()
            return answer.headers["Location"]


def sign(raw: bytes, *, secret: str = WEBHOOK_SECRET, at: int | None = None) -> str:
    """Stripe's signature header of a raw body."""
    at = int(time.time()) if at is None else at
    digest = hmac.new(secret.encode(), f"{at}.".encode() + raw, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


StartShopfront = Callable[..., Awaitable["Shopfront"]]


def plain_host(credits: Credits) -> web.Application:
    """An application with nothing but ours."""
    app = web.Application()
    app.add_subapp(credits.settings.prefix, create_app(credits, account_in_cookie))
    app.add_subapp(credits.settings.pages_prefix, create_pages(credits, account_in_cookie))
    return app


def deliver_to(shopfront: Shopfront) -> None:
    """Let the sandbox deliver its webhooks to the host."""
    shopfront.sandbox.set_webhook(f"{shopfront.url}/api/credits/webhook", WEBHOOK_SECRET)


async def buy(shopfront: Shopfront, user: str, *, package_id: int = 1) -> str:
    """Start a purchase through the API; returns the payment page's address."""
    answer = await shopfront.browser(user).post("/api/credits/purchase", json={"package_id": package_id})
    assert answer.status == 200, await answer.text()
    return (await answer.json())["payment_url"]


async def buy_and_pay(shopfront: Shopfront, user: str, *, package_id: int = 1) -> str:
    """Buy and pay; returns the session id."""
    target = await shopfront.pay(await buy(shopfront, user, package_id=package_id))
    return target.partition("session_id=")[2]


async def problem(answer: Any, status: int, code: str) -> dict[str, Any]:
    """Check that an answer is this problem, and return it."""
    text = await answer.text()
    assert answer.status == status, text
    assert answer.content_type == "application/problem+json"
    document = json.loads(text)
    assert (document["status"], document["code"], document["success"]) == (status, code, False)
    assert document["title"]
    assert document["detail"]
    return document


class Page(HTMLParser):
    """A page, parsed: every tag must be closed in order. ``text`` is what a reader sees."""

    VOID = frozenset({"meta", "link", "img", "input", "br", "hr"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data} " if self._open and self._open[-1] not in {"script", "style", "title"} else ""

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of every such tag."""
        return [attributes for name, attributes in self.tags if name == tag]

    def fields(self) -> dict[str, str]:
        """The hidden fields of the first form."""
        inputs = self.all("input")
        return {str(one["name"]): str(one["value"]) for one in inputs[:2]}


async def page(answer: Any, status: int = 200) -> Page:
    """Check the status, and parse the page."""
    html = await answer.text()
    assert answer.status == status, html
    assert answer.content_type == "text/html"
    return Page(html)
