"""The registry: what it lists exists, and no key means two things in one place."""

from __future__ import annotations

from collections import Counter

import pytest

from admin_tui.actions import ACTIONS, Where, actions_in
from admin_tui.app import AdminApp
from admin_tui.screens.account import AccountScreen
from admin_tui.screens.accounts import AccountsScreen
from admin_tui.screens.budgets import BudgetsScreen
from admin_tui.screens.holds import HoldsScreen
from admin_tui.screens.ledger import LedgerScreen
from admin_tui.screens.payment import PaymentScreen
from admin_tui.screens.payments import PaymentsScreen
from admin_tui.screens.webhooks import WebhooksScreen
from admin_tui.widgets.virtual_table import VirtualTable

OWNERS = {
    Where.ANYWHERE: AdminApp,
    Where.LIST: VirtualTable,
    Where.SCREEN: AccountsScreen,
    Where.ACCOUNTS: AccountsScreen,
    Where.ACCOUNT: AccountScreen,
    Where.BUDGETS: BudgetsScreen,
    Where.LEDGER: LedgerScreen,
    Where.PAYMENTS: PaymentsScreen,
    Where.PAYMENT: PaymentScreen,
    Where.WEBHOOKS: WebhooksScreen,
    Where.HOLDS: HoldsScreen,
}


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.name)
def test_every_action_is_implemented_where_it_is_listed(action):
    for place in action.where:
        assert hasattr(OWNERS[place], "action_" + action.name.partition("(")[0])


@pytest.mark.parametrize("place", [place for place in Where if place not in {Where.LIST, Where.SCREEN, Where.ANYWHERE}])
def test_no_key_means_two_things_on_one_screen(place: Where):
    used = Counter(key for action in actions_in(place, Where.SCREEN, Where.LIST, Where.ANYWHERE) for key in action.keys)
    assert [key for key, times in used.items() if times > 1] == []
