"""The one door for text that others wrote: names, references, notes, event payloads, error messages.

A terminal obeys what it is sent: an escape sequence in a name can write to the clipboard, a right-to-left override can
swap what an amount seems to say. So nothing but visible characters passes; each other one shows as one mark.
"""

from __future__ import annotations

import unicodedata
from typing import Final

_MARK: Final = "\ufffd"
_BLANKS: Final = frozenset("\t\n\r\u2028\u2029\u00a0")
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Cn", "Co"})
_VARIATION_SELECTORS: Final = range(0xFE00, 0xFE10)


def safe_text(value: object) -> str:
    """Return ``value`` as one line of visible text; ``None`` is empty.

    Control characters (ESC, C0, C1), bidirectional and other format characters, surrogates and unassigned code points
    become U+FFFD, line breaks and tabs a space. Markup is not interpreted anywhere, so brackets stay as they are.
    """
    text = "" if value is None else str(value)
    return text if text.isascii() and text.isprintable() else "".join(map(_safe, text))


def _safe(character: str) -> str:
    if character in _BLANKS:
        return " "
    if ord(character) in _VARIATION_SELECTORS:  # they would change a cell's width after it was measured
        return ""
    return _MARK if unicodedata.category(character) in _UNSEEN else character
