"""Budgets and runs of a customer: shown as they are, changed by whoever may and confirms it, with a trail."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from admin_seed import CREDIT, HOSTILE, NOW, Opener, Screen, seed, shop_on
from textual.widgets import Button, Input, Select

from admin_tui import feeds
from admin_tui.app import AdminApp
from admin_tui.backend import Backend, BudgetDecision, open_backend
from admin_tui.screens.account_panels import AccountFacts, cap_line
from admin_tui.screens.budget_dialogs import BudgetCase, CapDialog, NewCapDialog, RemovalDialog, ResumeDialog
from admin_tui.screens.budget_preview import preview_lines, state_cell
from admin_tui.screens.budgets import BudgetsScreen
from credits_plugin.errors import OutcomeUnknown
from credits_plugin.ledger import keysets
from credits_plugin.ledger.budget_entries import BudgetKind, BudgetPeriod, BudgetStatus
from credits_plugin.ledger.budget_queries import BudgetView, budgets_named, budgets_page
from credits_plugin.ledger.ids import account_key
from credits_plugin.ledger.queries import Balance
from credits_plugin.models import AdminAction, Budget
from credits_plugin.settings import Settings

CARLA = "usr_carla"
CI = (BudgetKind.KEY, "ci", BudgetPeriod.DAY)
NIGHTLY = (BudgetKind.RUN, "nightly-42", BudgetPeriod.NONE)


@pytest.fixture
def capped(backend: Backend) -> Backend:
    """The seeded shop, with budgets and runs of Carla's."""
    with shop_on(backend.settings.database_url) as shop:
        shop.budgets(CARLA)
    return backend


def actions(backend: Backend) -> list[tuple]:
    """(actor, action, subject, reason, limit before, limit after) of what was done, oldest first."""
    rows = AdminAction.select().order_by(AdminAction.id).dicts().execute(backend.database.primary)
    limits = lambda row: [json.loads(row[name])["limit"] if row[name] else None for name in ("before", "after")]  # noqa: E731 - two calls
    return [(row["actor"], row["action"], row["subject"], row["reason"], *limits(row)) for row in rows]


def stored(backend: Backend, name: str) -> list[BudgetView]:
    return budgets_named(backend.database.primary, account_key(CARLA), name, at_ms=NOW)


async def put_cursor_on(screen: Screen, text: str) -> None:
    await screen.press("g")
    while text not in screen.cursor_line:
        await screen.press("j")


async def fill_in(screen: Screen, **fields: str) -> Button:
    for name, value in fields.items():
        screen.app.screen.query_one(f"#{name}", Input).value = value
        await screen.settle()
    return screen.app.screen.query_one("#send", Button)


async def send(screen: Screen, **fields: str) -> None:
    button = await fill_in(screen, **fields)
    assert not button.disabled, screen.text
    button.press()
    await screen.settle()


@pytest.mark.usefixtures("capped")
async def test_a_customers_budgets_show_limit_spent_held_left_and_when_they_begin_anew(open_screen: Opener):
    async with open_screen("b", customer=CARLA) as screen:
        shown = [line.strip("│▸ ").split() for line in screen.lines[2:13]]
        assert shown[1] == ["account", "day", "open", "40", "3.25", "1.5", "35.25", "14h"]
        assert ["member", "dana@example.io", "month", "open", "100", "0", "0", "100", "11d"] in shown
        assert ["run", "nightly-42", "\N{EN DASH}", "PAUSED", "10", "0", "0", "10", "\N{EN DASH}"] in shown
        assert ["run", "seen", "\N{EN DASH}", "open", *"no limit 0 1.5 no limit".split(), "\N{EN DASH}"] in shown
        await screen.resize(80, 24)
        assert "76.75" in screen.text
        await put_cursor_on(screen, "nightly-42")
        await screen.press("enter")
        assert "PAUSED: refuses the run's requests until it is resumed" in screen.text


@pytest.mark.usefixtures("capped")
async def test_the_customers_screen_says_what_is_left_and_leads_to_the_budgets(open_screen: Opener):
    async with open_screen(customer=CARLA) as screen:
        assert (
            "35.25 of 40 left today · 495.25 of 500 left this month · 7 for members, keys and runs (b)" in screen.text
        )
        await screen.resize(80, 24)
        assert "budgets and runs 9" in screen.text
        await screen.press("b")
        assert isinstance(screen.app.screen, BudgetsScreen)
        await screen.press("slash")
        await screen.type("report-7")
        assert "rows 1\N{EN DASH}1 of 1" in screen.text


