"""Every screen as text, at 80x24 and 120x40. ``CREDITS_UPDATE_GOLDENS=1`` writes them anew: look at the difference."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from admin_seed import Opener

from admin_tui.backend import Backend

GOLDENS = Path(__file__).parent / "goldens"
SCREENS = {
    "customers": {"keys": ("j",)},
    "customer": {"customer": "usr_carla"},
    "transfer": {"customer": "usr_carla", "keys": ("j", "enter")},
    "ledger": {"keys": ("3",)},
    "payments": {"keys": ("4",)},
    "payment": {"keys": ("4", "j", "enter")},
    "refund": {"keys": ("4", "j", "r")},
    "webhooks": {"keys": ("7",)},
    "help": {"keys": ("4", "question_mark")},
}


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", SCREENS)
async def test_screen_looks_as_it_should(name: str, size: tuple[int, int], open_screen: Opener, backend: Backend):
    keys = {"stripe_secret_key": "sk_test_x", "stripe_webhook_secrets": ("whsec_x",)}
    backend.settings = replace(backend.settings, **keys)
    wanted = SCREENS[name]
    async with open_screen(*wanted.get("keys", ()), customer=wanted.get("customer", ""), size=size) as screen:
        shown = screen.text + "\n"
    golden = GOLDENS / f"{name}-{size[0]}x{size[1]}.txt"
    if os.environ.get("CREDITS_UPDATE_GOLDENS"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(shown, encoding="utf-8")
    assert shown == golden.read_text(encoding="utf-8")
    assert all(len(line) <= size[0] for line in shown.splitlines())
    assert len(shown.splitlines()) == size[1]
