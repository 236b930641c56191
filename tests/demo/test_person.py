"""A person with a browser: signs in, is refused, buys with a card, sees the receipt, chats, sees the balance fall."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from chromium import EXECUTABLE, Tab

from credits_plugin.database import open_database
from credits_plugin.ledger.audit import audit
from credits_plugin.sandbox.demo import PASSWORD, start_demo

pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason="needs Chromium or Chrome on the PATH")

# With this variable the pictures stay, to be looked at: CREDITS_PICTURES=build/pictures
PICTURES = os.environ.get("CREDITS_PICTURES")


async def fill(tab: Tab, **values: str) -> None:
    for name, value in values.items():
        await tab.ask(f"document.querySelector('[name={name}]').value = {value!r}")
    await tab.ask("document.querySelector('[name=' + " + repr(next(iter(values))) + " + ']').form.requestSubmit()")


async def picture(tab: Tab, name: str) -> None:
    if PICTURES:
        folder = Path(PICTURES)
        folder.mkdir(parents=True, exist_ok=True)
        await tab.picture(folder / f"{name}.png")


async def say(tab: Tab, message: str) -> None:
    await tab.ask(f"document.getElementById('message').value = {message!r}")
    await tab.ask("document.getElementById('composer').requestSubmit()")


@pytest.mark.parametrize(("device", "size"), [("desktop", (1200, 900)), ("phone", (390, 844))])
async def test_a_person_buys_credits_with_a_card_and_chats(tmp_path, device: str, size: tuple[int, int]):
    async with start_demo(tmp_path, word_delay_s=0) as demo, Tab() as tab:
        await tab.look_like(*size)
        await tab.open(demo.url)
        await picture(tab, f"{device}-1-login")
        await fill(tab, user="alice", password=PASSWORD)
        await tab.wait_for("location.pathname === '/chat' && document.readyState === 'complete'")
        await say(tab, "hello")
        await tab.wait_for("!!document.querySelector('.problem a')")
        await picture(tab, f"{device}-2-refused")

        await tab.ask("document.querySelector('.problem a').click()")
        await tab.wait_for("location.pathname === '/credits' && document.readyState === 'complete'")
        await tab.ask("document.querySelector('form button').click()")
        await tab.wait_for("location.pathname.startsWith('/c/pay/') && document.readyState === 'complete'")
        card = {"email": "alice@example.com", "exp": "12 / 34", "cvc": "123", "name": "Alice"}
        await fill(tab, card_number="4000000000000002", **card)
        await tab.wait_for("document.readyState === 'complete' && document.body.innerText.includes('declined')")
        await picture(tab, f"{device}-3-declined")
        await fill(tab, card_number="4242424242424242", **card)
        await tab.wait_for("document.getElementById('main')?.dataset.state === 'paid'")
        await picture(tab, f"{device}-4-receipt")
        assert "1,000" in await tab.ask("document.body.innerText")

        await tab.open(f"{demo.url}/chat")
        await tab.wait_for("document.getElementById('balance').innerText === '1,000'")
        await say(tab, "Count: prepaid credits are never lost")
        await tab.wait_for("document.querySelector('.cost')?.innerText.includes('credits') === true")
        await tab.wait_for("document.getElementById('balance').innerText.startsWith('999.')")
        await picture(tab, f"{device}-5-chat")
        await tab.open(f"{demo.url}/credits")
        await picture(tab, f"{device}-6-credits")
        text = await tab.ask("document.body.innerText")
        assert "pi_" in text
        assert "alice@example.com" in text
        assert await tab.ask("document.documentElement.scrollWidth <= window.innerWidth")
    database = open_database(f"sqlite:///{tmp_path / 'credits.db'}")
    assert audit(database).findings == []
