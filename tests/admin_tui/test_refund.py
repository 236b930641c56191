"""Refunds: through the real sandbox, previewed, confirmed by typing, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import pytest
from admin_seed import Opener, Screen
from stripe_schema import CheckedSandbox
from textual.widgets import Button, Input

from admin_tui.app import AdminApp
from admin_tui.backend import Backend, RefundDecision, open_backend
from admin_tui.screens.refund import RefundDialog
from admin_tui.screens.refund_preview import RefundCase
from credits_plugin.bootstrap import Credits, build
from credits_plugin.errors import GatewayOutcomeUnknown
from credits_plugin.ledger.ids import account_key
from credits_plugin.ledger.queries import account_balance
from credits_plugin.payments.checkout import fulfil, start_purchase
from credits_plugin.payments.queries import PaymentView, RefundView, payments_page, refunds_of
from credits_plugin.settings import Settings

MICRO = 1_000_000


@dataclass(slots=True)
class Host:
    """A host on the same database, whose customer has paid $10.00 for 1,000 credits."""

    credits: Credits
    paid: PaymentView
    settings: Settings

    def balance(self) -> int:
        found = self.credits.reads.run_sync(lambda database: account_balance(database, account_key("anna")))
        assert found is not None
        return found.balance

    def refunds(self) -> list[RefundView]:
        return self.credits.reads.run_sync(lambda database: refunds_of(database, self.paid.id))


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    async with CheckedSandbox() as sandbox:
        settings = Settings(
            database_url=f"sqlite:///{tmp_path / 'credits.db'}",
            stripe_secret_key="sk_test_sandbox",
            stripe_webhook_secrets=("whsec_sandbox",),
            stripe_api_base=sandbox.url,
        )
        credits = build(settings)
        shop = credits.shop
        purchase = await start_purchase(shop, account_id="anna", package_id=1, email="anna@example.com")
        form = {"card_number": "4242424242424242", "exp": "12 / 34", "cvc": "123", "name": "Anna"}
        async with aiohttp.ClientSession() as http:
            await http.post(purchase.payment_url, data={**form, "email": "anna@example.com"}, allow_redirects=False)
        await fulfil(shop, await shop.gateway.session(purchase.session_id))
        (paid,) = await credits.reads.run(payments_page)
        yield Host(credits, paid, settings)
        await credits.close()


async def fill_in(screen: Screen, *, amount: str, confirm: str, note: str = "") -> None:
    dialog = screen.app.screen
    assert isinstance(dialog, RefundDialog)
    dialog.query_one("#amount", Input).value = amount
    dialog.query_one("#note", Input).value = note
    dialog.query_one("#confirm", Input).value = confirm
    await screen.settle()


async def test_partial_then_full_refund_through_stripe(host: Host):
    app = AdminApp(open_backend(host.settings, actor="dana", is_read_only=False))
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        screen = Screen(app, pilot)
        await screen.press("4", "enter", "r")
        await fill_in(screen, amount="4.00", confirm="4.00", note="asked by mail")
        assert "1,000" in screen.text
        app.screen.query_one("#send", Button).press()
        await screen.settle()
        assert "✓ $4.00 succeeded" in screen.text
        assert "400 credits taken back" in screen.text
        assert host.balance() == 600 * MICRO
        (made,) = host.refunds()
        assert (made.amount_minor, made.actor, made.note) == (400, "dana", "asked by mail")
        assert made.reason == "requested_by_customer"
        await screen.press("enter", "r")
        assert "$4.00, $6.00 left" not in screen.text
        await fill_in(screen, amount="6.00", confirm="6.00")
        app.screen.query_one("#send", Button).press()
        await screen.settle()
        assert host.balance() == 0
        await screen.press("enter", "f5")
        assert "$10.00, $0.00 left" in screen.text
        await screen.press("r")
        assert "all of this payment has been refunded already" in screen.notices


async def test_the_dialog_starts_on_cancel_and_sends_nothing_without_the_typed_amount(host: Host):
    app = AdminApp(open_backend(host.settings, actor="dana", is_read_only=False))
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        screen = Screen(app, pilot)
        await screen.press("4", "r")
        dialog = app.screen
        assert isinstance(dialog, RefundDialog)
        assert dialog.focused is dialog.query_one("#cancel")
        send = dialog.query_one("#send", Button)
        for amount, confirm in (("4", ""), ("4", "5"), ("11", "11"), ("-1", "-1"), ("1e3", "1e3"), ("x", "x")):
            await fill_in(screen, amount=amount, confirm=confirm)
            assert send.disabled, (amount, confirm)
        await fill_in(screen, amount="4", confirm="4.00")
        assert not send.disabled
        await screen.press("enter")
        assert app.screen is not dialog
    assert host.refunds() == []
    assert host.balance() == 1_000 * MICRO


async def test_an_unknown_outcome_is_tried_again_with_the_same_key(host: Host):
    case = RefundCase(host.paid, [], None)
    backend = open_backend(host.settings, actor="dana", is_read_only=False)
    asked: list[RefundDecision] = []

    async def answer_lost_once(decision: RefundDecision) -> RefundView:
        asked.append(decision)
        made = await backend.refund(decision)
        if len(asked) == 1:
            await asyncio.sleep(0.1)  # an answer that is lost is waited for first
            raise GatewayOutcomeUnknown("no answer came from Stripe")
        return made

    app = AdminApp(backend)
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        screen = Screen(app, pilot)
        results: list[RefundDecision | None] = []
        app.push_screen(RefundDialog(case, answer_lost_once), results.append)
        await screen.settle()
        await fill_in(screen, amount="10", confirm="10")
        send = app.screen.query_one("#send", Button)
        send.press()
        await screen.settle()
        assert "no answer came from Stripe" in screen.text
        assert str(send.label) == "Try again"
        assert app.screen.query_one("#amount", Input).disabled
        send.press()
        await screen.settle()
        assert "✓ $10.00 succeeded" in screen.text
        await screen.press("escape")
    assert asked[0] == asked[1] == results[0]
    assert len(host.refunds()) == 1
    assert host.balance() == 0


async def test_a_refund_that_leaves_a_debt_says_so_before(host: Host):
    case = RefundCase(host.paid, [], None)
    app = AdminApp(open_backend(host.settings, actor="dana", is_read_only=True))
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        screen = Screen(app, pilot)
        app.push_screen(RefundDialog(case, app.backend.refund))
        await screen.settle()
        assert "leaves a debt of 1,000 credits" in screen.text


async def test_without_keys_a_refund_says_what_to_set(open_screen: Opener):
    async with open_screen("4", "j", "r", size=(80, 24)) as screen:
        assert "STRIPE_SECRET_KEY and STRIPE_WEBHOOK_SECRET not set" in screen.notices
        assert "STRIPE_SECRET_KEY" in screen.text
        assert not isinstance(screen.app.screen, RefundDialog)


async def test_a_read_only_session_refunds_nothing(host: Host):
    app = AdminApp(open_backend(host.settings, actor="dana", is_read_only=True))
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        screen = Screen(app, pilot)
        await screen.press("4", "r")
        assert "this session is read-only" in screen.notices


async def test_a_payment_that_was_never_paid_has_nothing_to_refund(backend: Backend):
    keys = {"stripe_secret_key": "sk_test_x", "stripe_webhook_secrets": ("whsec_x",)}
    backend.settings = replace(backend.settings, **keys)
    app = AdminApp(backend)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        screen = Screen(app, pilot)
        await screen.press("4", "r")
        assert "this payment is open: there is nothing to refund" in screen.notices
