"""New price data: what is too different from the installed data is held back, the same on every host."""

from __future__ import annotations

import copy
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from genai_prices.types import ClauseEquals, ModelInfo, ModelPrice, Provider

from credits_plugin.pricing.catalogue import bundled_providers, find_model
from credits_plugin.pricing.vetting import Vetted, vet


def model(name: str, *, answers_to: str | None = None, **usd: str) -> ModelInfo:
    prices = ModelPrice(**{f"{key}_mtok" if "kcount" not in key else key: Decimal(value) for key, value in usd.items()})
    return ModelInfo(id=name, match=ClauseEquals(equals=answers_to or name), prices=prices)


def provider(*models: ModelInfo, name: str = "p") -> Provider:
    return Provider(id=name, name=name, api_pattern="x", models=list(models))


INSTALLED = [
    provider(model("m", input="3", output="15", web_searches_kcount="10"), model("other", input="1", output="1"))
]


def vetted(*models: ModelInfo, max_factor: int = 3) -> Vetted:
    return vet([provider(*models)], INSTALLED, max_factor=max_factor)


def found(data: list[Provider], name: str) -> Any:
    pair = find_model(data, name, "p")
    return pair and pair[1]


OTHER = INSTALLED[0].models[1]


@pytest.mark.parametrize(
    ("usd", "reason"),
    [
        ({"input": "0", "output": "15"}, "input would cost nothing"),
        ({"output": "15"}, "input would cost nothing"),
        ({"input": "3", "output": "0"}, "output would cost nothing"),
        ({"input": "9.000001", "output": "15"}, "input would cost 9.000001 USD, it costs 3"),
        ({"input": "0.99", "output": "15"}, "input would cost 0.99 USD, it costs 3"),
        ({"input": "3", "output": "150"}, "output would cost 150"),
        ({"input": "3", "output": "15", "input_audio": "10"}, "audio_input would cost 10 USD"),
        ({"input": "3", "output": "15", "cache_read": "0"}, "cache_read would cost nothing"),
        ({"input": "3", "output": "15", "requests_kcount": "5"}, "per_request would cost"),
        ({"input": "3", "output": "15", "web_searches_kcount": "0"}, "web_search would cost nothing"),
    ],
)
def test_a_price_that_drops_to_nothing_or_jumps_is_held_back_and_the_installed_one_goes_on(usd: dict, reason: str):
    end = vetted(model("m", **({"web_searches_kcount": "10"} | usd)), OTHER)
    assert [held.model for held in end.held_back] == ["m"]
    assert end.held_back[0].reason.startswith(reason)
    assert found(end.providers, "m") == INSTALLED[0].models[0]


@pytest.mark.parametrize(("input_", "output"), [("9", "15"), ("1", "5"), ("3", "45"), ("4", "20")])
def test_a_price_that_moves_within_the_factor_is_used(input_: str, output: str):
    end = vetted(model("m", input=input_, output=output, web_searches_kcount="10"), OTHER)
    assert end.held_back == ()
    assert found(end.providers, "m").prices.input_mtok == Decimal(input_)


def test_a_larger_factor_lets_more_through():
    assert vetted(model("m", input="30", output="15", web_searches_kcount="10"), OTHER, max_factor=10).held_back == ()


def test_a_model_and_a_provider_that_are_gone_stay_and_are_reported():
    end = vetted(OTHER)
    assert [(held.model, held.reason) for held in end.held_back] == [("m", "it is gone")]
    assert found(end.providers, "m") is INSTALLED[0].models[0]
    end = vet([provider(name="q")], INSTALLED, max_factor=3)
    assert [(held.provider, held.model) for held in end.held_back] == [("p", "*")]
    assert found(end.providers, "m") is INSTALLED[0].models[0]


def test_a_cheaper_model_that_answers_to_another_ones_name_is_noticed():
    usurper = model("tiny", answers_to="m", input="0.001", output="0.001")
    end = vetted(usurper, OTHER)
    assert [held.model for held in end.held_back] == ["m"]
    assert found(end.providers, "m") is INSTALLED[0].models[0]


def test_new_models_and_providers_are_used_at_once():
    end = vet(
        [provider(*INSTALLED[0].models, model("new", input="1000", output="1")), provider(name="q")],
        INSTALLED,
        max_factor=3,
    )
    assert end.held_back == ()
    assert found(end.providers, "new").prices.input_mtok == 1000
    assert [one.id for one in end.providers] == ["p", "q"]


def test_a_bare_name_leads_to_the_provider_that_it_led_to_before():
    """Neither a new provider that claims it, nor one that claims it no more, makes it cost something else."""
    thief = replace(
        provider(model("gpt-4o", input="0.01", output="0.01"), name="thief"), model_match=ClauseEquals(equals="gpt-4o")
    )
    data = [thief, *(replace(one, model_match=None, provider_match=None) for one in bundled_providers())]
    end = vet(data, bundled_providers(), max_factor=3)
    assert end.held_back == ()
    assert find_model(end.providers, "gpt-4o", None)[0].id == "openai"
    assert find_model(end.providers, "gpt-4o", "thief")[0].id == "thief"
    assert find_model(end.providers, "gemini-2.5-pro", "vertex_ai")[0].id == "google"


def test_a_price_by_date_that_is_too_high_later_is_held_back_now():
    from genai_prices.types import ConditionalPrice, StartDateConstraint

    later = ConditionalPrice(
        constraint=StartDateConstraint(start_date="2099-01-01"), prices=model("m", input="300", output="15").prices
    )
    now = ConditionalPrice(prices=INSTALLED[0].models[0].prices)
    end = vetted(replace(INSTALLED[0].models[0], prices=[now, later]), OTHER)
    assert [held.model for held in end.held_back] == ["m"]


def test_a_model_that_was_free_may_get_a_price():
    free = [provider(model("m", input="0", output="0"))]
    assert vet([provider(model("m", input="5", output="5"))], free, max_factor=3).held_back == ()


def test_the_installed_data_passes_unchanged_against_itself():
    data = copy.deepcopy(bundled_providers())
    end = vet(data, bundled_providers(), max_factor=1)
    assert (end.held_back, end.providers) == ((), data)
