"""Token counts before the call, offline: exact for OpenAI's models, an upper bound for all others.

The bound counts UTF-8 bytes: two tokens for three bytes that are ``a``-``z`` or a space, one for every other byte, and
one for as many letters as there are digits (hashes, under vocabularies that split digits). A byte-level tokeniser never
makes more tokens than bytes, so only the first part is an assumption. It held for the o200k, cl100k and voyage3
vocabularies on prose in many scripts, code, JSON, base64, emoji and random letters, bytes and code points
(tests/pricing/test_tokens.py; closest was text of rare letters, 0.661 tokens per byte). Text crafted from letter pairs
that a vocabulary never merges can exceed it, by half at most: such a request may end in debt. English takes 0.24 tokens
per byte and is overestimated 2.8 times, Chinese 2 to 4 times, Hindi and Russian up to 6 times. Half a token per byte
would be closer, but is no bound: cl100k takes 0.92 on Amharic, 0.68 on Burmese, 0.51 on Chinese.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import re
import sys
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from types import ModuleType
from typing import Final, Protocol

MAX_TOKENISED_BYTES: Final = 32_768
"""Text newly tokenised per prompt, under a millisecond; what exceeds it and was not seen before gets the bound."""

MAX_SCANNED_CHARACTERS: Final = 1_000_000
"""Text read per prompt, about two milliseconds; beyond it a character counts as its longest encoding, unread."""

_CACHED_COUNTS: Final = 8_192
_CACHED_FROM_BYTES: Final = 512
_CACHED_FAMILIES: Final = 1_024
_MAX_NAME_LENGTH: Final = 200
_DENSE_BYTES: Final = b"abcdefghijklmnopqrstuvwxyz "
_DIGITS: Final = b"0123456789"
_LONGEST_ENCODING: Final = 4


@dataclass(frozen=True, slots=True)
class Family:
    """How a family of models counts a prompt: its vocabulary, and what the provider adds around our texts.

    ``encoding`` is None where the vocabulary is not public. ``per_request`` covers the frame and default system prompts
    of chat templates; ``with_tools`` the hidden instructions (Anthropic lists up to 530 tokens); ``per_image`` the
    dearest documented single image.
    """

    encoding: str | None
    per_request: int = 128
    per_message: int = 16
    per_tool: int = 32
    with_tools: int = 640
    per_image: int = 16_384


_OTHER: Final = Family(encoding=None)
_O200K: Final = Family(encoding="o200k_base", per_request=16, per_message=6, per_tool=16, with_tools=32)
# OpenAI multiplies this one model's image tokens: 2,833 + 8 tiles of 5,667.
_O200K_MINI: Final = Family("o200k_base", per_request=16, per_message=6, per_tool=16, with_tools=32, per_image=48_200)
_CL100K: Final = Family(encoding="cl100k_base", per_request=16, per_message=6, per_tool=16, with_tools=32)
_GPT_OSS: Final = Family(encoding="o200k_base")
_CLAUDE: Final = Family(encoding=None, per_image=5_200)

# In this order: the first match decides. A generation that is not listed may have a new vocabulary: it gets the bound.
_FAMILIES: Final = tuple(
    (re.compile(pattern), family)
    for pattern, family in (
        (r"gpt-oss", _GPT_OSS),
        (r"gpt-4o-mini", _O200K_MINI),
        (r"(chatgpt-4o|gpt-4o|gpt-4\.[1-9]|gpt-5|codex-mini|o[134](-|$))", _O200K),
        (r"(gpt-4|gpt-3\.5|gpt-35|text-embedding-(3|ada))", _CL100K),
        (r"(.*\.)?claude", _CLAUDE),
    )
)
_OPENAI_HOSTED: Final = (_O200K, _O200K_MINI, _CL100K)
_OPENAI_HOSTS: Final = ("openai", "azure", "ft")


class _Tokenizer(Protocol):
    def count(self, text: str) -> int: ...


class TokenCounter:
    """Counts the texts of one prompt, within the prompt's budgets of work. Make one per prompt."""

    __slots__ = ("_encoding", "_to_scan", "_to_tokenise")

    def __init__(self, family: Family) -> None:
        self._encoding = family.encoding
        self._to_scan = MAX_SCANNED_CHARACTERS
        self._to_tokenise = MAX_TOKENISED_BYTES

    def count(self, text: str) -> int:
        """Return the tokens of ``text``, exactly or as an upper bound; O(1) once the budgets are used up."""
        if len(text) > self._to_scan:
            return len(text) if text.isascii() else len(text) * _LONGEST_ENCODING
        self._to_scan -= len(text)
        data = text.encode("utf-8", "surrogatepass")
        exact = self._count_exactly(text, data) if self._encoding else None
        return bound_tokens(data) if exact is None else exact

    def _count_exactly(self, text: str, data: bytes) -> int | None:
        key = None
        if len(data) >= _CACHED_FROM_BYTES:
            # A digest: agents send the same long texts with every call, and prompts do not belong in our memory.
            key = (self._encoding, blake2b(data, digest_size=16).digest())
            known = _counts.get(key)
            if known is not None:
                return known
        tokenizer = _tokenizer(self._encoding or "")
        if tokenizer is None or len(data) > self._to_tokenise:
            return None
        self._to_tokenise -= len(data)
        try:
            tokens = tokenizer.count(text)
        except UnicodeEncodeError:  # a lone surrogate, which no provider accepts either
            return None
        if key:
            _remember(key, tokens)
        return tokens


def count_text_tokens(text: str, model: str) -> int:
    """Return the tokens of ``text`` for ``model``: exact for OpenAI's models up to 32 kB, else an upper bound.

    Takes less than two milliseconds whatever the length, after the first call for a vocabulary (see :func:`warm_up`).
    """
    return TokenCounter(family_of(model)).count(text)


def bound_tokens(data: bytes) -> int:
    """Return an upper bound of the tokens of UTF-8 ``data`` under any byte-level vocabulary; see the module's notes."""
    dense = len(data) - len(data.translate(None, _DENSE_BYTES))
    digits = len(data) - len(data.translate(None, _DIGITS))
    return len(data) - max(0, dense - digits) // 3 + bool(data)


def family_of(model: str) -> Family:
    """Return the family that ``model`` belongs to, by its name with or without a provider before it."""
    return _family_of(model.lower()) if len(model) <= _MAX_NAME_LENGTH else _OTHER


def warm_up(*models: str) -> None:
    """Load the vocabularies of ``models`` (or of OpenAI's current ones); about 50 ms and 70 MB each."""
    for family in {family_of(model) for model in models} or {_O200K}:
        if family.encoding:
            _tokenizer(family.encoding)


@lru_cache(_CACHED_FAMILIES)
def _family_of(name: str) -> Family:
    owner = ""
    for part in re.split("[/:]", name):
        for pattern, family in _FAMILIES:
            if pattern.match(part):
                # Somebody else's "gpt-4o-clone" has a vocabulary of its own.
                return family if family not in _OPENAI_HOSTED or not owner or owner in _OPENAI_HOSTS else _OTHER
        owner = part or owner
    return _OTHER


# Bounded by forgetting everything: simpler than an order of use, and refilled within a few requests.
_counts: dict[tuple[str | None, bytes], int] = {}


def _remember(key: tuple[str | None, bytes], tokens: int) -> None:
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
