"""How many tokens a vocabulary makes that we do not have, from how many one makes that we have.

The yardstick is OpenAI's ``cl100k_base``: a weak vocabulary, so few others make many more tokens of the same text. What
they do worse is known by class of bytes: digits one by one, capitals, punctuation, runs. A family's count is bounded by

    yardstick * tokens + digits * (bytes 0-9) + capitals * (bytes A-Z) + … + 1

with the weights below, in hundredths of a token. They solve a linear program: the least overestimate of ordinary text
under which no sample has more tokens than its bound, plus 5 %. The samples were 528 translations of the Universal
Declaration of Human Rights in 45 scripts, code, data, random and repetitive text (tests/pricing/samples.py) and 443
files of Debian and npm packages; on 454 other files the bound held with 2 to 12 % to spare. docs/estimates.md
publishes the errors, names the vocabularies, and says what the bound does not cover.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Final

from ..money import ceil_div

_HUNDRED: Final = 100
_LETTERS: Final = b"abcdefghijklmnopqrstuvwxyz"
_DIGITS: Final = b"0123456789"
_WORDS: Final = bytes(97 if byte in _LETTERS else 32 for byte in range(256))
"""Every letter as ``a``, everything else as a space."""
_RUN_OF_SPACES: Final = b" " * 8

_CLASSES: Final = {
    "c": map(chr, range(32)),
    "d": string.digits,
    "u": string.ascii_uppercase,
    "p": string.punctuation,
    "o": map(chr, range(128, 256)),
}
# One letter for each class, so that one pass over a text sorts its bytes and the rest is counting.
_CLASS_OF: Final = {ord(member): letter for letter, members in _CLASSES.items() for member in members}
_CLASS_OF_BYTE: Final = "".join(_CLASS_OF.get(byte, " ") for byte in range(256)).encode()


@dataclass(frozen=True, slots=True)
class Weights:
    """Hundredths of a token per token of the yardstick and per byte of each class.

    ``repeats`` are bytes that equal the one before, spaces left out; ``spaces`` are runs of eight spaces; ``tags`` are
    ``<``; ``others`` are the bytes of characters beyond ASCII.
    """

    yardstick: int
    digits: int = 0
    capitals: int = 0
    punctuation: int = 0
    controls: int = 0
    repeats: int = 0
    spaces: int = 0
    tags: int = 0
    others: int = 0

    def bound(self, data: bytes, tokens: int) -> int:
        """Return the bound for UTF-8 ``data`` of which the yardstick makes ``tokens``; 0 for no data."""
        if not data:
            return 0
        classes = data.translate(_CLASS_OF_BYTE)
        weighed = (
            self.yardstick * tokens
            + self.digits * classes.count(b"d")
            + self.capitals * classes.count(b"u")
            + self.punctuation * classes.count(b"p")
            + self.controls * classes.count(b"c")
            + self.spaces * data.count(_RUN_OF_SPACES)
        )
        # The rest where it counts at all: most families need none of it.
        weighed += self.others and self.others * classes.count(b"o")
        weighed += self.repeats and self.repeats * _repeats(data)
        weighed += self.tags and self.tags * data.count(b"<")
        return ceil_div(weighed, _HUNDRED) + 1

    @staticmethod
    def unread(data: bytes) -> int:
        """Return the bound for UTF-8 ``data`` that the yardstick has not counted: five tokens for four bytes.

        No sample made more than 1.16 tokens of a byte. That is possible where a tokeniser marks words and capitals by
        tokens of their own (Claude).
        """
        return len(data) * 5 // 4 + bool(data)


CLAUDE: Final = Weights(150, capitals=21, punctuation=27, controls=5, spaces=43)
"""Claude 3 to 4.6, by the reconstruction of its counts in the package ``ctok``."""

CLAUDE_4_7: Final = Weights(185, capitals=64, punctuation=13, repeats=82, spaces=41)
"""Claude from Opus 4.7 on, which makes a third more tokens of English; by the same reconstruction."""

GEMINI: Final = Weights(123, digits=65, punctuation=67, spaces=45, tags=241)
"""Gemini and Gemma, by the vocabularies of Gemma 2 and Gemma 3."""

LLAMA: Final = Weights(107, digits=1, capitals=2, punctuation=9, controls=38, spaces=7)
"""Llama 3 and 4. Llama 3's vocabulary is the yardstick's with more entries."""

DEEPSEEK: Final = Weights(114, capitals=8, punctuation=30, controls=3)
"""DeepSeek V3, R1 and V4."""

MISTRAL: Final = Weights(133, digits=58, capitals=3, punctuation=68, controls=65, repeats=36, spaces=45, others=30)
"""Mistral, by both of its vocabularies, the SentencePiece of 32,000 entries and Tekken."""

ANY: Final = Weights(185, digits=36, capitals=61, punctuation=12, controls=18, repeats=82, spaces=41, others=3)
"""The worst of all the vocabularies that were measured, for a model whose own is unknown."""


def bound_tokens(data: bytes) -> int:
    """Return an upper bound of the tokens that OpenAI's vocabularies make of UTF-8 ``data``, without counting.

    One token for every byte, but two for three letters ``a``-``z`` that follow another letter; as many of those as
    there are digits count like other bytes. A byte-level vocabulary never makes more tokens than bytes, so only the
    letters are an assumption: it held on every sample, rare letters at random included (0.63 tokens per byte).
    """
    words = data.translate(_WORDS)
    following = words.count(b"a") - words.count(b" a") - words.startswith(b"a")
    dense = following - _members(data, _DIGITS)
    return len(data) - max(0, dense) // 3 + bool(data)


def _members(data: bytes, members: bytes) -> int:
    return len(data) - len(data.translate(None, members))


def _repeats(data: bytes) -> int:
    # Both ends as one large number each: their difference has a zero byte wherever two neighbours are equal.
    text = data.translate(None, b" ")
    if len(text) < 2:
        return 0
    return (int.from_bytes(text[1:]) ^ int.from_bytes(text[:-1])).to_bytes(len(text) - 1).count(0)
