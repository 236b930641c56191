"""A host's prices: followed while it runs, by tenant, with special kinds and tool calls charged and recorded."""

from __future__ import annotations

import asyncio
from pathlib import Path

from metering_seed import balance, give

from credits_plugin import AIRequest, Hold, Outcome, OutcomeStatus, Usage
from credits_plugin.bootstrap import build
from credits_plugin.settings import load_settings

TOML = """
markup_bps = 0
[prices.toy]
input = "1"
output = "2"
audio_input = "5"
[prices.toy.tools]
web_search = "0.01"
[tenants.boris]
markup_bps = 10000
"""


async def test_a_running_host_charges_new_requests_by_the_changed_file_and_old_ones_by_their_hold(
    tmp_path: Path, sqlite_url: str
):
    path = tmp_path / "credits.toml"
    path.write_text(TOML)
    environment = {"CREDITS_SETTINGS": str(path), "DATABASE_URL": sqlite_url, "CREDITS_SWEEP_INTERVAL_S": "0.05"}
    service = build(load_settings(environment))
    await service.start()
    await give(service, "anna", 100_000_000)
    request = AIRequest("anna", "toy", [{"role": "user", "content": "hi"}], max_output_tokens=10)
    before = await service.admit(request)
    assert isinstance(before, Hold)
    path.write_text(TOML.replace('"1"', '"3"').replace('"2"', '"6"'))
    async with asyncio.timeout(10):
        while (await service.estimate(request)).cost_microcredits == before.amount_microcredits:
            await asyncio.sleep(0.01)
    after = await service.admit(request)
    assert isinstance(after, Hold)
    assert after.amount_microcredits == 3 * before.amount_microcredits
    usage = Usage(input=10, output=5)
    costs = [(await service.settle(hold, Outcome(OutcomeStatus.COMPLETED, usage))).amount for hold in (before, after)]
    assert costs == [2_000, 6_000]
    await service.close()


async def test_a_tenant_pays_its_markup_and_everybody_for_audio_and_searches(tmp_path: Path, sqlite_url: str):
    path = tmp_path / "credits.toml"
    path.write_text(TOML)
    service = build(load_settings({"CREDITS_SETTINGS": str(path), "DATABASE_URL": sqlite_url}))
    usage = Usage(input=10, audio_input=100, tool_calls={"web_search": 2})
    for name, cost in (("anna", 1_000 + 50_000 + 2_000_000), ("boris", 2 * 2_051_000)):
        await give(service, name, 10_000_000)
        hold = await service.admit(AIRequest(name, "toy", max_output_tokens=10))
        assert isinstance(hold, Hold)
        settled = await service.settle(hold, Outcome(OutcomeStatus.COMPLETED, usage))
        assert settled.amount == cost
        assert balance(service, name) == (10_000_000 - cost, 0)
    await service.close()


async def test_audio_in_a_prompt_is_held_at_its_own_price_and_charged_so_where_no_usage_is_known(
    tmp_path: Path, sqlite_url: str
):
    path = tmp_path / "credits.toml"
    path.write_text(TOML)
    service = build(load_settings({"CREDITS_SETTINGS": str(path), "DATABASE_URL": sqlite_url}))
    await give(service, "anna", 10_000_000)
    sound = {"type": "input_audio", "input_audio": {"data": "A" * 25_600, "format": "wav"}}
    request = AIRequest("anna", "toy", [{"role": "user", "content": [sound]}], max_output_tokens=10)
    hold = await service.admit(request)
    assert isinstance(hold, Hold)
    audio = hold.estimate.audio_input_tokens
    text = hold.estimate.input_tokens - audio
    assert audio > 50
    assert text > 0
    assert hold.amount_microcredits == text * 100 + audio * 500 + 10 * 200
    settled = await service.settle(hold, Outcome(OutcomeStatus.ABORTED))
    assert settled.amount == text * 100 + audio * 500
    await service.close()


async def test_output_is_cut_to_what_is_left_beside_the_audio(tmp_path: Path, sqlite_url: str):
    path = tmp_path / "credits.toml"
    path.write_text(TOML)
    service = build(load_settings({"CREDITS_SETTINGS": str(path), "DATABASE_URL": sqlite_url}))
    sound = {"type": "input_audio", "input_audio": {"data": "A" * 25_600, "format": "wav"}}
    request = AIRequest(
        "anna", "toy", [{"role": "user", "content": [sound]}], max_output_tokens=10, min_output_tokens=1
    )
    bound = await service.estimate(request)
    await give(service, "anna", bound.cost_microcredits - 10 * 200 + 3 * 200 + 199)
    hold = await service.admit(request)
    assert isinstance(hold, Hold)
    assert hold.estimate.max_output_tokens == 3
    await service.close()
