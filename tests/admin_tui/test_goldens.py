"""Every screen as text, at 80x24 and 120x40. ``CREDITS_UPDATE_GOLDENS=1`` writes them anew: look at the difference."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from admin_seed import Opener, shop_on

from admin_tui.backend import Backend

GOLDENS = Path(__file__).parent / "goldens"
# One walk through the UI: the keys that lead from one screen to the next.
WALK = {
    "customers": ("j",),
    "ledger": ("3",),
    "webhooks": ("7",),
    "payments": ("4",),
    "help": ("question_mark",),
    "payment": ("escape", "j", "enter"),
    "refund": ("r",),
    "customer": ("escape", "c"),
    "transfer": ("j", "enter"),
    "budgets": ("escape", "b"),
    "cap": ("n",),
    "holds": ("escape", "3", "o"),
}


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=lambda size: f"{size[0]}x{size[1]}")
async def test_screens_look_as_they_should(size: tuple[int, int], open_screen: Opener, backend: Backend):
    keys = {"stripe_secret_key": "sk_test_x", "stripe_webhook_secrets": ("whsec_x",)}
    backend.settings = replace(backend.settings, **keys)
    with shop_on(backend.settings.database_url) as shop:
        shop.budgets("usr_carla")
        shop.observations()
    shown = {}
    async with open_screen(size=size) as screen:
        for name, way in WALK.items():
            await screen.press(*way)
            shown[f"{name}-{size[0]}x{size[1]}.txt"] = screen.text + "\n"
    if os.environ.get("CREDITS_UPDATE_GOLDENS"):
        GOLDENS.mkdir(exist_ok=True)
        for name, text in shown.items():
            (GOLDENS / name).write_text(text, encoding="utf-8")
    for name, text in shown.items():
        assert text == (GOLDENS / name).read_text(encoding="utf-8"), name
        assert [len(line) <= size[0] for line in text.splitlines()] == [True] * size[1]
