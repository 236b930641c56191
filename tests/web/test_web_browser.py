"""The pages in a real browser: policies that let the product work, and a phone that needs no sideways scrolling."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from chromium import EXECUTABLE, Tab
from shopfront import Shopfront, buy, buy_and_pay

pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason="needs Chromium or Chrome on the PATH")

STATE = "document.getElementById('main')?.dataset.state"


@pytest_asyncio.fixture
async def tab(shopfront: Shopfront) -> AsyncIterator[Tab]:
    """A tab that is logged in as ada."""
    async with Tab() as opened:
        await opened.send("Network.setCookie", name="user", value="ada", url=shopfront.url)
        yield opened


async def test_the_buy_button_leads_to_the_payment_page_under_our_own_policy(shopfront: Shopfront, tab: Tab):
    await tab.open(f"{shopfront.url}/credits")
    await tab.ask("document.querySelector('form button').click()")
    await tab.wait_for(
        f"location.href.startsWith('{shopfront.sandbox.url}/c/pay/') && document.readyState === 'complete'"
    )
    assert tab.complaints == []


async def test_the_success_page_turns_into_the_receipt_by_itself(shopfront: Shopfront, tab: Tab):
    payment_url = await buy(shopfront, "ada")
    session_id = payment_url.rpartition("/")[2]
    await tab.open(f"{shopfront.url}/credits/success?session_id={session_id}")
    assert await tab.ask(STATE) == "processing"
    await shopfront.pay(payment_url)
    await tab.wait_for(f"{STATE} === 'paid'")
    assert "New balance" in await tab.ask("document.body.innerText")
    assert await tab.ask("document.title") == "Thank you!"
    assert await tab.ask("document.activeElement.id") == "main"
    assert tab.complaints == []


async def test_without_javascript_the_success_page_refreshes_into_the_receipt(shopfront: Shopfront, tab: Tab):
    payment_url = await buy(shopfront, "ada")
    await tab.look_like(390, 844, script=False)
    await tab.open(f"{shopfront.url}/credits/success?session_id={payment_url.rpartition('/')[2]}")
    await shopfront.pay(payment_url)
    await tab.wait_for(f"{STATE} === 'paid'")


@pytest.mark.parametrize("width", [320, 390, 1200])
async def test_no_page_complains_or_scrolls_sideways(shopfront: Shopfront, tab: Tab, width: int):
    session_id = await buy_and_pay(shopfront, "ada")
    await shopfront.grant("ada", 1, reference="x" * 200)
    await tab.look_like(width, 844, dark=width == 390)
    for path in (f"/credits/success?session_id={session_id}", "/credits", "/credits/cancel"):
        await tab.open(shopfront.url + path)
        assert await tab.ask("document.documentElement.scrollWidth") <= width, path
        assert await tab.ask("getComputedStyle(document.body).margin") == "0px"  # the style sheet was let in
        assert "UTC" not in await tab.ask("document.getElementById('main').innerText")  # so was the script
    assert tab.complaints == []
