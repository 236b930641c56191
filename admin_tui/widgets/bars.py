"""The line above and the line below every screen: where one is, and which keys work here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from textual.content import Content
from textual.widget import Widget

from ..actions import Action
from ..safe_text import safe_text

_NARROW = 100


class TopBar(Widget):
    """Names the screens by their keys, marks the one that is open, and says on what and as whom one works."""

    def __init__(self, tabs: Sequence[tuple[str, str]], *, current: str, facts: Sequence[str], live: bool) -> None:
        super().__init__()
        self._tabs = tabs
        self._current = current
        self._facts = [safe_text(fact) for fact in facts]
        self._mode = ("LIVE", "bold $text-error") if live else ("TEST", "bold $text-success")

    def render(self) -> Content:
        """Draw the line; facts go, the first ones first, where space lacks."""
        left = Content.assemble(("credits ", "bold"), *self._tab_parts())
        facts = list(self._facts)
        while facts and left.cell_length + len(" · ".join(facts)) + 8 > self.size.width:
            facts.pop(0)
        right = Content.assemble(self._mode, *(part for fact in facts for part in ((" · ", "$foreground-muted"), fact)))
        gap = max(self.size.width - left.cell_length - right.cell_length, 1)
        return Content.assemble(left, " " * gap, right)

    def _tab_parts(self) -> Iterable[tuple[str, str]]:
        for key, name in self._tabs:
            if name == self._current:
                yield f"[{key} {name}]", "bold reverse"
            else:
                yield f" {key} {name} ", "$foreground-muted"


class KeyBar(Widget):
    """Names the keys that work here, as many as fit; help and the search of all actions always do."""

    def __init__(self, actions: Iterable[Action]) -> None:
        super().__init__()
        self._actions = [action for action in actions if action.barred]

    def render(self) -> Content:
        """Draw the line; what fits least goes from the middle, for the last ones tell where the rest is."""
        parts = [_key(action) for action in self._actions]
        while len(parts) > 2 and sum(part.cell_length + 2 for part in parts) > self.size.width:
            parts.pop(-4 if len(parts) > 4 else 0)
        return Content("  ").join(parts)


def _key(action: Action) -> Content:
    return Content.assemble((action.key_text, "bold $accent"), f" {action.label}")
