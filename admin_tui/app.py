"""The application: which screens there are, and how one gets to them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, ClassVar

from textual import on
from textual.app import App, SystemCommand
from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.screen import Screen

from .actions import Action, Where, actions_in, bindings
from .backend import Backend
from .screens.account import AccountScreen
from .screens.accounts import AccountsScreen
from .screens.base import AccountChosen, TableScreen
from .screens.help import HelpScreen
from .screens.ledger import LedgerScreen
from .screens.payments import PaymentsScreen
from .screens.webhooks import WebhooksScreen


class ActionCommands(Provider):
    """The palette's entries: every action of the screen it was opened on."""

    async def discover(self) -> Hits:
        """Offer everything while nothing is typed."""
        for action in self._actions():
            yield DiscoveryHit(_display(action), self._run(action), help=action.help)

    async def search(self, query: str) -> Hits:
        """Offer what matches label or help."""
        matcher = self.matcher(query)
        for action in self._actions():
            text = f"{_display(action)} {action.help}"
            if (score := matcher.match(text)) > 0:
                yield Hit(score, matcher.highlight(_display(action)), self._run(action), help=action.help)

    def _actions(self) -> Iterable[Action]:
        places = [self.screen.WHERE] if isinstance(self.screen, TableScreen) else []
        return (
            action for action in actions_in(*places, Where.SCREEN, Where.ANYWHERE) if action.name != "command_palette"
        )

    def _run(self, action: Action) -> Callable[[], Awaitable[None]]:
        target = self.app if Where.ANYWHERE in action.where else self.screen

        async def run() -> None:
            await self.app.run_action(action.name, default_namespace=target)

        return run


class AdminApp(App[None]):
    """The admin UI on one backend, which it closes when it ends."""

    CSS_PATH = "admin.tcss"
    TITLE = "credits admin"
    COMMANDS: ClassVar[set[type[Provider] | Callable[[], type[Provider]]]] = {ActionCommands}
    BINDINGS = bindings(Where.ANYWHERE)
    ENABLE_COMMAND_PALETTE = True

    def __init__(self, backend: Backend) -> None:
        super().__init__()
        self.backend = backend
        for name, screen in _SCREENS.items():
            self.add_mode(name, partial(screen, backend))

    def on_mount(self) -> None:
        """Open the first screen."""
        self.theme = "textual-dark"
        self.switch_mode("accounts")

    async def on_unmount(self) -> None:
        """Close the database."""
        await self.backend.close()

    def action_go(self, name: str) -> None:
        """Go to a screen; to its first level where it is open already."""
        if isinstance(self.screen, TableScreen):
            if self.current_mode == name:
                while len(self.screen_stack) > 1:
                    self.pop_screen()
            else:
                self.switch_mode(name)

    def action_help(self) -> None:
        """Show all keys."""
        if isinstance(self.screen, TableScreen):
            self.push_screen(HelpScreen(self.screen.WHERE))

    @on(AccountChosen)
    def _open_account(self, event: AccountChosen) -> None:
        self.push_screen(AccountScreen(self.backend, event.account_id, external_id=event.external_id))

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:  # noqa: ARG002 - Textual's signature
        """Offer none of Textual's own commands: the registry has all of ours."""
        return ()


_SCREENS: dict[str, type[TableScreen[Any]]] = {
    "accounts": AccountsScreen,
    "ledger": LedgerScreen,
    "payments": PaymentsScreen,
    "webhooks": WebhooksScreen,
}


def _display(action: Action) -> str:
    return f"{action.label[:1].upper()}{action.label[1:]}"
