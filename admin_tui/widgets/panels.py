"""Framed blocks of a few lines: facts beside each other, and what went wrong."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content
from textual.widgets import Static

from ..safe_text import safe_text
from .virtual_table import Cell, Tone

Line = Sequence[Cell]
"""A line of a panel: cells one after the other."""

_STYLES = {
    Tone.PLAIN: "",
    Tone.MUTED: "$foreground-muted",
    Tone.STRONG: "bold",
    Tone.GOOD: "$text-success",
    Tone.BAD: "bold $text-error",
    Tone.WARNING: "$text-warning",
}


class Panel(Static):
    """A titled frame with lines; without a frame and on one line where its class is ``-slim``."""

    def __init__(self, title: str, *, id: str) -> None:
        super().__init__("", id=id, markup=False, classes="panel")
        self.border_title = Content(safe_text(title))

    def show(self, lines: Sequence[Line], *, title: str | None = None) -> None:
        """Draw ``lines``; texts are cleaned here."""
        if title is not None:
            self.border_title = Content(safe_text(title))
        self.update(Content("\n").join(content_of(line) for line in lines))


class FailurePanel(Static):
    """Says what could not be read and how to try again; hidden while all is well."""

    def __init__(self) -> None:
        super().__init__("", id="failure", markup=False)
        self.display = False

    def show_failure(self, message: str) -> None:
        """Appear with ``message``."""
        self.update(Content.assemble(("✗ ", "bold"), safe_text(message), ("   f5 try again", "bold")))
        self.display = True

    def clear(self) -> None:
        """Disappear."""
        self.display = False


def content_of(line: Line) -> Content:
    """Return a line as Textual draws it, with nothing in it interpreted."""
    return Content.assemble(*((safe_text(cell.text), _STYLES[cell.tone]) for cell in line))