async def test_a_customer_without_budgets_has_no_panel_of_them_and_a_list_that_says_how_to_begin(open_screen: Opener):
    async with open_screen(customer=CARLA) as screen:
        assert "Budgets" not in screen.text.replace("b budgets", "")
        await screen.press("b")
        assert "n sets a cap" in screen.text


async def test_a_customer_with_more_runs_than_are_counted_opens_at_once_and_its_end_is_at_hand(
    open_screen: Opener, capped: Backend, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(keysets, "COUNT_CAP", 100)
    monkeypatch.setattr(feeds, "COUNT_CAP", 100)
    [run] = Budget.select().where(Budget.name == "seen").dicts().execute(capped.database.primary)
    rows = [run | {"id": number, "name": f"run-{number:05}"} for number in range(1, 301)]
    Budget.insert_many(rows).execute(capped.database.primary)
    async with open_screen("b", customer=CARLA) as screen:
        assert "of >100" in screen.text
        await screen.press(*["pagedown"] * 4)
        assert "····" not in screen.text
        assert "run-00" in screen.cursor_line
        await screen.press("G")
        assert "run seen" in screen.cursor_line
        assert "····" not in screen.text


async def test_an_operator_changes_a_cap_by_typing_it_twice_and_leaves_a_trail(open_screen: Opener, capped: Backend):
    async with open_screen("b", customer=CARLA, size=(80, 24)) as screen:
        await put_cursor_on(screen, "key ci")
        await screen.press("s")
        dialog = screen.app.screen
        assert isinstance(dialog, CapDialog)
        assert dialog.focused is dialog.query_one("#cancel")
        for amount, confirm in (("", ""), ("20", ""), ("20", "2"), ("-1", "-1"), ("x", "x"), ("1e30", "1e30")):
            assert (await fill_in(screen, amount=amount, confirm=confirm)).disabled, (amount, confirm)
        await send(screen, amount="20", note="asked by mail", confirm="20.0")
        assert "✓ key ci per day: 20, " in screen.text
        await screen.press("enter")
        assert "20" in screen.cursor_line.split()
    assert [view.limit for view in stored(capped, "ci")] == [20 * CREDIT]
    assert actions(capped) == [
        ("dana", "set_budget", "budget key ci per day", "asked by mail", 12_500_000, 20 * CREDIT)
    ]


async def test_a_new_cap_shows_the_one_that_is_there_already_before_it_changes_it(open_screen: Opener, capped: Backend):
    async with open_screen("b", "n", customer=CARLA, size=(80, 24)) as screen:
        dialog = screen.app.screen
        assert isinstance(dialog, NewCapDialog)
        await fill_in(screen, amount="9")
        assert "500" in screen.text  # the account's own of this month
        dialog.query_one("#kind", Select).value = BudgetKind.KEY
        await screen.settle()
        assert "a key has a name" in screen.text
        dialog.query_one("#period", Select).value = BudgetPeriod.DAY
        assert (await fill_in(screen, name="ci", confirm="9")).disabled is False
        assert "12.5" in screen.text
        await fill_in(screen, name="new")
        assert "12.5" not in screen.text
        await send(screen, amount="7", confirm="7")
        assert "✓ key new per day: 7, 7 left" in screen.text
    assert [view.limit for view in stored(capped, "ci")] == [12_500_000]
    assert actions(capped) == [("dana", "set_budget", "budget key new per day", "", None, 7 * CREDIT)]


async def test_a_cap_below_what_is_spent_says_that_everything_is_refused(open_screen: Opener, capped: Backend):
    async with open_screen("b", "j", "s", customer=CARLA, size=(80, 24)) as screen:
        await fill_in(screen, amount="1")
        assert "! leaves nothing to spend: every request is refused until 2026-04-01" in screen.text
        assert "Cancel" in screen.text
        await screen.press("escape")
        assert isinstance(screen.app.screen, BudgetsScreen)
    assert actions(capped) == []


async def test_an_operator_removes_a_cap_by_typing_its_limit(open_screen: Opener, capped: Backend):
    async with open_screen("b", customer=CARLA, size=(80, 24)) as screen:
        await put_cursor_on(screen, "key ci")
        await screen.press("d")
        assert isinstance(screen.app.screen, RemovalDialog)
        assert "! bounds it no longer and forgets 3.25 spent" in screen.text
        assert (await fill_in(screen, confirm="12")).disabled
        await send(screen, confirm="12.5")
        assert "✓ removed: key ci per day is bounded no longer" in screen.text
        await screen.press("enter")
        assert "key ci" not in screen.text
    assert stored(capped, "ci") == []
    assert actions(capped) == [("dana", "remove_budget", "budget key ci per day", "", 12_500_000, None)]


async def test_an_operator_lets_a_paused_run_go_on_with_more(open_screen: Opener, capped: Backend):
    async with open_screen("b", customer=CARLA, size=(80, 24)) as screen:
        await put_cursor_on(screen, "nightly-42")
        await screen.press("r")
        assert isinstance(screen.app.screen, ResumeDialog)
        assert (await fill_in(screen, amount="0.5", confirm="0.5")).disabled
        assert "whole credits" in screen.text
        await send(screen, amount="5", confirm="5")
        assert "✓ open: 15 in all, 15 left" in screen.text
        await screen.press("enter")
        assert "open" in screen.cursor_line
    assert [(view.limit, view.status) for view in stored(capped, "nightly-42")] == [(15 * CREDIT, BudgetStatus.OPEN)]
    assert actions(capped) == [("dana", "resume_run", "run nightly-42", "", 10 * CREDIT, 15 * CREDIT)]


@pytest.mark.usefixtures("capped")
async def test_a_key_that_does_not_fit_the_row_says_which_does(open_screen: Opener):
    async with open_screen("b", "r", customer=CARLA) as screen:
        assert "this is no run: s changes its limit" in screen.notices
        await screen.press("G", "s", "d")
        assert "a run is given more where it is resumed: r" in screen.notices
        assert "a run keeps its budget" in screen.notices
        await screen.press("r")
        await fill_in(screen, amount="3")
        assert "counted and not bounded" in screen.text


async def test_a_run_that_was_purged_meanwhile_is_said_to_be_gone(open_screen: Opener, capped: Backend):
    async with open_screen("b", "G", customer=CARLA) as screen:
        Budget.delete().where(Budget.name == "seen").execute(capped.database.primary)
        await screen.press("r")
        assert "run seen is gone" in screen.notices


async def test_a_read_only_session_says_so_and_changes_nothing(open_screen: Opener, capped: Backend):
    capped.is_read_only = True
    async with open_screen("b", customer=CARLA, size=(80, 24)) as screen:
        assert "RO" in screen.lines[0]
        await screen.press("s", "n", "d", "G", "r")
        told = "this session is read-only: start credits-admin without --read-only to change budgets"
        assert screen.notices.splitlines() == [told] * 4
        assert isinstance(screen.app.screen, BudgetsScreen)
    assert actions(capped) == []
    decision = BudgetDecision(CARLA, CI, CREDIT, "", 1)
    for change in (capped.set_cap, capped.remove_cap, capped.resume_run):
        with pytest.raises(Exception, match="read-only"):
            await change(decision)


async def test_an_unknown_outcome_is_tried_again_and_adds_once(capped: Backend):
    (run,) = stored(capped, "nightly-42")
    case = BudgetCase(CARLA, NIGHTLY, run, capped.new_id(), NOW)
    asked: list[BudgetDecision] = []

    async def answer_lost_once(decision: BudgetDecision) -> BudgetView:
        asked.append(decision)
        made = await capped.resume_run(decision)
        if len(asked) == 1:
            await asyncio.sleep(0)
            raise OutcomeUnknown("the database failed during the commit; repeat the same command")
        return made

    app = AdminApp(capped)
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        screen = Screen(app, pilot)
        app.push_screen(ResumeDialog(case, answer_lost_once))
        await screen.settle()
        await send(screen, amount="5", confirm="5")
        assert "✗ the database failed during the commit" in screen.text
        await send(screen)
        assert "✓ open: 15 in all" in screen.text
        assert len(actions(capped)) == 1
    assert asked[0] == asked[1]


@pytest.mark.usefixtures("capped")
async def test_hostile_names_of_keys_runs_and_models_put_no_control_byte_on_any_screen(
    open_screen: Opener, capped: Backend
):
    with shop_on(capped.settings.database_url, now=NOW + 1) as shop:
        shop.budgets(HOSTILE)
        shop.observations()
    async with open_screen("b", customer=HOSTILE, size=(80, 24)) as screen:
        seen = [screen.text]
        for name, keys in (("key \ufffd", "sd"), ("run [/]", "r"), ("key \ufffd", ["enter"])):
            for key in keys:
                await put_cursor_on(screen, name)
                await screen.press(key)
                seen.append(screen.text)
                await screen.press("escape")
        await put_cursor_on(screen, "run [/]")
        await screen.press("r")
        await send(screen, amount="1", confirm="1")
        seen.append(screen.text)
        await screen.press("escape", "y", "d")
        seen += [screen.text, screen.notices]
        await screen.press("3", "o", "enter")
        seen.append(screen.text)
        joined = "\n".join(seen)
        assert "[@click=app" in joined
        assert not {character for character in joined if ord(character) < 32 or 127 <= ord(character) < 160} - {"\n"}
        assert not {"\u202e", "\u200b"} & set(joined)
        assert screen.app.is_running
    (run,) = budgets_named(capped.database.primary, account_key(HOSTILE), HOSTILE, at_ms=NOW)
    assert run.limit == 2 * CREDIT  # the run of exactly that name, not of what was drawn


@pytest.mark.usefixtures("capped")
async def test_the_holds_report_is_one_key_from_the_ledger(open_screen: Opener, settings: Settings):
    with shop_on(settings.database_url) as shop:
        shop.observations()
    async with open_screen("3", "o") as screen:
        (line,) = [line for line in screen.lines if "claude-opus-4" in line]
        assert line.strip("│▸ ").split() == ["claude-opus-4", "100", "10/10/85", "79/767", "4", "12", "1,234", "0"]
        await screen.press("j", "enter")
        assert "10 % of a hold or less in 10 of 100 calls, 10 in 50, 85" in screen.text
        assert "79 tokens or less in 50 of 100 calls, 767 in 95" in screen.text
        await screen.press("escape", "escape", "question_mark")
        assert "Show how good holds were, by model" in screen.text


async def test_the_same_budgets_stand_and_change_on_postgresql(fresh_postgresql_url: str):
    seed(fresh_postgresql_url)
    with shop_on(fresh_postgresql_url) as shop:
        shop.budgets(CARLA)
    backend = open_backend(Settings(database_url=fresh_postgresql_url), actor="dana", is_read_only=False)
    backend.clock = lambda: NOW
    app = AdminApp(backend)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        screen = Screen(app, pilot)
        await screen.open_customer(CARLA)
        await screen.press("b")
        assert "PAUSED" in screen.text
        await put_cursor_on(screen, "nightly-42")
        await screen.press("r")
        await send(screen, amount="5", confirm="5")
        await screen.press("enter")
        assert "PAUSED" not in screen.text
        await screen.press("g", "d")
        await send(screen, confirm="40")
        await screen.press("enter", "G")
        assert "of 8" in screen.text
        found = await backend.read(lambda database: budgets_page(database, account_key(CARLA), at_ms=NOW))
        assert len(found) == 8
        assert [row[1:3] for row in actions(backend)] == [
            ("resume_run", "run nightly-42"),
            ("remove_budget", "budget account per day"),
        ]
    backend.database.close_thread()


VIEW = BudgetView(*NIGHTLY, 10 * CREDIT, 4 * CREDIT, CREDIT, NOW, None, BudgetStatus.PAUSED, NOW)


def texts(lines) -> list[str]:
    return ["".join(cell.text for cell in line) for line in lines]


def test_a_preview_shows_before_and_after_and_warns_where_nothing_is_left():
    after = replace(VIEW, limit=5 * CREDIT, status=BudgetStatus.OPEN)
    lines = [line.split() for line in texts(preview_lines(VIEW, after))]
    assert lines[1:] == [
        ["state", "PAUSED", "used", "up"],
        ["limit", "10", "5"],
        ["spent", "4", "4"],
        ["held", "1", "1"],
        ["left", "5", "0"],
        "! leaves nothing to spend: its next request pauses it again".split(),
    ]
    gone = texts(preview_lines(VIEW, None))
    assert gone[-1] == "! bounds it no longer and forgets 4 spent"
    assert [line.split()[-1] for line in gone[1:-1]] == ["\N{EN DASH}"] * 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "PAUSED"),
        ({"status": BudgetStatus.WAITING}, "waiting"),
        ({"status": BudgetStatus.OPEN, "spent": 9 * CREDIT}, "used up"),
    ],
)
def test_a_state_says_whether_requests_get_through(change: dict, said: str):
    assert state_cell(replace(VIEW, **change)).text == said


def test_the_line_of_caps_says_what_is_left_of_the_customers_own():
    balance = Balance(1, "anna", 0, 0, 0, None, None, 0, NOW)
    cap = BudgetView(
        BudgetKind.ACCOUNT, "", BudgetPeriod.NONE, 5 * CREDIT, 7 * CREDIT, 0, NOW, None, BudgetStatus.OPEN, NOW
    )
    facts = AccountFacts(balance, None, [], [], NOW, [cap], 1)
    assert texts([cap_line(facts)]) == ["\N{MINUS SIGN}2 of 5 left in all · (b)"]
    assert texts([cap_line(replace(facts, caps=[], budgets=1_234))]) == ["1,234 for members, keys and runs (b)"]
