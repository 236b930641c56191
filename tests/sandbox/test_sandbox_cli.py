"""Stripe's own command line triggers events in the sandbox: `stripe trigger EVENT`, each by its own fixtures."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

# The package's own start script needs node; the program beside it does not, and starts in half the time.
INSTALLED = Path(__file__).parents[2] / "build" / "stripe-cli" / "node_modules" / "@stripe"
EXECUTABLE = next(map(str, INSTALLED.glob("cli-*/bin/stripe*")), shutil.which("stripe"))
pytestmark = pytest.mark.skipif(
    EXECUTABLE is None, reason="needs `npm install --prefix build/stripe-cli @stripe/cli`, or stripe on the PATH"
)

TRIGGERED = (
    "charge.captured", "charge.dispute.closed", "charge.dispute.created", "charge.dispute.updated", "charge.failed",
    "charge.refund.updated", "charge.refunded", "charge.succeeded", "checkout.session.completed",
    "checkout.session.expired", "coupon.created", "coupon.deleted", "coupon.updated", "customer.created",
    "customer.deleted", "customer.updated", "payment_intent.amount_capturable_updated", "payment_intent.canceled",
    "payment_intent.created", "payment_intent.payment_failed", "payment_intent.processing",
    "payment_intent.requires_action", "payment_intent.succeeded",
    "payment_method.attached", "payment_method.detached", "product.created", "product.deleted", "product.updated",
)  # fmt: skip

REFUSED = {
    "checkout.session.async_payment_succeeded": "Received unknown parameter: payment_method_types",
    "promotion_code.created": "Received unknown parameter: coupon",
    "customer.discount.created": "Received unknown parameter: coupon",
}
"""Fixtures of the command line that this API version refuses at Stripe too, with what it says."""


@pytest.fixture
def trigger(sandbox, tmp_path):
    """Run the command; returns (exit code, output). No login of a developer is used."""

    async def run(event: str, *options: str) -> tuple[int, str]:
        home = tmp_path / event  # of its own: those that run side by side write there
        home.mkdir()
        arguments = ["trigger", event, "--api-base", sandbox.url, "--api-key", "sk_test_sandbox", *options]
        process = await asyncio.create_subprocess_exec(
            EXECUTABLE,
            *arguments,
            env={**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), 30)
        finally:
            if process.returncode is None:
                process.kill()
        return process.returncode, output.decode()

    return run


async def test_official_command_line_triggers_events(trigger, api, sandbox, receiver):
    slots = asyncio.Semaphore(3)

    async def run(event: str) -> tuple[int, str]:
        async with slots:
            return await trigger(event)

    outcomes = dict(zip(TRIGGERED, await asyncio.gather(*map(run, TRIGGERED)), strict=True))
    failed = [output for code, output in outcomes.values() if code]
    assert not failed, "\n".join(failed)
    await sandbox.drain()
    assert set(TRIGGERED) - {event["type"] for event in receiver.events()} == set()


def test_document_says_how_many():
    assert f"plays {len(TRIGGERED)} of its events" in (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text()


async def test_its_delayed_payment_succeeds_in_the_words_of_this_version(trigger, api, sandbox):
    options = ("--remove", "checkout_session:payment_method_types", "--override", "price:currency=eur")
    code, output = await trigger("checkout.session.async_payment_succeeded", *options)
    assert code == 0, output
    (session,) = (await api.checkout.sessions.list_async()).data
    assert (session.status, session.payment_status) == ("complete", "unpaid")
    assert sandbox.complete_delayed_payment(session.id)["payment_status"] == "paid"


@pytest.mark.parametrize("event", REFUSED)
async def test_fixtures_of_older_versions_are_refused_as_stripe_refuses_them(trigger, event):
    code, output = await trigger(event)
    assert (code, REFUSED[event] in output) == (1, True), output
