"""Families of models by name: whose vocabulary counts their prompts, and what the provider adds around our texts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from . import weights
from .media import ImageRule, claude_patches, dearest_image, gemini_tiles, patches, tiles
from .weights import Weights

_CACHED_FAMILIES: Final = 1_024
_MAX_NAME_LENGTH: Final = 200


@dataclass(frozen=True, slots=True)
class Family:
    """How a family of models counts a prompt.

    ``encoding`` is the vocabulary that we count with: the family's own where ``weights`` is None, else the yardstick of
    its weights. ``per_request`` covers the frame and default system prompts of chat templates; ``with_tools`` the
    hidden instructions (Anthropic lists up to 530 tokens). ``audio_per_s`` are tokens a second; 32 is the dearest
    documented rate.
    """

    name: str
    encoding: str = "cl100k_base"
    weights: Weights | None = None
    image: ImageRule = dearest_image
    audio_per_s: int = 32
    per_request: int = 128
    per_message: int = 16
    per_tool: int = 32
    with_tools: int = 640


def _openai(name: str, image: ImageRule, encoding: str = "o200k_base") -> Family:
    # https://platform.openai.com/docs/guides/audio: a token for 100 ms.
    return Family(
        name, encoding, image=image, audio_per_s=10, per_request=16, per_message=6, per_tool=16, with_tools=32
    )


_ANY: Final = Family("any", weights=weights.ANY)
_CLAUDE: Final = Family("claude", weights=weights.CLAUDE, image=claude_patches(1_640))
_CLAUDE_4_7: Final = Family("claude-4-7", weights=weights.CLAUDE_4_7, image=claude_patches(5_200))
_GEMINI: Final = Family("gemini", weights=weights.GEMINI, image=gemini_tiles(0))
_GEMINI_3: Final = Family("gemini", weights=weights.GEMINI, image=gemini_tiles(2_240))
_LLAMA: Final = Family("llama", weights=weights.LLAMA)
_QWEN: Final = Family("qwen", encoding="voyage3_base")  # Voyage took Qwen 2's vocabulary: the counts are the same
_DEEPSEEK: Final = Family("deepseek", weights=weights.DEEPSEEK)
_MISTRAL: Final = Family("mistral", weights=weights.MISTRAL)
_GPT_OSS: Final = Family("gpt-oss", encoding="o200k_base")

# In this order: the first match decides. A generation that is not listed may have a new vocabulary: it gets the bound.
_OPENAI: Final = (
    # The multipliers and tiles of https://platform.openai.com/docs/guides/images-vision. From 5.2 on the charges seen
    # are 1.2 tokens a patch and `detail: original` takes 10,000; small models whose own multiplier may hold: 2.46.
    (r"gpt-4o-mini", _openai("gpt-4o-mini", tiles(2_833, 5_667))),
    (r"gpt-4\.1-mini", _openai("gpt-4.1-mini", patches(162))),
    (r"gpt-4\.1-nano", _openai("gpt-4.1-nano", patches(246))),
    (r"(chatgpt-4o|gpt-4o|gpt-4\.[1-9])", _openai("gpt-4o", tiles(85, 170))),
    (r"gpt-5-(mini|nano)", _openai("gpt-5-mini", patches(246))),
    (r"gpt-5(-chat|-codex|-\d{4}|$)", _openai("gpt-5", tiles(70, 140))),
    (r"gpt-5(\.\d+)?(-pro|-codex|-chat|-\d{4}|$)", _openai("gpt-5.2", patches(120, 10_000))),
    (r"gpt-5", _openai("gpt-5.4-mini", patches(246, 10_000))),
    (r"(o4-mini|codex-mini)", _openai("o4-mini", patches(172))),
    (r"o[134](-|$)", _openai("o3", tiles(75, 150))),
    (r"(gpt-4|gpt-3\.5|gpt-35|text-embedding-(3|ada))", _openai("gpt-4", tiles(85, 170), "cl100k_base")),
)
_OTHERS: Final = (
    (r"gpt-oss", _GPT_OSS),
    (r"(.*\.)?claude-([12]|instant)", _ANY),
    # Opus 4.7 brought a vocabulary that makes more tokens; what we cannot tell apart is taken to have it.
    (r"(.*\.)?claude-3", _CLAUDE),
    (r"(.*\.)?claude-(opus|sonnet|haiku)-4([-.][0-6](?!\d)|-20|@20|-latest|$)", _CLAUDE),
    (r"(.*\.)?claude-4([.][0-6])?-(opus|sonnet|haiku)", _CLAUDE),
    (r"(.*\.)?claude", _CLAUDE_4_7),
    (r"gemini-[12]|gemma-?[23]", _GEMINI),
    (r"gemini-3", _GEMINI_3),
    (r"(.*\.)?(.*distill|.*codellama|llama-?2)", _ANY),
    (r"(.*\.)?(meta-)?llama-?[34]", _LLAMA),
    (r"(qwen-?(2|2\.5|3)(-|$)|qwq-)", _QWEN),
    (r"deepseek-(chat|reasoner|coder-v2|v[2-4]|r1)", _DEEPSEEK),
    (r"(.*\.)?(open-)?(mistral|mixtral|codestral|ministral|pixtral|magistral|devstral|voxtral)", _MISTRAL),
)
_OPENAI_HOSTS: Final = ("openai", "azure", "ft")


def _compiled(rows: tuple[tuple[str, Family], ...]) -> tuple[tuple[re.Pattern[str], Family], ...]:
    return tuple((re.compile(pattern), family) for pattern, family in rows)


_OPENAI_PATTERNS: Final = _compiled(_OPENAI)
_OTHER_PATTERNS: Final = _compiled(_OTHERS)


def family_of(model: str) -> Family:
    """Return the family that ``model`` belongs to, by its name with or without a provider before it."""
    return _family_of(model.lower()) if len(model) <= _MAX_NAME_LENGTH else _ANY


@lru_cache(_CACHED_FAMILIES)
def _family_of(name: str) -> Family:
    owner = ""
    for part in re.split("[/:]", name):
        for pattern, family in _OTHER_PATTERNS:
            if pattern.match(part):
                return family
        for pattern, family in _OPENAI_PATTERNS:
            if pattern.match(part):
                # Somebody else's "gpt-4o-clone" has a vocabulary of its own.
                return family if not owner or owner in _OPENAI_HOSTS else _ANY
        owner = part or owner
    return _ANY
