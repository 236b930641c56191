"""Settings: the environment first, then the file; every error names the variable and what to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from credits_plugin import Settings, load_settings
from credits_plugin.errors import ConfigurationError
from credits_plugin.settings import UnknownUsageRule


def test_an_empty_environment_gives_the_defaults():
    settings = load_settings({})
    assert settings == Settings()
    assert settings.markup_bps == 1_500
    assert settings.success_url == "http://127.0.0.1:8080/credits/success?session_id={CHECKOUT_SESSION_ID}"


def test_names_from_the_brief_are_read():
    settings = load_settings(
        {
            "STRIPE_SECRET_KEY": "sk_live_1",
            "STRIPE_WEBHOOK_SECRET": "whsec_new, whsec_old",
            "FRONTEND_URL": "https://chat.example.com/",
            "DATABASE_URL": "postgresql://db/credits",
            "CREDITS_UNKNOWN_USAGE": "charge_input",
        }
    )
    assert settings.stripe_webhook_secrets == ("whsec_new", "whsec_old")
    assert settings.cancel_url == "https://chat.example.com/credits/cancel"
    assert settings.livemode
    assert settings.unknown_usage is UnknownUsageRule.CHARGE_INPUT
    settings.require_stripe()


def test_secrets_stay_out_of_repr():
    shown = repr(Settings(stripe_secret_key="sk_test_secret", stripe_webhook_secrets=("whsec_secret",)))
    assert "secret_" not in shown.replace("stripe_secret_key", "")
    assert "sk_test" not in shown
    assert "whsec" not in shown


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"STRIPE_WEBHOOK_SECRET": ""}, "STRIPE_WEBHOOK_SECRET is empty"),
        ({"STRIPE_WEBHOOK_SECRET": "whsec_a,,"}, "STRIPE_WEBHOOK_SECRET has an empty entry"),
        ({"CREDITS_MARKUP_BPS": "15%"}, "CREDITS_MARKUP_BPS must be a number"),
        ({"CREDITS_MARKUP_BPS": "-1"}, "markup_bps must be between"),
        ({"CREDITS_HOLD_TTL_S": "0"}, "hold_ttl_s must be between"),
        ({"CREDITS_UNKNOWN_USAGE": "maybe"}, "CREDITS_UNKNOWN_USAGE must be one of release, charge_input"),
        ({"FRONTEND_URL": "javascript:alert(1)"}, "FRONTEND_URL must be"),
        ({"FRONTEND_URL": "chat.example.com"}, "FRONTEND_URL must be"),
        ({"CREDITS_PREFIX": "api"}, "prefix must start with a slash"),
        ({"CREDITS_SETTINGS": "/does/not/exist.toml"}, "cannot be read"),
    ],
)
def test_a_wrong_value_is_named_with_what_to_write(environment: dict[str, str], named: str):
    with pytest.raises(ConfigurationError, match=named):
        load_settings(environment)


def test_missing_keys_are_named_together():
    with pytest.raises(ConfigurationError, match="STRIPE_SECRET_KEY and STRIPE_WEBHOOK_SECRET not set"):
        Settings().require_stripe()


def test_the_file_holds_packages_prices_and_rules_and_the_environment_wins(tmp_path: Path):
    path = tmp_path / "credits.toml"
    path.write_text(
        'markup_bps = 2000\nhold_ttl_s = 60\n[[packages]]\nid = 1\nname = "S"\ncredits = 5\nprice_minor = 9\n'
        '[prices."m"]\ninput = "1"\noutput = "2"\n'
    )
    settings = load_settings({"CREDITS_SETTINGS": str(path), "CREDITS_MARKUP_BPS": "100"})
    assert (settings.markup_bps, settings.hold_ttl_s) == (100, 60)
    assert settings.packages[0]["name"] == "S"
    assert settings.prices["m"] == {"input": "1", "output": "2"}


@pytest.mark.parametrize("text", ["stripe_secret_key = 'sk'", "colour = 1", "a = ["])
def test_a_file_with_secrets_unknown_keys_or_bad_syntax_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "credits.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"credits\.toml"):
        load_settings({"CREDITS_SETTINGS": str(path)})
