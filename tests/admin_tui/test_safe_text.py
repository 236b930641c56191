"""Nothing that others wrote can steer the terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admin_tui.safe_text import safe_text


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[2Jcleared", "\ufffd[2Jcleared"),
        ("\x1b]52;c;ZXZpbA==\x07", "\ufffd]52;c;ZXZpbA==\ufffd"),
        ("\x9b31mred", "\ufffd31mred"),
        ("invoice\u202egnp.exe", "invoice\ufffdgnp.exe"),
        ("zero\u200bwidth", "zero\ufffdwidth"),
        ("two\nlines\tand\u2028more", "two lines and more"),
        ("[/b][@click=app.quit]x[/]", "[/b][@click=app.quit]x[/]"),
        ("\ud800", "\ufffd"),
        ("Zoë 北京 ✓", "Zoë 北京 ✓"),
        (None, ""),
        (-7, "-7"),
    ],
)
def test_what_steers_a_terminal_becomes_visible(hostile: object, shown: str):
    assert safe_text(hostile) == shown


@given(st.text())
def test_no_text_keeps_a_control_or_format_character(text: str):
    assert not {unicodedata.category(character) for character in safe_text(text)} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
