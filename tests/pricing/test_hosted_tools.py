"""Calls of the provider's tools and an hour's cache in the estimate: nothing that a request declares costs more."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from credits_plugin import Settings, usage_from_anthropic, usage_from_openai
from credits_plugin.errors import InvalidValue
from credits_plugin.pricing.estimate import affordable_output, bound_with_output, estimate
from credits_plugin.pricing.hosted_tools import DEFAULT_TOOL_CALLS, MAX_NAMES, hosted_calls
from credits_plugin.pricing.price import Price, Rates
from credits_plugin.pricing.price_book import PriceBook
from hookspecs import AIRequest, Estimate, Usage

NOW = 1_795_348_800_000
FEE = 10**12  # a credit a call
NAMES = ("code_execution", "code_interpreter", "file_search", "mcp", "social_search", "web_fetch", "web_search")
PRICE = Price("p", "m", Rates(100, 10, 125, 400, 400), 1_500, tools=tuple((name, FEE) for name in NAMES))
FUNCTION = {"type": "function", "function": {"name": "web_search", "parameters": {"type": "object"}}}
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
BOOK = PriceBook.from_settings(Settings(tools={"file_search": "0.0025", "web_fetch": "0.001", "code_interpreter": "3"}))
REAL = [
    ("claude-sonnet-4-5", "anthropic"),
    ("claude-3-5-haiku-latest", "anthropic"),
    ("gpt-4o", "openai"),
    ("gpt-5", "openai"),
    ("gemini-2.5-pro", "google"),
    ("gemini-2.5-flash", "google"),
    ("sonar-deep-research", "perplexity"),
    ("anthropic/claude-haiku-5.5", "openrouter"),
    ("kimi-k3", "moonshotai"),
]


def asking(*tools: Any, messages: Any = ({"role": "user", "content": "hi"},), **fields: Any) -> AIRequest:
    return AIRequest("a", "claude-sonnet-4-5", messages, tools=tools, max_output_tokens=100, **fields)


def calls_of(*tools: Any, price: Price = PRICE, **fields: Any) -> dict[str, int]:
    return hosted_calls(asking(*tools, **fields), price)


@pytest.mark.parametrize(
    ("tool", "name"),
    [
        ({"type": "web_search"}, "web_search"),
        ({"type": "web_search_2025_08_26"}, "web_search"),
        ({"type": "web_search_preview"}, "web_search"),
        ({"type": "web_search_preview_2025_03_11"}, "web_search"),
        ({"type": "file_search", "vector_store_ids": ["vs_1"]}, "file_search"),
        ({"type": "code_interpreter", "container": {"type": "auto"}}, "code_interpreter"),
        ({"type": "x_search"}, "social_search"),
        ({"type": "web_search_20250305", "name": "web_search"}, "web_search"),
        ({"type": "web_search_20270101", "name": "web_search"}, "web_search"),
        ({"type": "web_fetch_20250910", "name": "web_fetch"}, "web_fetch"),
        ({"type": "code_execution_20250825", "name": "code_execution"}, "code_execution"),
        ({"type": "openrouter:web_search"}, "web_search"),
        ({"google_search": {}}, "web_search"),
        ({"googleSearch": {}}, "web_search"),
        ({"google_search_retrieval": {"dynamic_retrieval_config": {}}}, "web_search"),
        ({"enterpriseWebSearch": {}}, "web_search"),
        ({"codeExecution": {}}, "code_execution"),
        (MappingProxyType({"type": "mcp"}), "mcp"),
    ],
)
def test_each_providers_form_of_a_tool_is_found_under_the_name_that_settlement_uses(tool: Any, name: str):
    assert calls_of(tool) == {name: DEFAULT_TOOL_CALLS}
    assert calls_of(tool, max_tool_calls=2) == {name: 2}


def test_the_names_are_those_that_usage_is_counted_under():
    output = [{"type": f"{kind}_call"} for kind in ("web_search", "file_search", "code_interpreter")]
    openai = usage_from_openai({"prompt_tokens": 1, "completion_tokens": 1}, output=output)
    told = {"web_search_requests": 1, "web_fetch_requests": 1}
    anthropic = usage_from_anthropic({"input_tokens": 1, "output_tokens": 1, "server_tool_use": told})
    tools = [{"type": kind} for kind in ("web_search_preview", "file_search", "code_interpreter")]
    assert calls_of(*tools).keys() == openai.tool_calls.keys()
    assert calls_of(SEARCH, {"type": "web_fetch_20250910", "name": "web_fetch"}).keys() == anthropic.tool_calls.keys()


def test_one_tool_of_geminis_may_name_several():
    assert calls_of({"google_search": {}, "code_execution": {}}) == {"web_search": 5, "code_execution": 5}


@pytest.mark.parametrize(
    "tool",
    [
        FUNCTION,
        {"type": "custom", "name": "web_search"},
        {"name": "web_search", "input_schema": {"type": "object"}},
        {"functionDeclarations": [{"name": "web_search"}]},
        {"type": "computer_use_preview"},
    ],
)
def test_the_hosts_own_functions_and_tools_without_a_fee_cost_nothing(tool: dict[str, Any]):
    assert calls_of(tool | {"max_uses": "many"}) == {}
    assert estimate(asking(tool), PRICE).tool_calls == {}


def test_a_tool_without_a_fee_in_the_book_adds_tokens_and_nothing_else():
    free = replace(PRICE, tools=(("file_search", FEE), ("web_search", 0)))
    made = estimate(asking(SEARCH), free)
    assert made.tool_calls == {}
    assert made.cost_microcredits == free.bound_microcredits(input_tokens=made.input_tokens, output_tokens=100)


def test_the_fees_of_all_calls_are_in_the_estimate():
    made = estimate(asking(SEARCH, {"type": "file_search"}), PRICE)
    tokens = PRICE.bound_microcredits(input_tokens=made.input_tokens, output_tokens=100)
    assert made.tool_calls == {"web_search": 3, "file_search": DEFAULT_TOOL_CALLS}
    assert made.cost_microcredits - tokens == 8 * 1_150_000  # eight credits, and 15 %


def test_how_many_calls_are_expected_is_the_operators_to_say():
    assert estimate(asking(SEARCH, {"type": "mcp"}), PRICE, default_tool_calls=9).tool_calls["mcp"] == 9
    assert estimate(asking({"type": "mcp"}), PRICE, default_tool_calls=0).tool_calls == {}
    assert Settings().default_tool_calls == DEFAULT_TOOL_CALLS


def test_a_limit_of_all_calls_is_spent_on_the_dearest():
    price = replace(PRICE, tools=(("file_search", 1), ("web_fetch", 2), ("web_search", 3)))
    tools = [{"type": "file_search"}, SEARCH, {"type": "web_fetch_20250910"}]
    assert calls_of(*tools, price=price, max_tool_calls=2) == {"web_search": 2}
    assert calls_of(*tools, price=price, max_tool_calls=7) == {"web_search": 3, "web_fetch": 4}
    assert calls_of(*tools, SEARCH, price=price) == {"web_search": 6, "web_fetch": 5, "file_search": 5}


def test_a_model_that_searches_unasked_is_held_for_its_searches():
    price = BOOK.price_for("sonar-deep-research", "perplexity", at_ms=NOW)
    made = estimate(asking(), price)
    assert made.tool_calls == {"web_search": DEFAULT_TOOL_CALLS}
    counts = {"prompt_tokens": made.input_tokens, "completion_tokens": 100, "num_search_queries": DEFAULT_TOOL_CALLS}
    assert price.cost_microcredits(usage_from_openai(counts)) <= made.cost_microcredits


@pytest.mark.parametrize("limit", ["many", 0, -1, 1.5, True, [], {}, 10**5_000], ids=lambda _: "limit")
def test_a_limit_that_is_no_positive_whole_number_is_refused_and_named(limit: Any):
    with pytest.raises(InvalidValue, match=r"max_uses of the tool web_search|calls of web_search"):
        estimate(asking(SEARCH | {"max_uses": limit}), PRICE)
    with pytest.raises(InvalidValue, match=r"max_tool_calls|calls of mcp"):
        estimate(asking({"type": "mcp"}, max_tool_calls=limit), PRICE)


@pytest.mark.parametrize(
    "tools",
    [
        "web_search",
        b"web_search",
        None,
        7,
        {"type": "web_search"},
        iter([SEARCH]),
        ["web_search", None, 7, [SEARCH], object()],
        [{"type": ["web_search"]}, {"type": None, 7: "web_search"}, {("a", "b"): 1}, {}],
        [{"type": "web_search" * 100_000}],
    ],
    ids=lambda _: "tools",
)
def test_tools_that_are_no_objects_are_tokens_and_nothing_else(tools: Any):
    made = estimate(AIRequest("a", "claude-sonnet-4-5", tools=tools, max_output_tokens=1), PRICE)
    assert made.tool_calls == {}


def test_only_so_many_names_are_looked_at_and_functions_are_none_of_them():
    names = {f"odd{number}": {} for number in range(MAX_NAMES - 1)}
    assert calls_of(*[FUNCTION] * MAX_NAMES, names | {"google_search": {}}) == {"web_search": 5}
    assert calls_of(names | {"one_more": {}, "google_search": {}}) == {}


def test_a_hosts_own_estimate_states_its_calls_or_has_none():
    bare = Estimate("m", 10, 10, 10)
    assert (bare.tool_calls, bare.is_cached_1h) == ({}, False)
    assert bound_with_output(replace(bare, tool_calls={"mcp": 2}), PRICE, 0) == bound_with_output(bare, PRICE, 0) + (
        2 * 1_150_000
    )
    with pytest.raises(InvalidValue, match="calls of mcp"):
        bound_with_output(replace(bare, tool_calls={"mcp": "many"}), PRICE, 0)


def test_fees_come_before_the_output_where_it_is_cut():
    made = estimate(asking(SEARCH), PRICE)
    for output_tokens in (0, 1, 50, 99):
        amount = bound_with_output(made, PRICE, output_tokens)
        assert affordable_output(made, PRICE, amount) >= output_tokens
        spent = Usage(
            input=made.input_tokens, output=affordable_output(made, PRICE, amount), tool_calls=made.tool_calls
        )
        assert PRICE.cost_microcredits(spent) <= amount
    assert affordable_output(made, PRICE, bound_with_output(made, PRICE, 0) - 2) == 0


MARKED_1H = {"type": "ephemeral", "ttl": "1h"}
MARKED = {"type": "ephemeral"}
TEXT = {"type": "text", "text": "hi"}
IMAGE = {"type": "image", "source": {"type": "base64", "data": "AAAA"}}


def marked_in(place: str, marker: Any) -> dict[str, Any]:
    """Return the fields of a request that asks for a cache in one place."""
    mark = {"cache_control": marker}
    match place:
        case "content":
            return {"messages": [{"role": "user", "content": [TEXT, TEXT | mark, TEXT]}]}
        case "message":
            return {"messages": [{"role": "user", "content": "hi"}, {"role": "user", "content": "hi"} | mark]}
        case "system":
            return {"messages": [{"role": "system", "content": [TEXT | mark]}]}
        case "image":
            return {"messages": [{"role": "user", "content": [IMAGE | mark]}]}
        case "result":
            result = {"type": "tool_result", "tool_use_id": "t", "content": [TEXT | mark]}
            return {"messages": [{"role": "user", "content": [result]}]}
        case "bedrock":
            return {"messages": [{"role": "user", "content": [TEXT, {"cachePoint": marker}]}]}
        case "tool":
            return {"tools": [FUNCTION, FUNCTION | mark]}
        case "function":
            return {"tools": [{"type": "function", "function": FUNCTION["function"] | mark}]}
        case "large tools":
            return {"tools": [FUNCTION | {"x": object()}, FUNCTION | mark]}
        case _:
            return {"cache_control": marker}


PLACES = ["content", "message", "system", "image", "result", "bedrock", "tool", "function", "large tools", "request"]


def estimate_marked(place: str, marker: Any) -> Estimate:
    request = AIRequest("a", "claude-sonnet-4-5", **marked_in(place, marker), max_output_tokens=1)
    return estimate(request, BOOK.price_for("claude-sonnet-4-5", at_ms=NOW))


@pytest.mark.parametrize("place", PLACES)
def test_an_hours_cache_is_priced_wherever_it_is_asked_for(place: str):
    made, price = estimate_marked(place, MARKED_1H), BOOK.price_for("claude-sonnet-4-5", at_ms=NOW)
    written = Usage(cache_write_1h=made.input_tokens, output=1)
    assert made.is_cached_1h
    assert price.cost_microcredits(written) == made.cost_microcredits


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("marker", [MARKED, MARKED | {"ttl": "5m"}, MARKED | {"ttl": None}, None, "1h", 7, []])
def test_a_cache_of_five_minutes_and_what_is_none_are_priced_as_a_plain_write(place: str, marker: Any):
    made, price = estimate_marked(place, marker), BOOK.price_for("claude-sonnet-4-5", at_ms=NOW)
    assert not made.is_cached_1h
    assert made.cost_microcredits == price.cost_microcredits(Usage(cache_write=made.input_tokens, output=1))


@pytest.mark.parametrize("life", ["24h", "", 3_600, [], {}])
def test_a_life_that_nobody_knows_is_priced_as_an_hour(life: Any):
    assert estimate_marked("content", MARKED | {"ttl": life}).is_cached_1h
    assert estimate_marked("tool", MARKED | {"ttl": life}).is_cached_1h


def test_words_that_look_like_a_marker_are_none():
    said = [{"role": "user", "content": '{"cache_control": {"type": "ephemeral", "ttl": "1h"}}'}]
    schema = {"properties": {"cache_control": {"type": "object", "description": '"ttl":"1h"'}}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    assert not estimate(AIRequest("a", "gpt-4o", said, tools=tools), PRICE).is_cached_1h


def test_where_an_hour_costs_what_minutes_do_the_estimate_is_the_same():
    price = BOOK.price_for("gpt-4o", at_ms=NOW)
    marked, plain = (marked_in("content", marker) for marker in (MARKED_1H, MARKED | {"ttl": "5m"}))
    costs = {estimate(AIRequest("a", "gpt-4o", **fields), price).cost_microcredits for fields in (marked, plain)}
    assert len(costs) == 1


limits = st.none() | st.integers(1, 30)


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(REAL),
    st.sampled_from(PLACES),
    st.sampled_from([MARKED, MARKED_1H]),
    limits,
    limits,
    st.lists(st.floats(0, 1), min_size=12, max_size=12),
)
def test_no_usage_within_what_a_request_declares_costs_more_than_the_estimate(
    model: tuple[str, str], place: str, marker: Any, max_uses: int | None, most: int | None, shares: list[float]
):
    fields = marked_in(place, marker)
    hosted = [{"type": "web_search_20250305", "name": "web_search"} | ({"max_uses": max_uses} if max_uses else {})]
    hosted += [{"type": "file_search"}, {"type": "web_fetch_20250910"}, {"google_search": {}}]
    request = AIRequest("a", *[model[0]], **fields | {"tools": [*fields.get("tools", ()), *hosted]},
                        provider=model[1], max_output_tokens=1_000, max_tool_calls=most)  # fmt: skip
    price = BOOK.price_for(*model, at_ms=NOW)
    made = estimate(request, price)
    usage = within(made, shares, request, lasting=marker is MARKED_1H)
    assert price.cost_microcredits(usage) <= made.cost_microcredits


def within(made: Estimate, shares: list[float], request: AIRequest, *, lasting: bool) -> Usage:
    """Return a usage that the request allows: the tokens of the estimate, and no call beyond its limits."""
    prompt, counts = made.input_tokens, []
    for share in shares[:3]:
        counts.append(int(prompt * share))
        prompt -= counts[-1]
    lasts = prompt if lasting else 0
    output = int(made.max_output_tokens * shares[3])
    left, calls = request.max_tool_calls or 10**9, {}
    default = request.max_tool_calls or DEFAULT_TOOL_CALLS
    uses = request.tools[-4].get("max_uses") or default
    for name, bound, share in (("web_search", uses + default, shares[4]), ("file_search", default, shares[5]),
                               ("web_fetch", default, shares[6])):  # fmt: skip
        calls[name] = min(round(bound * share), left)
        left -= calls[name]
    return Usage(counts[0] + prompt - lasts, counts[1], counts[2], output, made.max_output_tokens - output,
                 cache_write_1h=lasts, tool_calls=calls)  # fmt: skip
