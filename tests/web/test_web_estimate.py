"""What a chat would cost over HTTP: the same figure as the gate's and the host's, and strict about its body."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import pluggy
import pytest
from shopfront import Shopfront, problem

from credits_plugin.plugin import CreditsPlugin
from credits_plugin.web.body import MAX_CHAT_BYTES
from hookspecs import PROJECT_NAME, AIRequest, CreditsSpecs, Estimate, Hold, HookCaller, hookimpl

API = "/api/credits"
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}
IMAGE = {"type": "image_url", "image_url": {"url": "https://x.example/y.png"}}
CHATS: dict[str, dict[str, Any]] = {
    "text": {"messages": [{"role": "user", "content": "How far is the moon?"}]},
    "tools": {"messages": [{"role": "user", "content": "Weather?"}], "tools": [WEATHER], "max_output_tokens": 77},
    "image": {"messages": [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, IMAGE]}]},
    "another family": {"messages": [{"role": "user", "content": "Bonjour"}], "model": "claude-sonnet-4-5"},
}


class Tenfold:
    """A host's plugin that overrides estimates."""

    @hookimpl
    def estimate_ai_request(self, request: AIRequest) -> Estimate:
        return Estimate(request.model, 1_000, 100, 9_000_000)


def hooks_of(shopfront: Shopfront, *plugins: object) -> HookCaller:
    plugin_manager = pluggy.PluginManager(PROJECT_NAME)
    plugin_manager.add_hookspecs(CreditsSpecs)
    for plugin in (CreditsPlugin(shopfront.credits), *plugins):
        plugin_manager.register(plugin)
    return HookCaller(plugin_manager)


async def posted(shopfront: Shopfront, body: dict[str, Any]) -> dict[str, Any]:
    answer = await shopfront.browser("ada").post(f"{API}/estimate", json=body)
    assert answer.status == 200, await answer.text()
    estimate: dict[str, Any] = (await answer.json())["estimate"]
    return estimate


@pytest.mark.parametrize("overridden", [False, True], ids=["built in", "overridden"])
@pytest.mark.parametrize("name", CHATS)
async def test_http_the_host_and_the_gate_are_told_the_same_figure(shopfront: Shopfront, name: str, overridden: bool):
    hooks = hooks_of(shopfront, *([Tenfold()] if overridden else []))
    await shopfront.grant("ada", 100_000)
    chat = {"model": "gpt-4o"} | CHATS[name]
    request = AIRequest("ada", chat["model"], chat["messages"], tools=chat.get("tools", ()),
                        max_output_tokens=chat.get("max_output_tokens"))  # fmt: skip
    told = await shopfront.credits.estimate(request)
    hold = await hooks.before_ai_request(request)
    over_http = await posted(shopfront, chat)
    assert isinstance(hold, Hold)
    assert hold.estimate == told
    assert hold.amount_microcredits == over_http["cost"]["microcredits"] == told.cost_microcredits
    assert (told.cost_microcredits == 9_000_000) is overridden
    for field in ("model", "input_tokens", "audio_input_tokens", "max_output_tokens"):
        assert over_http[field] == getattr(told, field)


async def test_one_message_costs_the_same_by_get_and_by_post(shopfront: Shopfront):
    query = {"prompt": "How far is the moon?", "model": "gpt-4o", "max_output_tokens": "10"}
    by_get = (await (await shopfront.browser("ada").get(f"{API}/estimate", params=query)).json())["estimate"]
    assert by_get == await posted(shopfront, CHATS["text"] | {"model": "gpt-4o", "max_output_tokens": 10})
    assert by_get["input_tokens_are"] == "exact"


@pytest.mark.parametrize("name", ["tools", "image", "another family"])
async def test_what_is_not_counted_exactly_is_called_a_bound(shopfront: Shopfront, name: str):
    assert (await posted(shopfront, {"model": "gpt-4o"} | CHATS[name]))["input_tokens_are"] == "bound"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"messages": None}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages"),
        ({"tools": {}}, "tools"),
        ({"tools": None}, "tools"),
        ({"model": 7}, "model"),
        ({"model": "m" * 201}, "model"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": True}, "max_output_tokens"),
        ({"max_output_tokens": 1.5}, "max_output_tokens"),
        ({"max_output_tokens": "5"}, "max_output_tokens"),
        ({"max_output_tokens": 10**400}, "max_output_tokens"),
        ({"max_tool_calls": 0}, "max_tool_calls"),
        ({"max_tool_calls": "many"}, "max_tool_calls"),
        ({"cache_control": "1h"}, "cache_control"),
    ],
)
async def test_a_bad_field_of_a_chat_is_named(shopfront: Shopfront, fields: dict[str, Any], named: str):
    answer = await shopfront.browser("ada").post(f"{API}/estimate", json=CHATS["text"] | fields)
    assert (await problem(answer, 400, "invalid_value"))["field"] == named


async def test_a_chat_is_read_only_for_an_account_and_only_up_to_the_limit(shopfront: Shopfront):
    await problem(await shopfront.browser(None).post(f"{API}/estimate", json=CHATS["text"]), 401, "unauthenticated")
    browser = shopfront.browser("ada")
    frame = len(json.dumps({"messages": [{"content": ""}]}))
    for excess, status in ((0, 200), (1, 413)):
        body = json.dumps({"messages": [{"content": "x" * (MAX_CHAT_BYTES - frame + excess)}]}).encode()
        headers = {"Content-Type": "application/json"}
        assert (await browser.post(f"{API}/estimate", data=BytesIO(body), headers=headers)).status == status
    await problem(await browser.post(f"{API}/estimate", data={"messages": "[]"}), 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "messages",
    [[], [{}], [{"role": "\ud800", "content": "\udfff"}], [{"content": [[[]] * 50]}], [{"content": 10**300}]],
)
async def test_odd_messages_are_answered_too(shopfront: Shopfront, messages: list[Any]):
    assert (await posted(shopfront, {"messages": messages}))["input_tokens"] > 0


async def test_tools_of_the_provider_and_their_limit_are_in_the_answer(shopfront: Shopfront):
    chat = {"model": "claude-sonnet-4-5", "max_output_tokens": 1, "tools": [{"type": "web_search_20250305"}]}
    chat |= {"messages": [{"role": "user", "content": "Who won?"}]}
    expected, limited = await posted(shopfront, chat), await posted(shopfront, chat | {"max_tool_calls": 1})
    assert (expected["tool_calls"], limited["tool_calls"]) == ({"web_search": 5}, {"web_search": 1})
    assert expected["cost"]["microcredits"] - limited["cost"]["microcredits"] == 4 * 1_150_000


async def test_an_hours_cache_of_the_whole_request_is_in_the_cost(shopfront: Shopfront):
    chat = {"model": "claude-sonnet-4-5", "messages": [{"role": "user", "content": "Hi"}], "max_output_tokens": 1}
    lasting = await posted(shopfront, chat | {"cache_control": {"type": "ephemeral", "ttl": "1h"}})
    assert lasting["cost"]["microcredits"] > (await posted(shopfront, chat))["cost"]["microcredits"]
