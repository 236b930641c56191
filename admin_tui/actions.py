"""The one registry of actions. Key bindings, the key bar, the `?` screen and the command palette are made from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from textual.binding import Binding, BindingType


class Where(StrEnum):
    """Where an action works; the value heads its part of the help screen."""

    ANYWHERE = "Anywhere"
    SCREEN = "On every screen"
    LIST = "In every list"
    ACCOUNTS = "Customers"
    ACCOUNT = "Customer"
    BUDGETS = "Budgets and runs"
    LEDGER = "Ledger"
    PAYMENTS = "Payments"
    PAYMENT = "Payment"
    WEBHOOKS = "Webhooks"
    HOLDS = "Holds report"


@dataclass(frozen=True, slots=True)
class Action:
    """Something an operator can do: ``name`` is the method ``action_<name>`` of the screen, list or app in ``where``.

    ``label`` stands in the key bar where ``barred`` is set, ``help`` is the sentence of help screen and palette.
    """

    name: str
    keys: tuple[str, ...]
    label: str
    help: str
    where: tuple[Where, ...]
    barred: bool = False

    @property
    def key_text(self) -> str:
        """The first key as it is written on the key bar."""
        return key_text(self.keys[0])


_SYMBOLS: Final = {
    "enter": "↵",
    "escape": "esc",
    "slash": "/",
    "question_mark": "?",
    "up": "↑",
    "down": "↓",
    "pageup": "PgUp",
    "pagedown": "PgDn",
    "home": "Home",
    "end": "End",
}


def key_text(key: str) -> str:
    """Write a key as an operator knows it: ``^p`` for ``ctrl+p``, ``↵`` for ``enter``."""
    if key.startswith("ctrl+"):
        return "^" + key.removeprefix("ctrl+")
    return _SYMBOLS.get(key, key)


ACTIONS: Final[tuple[Action, ...]] = (
    Action("inspect", ("enter", "l"), "inspect", "Open what the cursor stands on", (Where.SCREEN,), barred=True),
    Action("refund", ("r",), "refund", "Refund the payment, in full or in part", (Where.PAYMENTS, Where.PAYMENT), True),
    Action("replay", ("r",), "replay", "Show what the event would do now, and do it", (Where.WEBHOOKS,), barred=True),
    Action("payments", ("p",), "payments", "Show this customer's payments", (Where.ACCOUNT,), barred=True),
    Action("budgets", ("b",), "budgets", "Show this customer's budgets and runs", (Where.ACCOUNT,), barred=True),
    Action("set_cap", ("s",), "set", "Change the limit of the cap", (Where.BUDGETS,), barred=True),
    Action("new_cap", ("n",), "new", "Cap the customer, a member or a key", (Where.BUDGETS,), barred=True),
    Action("remove_cap", ("d",), "remove", "Bound this spending no longer", (Where.BUDGETS,), barred=True),
    Action("resume", ("r",), "resume", "Let the run go on, with more to spend", (Where.BUDGETS,), barred=True),
    Action("holds", ("o",), "holds report", "Show how good holds were, by model", (Where.LEDGER,), barred=True),
    Action("customer", ("c",), "customer", "Open the customer of this row", (Where.PAYMENT,), barred=True),
    Action(
        "filter",
        ("slash",),
        "filter",
        "Filter the list; Esc ends it",
        (Where.ACCOUNTS, Where.LEDGER, Where.BUDGETS),
        barred=True,
    ),
    Action("copy", ("y",), "copy", "Copy the id of the row", (Where.SCREEN,), barred=True),
    Action("reload", ("f5", "ctrl+r"), "reload", "Read again from the database, from the top", (Where.SCREEN,)),
    Action(
        "back",
        ("escape", "h"),
        "back",
        "End the filter, or go back; never quits",
        (Where.SCREEN,),
        barred=True,
    ),
    Action("cursor_up", ("up", "k"), "up", "One row up", (Where.LIST,)),
    Action("cursor_down", ("down", "j"), "down", "One row down", (Where.LIST,)),
    Action("page_up", ("pageup", "ctrl+b"), "page up", "One page up", (Where.LIST,)),
    Action("page_down", ("pagedown", "ctrl+f"), "page down", "One page down", (Where.LIST,)),
    Action("first_row", ("home", "g"), "first", "To the first row, and follow new ones", (Where.LIST,)),
    Action("last_row", ("end", "G"), "last", "To the last row, however long the list", (Where.LIST,)),
    Action("go('accounts')", ("2",), "Customers", "Go to Customers", (Where.ANYWHERE,)),
    Action("go('ledger')", ("3",), "Ledger", "Go to the whole ledger", (Where.ANYWHERE,)),
    Action("go('payments')", ("4",), "Payments", "Go to Payments", (Where.ANYWHERE,)),
    Action("go('webhooks')", ("7",), "Webhooks", "Go to Stripe's webhooks", (Where.ANYWHERE,)),
    Action("help", ("question_mark",), "help", "Show all keys", (Where.ANYWHERE,), barred=True),
    Action("command_palette", ("ctrl+p",), "all", "Search all actions", (Where.ANYWHERE,), barred=True),
    Action("quit", ("q", "ctrl+q"), "quit", "Leave", (Where.ANYWHERE,), barred=True),
)


def actions_in(*places: Where) -> Iterator[Action]:
    """Yield the actions that work in any of ``places``, in the registry's order."""
    return (action for action in ACTIONS if set(action.where) & set(places))


def bindings(*places: Where) -> list[BindingType]:
    """Return Textual's bindings of ``places``."""
    return [Binding(",".join(action.keys), action.name, action.label, show=False) for action in actions_in(*places)]
