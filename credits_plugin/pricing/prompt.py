"""An upper bound of the prompt tokens of a request in the OpenAI chat format. Never raises, whatever the shape.

Texts are counted by :mod:`.tokens`. Tool definitions count as JSON text. Everything else that is JSON (tool calls,
large tool definitions, fields we do not know) counts as its strings plus four tokens a value, which covers quotes,
colon, comma and brackets. Media count by size:

* an image: the dearest documented charge of the model's family (:class:`.tokens.Family`), whatever its size;
* audio inline: 32 tokens a second (Gemini's rate; OpenAI's is 10) at the lowest bit rate of the format;
* any other inline file: a token per four base64 characters, and one image;
* a file or video by URL or id: ``REFERENCED_FILE_TOKENS``, as its size is unknown here; a longer one may end in debt.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from .tokens import MAX_TOKENISED_BYTES, Family, TokenCounter, family_of

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
_CHARACTERS_PER_FILE_TOKEN: Final = 4
_MEDIA_FRAME_TOKENS: Final = 64

# Base64 characters per token: 32 tokens a second at 8,000 bytes/s (wav), 1,000 (mp3), 500 (opus and unknown formats).
_AUDIO_CHARACTERS: Final = {"wav": 256, "pcm16": 256, "mp3": 32}
_OTHER_AUDIO_CHARACTERS: Final = 16

_IMAGES: Final = frozenset(("image", "image_url", "input_image"))
_AUDIO: Final = frozenset(("audio", "audio_url", "input_audio"))
_FILES: Final = frozenset(("file", "input_file", "document", "document_url", "video", "video_url", "input_video"))
_MEDIA: Final = _IMAGES | _AUDIO | _FILES
# Where media parts carry their bytes or their reference; every other string of a media part is text.
_PAYLOAD_KEYS: Final = frozenset(("url", "data", "file_data", "file_id", "file_url", "image_url", "id", "b64_json"))
_BY_REFERENCE: Final = frozenset(("url", "file_id", "file_url", "id"))
# Words of the format itself: they are part of the frame of a message.
_ROLES: Final = frozenset(("system", "developer", "user", "assistant", "tool", "function"))
_PLAIN_KEYS: Final = ("role", "content")
_FRAME_KEYS: Final = frozenset(("role", "content", "type", "text"))


def estimate_input_tokens(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = (), model: str = ""
) -> int:
    """Return an upper bound of the prompt tokens of ``messages`` and ``tools`` for ``model``.

    Time is linear in the number of messages and values, never in the length of texts beyond the budgets of
    :mod:`.tokens`: a prompt of 10^9 characters takes microseconds.
    """
    prompt = _Prompt(family_of(model))
    prompt.add_messages(messages)
    if tools:
        prompt.add_tools(tools)
    return prompt.total()


class _Prompt:
    """Sums the tokens of everything that is added."""

    __slots__ = ("_counter", "_family", "_looked_at", "_tokens")

    def __init__(self, family: Family) -> None:
        self._family = family
        self._counter = TokenCounter(family)
        self._tokens = family.per_request
        self._looked_at = 0

    def total(self) -> int:
        return UNCOUNTABLE_TOKENS + self._tokens if self._looked_at > MAX_VALUES else self._tokens

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
        count = len(tools) if isinstance(tools, (list, tuple)) else 1
        self._tokens += self._family.with_tools + count * self._family.per_tool
        text = _small_json(tools)
        if text is None:
            self._add_value(tools)
        else:
            self._tokens += self._counter.count(text)

    def _add_value(self, root: object) -> None:
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
        kind = value.get("type")
        if isinstance(kind, str) and kind in _MEDIA and not _is_text_document(value):
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
        formats = [item for key, item in fields if key == "format" and isinstance(item, str)]
        self._tokens += _MEDIA_FRAME_TOKENS
        for key, payload in payloads:
            if kind in _IMAGES:
                self._tokens += self._family.per_image
            elif _is_reference(key, payload):
                self._tokens += REFERENCED_FILE_TOKENS
            elif kind in _AUDIO:
                self._tokens += _base64_length(payload) // _audio_divisor(formats)
            else:
                self._tokens += self._family.per_image + _base64_length(payload) // _CHARACTERS_PER_FILE_TOKEN

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


def _is_text_document(part: Mapping[Any, Any]) -> bool:
    # Compared, not looked up: a type from outside may be unhashable.
    source = part.get("source")
    return isinstance(source, Mapping) and source.get("type") in ("text", "content")


def _is_payload(key: object, item: object) -> bool:
    return key in _PAYLOAD_KEYS and isinstance(item, (str, bytes, bytearray))


def _is_reference(key: object, payload: str | bytes) -> bool:
    return isinstance(payload, str) and key in _BY_REFERENCE and not payload.startswith("data:")


def _audio_divisor(formats: Sequence[str]) -> int:
    # Of several formats, which no provider accepts, the one that makes most tokens.
    return min(
        (_AUDIO_CHARACTERS.get(name, _OTHER_AUDIO_CHARACTERS) for name in formats), default=_OTHER_AUDIO_CHARACTERS
    )


def _base64_length(payload: str | bytes | bytearray) -> int:
    return len(payload) if isinstance(payload, str) else len(payload) * 4 // 3 + 4
