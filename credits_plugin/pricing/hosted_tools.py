"""Tools that the provider runs and charges for by the call: how many calls a request may make of them, and expects to.

They come in the request's ``tools``, in the form of the provider, and are found in the price by the names that
:mod:`.usage` counts them under:

* OpenAI, xAI: ``{"type": "web_search"}``, also with ``_preview`` and a date; ``x_search``, ``file_search``, …
* Anthropic: ``{"type": "web_search_20250305", "name": "web_search", "max_uses": 5}``, of whatever date;
* OpenRouter: ``{"type": "openrouter:web_search"}``;
* Gemini: ``{"google_search": {}}`` or ``googleSearch``, several in one if need be.

Any other name for which the price has a fee is found too. Functions are the host's own affair.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Any, Final

from hookspecs import AIRequest

from ..errors import InvalidValue
from .price import Price, shown

DEFAULT_TOOL_CALLS: Final = 5
"""Calls of each tool that are expected of a request that does not limit them; no provider says how many it may make."""

MAX_NAMES: Final = 5_000
"""Names of tools looked at per request, some milliseconds; no provider takes nearly as many."""

_OWN_TOOLS: Final = frozenset(("function", "custom"))
_VERSION: Final = re.compile(r"(?:_preview)?(?:_\d{8}|_\d{4}_\d{2}_\d{2})?\Z")
_CAPITAL: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")
_MAX_NAME_LENGTH: Final = 100
_OTHER_NAMES: Final = {
    "google_search": "web_search",
    "google_search_retrieval": "web_search",
    "enterprise_web_search": "web_search",
    "x_search": "social_search",
    "collections_search": "file_search",
}
_SEARCHES_UNASKED: Final = "perplexity"


def hosted_calls(request: AIRequest, price: Price, *, default_tool_calls: int = DEFAULT_TOOL_CALLS) -> dict[str, int]:
    """Return how many calls of tools with a fee a request makes at most, by the names of the price, dearest first.

    A tool's bound is its ``max_uses``, that of all together the request's ``max_tool_calls``. A tool with neither is
    expected to be called ``default_tool_calls`` times, which is no bound. Perplexity's models search without any tool.

    Raises:
        InvalidValue: a limit is no positive whole number.
    """
    most = _limit(request.max_tool_calls, "max_tool_calls")
    if not price.tools or not (request.tools or price.provider == _SEARCHES_UNASKED):
        return {}
    fees = {tool: rate for tool, rate in price.tools if rate}
    calls: Counter[str] = Counter()
    unlimited = default_tool_calls if most is None else most
    for name, tool in islice(_hosted(request.tools), MAX_NAMES):
        if name in fees:
            uses = _limit(tool.get("max_uses"), f"max_uses of the tool {name}")
            calls[name] += unlimited if uses is None else uses
    if price.provider == _SEARCHES_UNASKED and "web_search" in fees:
        calls["web_search"] = calls["web_search"] or unlimited
    return _dearest(calls, fees, most)


def price_name(kind: str) -> str:
    """Return the name under which prices and usage know a tool that a provider calls ``kind``."""
    words = _CAPITAL.sub("_", kind[:_MAX_NAME_LENGTH].rpartition(":")[2]).lower()
    name = _VERSION.sub("", words)
    return _OTHER_NAMES.get(name, name)


def _dearest(calls: Mapping[str, int], fees: Mapping[str, int], most: int | None) -> dict[str, int]:
    chosen: dict[str, int] = {}
    for name in sorted(calls, key=lambda name: fees[name], reverse=True):
        count = calls[name] if most is None else min(calls[name], most - sum(chosen.values()))
        if count:
            chosen[name] = count
    return chosen


def _hosted(tools: object) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    # What is no list of objects is nothing that a provider would run.
    listed = tools if isinstance(tools, Collection) and not isinstance(tools, Mapping) else ()
    for tool in listed:
        if not isinstance(tool, Mapping):
            continue
        kind = tool.get("type")
        if not isinstance(kind, str):
            yield from ((price_name(key), tool) for key in tool if isinstance(key, str))
        elif kind not in _OWN_TOOLS:
            yield price_name(kind), tool


def _limit(stated: object, what: str) -> int | None:
    if stated is None:
        return None
    if type(stated) is not int or stated <= 0:
        msg = f"{what} must be a whole number above 0, or left out; got {shown(stated)}"
        raise InvalidValue(msg)
    return stated
