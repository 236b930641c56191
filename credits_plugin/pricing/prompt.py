"""An upper bound of the prompt tokens of a request in the OpenAI chat format. Never raises, whatever the shape.

Texts are counted by :mod:`.tokens`. Tool definitions count as JSON text. Everything else that is JSON (tool calls and
results, large tool definitions, fields we do not know) counts as its strings plus four tokens a value, which covers
quotes, colon, comma and brackets. Media count by :mod:`.media`:

* an image by its size and ``detail``, by the rule of the model's family; by URL, as the dearest;
* inline audio by its length, in tokens of their own, as audio has a price of its own;
* an inline PDF by its pages: 3,000 tokens of text and the dearest image for each;
* any other inline file as its text, or a token per base64 character and one image where it is no text;
* an inline video: a token per four base64 characters, and one image;
* a file or video by URL or id: ``REFERENCED_FILE_TOKENS``, as its size is unknown here; a longer one may end in debt.

On the way it is seen whether any part asks the provider to keep it in its cache for an hour.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .families import Family, family_of
from .media import TOKENS_PER_PAGE, audio_tokens, file_text, image_size, pdf_pages
from .tokens import MAX_TOKENISED_BYTES, TokenCounter

REFERENCED_FILE_TOKENS: Final = 131_072

UNCOUNTABLE_TOKENS: Final = 1_000_000_000
"""Stands for a prompt that is no finite JSON (cycles, iterators, broken objects) or has too many values."""

MAX_VALUES: Final = 200_000
"""JSON values looked at per prompt, a tenth of a second; a prompt with more is uncountable."""

_VALUES_PER_OBJECT: Final = 20
_TOKENS_PER_VALUE: Final = 4
_BITS_PER_TOKEN: Final = 3
_MAX_SMALL_VALUES: Final = 5_000
_TEXTS: Final = (str, bytes, bytearray)
_JSON_NUMBERS: Final = (bool, int, float)
_CHARACTERS_PER_VIDEO_TOKEN: Final = 4
_MEDIA_FRAME_TOKENS: Final = 64

_IMAGES: Final = frozenset(("image", "image_url", "input_image"))
_AUDIO: Final = frozenset(("audio", "audio_url", "input_audio"))
_VIDEOS: Final = frozenset(("video", "video_url", "input_video"))
_FILES: Final = frozenset(("file", "input_file", "document", "document_url"))
_MEDIA: Final = _IMAGES | _AUDIO | _VIDEOS | _FILES
# vLLM takes media without a type, by the name of their field. Names that plain JSON uses as well are not among them.
_UNTYPED: Final = frozenset(("image_url", "audio_url", "video_url", "input_audio"))
# Where media parts carry their bytes or their reference; every other string of a media part is text.
_PAYLOAD_KEYS: Final = frozenset(("url", "data", "file_data", "file_id", "file_url", "image_url", "id", "b64_json"))
_BY_REFERENCE: Final = frozenset(("url", "file_id", "file_url", "id"))
_DESCRIPTIONS: Final = frozenset(("detail", "format"))
# How a part asks for the provider's cache: Anthropic's word, and that of Amazon Bedrock.
_CACHE_KEYS: Final = frozenset(("cache_control", "cachePoint"))
_SHORT_LIFE: Final = "5m"
# Words of the format itself: they are part of the frame of a message.
_ROLES: Final = frozenset(("system", "developer", "user", "assistant", "tool", "function"))
_PLAIN_KEYS: Final = ("role", "content")
_FRAME_KEYS: Final = frozenset(("role", "content", "type", "text"))


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """Upper bounds of a prompt's tokens: text and images together, and audio, which some providers price apart.

    ``is_exact``: every text was counted with the model's own vocabulary, and there was nothing but texts and roles; the
    few tokens that the provider adds around them are bounded all the same. ``is_cached_1h``: a part of the prompt asks
    for a cache that lasts longer than Anthropic's five minutes.
    """

    text: int
    audio: int = 0
    is_exact: bool = False
    is_cached_1h: bool = False

    @property
    def total(self) -> int:
        """All tokens of the prompt."""
        return self.text + self.audio


def count_prompt(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = (), model: str = ""
) -> PromptTokens:
    """Return an upper bound of the prompt tokens of ``messages`` and ``tools`` for ``model``.

    Time is linear in the number of messages and values, never in the length of texts beyond the budgets of
    :mod:`.tokens`: a prompt of 10^9 characters takes microseconds.
    """
    prompt = _Prompt(family_of(model))
    prompt.add_messages(messages)
    if tools:
        prompt.add_tools(tools)
    return prompt.counted()


class _Prompt:
    """Sums the tokens of everything that is added."""

    __slots__ = ("_audio", "_counter", "_family", "_is_cached_1h", "_is_plain", "_looked_at", "_tokens")

    def __init__(self, family: Family) -> None:
        self._family = family
        self._counter = TokenCounter(family)
        self._tokens = family.per_request
        self._audio = 0
        self._is_plain = True
        self._is_cached_1h = False
        self._looked_at = 0

    def counted(self) -> PromptTokens:
        excess = UNCOUNTABLE_TOKENS if self._looked_at > MAX_VALUES else 0
        is_exact = self._is_plain and self._counter.is_exact
        return PromptTokens(self._tokens + excess, self._audio, is_exact, self._is_cached_1h)

    def add_messages(self, messages: object) -> None:
        if not isinstance(messages, Collection) or isinstance(messages, (*_TEXTS, Mapping)):
            self._add_value(messages)
            return
        for message in messages:
            self._tokens += self._family.per_message
            # The plain message, which is nearly every message, without the general walk.
            match message:
                case {"role": str(role), "content": str(content)} if len(message) == len(_PLAIN_KEYS):
                    self._looked_at += 1
                    self._tokens += self._counter.count(content)
                    self._tokens += 1 if role in _ROLES else self._counter.count(role)
                case _:
                    self._add_value(message)

    def add_tools(self, tools: object) -> None:
        self._is_plain = False
        count = len(tools) if isinstance(tools, (list, tuple)) else 1
        self._tokens += self._family.with_tools + count * self._family.per_tool
        text = _small_json(tools)
        if text is None:
            self._add_value(tools)
        else:
            self._tokens += self._counter.count(text)
            if any(key in text for key in _CACHE_KEYS):
                self._is_cached_1h = self._is_cached_1h or any(map(asks_for_1h, _mappings_in(tools)))

    def _add_value(self, root: object) -> None:
        self._is_plain = False
        stack: list[Any] = [root]
        while stack:
            value = stack.pop()
            self._looked_at += 1
            size = len(value) if isinstance(value, Collection) and not isinstance(value, _TEXTS) else 0
            if self._looked_at + len(stack) + size > MAX_VALUES:
                self._looked_at = MAX_VALUES + 1
                return
            self._tokens += _TOKENS_PER_VALUE
            if isinstance(value, str):
                self._tokens += self._counter.count(value)
            elif isinstance(value, Mapping):
                self._add_mapping(value, stack)
            elif isinstance(value, Collection) and not isinstance(value, _TEXTS):
                stack.extend(value)
            elif isinstance(value, float):
                self._tokens += len(repr(value))
            elif isinstance(value, int):
                self._tokens += value.bit_length() // _BITS_PER_TOKEN
            else:
                self._add_foreign(value, stack)

    def _add_mapping(self, value: Mapping[Any, Any], stack: list[Any]) -> None:
        if not self._is_cached_1h and not _CACHE_KEYS.isdisjoint(value):
            self._is_cached_1h = asks_for_1h(value)
        kind = value.get("type")
        if not isinstance(kind, str) and not _UNTYPED.isdisjoint(value):
            kind = next((name for name in _UNTYPED if value.get(name)), kind)
        if isinstance(kind, str) and kind in _MEDIA and not _is_text_document(kind, value):
            self._add_media(kind, value, stack)
            return
        for key, item in value.items():
            if key not in _FRAME_KEYS:
                self._tokens += self._counter.count(key) if isinstance(key, str) else _MEDIA_FRAME_TOKENS
            stack.append(item)

    def _add_media(self, kind: str, part: Mapping[Any, Any], stack: list[Any]) -> None:
        nested = [item for item in part.values() if isinstance(item, Mapping)]
        fields = [(key, item) for key, item in part.items() if not isinstance(item, Mapping)]
        fields += [pair for holder in nested for pair in holder.items()]
        payloads = [(key, item) for key, item in fields if _is_payload(key, item)] or [("id", "")]
        stack.extend(item for key, item in fields if not _is_payload(key, item))
        named = dict(pair for pair in fields if pair[0] in _DESCRIPTIONS)
        self._tokens += _MEDIA_FRAME_TOKENS
        for key, payload in payloads:
            is_reference = _is_reference(key, payload)
            if kind in _IMAGES:
                size = None if is_reference else image_size(payload)
                self._tokens += self._family.image(size, named.get("detail"))
            elif is_reference:
                self._tokens += REFERENCED_FILE_TOKENS
            elif kind in _AUDIO:
                self._audio += audio_tokens(payload, named.get("format"), self._family.audio_per_s)
            elif kind in _VIDEOS:
                self._tokens += self._dearest_image() + _base64_length(payload) // _CHARACTERS_PER_VIDEO_TOKEN
            else:
                self._add_file(payload)

    def _add_file(self, payload: str | bytes | bytearray) -> None:
        pages = pdf_pages(payload)
        if pages is not None:
            self._tokens += pages * (TOKENS_PER_PAGE + self._dearest_image())
            return
        text = file_text(payload)
        self._tokens += self._counter.count(text) if text is not None else _base64_length(payload)
        self._tokens += self._dearest_image()

    def _dearest_image(self) -> int:
        return self._family.image(None, None)

    def _add_foreign(self, value: object, stack: list[Any]) -> None:
        if value is None:
            return
        if isinstance(value, (bytes, bytearray)):
            self._tokens += _base64_length(value)
            return
        # SDKs put their own message objects between dicts; all of them can be written as JSON one way or another.
        self._looked_at += _VALUES_PER_OBJECT
        if isinstance(value, Iterator):
            # Reading it would take it away from the host.
            self._tokens += UNCOUNTABLE_TOKENS
            return
        try:
            dump = getattr(value, "model_dump", None)
            is_plain = not callable(dump) and not hasattr(value, "__dict__")
            stack.append(repr(value) if is_plain else dump() if callable(dump) else dict(vars(value)))
        except Exception:  # noqa: BLE001 - code of the host's types runs here; a bound must come out all the same
            self._tokens += UNCOUNTABLE_TOKENS


def asks_for_1h(part: Mapping[Any, Any]) -> bool:
    """Whether this part of a request asks for a cache of an hour; a life that we do not know counts as one."""
    asked = (part.get(key) for key in _CACHE_KEYS)
    lives = (marker.get("ttl") for marker in asked if isinstance(marker, Mapping))
    return any(life is not None and (not isinstance(life, str) or life != _SHORT_LIFE) for life in lives)


def _mappings_in(root: object) -> Iterator[dict[Any, Any]]:
    stack = [root]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            yield value
            stack += value.values()
        elif isinstance(value, list | tuple):
            stack += value


def _small_json(root: object) -> str | None:
    # One text is counted ten times faster than its parts. None if it is no JSON, or too large to be written out here.
    stack, values, room = [root], 0, MAX_TOKENISED_BYTES
    while stack:
        value = stack.pop()
        values += 1
        if type(value) is dict:
            stack += value.keys()
            stack += value.values()
        elif type(value) is list or type(value) is tuple:
            stack += value
        elif type(value) is str:
            room -= len(value)
        elif value is not None and type(value) not in _JSON_NUMBERS:
            return None
        if values + len(stack) > _MAX_SMALL_VALUES or room < 0:
            return None
    try:
        return json.dumps(root, ensure_ascii=False, separators=(",", ":"))
    except (RecursionError, TypeError, ValueError):  # too deep, a key that is a tuple, a number of 5,000 digits
        return None


def _is_text_document(kind: str, part: Mapping[Any, Any]) -> bool:
    # Anthropic's documents alone have a source of text; beside an image it is the client's word against our count.
    # Compared, not looked up: a type from outside may be unhashable.
    source = part.get("source")
    return kind == "document" and isinstance(source, Mapping) and source.get("type") in ("text", "content")


def _is_payload(key: object, item: object) -> bool:
    return key in _PAYLOAD_KEYS and isinstance(item, (str, bytes, bytearray))


def _is_reference(key: object, payload: str | bytes) -> bool:
    return isinstance(payload, str) and key in _BY_REFERENCE and not payload.startswith("data:")


def _base64_length(payload: str | bytes | bytearray) -> int:
    return len(payload) if isinstance(payload, str) else len(payload) * 4 // 3 + 4
