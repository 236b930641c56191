"""The screens on a real database, driven by keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from admin_seed import CREDIT, DAY, HOSTILE, NOW, Opener, Screen, seed, shop_on

from admin_tui import feeds
from admin_tui.app import AdminApp
from admin_tui.backend import Backend, open_backend
from admin_tui.formats import time_text
from admin_tui.screens.account import AccountScreen
from admin_tui.screens.accounts import AccountsScreen
from admin_tui.screens.payment import PaymentScreen
from credits_plugin import Usage
from credits_plugin.database import migrate, open_database
from credits_plugin.ledger import keysets
from credits_plugin.ledger.entries import Code
from credits_plugin.ledger.ids import account_key
from credits_plugin.ledger.queries import account_balance
from credits_plugin.models import Dispute, Payment, StripeCursor
from credits_plugin.moving.archiving.run import archive_transfers
from credits_plugin.payments.cursors import RECONCILIATION
from credits_plugin.payments.queries import payments_page
from credits_plugin.settings import Settings

CARLA = "usr_carla"


async def test_customers_show_available_held_and_balance(open_screen: Opener):
    async with open_screen() as screen:
        (carla,) = [line for line in screen.lines if "usr_carla" in line]
        assert carla.split()[1:] == ["usr_carla", "carla@example.io", "837.076686", "123", "960.076686", "63│"]
        (debt,) = [line for line in screen.lines if "usr_debt" in line]
        assert "\N{MINUS SIGN}120" in debt
        assert "rows 1\N{EN DASH}9 of 9" in screen.text
        assert "Customers · 6,967 credits outstanding · 123 held · 120 in debt" in screen.text


async def test_filter_finds_ids_and_mail_addresses_by_their_beginning_and_escape_ends_it(open_screen: Opener):
    async with open_screen("slash") as screen:
        await screen.type("Carl")
        assert "usr_carla" in screen.text
        assert "usr_000001" not in screen.text
        await screen.press("enter", "enter")
        assert isinstance(screen.app.screen, AccountScreen)
        await screen.press("escape", "escape")
        assert "usr_000001" in screen.text
        assert isinstance(screen.app.screen, AccountsScreen)


async def test_digits_in_the_filter_are_text_not_screens(open_screen: Opener):
    async with open_screen("slash") as screen:
        await screen.type("u7")
        assert "No customer" in screen.text
        await screen.press("backspace")
        assert "usr_000003" in screen.text
        assert isinstance(screen.app.screen, AccountsScreen)


async def test_a_customer_explains_its_balance(open_screen: Opener):
    async with open_screen(customer=CARLA) as screen:
        text = screen.text
        assert "Why 960.076686?" in text
        assert "= 960.076686 ✓ adds up" in text
        assert "+ purchase" in text
        assert "Open holds (2)" in text
        assert "STALE" in text
        assert "Lots (2)" in text
        assert "gpt-4.1-mini 1.3k +800 cached → 310 tok" in text


async def test_enter_shows_everything_about_a_transfer_and_escape_goes_back_but_never_leaves(open_screen: Opener):
    async with open_screen("j", "enter", customer=CARLA) as screen:
        assert "Transfer no. 62" in screen.text
        assert "1,259 tokens" in screen.text
        await screen.press("escape")
        assert isinstance(screen.app.screen, AccountScreen)
        await screen.press("escape", "escape", "escape")
        assert isinstance(screen.app.screen, AccountsScreen)
        assert screen.app.is_running


async def test_a_transfers_details_say_which_purchase_paid_for_it(open_screen: Opener, settings: Settings):
    with shop_on(settings.database_url, now=NOW + 1) as shop:
        shop.use("usr_carla", 200 * CREDIT, Usage(input=1))  # more than the promotion has left
    async with open_screen("enter", customer=CARLA) as screen:
        assert "paid by      160.076686 of lot " in screen.text
        assert "paid by      39.923314 of Starter, pi_3Q000100, lot " in screen.text


async def test_details_are_shown_although_nobody_can_say_who_paid(open_screen: Opener, settings: Settings):
    with shop_on(settings.database_url, now=NOW + 1) as shop:
        shop.database.execute_sql("DELETE FROM transfer WHERE seq = 5")
    async with open_screen("enter", customer=CARLA) as screen:
        assert "re_3Q000001" in screen.text
        assert "run `credits audit`" in " ".join(screen.text.split())


async def test_any_row_of_a_long_ledger_is_reached_at_once(open_screen: Opener, settings: Settings):
    with shop_on(settings.database_url, now=NOW + 1) as shop:
        shop.use_many("usr_carla", 400)
    async with open_screen(customer=CARLA) as screen:
        assert "of 463" in screen.text
        await screen.press("G")
        assert "purchase" in screen.cursor_line
        assert "····" not in screen.text
        await screen.press("g")
        assert "usage" in screen.cursor_line
        await screen.press("pagedown", "pagedown")
        assert "····" not in screen.text


async def test_a_customers_ledger_ends_where_its_older_transfers_were_archived(
    open_screen: Opener, settings: Settings, tmp_path: Path
):
    with shop_on(settings.database_url, now=NOW + 40 * DAY) as shop:
        shop.use_many("usr_carla", 100)
    database = open_database(settings.database_url)
    report = archive_transfers(database, tmp_path / "archive", before_ms=NOW + DAY, at_ms=NOW + 60 * DAY)
    assert report.rows > 60
    carla = account_balance(database.reader, account_key(CARLA))
    left = carla.transfers - carla.archived
    database.close_thread()
    async with open_screen(customer=CARLA, size=(160, 50)) as screen:
        assert f"of {left}" in screen.text
        assert f"{carla.archived} of {carla.transfers} archived" in screen.text
        assert "✓ adds up" in screen.text
        await screen.press("G")
        assert f"{left} of {left}" in screen.text
        assert "····" not in screen.text
        assert screen.cursor_line.strip("│ ")


async def test_a_list_beyond_the_count_goes_on_and_has_an_end(
    open_screen: Opener, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(keysets, "COUNT_CAP", 100)
    monkeypatch.setattr(feeds, "COUNT_CAP", 100)
    with shop_on(settings.database_url, now=NOW + 1) as shop:
        shop.use_many("usr_carla", 300)
    async with open_screen("3") as screen:
        assert "of >100" in screen.text
        await screen.press(*["pagedown"] * 4)
        assert "of >200" in screen.text
        await screen.press("G")
        assert "of >100" in screen.text
        assert "usr_000000" in screen.cursor_line
        await screen.press("g")
        assert "rows 1\N{EN DASH}" in screen.text


async def test_new_rows_appear_at_the_top_and_are_only_counted_further_down(open_screen: Opener, settings: Settings):
    async with open_screen("3") as screen:
        with shop_on(settings.database_url, now=NOW + 1) as shop:
            shop.grant("usr_new", 5 * CREDIT, Code.PROMOTION)
            await screen.refresh()
            assert "usr_new" in screen.cursor_line
            await screen.press("j", "j")
            before = screen.cursor_line
            shop.clock.now += 1
            shop.grant("usr_newer", 5 * CREDIT, Code.PROMOTION)
            await screen.refresh()
        assert screen.cursor_line == before
        assert "usr_newer" not in screen.text
        assert "+1 new" in screen.text
        await screen.press("g")
        assert "usr_newer" in screen.cursor_line


async def test_an_open_customer_follows_what_the_host_writes(open_screen: Opener, settings: Settings):
    async with open_screen(customer=CARLA) as screen:
        with shop_on(settings.database_url, now=NOW + 1) as shop:
            shop.grant("usr_carla", 100 * CREDIT, Code.ADJUSTMENT_IN)
        await screen.refresh()
        assert "= 1,060.076686 ✓ adds up" in screen.text
        assert "adjustment in" in screen.cursor_line


async def test_the_ledger_finds_an_exact_reference(open_screen: Opener):
    async with open_screen("3", "slash") as screen:
        await screen.type("re_3Q000001")
        assert "rows 1\N{EN DASH}1 of 1" in screen.text
        await screen.press("enter", "enter")
        assert isinstance(screen.app.screen, AccountScreen)


async def test_a_payment_shows_its_refunds_and_leads_to_its_customer(open_screen: Opener):
    async with open_screen("4", "j", "enter") as screen:
        assert isinstance(screen.app.screen, PaymentScreen)
        assert "$2.00, $8.00 left" in screen.text
        assert "requested by customer" in screen.text
        await screen.press("enter")
        assert "bought twice by mistake" in screen.text
        await screen.press("escape", "c")
        assert "Customer ▸ usr_carla" in screen.text


@pytest.mark.parametrize(("findings", "said"), [([], "nothing differs"), ([{}, {}], "2 differ: credits reconcile")])
async def test_payments_say_when_they_were_compared_with_stripe(open_screen: Opener, backend: Backend, findings, said):
    position = {"until_ms": NOW - 60_000, "repaired": 1, "findings": findings}
    row = {"name": RECONCILIATION, "position": json.dumps(position), "updated_at_ms": NOW}
    StripeCursor.insert(row).execute(backend.database.primary)
    async with open_screen("4") as screen:
        assert f"Payments · compared with Stripe {time_text(NOW - 60_000, now_ms=NOW)} · {said}" in screen.text


async def test_payments_of_one_customer(open_screen: Opener):
    async with open_screen("p", customer=CARLA) as screen:
        assert "Customer ▸ usr_carla ▸ Payments" in screen.text
        assert "rows 1\N{EN DASH}1 of 1" in screen.text


async def test_webhooks_say_what_became_of_each_event(open_screen: Opener):
    async with open_screen("7", "j") as screen:
        assert "quarantined" in screen.cursor_line
        await screen.press("enter")
        assert "amount 1 usd differs from the order's $10.00" in screen.text


async def test_hostile_names_put_no_control_byte_on_any_screen(open_screen: Opener):
    async with open_screen() as screen:
        seen = [screen.text]
        for keys in (("enter",), ("enter",), ("escape", "3"), ("7",), ("enter",)):
            await screen.press(*keys)
            seen.append(screen.text)
        joined = "".join(seen)
        assert "[@click=app" in joined
        assert not {character for character in joined if ord(character) < 32 or 127 <= ord(character) < 160} - {"\n"}
        assert not {"\u202e", "\u200b"} & set(joined)
        assert HOSTILE not in joined
        await screen.press("escape", "2", "y")
        assert screen.app.is_running


async def test_copying_puts_the_clean_id_on_the_clipboard(open_screen: Opener):
    async with open_screen("j", "y") as screen:
        assert screen.app.clipboard == "usr_000000"


async def test_what_cannot_be_read_is_said_and_can_be_tried_again(open_screen: Opener, backend: Backend):
    async with open_screen() as screen:
        backend.database.primary.execute_sql("ALTER TABLE transfer RENAME TO gone")
        await screen._pilot.press("3")
        await screen._pilot.pause(0.2)
        assert "✗ cannot read the database: no such table: transfer" in screen.text
        backend.database.primary.execute_sql("ALTER TABLE gone RENAME TO transfer")
        backend.database.primary.close()
        await screen._pilot.press("f5")
        await screen._pilot.pause(0.2)
        assert "cannot read" not in screen.text
        assert "adjustment in" in screen.text


async def test_amounts_stay_when_the_terminal_gets_small(open_screen: Opener):
    async with open_screen("3") as screen:
        await screen.resize(80, 24)
        assert "1.507833" in screen.text
        await screen.resize(60, 16)
        assert "1.507833" in screen.text
        assert "details" not in screen.text


async def test_help_lists_the_keys_of_the_screen_it_was_opened_from(open_screen: Opener):
    async with open_screen("4", "question_mark") as screen:
        assert "Refund the payment, in full or in part" in screen.text
        await screen.press("escape", "2", "question_mark")
        assert "Filter the list" in screen.text


async def test_the_palette_runs_actions_of_the_screen(open_screen: Opener):
    async with open_screen("ctrl+p") as screen:
        await screen.type("ledger")
        await screen._pilot.pause(0.3)
        await screen.press("enter")
        await screen._pilot.pause(0.2)
        assert "Ledger" in screen.lines[1]


async def test_an_empty_database_says_what_will_fill_it(tmp_path):
    url = f"sqlite:///{tmp_path / 'empty.db'}"
    migrate(open_database(url))
    app = AdminApp(open_backend(Settings(database_url=url), actor="dana", is_read_only=True))
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        screen = Screen(app, pilot)
        await screen.settle()
        assert "No customer yet" in screen.text
        await screen.press("3", "4", "7", "2")
        assert "RO" in screen.lines[0]


async def test_the_same_screens_stand_on_postgresql(fresh_postgresql_url: str):
    seed(fresh_postgresql_url)
    backend = open_backend(Settings(database_url=fresh_postgresql_url), actor="dana", is_read_only=True)
    backend.clock = lambda: NOW
    app = AdminApp(backend)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        screen = Screen(app, pilot)
        await screen.open_customer(CARLA)
        assert "= 960.076686 ✓ adds up" in screen.text
        assert "gpt-4.1-mini 1.3k" in screen.text
        await screen.press("G")
        assert "purchase" in screen.cursor_line
        await screen.press("3")
        assert "adjustment in" in screen.cursor_line
        await screen.press("7", "j")
        assert "quarantined" in screen.cursor_line
        await screen.press("2", "slash", "u")
        assert "usr_carla" in screen.text
        assert "No customer" not in screen.text


async def test_a_disputed_payment_says_how_its_dispute_stands(open_screen: Opener, backend: Backend):
    (paid,) = await backend.read(lambda database: payments_page(database, account_id=account_key(CARLA)))
    row = {
        "id": 1,
        "payment_id": paid.id,
        "account_id": paid.account_id,
        "stripe_dispute_id": "du_1",
        "currency": "usd",
    }
    row |= {"status": "needs_response", "status_at_ms": NOW, "amount_minor": 600, "reason": "fraudulent"}
    row |= {"evidence_due_at_ms": NOW, "hold_id": 5, "frozen": 450 * CREDIT, "created_at_ms": NOW, "updated_at_ms": NOW}
    Dispute.insert(row).execute(backend.database.primary)
    async with open_screen(customer=CARLA) as screen:
        await screen.press("p", "enter")
        await screen.app.screen.refresh_view()
        await screen.settle()
        assert "needs response: $6.00, fraudulent" in screen.text
        assert "450 credits" in screen.text
        assert "answer by" in screen.text


async def test_a_payment_that_waits_for_an_operator_is_marked_in_the_list(open_screen: Opener, backend: Backend):
    reason = "the price of session cs_1 is 1, but ours is 1000"
    change = Payment.update(detail=reason).where(Payment.grant_transfer_id.is_null())
    change.execute(backend.database.primary)
    async with open_screen("4") as screen:
        assert "open !" in screen.text
        while "open !" not in screen.cursor_line:
            await screen.press("j")
        await screen.press("enter")
        assert "the price of session cs_1" in screen.text
