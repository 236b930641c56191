"""Replaying an event from the webhooks screen: rehearsed, then done once; never in a read-only session."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from admin_seed import Screen
from textual.widgets import Button

from admin_tui.app import AdminApp
from admin_tui.backend import Backend, open_backend
from admin_tui.screens.replay import ReplayDialog
from credits_plugin.bootstrap import Credits, build
from credits_plugin.ledger.ids import account_key
from credits_plugin.ledger.queries import account_balance
from credits_plugin.models import InboxEvent
from credits_plugin.payments.checkout import start_purchase
from credits_plugin.sandbox import Sandbox
from credits_plugin.settings import Settings

MICRO = 1_000_000


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Credits]:
    """A host whose customer has paid, and whose only event failed."""
    async with Sandbox() as sandbox:
        settings = Settings(
            database_url=f"sqlite:///{tmp_path / 'credits.db'}",
            stripe_secret_key="sk_test_sandbox",
            stripe_webhook_secrets=("whsec_sandbox",),
            stripe_api_base=sandbox.url,
        )
        credits = build(settings)
        purchase = await start_purchase(credits.shop, account_id="anna", package_id=1)
        form = {"card_number": "4242424242424242", "exp": "12 / 34", "cvc": "123", "name": "Anna"}
        async with aiohttp.ClientSession() as http:
            await http.post(purchase.payment_url, data={**form, "email": "a@example.com"}, allow_redirects=False)
            url = f"{sandbox.url}/v1/events?type=checkout.session.completed"
            async with http.get(url, headers={"Authorization": "Bearer sk_test_sandbox"}) as answer:
                event = (await answer.json())["data"][0]
        row = {"event_id": event["id"], "type": event["type"], "status": "failed", "livemode": 0, "attempts": 1}
        row |= {
            "payload": json.dumps(event),
            "detail": "it was \x1b[31mraining",
            "created_at_ms": 1,
            "received_at_ms": 1,
        }
        await credits.writer.work([], lambda tx: InboxEvent.insert(row).execute(tx.database) and None)
        yield credits
        await credits.close()


def balance(credits: Credits) -> int:
    found = credits.reads.run_sync(lambda database: account_balance(database, account_key("anna")))
    return found.balance if found else 0


def backend_of(credits: Credits, *, read_only: bool = False) -> Backend:
    return open_backend(credits.settings, actor="dana", is_read_only=read_only)


async def dialog_of(screen: Screen) -> ReplayDialog:
    await screen.press("7", "r")
    for _ in range(50):
        if isinstance(screen.app.screen, ReplayDialog):
            return screen.app.screen
        await screen._pilot.pause(0.05)
    raise AssertionError(screen.text)


async def test_a_replay_is_rehearsed_and_then_done_once(host: Credits):
    app = AdminApp(backend_of(host))
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        screen = Screen(app, pilot)
        dialog = await dialog_of(screen)
        await screen.settle()
        assert "would be processed" in screen.text
        assert "0 → 1,000" in screen.text
        assert balance(host) == 0
        assert screen.app.focused.id == "close"

        button = dialog.query_one("#apply", Button)
        button.press()
        await screen.settle()
        assert button.disabled
        assert "✓ processed" in screen.text
        assert balance(host) == 1_000 * MICRO


async def test_closing_the_rehearsal_changes_nothing(host: Credits):
    app = AdminApp(backend_of(host))
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        screen = Screen(app, pilot)
        await dialog_of(screen)
        await screen.press("enter")
        assert not isinstance(screen.app.screen, ReplayDialog)
    assert balance(host) == 0


async def test_a_read_only_session_replays_nothing_and_says_why(host: Credits):
    app = AdminApp(backend_of(host, read_only=True))
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        screen = Screen(app, pilot)
        await screen.press("7", "r")
        assert "without --read-only to replay" in screen.notices
    assert balance(host) == 0
