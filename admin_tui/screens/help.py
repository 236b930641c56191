"""All keys, from the registry of actions."""

from __future__ import annotations

from typing import ClassVar, Final

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from ..actions import Where, actions_in, key_text

_COMMON: Final = (Where.SCREEN, Where.LIST, Where.ANYWHERE)


class HelpScreen(ModalScreen[None]):
    """Lists the keys of the screen it was opened from first, then all others."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark,enter", "close", "close", show=False)]

    def __init__(self, here: Where | None) -> None:
        super().__init__()
        first = [here] if here is not None and any(actions_in(here)) else []
        others = [place for place in Where if place not in {*_COMMON, here} and any(actions_in(place))]
        self._places = [*first, *_COMMON, *others]

    def compose(self) -> ComposeResult:
        """Yield one list."""
        with VerticalScroll(classes="dialog", id="help") as dialog:
            dialog.border_title = "Keys"
            dialog.border_subtitle = "esc closes"
            yield Static(Content("\n\n").join(_section(place) for place in self._places), markup=False)

    def action_close(self) -> None:
        """Close."""
        self.dismiss(None)


def _section(place: Where) -> Content:
    lines = [Content.assemble((place.value, "bold underline"))]
    for action in actions_in(place):
        keys = " ".join(key_text(key) for key in action.keys)
        lines.append(Content.assemble((f"  {keys:<12}", "bold $accent"), action.help))
    return Content("\n").join(lines)
