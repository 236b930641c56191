"""The text that a stream has delivered, and how many tokens that is at most."""

from __future__ import annotations

import threading
from typing import Final

from ..pricing.tokens import count_text_tokens

_LONGEST_ENCODING: Final = 4


class StreamedText:
    """A growing text. Its tokens are counted only where their number matters: a token has a byte or more.

    Safe between threads: while a worker delivers, the event loop counts for the hold that it raises.
    """

    __slots__ = ("_bytes", "_fresh", "_known", "_lock", "_tokens")

    def __init__(self) -> None:
        self._known: list[str] = []
        self._fresh: list[str] = []
        self._bytes = 0
        self._tokens = 0
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        with self._lock:
            return bool(self._known or self._fresh)

    def __str__(self) -> str:
        with self._lock:
            return "".join((*self._known, *self._fresh))

    def add(self, text: str) -> None:
        """Append a piece; an empty one is none."""
        if text:
            with self._lock:
                self._fresh.append(text)
                self._bytes += len(text) if text.isascii() else len(text) * _LONGEST_ENCODING

    def tokens_at_most(self, enough: int, model: str) -> int:
        """Return an upper bound of the tokens; a loose one will do up to ``enough``, above that it is counted."""
        with self._lock:
            if self._tokens + self._bytes > enough and self._fresh:
                self._tokens += count_text_tokens("".join(self._fresh), model)
                self._known += self._fresh
                self._fresh, self._bytes = [], 0
            return self._tokens + self._bytes
