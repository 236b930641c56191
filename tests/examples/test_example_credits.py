"""examples/example_credits.py, which the adapters' examples share: offline, and on a ledger of one's own."""

import importlib
from pathlib import Path

import pytest
from openai import AsyncOpenAI

from credits_plugin import AIRequest, RequestRefused, usage_from_openai

PATH = Path(__file__).parents[2] / "examples" / "example_credits.py"


@pytest.fixture
def shared(monkeypatch):
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_MODEL", "DATABASE_URL", "CREDITS_SETTINGS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.syspath_prepend(PATH.parent)
    return importlib.import_module("example_credits")


async def call(service, provider):
    messages = [{"role": "user", "content": "Hello"}]
    async with (
        service.metered(AIRequest("ada", provider.model, messages, max_output_tokens=50)) as metered,
        AsyncOpenAI(base_url=provider.url, api_key=provider.key) as client,
    ):
        answer = await client.chat.completions.create(model=provider.model, messages=messages, max_tokens=50)
        metered.report(usage_from_openai(answer.usage.model_dump()))


async def test_without_settings_a_user_has_credits_and_a_local_model_answers(shared, capsys):
    async with shared.example_credits("ada") as (service, provider):
        assert provider.url.startswith("http://127.0.0.1:")
        await call(service, provider)
    assert capsys.readouterr().out.startswith("ada was charged 0.")


async def test_on_a_named_ledger_nobody_is_given_anything(shared, monkeypatch, tmp_path):
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'mine.db'}")
    monkeypatch.setenv("CREDITS_SETTINGS", str(PATH.parent / "credits.toml"))
    async with shared.example_credits("ada") as (service, provider):
        with pytest.raises(RequestRefused):
            await call(service, provider)
