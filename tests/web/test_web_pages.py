"""The pages: what a buyer sees, with and without JavaScript, and what nobody can slip into them."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from shopfront import Page, Shopfront, StartShopfront, buy, buy_and_pay, deliver_to, page, plain_host

from credits_plugin.bootstrap import Credits
from credits_plugin.ledger.entries import Code, SettleHold
from credits_plugin.ledger.ids import account_key, now_ms
from credits_plugin.ledger.queries import TransferLine
from credits_plugin.moving.archiving.run import archive_transfers
from credits_plugin.settings import DEFAULT_PACKAGES
from credits_plugin.web.history import HistoryLine, HistoryPage
from credits_plugin.web.rendering import STATIC
from credits_plugin.web.statement import history_view
from hookspecs import Usage

HOSTILE = "<script>alert(1)</script>\"'&{{7*7}}\u202egnp.exe\x9b31m"


async def test_the_account_page_shows_balance_packages_and_history(shopfront: Shopfront):
    await shopfront.grant("ada", 50, expires_at_ms=now_ms() + 86_400_000)
    await shopfront.spend("ada", 42_500)
    await shopfront.hold("ada", 1_000_000)
    shown = await page(await shopfront.browser("ada").get("/credits"))
    assert "48.9575 credits available" in shown.text.replace(" .", ".")  # the fraction is smaller
    assert "Balance 49.9575 Held for running requests 1 Next expiry" in shown.text
    for words in ("Starter", "1,000 credits", "$10.00", "Save 9", "Studio"):
        assert words in shown.text
    assert "AI request 120 tokens in (64 cached) 30 out \N{MINUS SIGN}0.0425 Balance 49.9575" in shown.text
    assert re.search(r"Gift Valid until \d+ \w+ \d+, \d\d:\d\d UTC \+50 Balance 50", shown.text)


async def test_how_long_credits_are_valid_is_said_before_and_after_buying_them(start_shopfront: StartShopfront):
    year, day, lasting = DEFAULT_PACKAGES
    shopfront = await start_shopfront(packages=[{**year, "valid_days": 365}, {**day, "valid_days": 1}, lasting])
    browser = shopfront.browser("ada")
    shown = await page(await browser.get("/credits"))
    said = [words.strip() for words in re.findall(r"\$[\d.,]+ (Credits [\w ]+?) Buy", shown.text)]
    assert said == ["Credits valid for 365 days", "Credits valid for 1 day", "Credits never expire"]
    labels = [str(button["aria-label"]) for button in shown.all("button")]
    assert labels[0] == "Buy Starter: 1,000 credits for $10.00; credits valid for 365 days"

    session_id = await buy_and_pay(shopfront, "ada")
    receipt = await page(await browser.get(f"/credits/success?session_id={session_id}"))
    (until,) = re.findall(r"Credits 1,000 .*Valid until (\d+ \w+ \d+, \d\d:\d\d UTC)", receipt.text)
    shown = await page(await browser.get("/credits"))
    assert f"Next expiry {until}" in shown.text
    assert f"Valid until {until} +1,000" in shown.text


async def test_where_no_package_expires_nothing_is_said_of_it(shopfront: Shopfront):
    session_id = await buy_and_pay(shopfront, "ada")
    browser = shopfront.browser("ada")
    for path in (f"/credits/success?session_id={session_id}", "/credits"):
        text = (await page(await browser.get(path))).text
        assert not any(words in text for words in ("Valid until", "valid for", "never expire"))


@pytest.mark.parametrize("code", Code)
def test_every_kind_of_transfer_has_words_for_its_owner(code: Code):
    line = TransferLine(1, 1, code, 1, 1, 0, None, None, None)
    (shown,) = history_view(HistoryPage([HistoryLine(line, None)], None), is_first=True)["lines"]
    assert shown["title"]


async def test_a_purchase_in_the_history_names_its_payment(shopfront: Shopfront):
    session_id = await buy_and_pay(shopfront, "ada")
    browser = shopfront.browser("ada")
    session = (await (await browser.get(f"/api/credits/session/{session_id}")).json())["session"]
    shown = await page(await browser.get("/credits"))
    for words in ("+1,000", "Purchase", "Starter", "$10.00", session["payment_intent"], "ada@example.com"):
        assert words in shown.text


async def test_the_page_is_built_for_everybody(shopfront: Shopfront):
    await shopfront.grant("ada", 1)
    shown = await page(await shopfront.browser("ada").get("/credits"))
    tags = [tag for tag, _ in shown.tags]
    assert shown.all("html") == [{"lang": "en"}]
    for landmark in ("header", "main", "footer"):
        assert tags.count(landmark) == 1
    assert tags.count("h1") == 1
    assert all("alt" in image for image in shown.all("img"))
    buttons = [str(button["aria-label"]) for button in shown.all("button")]
    assert buttons[0] == "Buy Starter: 1,000 credits for $10.00"
    assert len(set(buttons)) == 3
    assert shown.all("a")[0]["href"] == "#main"
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in shown.all("meta")


async def test_nothing_runs_or_loads_from_elsewhere(shopfront: Shopfront):
    for path in ("/credits", "/credits/cancel", "/credits/success?session_id=cs_x", "/credits/nothing"):
        html = await (await shopfront.browser("ada").get(path)).text()
        shown = Page(html)
        assert all(str(tag.get("src", "")).startswith("/credits/static/") for tag in shown.all("script"))
        assert all(str(link["href"]).startswith("/credits/static/") for link in shown.all("link"))
        assert shown.all("style") == []
        assert not any(name.startswith("on") or name == "style" for _, tag in shown.tags for name in tag)


async def test_the_pages_files_are_served_and_kept(shopfront: Shopfront):
    browser = shopfront.browser("ada")
    shown = await page(await browser.get("/credits"))
    files = [str(tag.get("src") or tag.get("href")) for tag in shown.all("script") + shown.all("link")]
    assert len(files) == 3
    for path in files:
        answer = await browser.get(path)
        assert answer.status == 200
        assert answer.headers["Cache-Control"] == "public, max-age=86400"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert sum((STATIC / name).stat().st_size for name in ("credits.css", "credits.js", "credits.svg")) < 16_000


async def test_pages_do_not_leave_the_static_folder(shopfront: Shopfront):
    for path in ("..%2fapp.py", "%2e%2e/app.py", "nothing.css", ""):
        answer = await shopfront.browser("ada").get(f"/credits/static/{path}")
        assert answer.status in {403, 404}
        assert "import" not in await answer.text()


async def test_history_has_older_pages(shopfront: Shopfront):
    await shopfront.grant("ada", 100)
    for number in range(30):
        await shopfront.spend("ada", 1000 + number)
    browser = shopfront.browser("ada")
    first = await page(await browser.get("/credits"))
    older = next(str(link["href"]) for link in first.all("a") if link.get("rel") == "next")
    assert re.fullmatch(r"/credits\?cursor=\d+#history", older)
    second = await page(await browser.get(older.partition("#")[0]))
    assert "Gift" not in first.text
    assert "Gift" in second.text
    assert [link["href"] for link in second.all("a") if link.get("rel") == "first"] == ["/credits#history"]
    assert not [link for link in second.all("a") if link.get("rel") == "next"]


async def test_the_history_ends_where_its_older_entries_were_archived_and_says_so(shopfront: Shopfront, tmp_path: Path):
    await shopfront.grant("ada", 100)
    for _ in range(40):
        await shopfront.spend("ada", 1000)
    now = now_ms()
    await shopfront.grant("ada", 5)
    cut = {"before_ms": now + 60_000, "at_ms": now + 30 * 86_400_000}
    await asyncio.to_thread(archive_transfers, shopfront.credits.database, tmp_path / "archive", **cut)
    browser = shopfront.browser("ada")
    shown = await page(await browser.get("/credits"))
    assert "41 older entries were archived" in shown.text
    assert "Gift +5 Balance 104.96" in shown.text
    assert not [link for link in shown.all("a") if link.get("rel") == "next"]
    beyond = await page(await browser.get("/credits?cursor=30"))
    assert "41 older entries were archived" in beyond.text
    assert "Nothing yet" not in beyond.text
    document = await (await browser.get("/api/credits/transactions")).json()
    assert (len(document["transactions"]), document["next_cursor"], document["archived"]) == (1, None, 41)


async def test_debt_is_explained_with_what_it_takes_to_go_on(shopfront: Shopfront):
    await shopfront.grant("ada", 1)
    hold_id = await shopfront.hold("ada", 1_000_000)
    await shopfront.credits.writer.execute(SettleHold(account_key("ada"), hold_id, 3_500_000, now_ms(), Usage(input=1)))
    shown = await page(await shopfront.browser("ada").get("/credits"))
    assert "\N{MINUS SIGN}2.5 credits available" in shown.text.replace(" .", ".")
    assert "until you buy at least 3 credits" in shown.text


async def test_without_an_account_the_page_asks_to_sign_in(shopfront: Shopfront):
    for path in ("/credits", "/credits/success?session_id=cs_test_1"):
        shown = await page(await shopfront.browser(None).get(path), 401)
        assert "Please sign in" in shown.text
        assert f"{shopfront.url}/" in [link["href"] for link in shown.all("a")]


async def test_the_receipt_names_payment_package_amount_credits_and_new_balance(shopfront: Shopfront):
    session_id = await buy_and_pay(shopfront, "ada")
    browser = shopfront.browser("ada")
    shown = await page(await browser.get(f"/credits/success?session_id={session_id}"))
    session = (await (await browser.get(f"/api/credits/session/{session_id}")).json())["session"]
    for words in ("Thank you!", session["payment_intent"], "Starter", "$10.00", "1,000", "ada@example.com"):
        assert words in shown.text
    assert "New balance 1,000 credits" in shown.text
    assert shown.all("main")[0]["data-state"] == "paid"
    assert not [meta for meta in shown.all("meta") if meta.get("http-equiv")]


async def test_success_page_and_webhook_grant_once_together(shopfront: Shopfront):
    session_id = await buy_and_pay(shopfront, "ada")
    browser = shopfront.browser("ada")
    for _ in range(3):
        await page(await browser.get(f"/credits/success?session_id={session_id}"))
    deliver_to(shopfront)
    await shopfront.sandbox.deliver_pending()
    await page(await browser.get(f"/credits/success?session_id={session_id}"))
    assert (await (await browser.get("/api/credits/balance")).json())["balance"]["credits"] == "1000"


async def test_an_unpaid_session_shows_processing_and_asks_again_by_itself(shopfront: Shopfront):
    session_id = session_of(await buy(shopfront, "ada"))
    browser = shopfront.browser("ada")
    answer = await browser.get(f"/credits/success?session_id={session_id}")
    shown = await page(answer)
    assert "Processing…" in shown.text
    assert shown.all("main")[0]["data-state"] == "processing"
    assert {"http-equiv": "refresh", "content": "4"} in shown.all("meta")
    assert answer.headers["Cache-Control"] == "no-store"
    assert (await (await browser.get("/api/credits/balance")).json())["balance"]["credits"] == "0"


async def test_while_stripe_is_away_the_success_page_waits(shopfront: Shopfront):
    session_id = await buy_and_pay(shopfront, "ada")
    await shopfront.sandbox.close()
    shown = await page(await shopfront.browser("ada").get(f"/credits/success?session_id={session_id}"))
    assert "Processing…" in shown.text


def session_of(payment_url: str) -> str:
    """The id of the session whose payment page this is."""
    found = re.search(r"cs_[A-Za-z0-9_]+", payment_url)
    assert found
    return found[0]


async def test_forged_foreign_and_missing_sessions_show_the_same_page(shopfront: Shopfront):
    session_id = await buy_and_pay(shopfront, "ada")
    stranger = shopfront.browser("eve")
    asked = (f"?session_id={session_id}", "?session_id=cs_test_0", "?session_id=%3Cscript%3E", "?session_id=", "")
    answers = [await stranger.get(f"/credits/success{query}") for query in asked]
    bodies = {await answer.text() for answer in answers}
    assert {answer.status for answer in answers} == {404}
    assert len(bodies) == 1
    assert "Page not found" in bodies.pop()


async def test_cancelling_says_that_nothing_was_charged_and_leads_back(shopfront: Shopfront):
    shown = await page(await shopfront.browser(None).get("/credits/cancel"))
    assert "Nothing was charged" in shown.text
    assert "/credits" in [link["href"] for link in shown.all("a")]


@pytest.mark.parametrize(
    "query", ["?next=https://evil.example", "?return_to=//evil.example", "?url=javascript:alert(1)"]
)
async def test_no_page_links_or_leads_to_what_a_query_says(shopfront: Shopfront, query: str):
    for path in ("/credits", "/credits/cancel", "/credits/success"):
        answer = await shopfront.browser("ada").get(path + query, allow_redirects=False)
        html = await answer.text()
        assert "evil.example" not in html
        assert "javascript:" not in html
        assert "Location" not in answer.headers


async def test_hostile_names_are_shown_as_text_without_their_tricks(start_shopfront: StartShopfront):
    package = {
        "id": 1,
        "name": "<img src=x onerror=alert(1)>{{7*7}}",
        "credits": 10,
        "price_minor": 500,
        "currency": "usd",
    }
    shopfront = await start_shopfront(packages=(package,))
    session_id = await buy_and_pay(shopfront, "ada")
    browser = shopfront.browser("ada")
    for path in (f"/credits/success?session_id={session_id}", "/credits"):
        html = await (await browser.get(path)).text()
        assert "<img src=x" not in html
        assert "&lt;img src=x onerror=alert(1)&gt;{{7*7}}" in html


async def test_text_from_outside_is_escaped_and_stripped_of_controls_and_direction_marks(shopfront: Shopfront):
    await shopfront.grant("ada", 1, reference=HOSTILE)
    html = await (await shopfront.browser("ada").get("/credits")).text()
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&#34;&#39;&amp;{{7*7}}\ufffdgnp.exe\ufffd31m" in html
    for character in "\u202e\x9b\x1b\x00":
        assert character not in html


async def test_hostile_account_names_reach_no_page(shopfront: Shopfront):
    name = "<b>bold</b>&#x202e;"
    await shopfront.grant(name, 1)
    html = await (await shopfront.browser(name).get("/credits")).text()
    assert "bold" not in html


async def test_amounts_in_currencies_without_cents_are_shown_right(start_shopfront: StartShopfront):
    package = {"id": 1, "name": "Yen", "credits": 100, "price_minor": 1500, "currency": "jpy"}
    shopfront = await start_shopfront(packages=(package,))
    shown = await page(await shopfront.browser("ada").get("/credits"))
    assert "¥1,500" in shown.text
    assert "Save" not in shown.text


async def test_a_shop_without_keys_says_that_nothing_can_be_bought(start_shopfront: StartShopfront):
    shopfront = await start_shopfront(stripe_secret_key="", stripe_webhook_secrets=())
    shown = await page(await shopfront.browser("ada").get("/credits"))
    assert "cannot be bought here at the moment" in shown.text
    assert shown.all("form") == []


async def test_a_payment_page_on_another_domain_is_reached_through_a_page(start_shopfront: StartShopfront):
    """form-action would stop a redirect to it."""

    def host_that_knows_stripes_domain_alone(credits: Credits) -> web.Application:
        credits.settings = replace(credits.settings, stripe_api_base=None)
        return plain_host(credits)

    shopfront = await start_shopfront(host=host_that_knows_stripes_domain_alone)
    browser = shopfront.browser("ada")
    answer = await browser.get("/credits")
    policy = answer.headers["Content-Security-Policy"]
    assert "form-action 'self' https://checkout.stripe.com;" in policy
    shown = await page(await browser.post("/credits/purchase", data=(await page(answer)).fields()))
    link = str(shown.all("a")[-1]["href"])
    assert link.startswith(shopfront.sandbox.url)
    assert {"http-equiv": "refresh", "content": f"0; url={link}"} in shown.all("meta")


async def test_a_host_below_a_path_links_within_it(start_shopfront: StartShopfront):
    shopfront = await start_shopfront(frontend_url="https://example.com/agent")
    html = await (await shopfront.browser("ada").get("/credits")).text()
    assert 'action="/agent/credits/purchase"' in html
    assert 'href="https://example.com/agent/"' in html
