"""Token counts before the call, offline: exact for OpenAI's models, GPT-OSS and Qwen 2 to 3, a bound for all others.

The bound is made from the count of a vocabulary that we have (:mod:`.weights`), so it is as quick as an exact count,
and 1.1 to 1.6 times too high for English. Counts of longer texts are remembered, as agents send the same ones with
every call: their digests, never the texts. The work per prompt is limited; what exceeds the limit and was not seen
before counts by its bytes, three to five times too high for English. Texts beyond 32 kB are counted in pieces, so that
each call remembers some more of them.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from functools import lru_cache
from hashlib import blake2b
from types import ModuleType
from typing import Final, Protocol

from .families import Family, family_of
from .weights import bound_tokens

MAX_TOKENISED_BYTES: Final = 32_768
"""Text newly tokenised per prompt, under a millisecond; what exceeds it and was not seen before gets the bound."""

MAX_SCANNED_CHARACTERS: Final = 1_000_000
"""Text read per prompt, a few milliseconds; beyond it a character counts as its longest encoding, unread."""

PIECE_CHARACTERS: Final = 8_192
"""Longer texts are counted in pieces of so many; each is 32 kB at most, so that it can be tokenised."""

_TOKENS_PER_CUT: Final = 2
_CACHED_COUNTS: Final = 8_192
_CACHED_FROM_BYTES: Final = 512
_LONGEST_ENCODING: Final = 4


class _Tokenizer(Protocol):
    def count(self, text: str) -> int: ...


class TokenCounter:
    """Counts the texts of one prompt, within the prompt's budgets of work. Make one per prompt.

    ``is_exact`` says whether every text so far was counted with the model's own vocabulary, whole.
    """

    __slots__ = ("_family", "_to_scan", "_to_tokenise", "is_exact")

    def __init__(self, family: Family) -> None:
        self._family = family
        self._to_scan = MAX_SCANNED_CHARACTERS
        self._to_tokenise = MAX_TOKENISED_BYTES
        self.is_exact = family.weights is None

    def count(self, text: str) -> int:
        """Return the tokens of ``text``, exactly or as an upper bound; O(1) once the budgets are used up."""
        if len(text) > self._to_scan:
            self.is_exact = False
            return len(text) if text.isascii() else len(text) * _LONGEST_ENCODING
        self._to_scan -= len(text)
        data = text.encode("utf-8", "surrogatepass")
        if len(data) <= MAX_TOKENISED_BYTES:
            return self._count_piece(text, data)
        self.is_exact = False
        pieces = [text[start : start + PIECE_CHARACTERS] for start in range(0, len(text), PIECE_CHARACTERS)]
        tokens = sum(self._count_piece(piece, piece.encode("utf-8", "surrogatepass")) for piece in pieces)
        return tokens + _TOKENS_PER_CUT * len(pieces)

    def _count_piece(self, text: str, data: bytes) -> int:
        key = None
        if len(data) >= _CACHED_FROM_BYTES:
            # A digest: agents send the same long texts with every call, and prompts do not belong in our memory.
            key = (self._family.name, blake2b(data, digest_size=16).digest())
            known = _counts.get(key)
            if known is not None:
                return known
        counted = self._tokenised(text, len(data))
        weights = self._family.weights
        if counted is None:
            self.is_exact = False
            return bound_tokens(data) if weights is None else weights.unread(data)
        tokens = counted if weights is None else weights.bound(data, counted)
        if key:
            _remember(key, tokens)
        return tokens

    def _tokenised(self, text: str, length: int) -> int | None:
        tokenizer = _tokenizer(self._family.encoding)
        if tokenizer is None or length > self._to_tokenise:
            return None
        self._to_tokenise -= length
        try:
            return tokenizer.count(text)
        except UnicodeEncodeError:  # a lone surrogate, which no provider accepts either
            return None


def count_text_tokens(text: str, model: str) -> int:
    """Return the tokens of ``text`` for ``model``: exact for OpenAI's models up to 32 kB, else an upper bound.

    Takes a few milliseconds at most, after the first call for a vocabulary (see :func:`warm_up`).
    """
    return TokenCounter(family_of(model)).count(text)


def warm_up(*models: str) -> None:
    """Load the vocabularies of ``models`` (or of OpenAI's current ones); about 50 ms and 70 MB each."""
    for family in {family_of(model) for model in models or ("gpt-4o",)}:
        _tokenizer(family.encoding)


# Bounded by forgetting everything: simpler than an order of use, and refilled within a few requests.
_counts: dict[tuple[str, bytes], int] = {}


def _remember(key: tuple[str, bytes], tokens: int) -> None:
    if len(_counts) >= _CACHED_COUNTS:
        _counts.clear()
    _counts[key] = tokens


@lru_cache(None)
def _tokenizer(encoding: str) -> _Tokenizer | None:
    bindings = load_bindings("bpe_openai")
    tokenizer: _Tokenizer | None = bindings.tokenizer_for_encoding(encoding) if bindings else None
    return tokenizer


def load_bindings(package: str) -> ModuleType | None:
    """Load the native module of ``package`` alone; None if this platform has no wheel of it.

    The package's own ``__init__`` builds every vocabulary a second time as Python dicts: 0.4 s and 70 MB more. The
    module is registered under its usual name, so a host that imports the package shares it.
    """
    name = f"{package}._bindings"
    if name in sys.modules:
        return sys.modules[name]
    parent = importlib.util.find_spec(package)
    found = parent and importlib.machinery.PathFinder.find_spec(name, list(parent.submodule_search_locations or ()))
    if not found or not found.loader:
        return None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    sys.modules[name] = module
    return module
