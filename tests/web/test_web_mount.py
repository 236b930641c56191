"""The host's one line, and the API's description of itself."""

from __future__ import annotations

from typing import Any

import pluggy
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from jsonschema import Draft202012Validator
from shopfront import Shopfront, StartShopfront, account_in_cookie, buy_and_pay, problem

from credits_plugin import PROJECT_NAME, CreditsSpecs, hookimpl
from credits_plugin.bootstrap import Credits
from credits_plugin.errors import ConfigurationError
from credits_plugin.settings import DEFAULT_PACKAGES
from credits_plugin.web import create_app, mount
from credits_plugin.web.openapi import document


class Provides:
    """A plugin with a web application, or without one."""

    def __init__(self, provided: web.Application | None) -> None:
        self._provided = provided

    @hookimpl
    def provide_web_app(self) -> web.Application | None:
        return self._provided


def plugin_manager(*provided: web.Application | None) -> pluggy.PluginManager:
    manager = pluggy.PluginManager(PROJECT_NAME)
    manager.add_hookspecs(CreditsSpecs)
    for one in provided:
        manager.register(Provides(one))
    return manager


async def test_mount_serves_api_and_pages_at_the_settings_prefixes(start_shopfront: StartShopfront):
    def host(credits: Credits) -> web.Application:
        app = web.Application()
        ours = create_app(credits, account_in_cookie)
        mount(app, plugin_manager(None, ours, web.Application()))
        return app

    for prefix, pages_prefix in (("/api/credits", "/credits"), ("/shop/api", "/shop"), ("/shop", "/shop/pages")):
        shopfront = await start_shopfront(host=host, prefix=prefix, pages_prefix=pages_prefix)
        browser = shopfront.browser("ada")
        assert (await browser.get(f"{prefix}/balance")).status == 200
        for path in (pages_prefix, f"{pages_prefix}/", f"{pages_prefix}/cancel"):
            answer = await browser.get(path)
            assert (answer.status, answer.content_type) == (200, "text/html")
        assert f'action="{pages_prefix}/purchase"' in await (await browser.get(pages_prefix)).text()


async def test_mounting_twice_is_refused(shopfront: Shopfront):
    app = web.Application()
    manager = plugin_manager(create_app(shopfront.credits, account_in_cookie))
    mount(app, manager)
    with pytest.raises(ConfigurationError, match="mounted already"):
        mount(app, manager)


async def test_mounting_without_the_plugin_is_refused():
    with pytest.raises(ConfigurationError, match="register CreditsPlugin"):
        mount(web.Application(), plugin_manager(None, web.Application()))


async def test_mounting_on_a_running_host_is_refused(shopfront: Shopfront):
    app = web.Application()
    async with TestClient(TestServer(app)):
        with pytest.raises(ConfigurationError, match="before the runner is set up"):
            mount(app, plugin_manager(create_app(shopfront.credits, account_in_cookie)))


async def test_a_login_that_answers_nonsense_lets_nobody_in(start_shopfront: StartShopfront):
    async def nonsense(request: web.Request) -> Any:
        return {"user": "ada"} if request.cookies.get("user") else ""

    def host(credits: Credits) -> web.Application:
        app = web.Application()
        app.add_subapp("/api/credits", create_app(credits, nonsense))
        return app

    shopfront = await start_shopfront(host=host)
    await problem(await shopfront.browser("ada").get("/api/credits/balance"), 500, "internal_error")
    await problem(await shopfront.browser(None).get("/api/credits/balance"), 401, "unauthenticated")


async def test_a_middleware_that_reads_bodies_takes_nothing_from_us(start_shopfront: StartShopfront):
    @web.middleware
    async def logs_bodies(request: web.Request, handler: Any) -> web.StreamResponse:
        await request.read()
        return await handler(request)

    def host(credits: Credits) -> web.Application:
        app = web.Application(middlewares=[logs_bodies])
        app.add_subapp("/api/credits", create_app(credits, account_in_cookie))
        return app

    shopfront = await start_shopfront(host=host)
    answer = await shopfront.browser("ada").post("/api/credits/purchase", json={"package_id": 1})
    assert answer.status == 200


async def test_every_route_is_documented_and_nothing_else(shopfront: Shopfront):
    app = create_app(shopfront.credits, account_in_cookie)
    routes = {(route.method.lower(), route.resource.canonical) for route in app.router.routes() if route.resource}
    paths = (await (await shopfront.browser(None).get("/api/credits/openapi.json")).json())["paths"]
    assert routes == {(method, path) for path, operations in paths.items() for method in operations}


async def test_real_answers_match_their_documentation(start_shopfront: StartShopfront):
    expiring = {**DEFAULT_PACKAGES[0], "valid_days": 30}
    shopfront = await start_shopfront(packages=[expiring, *DEFAULT_PACKAGES[1:]])
    session_id = await buy_and_pay(shopfront, "ada")
    browser = shopfront.browser("ada")
    await browser.get(f"/api/credits/session/{session_id}")
    await shopfront.spend("ada", 42_500)
    asked = {
        ("get", "/session/{id}"): f"/session/{session_id}",
        ("get", "/estimate"): "/estimate?prompt=hi",
        ("get", "/packages"): "/packages",
        ("get", "/balance"): "/balance",
        ("get", "/transactions"): "/transactions",
        ("get", "/openapi.json"): "/openapi.json",
    }
    for (method, route), path in asked.items():
        answer = await browser.request(method, f"/api/credits{path}")
        validate(await answer.json(), route, method, answer.status)
    answer = await browser.post("/api/credits/purchase", json={"package_id": 1})
    validate(await answer.json(), "/purchase", "post", answer.status)


async def test_real_problems_match_their_documentation(shopfront: Shopfront):
    browser, stranger = shopfront.browser("ada"), shopfront.browser(None)
    calls = [
        ("post", "/purchase", await browser.post("/api/credits/purchase", json={})),
        ("post", "/purchase", await browser.post("/api/credits/purchase", data="x")),
        ("post", "/purchase", await browser.post("/api/credits/purchase", json={"package_id": 99})),
        ("post", "/purchase", await stranger.post("/api/credits/purchase", json={"package_id": 1})),
        ("post", "/webhook", await stranger.post("/api/credits/webhook", data="x")),
        ("get", "/session/{id}", await browser.get("/api/credits/session/cs_1")),
        ("get", "/estimate", await browser.get("/api/credits/estimate")),
        ("get", "/estimate", await browser.get("/api/credits/estimate?prompt=hi&model=no-such-model")),
        ("get", "/transactions", await browser.get("/api/credits/transactions?cursor=x")),
    ]
    for method, route, answer in calls:
        assert answer.status >= 400
        validate(await answer.json(content_type=None), route, method, answer.status)


def validate(instance: Any, route: str, method: str, status: int) -> None:
    """Check an answer against the schema that is documented for its route and status; no undocumented members."""
    description = document("/api/credits")
    (content,) = description["paths"][route][method]["responses"][str(status)]["content"].values()
    closed = close(content["schema"] | {"components": description["components"]})
    Draft202012Validator(closed).validate(instance)


def close(schema: Any) -> Any:
    """Forbid members that the schema does not name."""
    if isinstance(schema, list):
        return [close(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: close(part) for name, part in schema.items()}
    return closed | {"additionalProperties": False} if isinstance(schema.get("properties"), dict) else closed
