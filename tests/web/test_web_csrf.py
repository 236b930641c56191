"""Purchases are started by the account's owner, never by another site that the owner's browser visits."""

from __future__ import annotations

import pytest
from shopfront import Shopfront, StartShopfront, page, problem

from credits_plugin.web.csrf import TOKEN_LIFETIME_S, FormExpired, make_token, require_token

PURCHASE = "/api/credits/purchase"
FORM = "/credits/purchase"
KEY = b"k" * 32


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://[", "Sec-Fetch-Site": "cross-site"},
    ],
)
async def test_json_from_another_site_is_refused(shopfront: Shopfront, headers: dict[str, str]):
    answer = await shopfront.browser("ada").post(PURCHASE, json={"package_id": 1}, headers=headers)
    await problem(answer, 403, "cross_site_request")


async def test_json_from_our_own_pages_passes(shopfront: Shopfront):
    for headers in ({"Origin": shopfront.url, "Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "same-origin"}, {}):
        answer = await shopfront.browser("ada").post(PURCHASE, json={"package_id": 1}, headers=headers)
        assert answer.status == 200, headers


async def test_json_from_the_frontends_own_origin_passes_and_others_do_not(start_shopfront: StartShopfront):
    shopfront = await start_shopfront(frontend_url="https://chat.example.com:443/agent")
    browser, site = shopfront.browser("ada"), {"Sec-Fetch-Site": "cross-site"}
    passes = {"Origin": "https://chat.example.com", **site}
    assert (await browser.post(PURCHASE, json={"package_id": 1}, headers=passes)).status == 200
    for origin in ("http://chat.example.com", "https://chat.example.com.evil.example", "https://example.com"):
        answer = await browser.post(PURCHASE, json={"package_id": 1}, headers={"Origin": origin, **site})
        await problem(answer, 403, "cross_site_request")


async def test_behind_a_proxy_that_ends_tls_our_own_origin_passes(start_shopfront: StartShopfront):
    shopfront = await start_shopfront(frontend_url="https://elsewhere.example")
    headers = {"Host": "credits.example.com", "Origin": "https://credits.example.com"}
    answer = await shopfront.browser("ada").post(PURCHASE, json={"package_id": 1}, headers=headers)
    assert answer.status == 200


async def test_the_pages_form_leads_to_stripe(shopfront: Shopfront):
    browser = shopfront.browser("ada")
    shown = await browser.get("/credits")
    fields = (await page(shown)).fields()
    answer = await browser.post(FORM, data=fields, allow_redirects=False)
    assert answer.status == 303
    assert answer.headers["Location"].startswith(shopfront.sandbox.url)
    assert answer.headers["Cache-Control"] == "no-store"
    assert shopfront.sandbox.url in shown.headers["Content-Security-Policy"]  # or the browser stops the redirect


async def test_a_form_without_its_token_is_refused(shopfront: Shopfront):
    answer = await shopfront.browser("ada").post(FORM, data={"package_id": "1"}, allow_redirects=False)
    assert "expired" in (await page(answer, 403)).text


async def test_a_form_with_anothers_token_is_refused(shopfront: Shopfront):
    fields = (await page(await shopfront.browser("eve").get("/credits"))).fields()
    await page(await shopfront.browser("ada").post(FORM, data=fields, allow_redirects=False), 403)


async def test_a_form_from_another_site_is_refused_even_with_its_token(shopfront: Shopfront):
    browser = shopfront.browser("ada")
    fields = (await page(await browser.get("/credits"))).fields()
    headers = {"Origin": "https://evil.example"}
    await page(await browser.post(FORM, data=fields, headers=headers, allow_redirects=False), 403)


@pytest.mark.parametrize("package_id", ["", "x", "1.0", "-1", "\u0661", "1" * 11, "0"])
async def test_a_form_with_another_kind_of_package_is_refused(shopfront: Shopfront, package_id: str):
    browser = shopfront.browser("ada")
    fields = (await page(await browser.get("/credits"))).fields() | {"package_id": package_id}
    await page(await browser.post(FORM, data=fields, allow_redirects=False), 400)


async def test_a_form_with_a_field_twice_is_refused(shopfront: Shopfront):
    browser = shopfront.browser("ada")
    fields = (await page(await browser.get("/credits"))).fields()
    await page(await browser.post(FORM, data=[*fields.items(), ("package_id", "2")], allow_redirects=False), 400)


async def test_a_form_in_another_content_type_is_refused(shopfront: Shopfront):
    await page(await shopfront.browser("ada").post(FORM, json={"package_id": 1}, allow_redirects=False), 415)


async def test_hosts_with_the_same_stripe_key_take_each_others_forms(start_shopfront: StartShopfront):
    one, other = await start_shopfront(), await start_shopfront()
    fields = (await page(await one.browser("ada").get("/credits"))).fields()
    answer = await other.browser("ada").post(FORM, data=fields, allow_redirects=False)
    assert answer.status == 303


def test_a_token_holds_for_its_account_and_time_alone():
    token = make_token(KEY, account_id="ada", at_s=1_000_000)
    require_token(KEY, token, account_id="ada", at_s=1_000_000 + TOKEN_LIFETIME_S)
    refused = [
        (KEY, token, "eve", 1_000_000),
        (b"x" * 32, token, "ada", 1_000_000),
        (KEY, token, "ada", 1_000_001 + TOKEN_LIFETIME_S),
        (KEY, token, "ada", 1_000_000 - 301),
        (KEY, token.replace("1000000", "1000001", 1), "ada", 1_000_000),
        (KEY, token[:-1], "ada", 1_000_000),
        (KEY, "", "ada", 1_000_000),
        (KEY, "\u0661.\u00e9", "ada", 1_000_000),
        (KEY, "9" * 400 + ".00", "ada", 1_000_000),
    ]
    for key, wrong, account, at_s in refused:
        with pytest.raises(FormExpired):
            require_token(key, wrong, account_id=account, at_s=at_s)


def test_an_account_cannot_borrow_digits_from_the_time():
    token = make_token(KEY, account_id="1:ada", at_s=10)
    with pytest.raises(FormExpired):
        require_token(KEY, token.replace("10.", "101."), account_id="ada", at_s=101)
