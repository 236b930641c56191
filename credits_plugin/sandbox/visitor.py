"""A person with a browser, for the demo: signs in, follows the forms as they stand on the pages, pays and chats."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urljoin

import aiohttp
from yarl import URL

TEST_CARD: Final = "4242 4242 4242 4242"
PAYMENT_FIELDS: Final[Mapping[str, str]] = {
    "email": "buyer@example.com",
    "card_number": TEST_CARD,
    "exp": "12 / 40",
    "cvc": "123",
    "name": "Test Buyer",
}
"""What a buyer types on the payment page."""
PATIENCE_S: Final = 10.0


class UnexpectedAnswer(Exception):
    """A page or an answer was not what a visitor needs to go on."""


@dataclass(slots=True)
class Form:
    """A form on a page: where it goes, and what is in its fields."""

    method: str
    action: str
    fields: dict[str, str] = field(default_factory=dict)


class _FormReader(HTMLParser):
    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self.forms: list[Form] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        if tag == "form":
            action = urljoin(self._url, attributes.get("action", ""))
            self.forms.append(Form(attributes.get("method", "get").lower(), action))
        elif tag in {"input", "textarea", "select"} and self.forms and attributes.get("name"):
            self.forms[-1].fields[attributes["name"]] = attributes.get("value", "")


def read_forms(page: str, *, url: str) -> list[Form]:
    """Return the forms of an HTML page, their actions resolved against its address."""
    reader = _FormReader(url)
    reader.feed(page)
    return reader.forms


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer with its JSON."""

    status: int
    body: Any
    content_type: str


class Visitor:
    """One browser: ``async with Visitor(url) as visitor``. Cookies are kept, redirects followed."""

    def __init__(self, url: str) -> None:
        self._url = url
        jar = aiohttp.CookieJar(unsafe=True)  # the demo's host has an IP address for a name
        self.http = aiohttp.ClientSession(cookie_jar=jar, timeout=aiohttp.ClientTimeout(total=60))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.http.close()

    async def sign_in(self, user: str, password: str) -> None:
        """Fill in the login form."""
        form = await self._form("/", having="password")
        await self._submit(form, {"user": user, "password": password}, lands_at="/chat")

    async def buy(self, *, package_id: int) -> str:
        """Buy a package on the credits page, pay for it, and wait for the credits; returns the session's id."""
        page = f"{self._url}/credits"
        async with self.http.get(page) as response:
            forms = read_forms(await response.text(), url=str(response.url))
        chosen = [form for form in forms if form.fields.get("package_id") == str(package_id)]
        if not chosen:
            msg = f"{page} offers no package {package_id}"
            raise UnexpectedAnswer(msg)
        async with self.http.request(chosen[0].method, chosen[0].action, data=chosen[0].fields) as response:
            session_id = await self.pay(str(response.url))
        path = f"/api/credits/session/{session_id}"
        await self.wait_for(path, lambda body: body["session"]["payment_status"] == "paid")
        return session_id

    async def pay(self, payment_url: str, *, typed: Mapping[str, str] = PAYMENT_FIELDS) -> str:
        """Fill in the hosted payment page and follow it back to the host; returns the session's id."""
        form = await self._form(payment_url, having="card_number")
        missing = typed.keys() - form.fields.keys()
        if missing:
            msg = f"the payment page has no field {', '.join(sorted(missing))}"
            raise UnexpectedAnswer(msg)
        landed = await self._submit(form, typed, lands_at="/credits/success")
        return landed.query["session_id"]

    async def get(self, path: str, **query: str) -> Answer:
        """GET a JSON route of the host."""
        async with self.http.get(self._url + path, params=query) as response:
            return await _answer(response)

    async def post(self, path: str, body: Mapping[str, Any]) -> Answer:
        """POST JSON to a route of the host."""
        async with self.http.post(self._url + path, json=body) as response:
            return await _answer(response)

    async def chat(self, message: str, **more: Any) -> Answer:
        """Send a chat message and wait for the whole answer."""
        return await self.post("/api/chat", {"message": message, **more})

    @asynccontextmanager
    async def chat_stream(self, message: str) -> AsyncIterator[tuple[str, AsyncIterator[dict[str, Any]]]]:
        """Send a chat message; gives the hold's id and the events of the answer. Leaving early aborts it."""
        async with self.http.post(f"{self._url}/api/chat", json={"message": message, "stream": True}) as response:
            if response.status != 200:
                msg = f"the chat answered {response.status}: {await response.text()}"
                raise UnexpectedAnswer(msg)
            yield response.headers["X-Hold-Id"], _events(response)
            response.close()  # a browser that goes away does not read to the end

    async def wait_for(self, path: str, arrived: Callable[[Any], bool]) -> Any:
        """GET a JSON route until ``arrived(body)`` holds; returns the body."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                answer = await self.get(path)
                if answer.status == 200 and arrived(answer.body):
                    return answer.body
                await asyncio.sleep(0.02)

    async def _form(self, path: str, *, having: str) -> Form:
        url = urljoin(self._url, path)
        async with self.http.get(url) as response:
            forms = read_forms(await response.text(), url=str(response.url))
        for form in forms:
            if having in form.fields:
                return form
        msg = f"{url} answered {response.status} and has no form with a field {having!r}"
        raise UnexpectedAnswer(msg)

    async def _submit(self, form: Form, typed: Mapping[str, str], *, lands_at: str) -> URL:
        async with self.http.request(form.method, form.action, data={**form.fields, **typed}) as response:
            if response.status != 200 or response.url.path != lands_at:
                msg = f"{form.action} answered {response.status} at {response.url.path}; expected {lands_at}"
                raise UnexpectedAnswer(msg)
            return response.url


async def _answer(response: aiohttp.ClientResponse) -> Answer:
    return Answer(response.status, await response.json(content_type=None), response.content_type)


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    async for line in response.content:
        if line.startswith(b"data: "):
            yield json.loads(line[len(b"data: ") :])
