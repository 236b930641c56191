"""``credits demo --check``: plays the whole journey over HTTP, as a person would, and compares every figure.

The prices are computed here once more, with Decimal and from the configured dollars, not with the product's price book.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import traceback
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any, Final, TypeVar

from credits_plugin.bootstrap import Credits, build
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.ids import account_key
from credits_plugin.ledger.queries import open_holds
from credits_plugin.money import format_credits
from credits_plugin.payments.queries import inbox_page, payments_page
from credits_plugin.payments.refunds import refund_payment
from credits_plugin.payments.states import InboxStatus, RefundStatus
from credits_plugin.pricing.tokens import count_text_tokens
from credits_plugin.sandbox.demo import PASSWORD, PRICES, RunningDemo, start_demo
from credits_plugin.sandbox.model_server import DEFAULT_MODEL
from credits_plugin.sandbox.visitor import Visitor

T = TypeVar("T")

USER: Final = "alice"
BOUGHT: Final = 1_000_000_000  # microcredits: the Starter package
ABORT_AFTER: Final = 12  # pieces of a stream
DRAIN_S: Final = 10.0
_MARKUP: Final = Decimal("1.15")
_CREDITS_PER_USD: Final = 100


class CheckFailed(Exception):
    """A step cannot go on because what it needs did not come."""


@dataclass(slots=True)
class Report:
    """Prints each step with its figures and counts what differs."""

    steps: int = 0
    checks: int = 0
    differences: int = 0

    def step(self, title: str) -> None:
        """Begin a step."""
        self.steps += 1
        _say(f"\n{self.steps:2}  {title}")

    def note(self, text: str) -> None:
        """Print a figure that nothing is compared with."""
        _say(f"      {text}")

    def expect(self, what: str, got: T, expected: T, *, shown: str = "") -> None:
        """Compare, and print what was expected where it differs; ``shown`` is ``got`` for a person."""
        self.checks += 1
        if got == expected:
            _say(f"    + {what}: {shown or got}")
        else:
            self.differences += 1
            _say(f"    X {what}: got {got!r}, expected {expected!r}")

    def expect_credits(self, what: str, got: int, expected: int) -> None:
        """Compare microcredits, and print credits."""
        self.expect(what, got, expected, shown=f"{format_credits(got)} credits")

    def require(self, what: str, holds: bool) -> None:
        """Like :meth:`expect`, for a condition."""
        self.expect(what, holds, True, shown="yes")


async def check_demo() -> int:
    """Play the journey in a temporary folder, which takes seconds; returns 0 if every figure is as expected, else 1."""
    report = Report()
    try:
        with tempfile.TemporaryDirectory(prefix="credits-check-") as folder:
            await _play(report, Path(folder))
    except Exception:  # noqa: BLE001 - whatever breaks is a difference: step, cause, exit code 1
        _say(f"    X step {report.steps} broke off:\n{traceback.format_exc()}")
        report.differences += 1
    _say(
        f"\n{report.steps} steps, {report.checks} figures compared, "
        + (f"{report.differences} DIFFERENT" if report.differences else "all as expected")
    )
    return 1 if report.differences else 0


async def _play(report: Report, folder: Path) -> None:
    async with AsyncExitStack() as stack:
        demo = await stack.enter_async_context(start_demo(folder, word_delay_s=0.01))
        visitor = await stack.enter_async_context(Visitor(demo.url))
        admin = build(demo.settings)  # a second service on the same database, as the admin UI's process has
        stack.push_async_callback(admin.close)
        await visitor.sign_in(USER, PASSWORD)
        journey = _Journey(report, demo, visitor, admin)
        await journey.estimate()
        await journey.be_refused()
        session_id = await journey.purchase()
        await journey.receive_webhook(session_id)
        spent = await journey.chat() + await journey.stream() + await journey.abort()
        await journey.refund(spent)
        await journey.audit()


@dataclass(frozen=True, slots=True)
class _Journey:
    report: Report
    demo: RunningDemo
    visitor: Visitor
    admin: Credits

    async def estimate(self) -> None:
        self.report.step("Estimate what a prompt can cost")
        query = {"prompt": "How much is the fish?", "model": DEFAULT_MODEL, "max_output_tokens": "500"}
        estimate = (await self.visitor.get("/api/credits/estimate", **query)).body["estimate"]
        expected = price_of({"input": estimate["input_tokens"], "output": 500})
        self.report.expect("output tokens at most", estimate["max_output_tokens"], 500)
        self.report.expect_credits("cost at most", estimate["cost"]["microcredits"], expected)
        self.report.expect("affordable without credits", estimate["affordable"], False)

    async def be_refused(self) -> None:
        self.report.step("Chat without credits: 402 with the purchase link, streaming or not")
        for stream in (False, True):
            answer = await self.visitor.chat("Hello", stream=stream)
            self.report.expect("status", answer.status, 402)
            self.report.expect("content type", answer.content_type, "application/problem+json")
            self.report.expect("code", answer.body["code"], "insufficient_credits")
            self.report.expect("purchase link", answer.body["purchase_url"], self.demo.settings.purchase_url)
        self.report.expect_credits("available", await self._available(), 0)

    async def purchase(self) -> str:
        self.report.step("Buy the Starter package, and pay on the hosted page")
        answer = await self.visitor.post("/api/credits/purchase", {"package_id": 1, "payment_method": "stripe"})
        payment_url = answer.body.pop("payment_url")
        self.report.expect("answer", answer.body, {"success": True, "message": "Checkout session created"})
        self.report.require("payment page is the sandbox's", payment_url.startswith(self.demo.sandbox.url + "/c/pay/"))
        session_id = await self.visitor.pay(payment_url)
        self.report.note(f"paid {session_id[:24]}…, back on the success page")
        return session_id

    async def receive_webhook(self, session_id: str) -> None:
        self.report.step("The webhook grants, the session shows it")
        await asyncio.wait_for(self.demo.sandbox.drain(), DRAIN_S)
        events = [line for line in await self._inbox() if line.type == "checkout.session.completed"]
        statuses = [str(line.status) for line in events if line.object_id == session_id]
        self.report.expect("checkout.session.completed in the inbox", statuses, [InboxStatus.PROCESSED.value])
        bought = (await self._transactions())[0]
        self.report.expect("transaction", bought["type"], "purchase")
        self.report.expect_credits("granted", bought["amount"]["microcredits"], BOUGHT)
        session = (await self.visitor.get(f"/api/credits/session/{session_id}")).body["session"]
        self.report.expect("payment status", session["payment_status"], "paid")
        self.report.expect("amount", (session["amount_total"], session["currency"]), (1_000, "usd"), shown="$10.00")
        metadata = {"user_id": USER, "package_id": "1", "credits": "1000"}
        self.report.expect("metadata", session["metadata"], metadata)
        self.report.expect("payment", session["payment_intent"], bought["payment_id"])
        self.report.expect_credits("balance", await self._available(), BOUGHT)

    async def chat(self) -> int:
        self.report.step("Chat: held, answered, settled at the price book's price plus 15 %")
        before = await self._available()
        answer = await self.visitor.chat("Count: holds come first, settlement follows")
        self.report.expect("status", answer.status, 200)
        self.report.require("the answer is about the question", "5 words" in answer.body["reply"])
        return await self._expect_settled(answer.body["hold_id"], answer.body["usage"], before=before)

    async def stream(self) -> int:
        self.report.step("Streaming chat: held while it runs, settled the same way")
        before = await self._available()
        pieces: list[str] = []
        final: dict[str, Any] = {}
        async with self.visitor.chat_stream("Repeat 5 times: streamed and metered") as (hold_id, events):
            async for event in events:
                if not pieces:
                    await self._expect_held(hold_id)
                pieces.append(event.get("delta", ""))
                final = event
        self.report.expect("streamed", "".join(pieces), " ".join(["streamed and metered"] * 5))
        self.report.expect("last event", (final.get("done"), final.get("error")), (True, None))
        return await self._expect_settled(hold_id, final["usage"], before=before)

    async def abort(self) -> int:
        self.report.step("Streaming chat, aborted in mid-stream: estimated input plus what was streamed")
        before, received = await self._available(), ""
        async with self.visitor.chat_stream("Repeat 300 times: nobody reads all of this") as (hold_id, events):
            for _ in range(ABORT_AFTER):
                received += (await anext(events)).get("delta", "")
            hold = await self._expect_held(hold_id)
        await self.visitor.wait_for("/api/credits/balance", lambda body: body["held"]["microcredits"] == 0)
        charged = (await self._transactions())[0]
        usage = charged["usage"]
        self.report.note(f"{ABORT_AFTER} pieces were read, then the browser left")
        self.report.expect("charged input tokens, as estimated", usage["input"], hold.input_tokens)
        least = count_text_tokens(received, DEFAULT_MODEL)
        self.report.note(f"charged output tokens: {usage['output']}; at least {least} were read")
        self.report.require("charged what was streamed, not the whole answer", least <= usage["output"] < 512)
        cost: int = -charged["amount"]["microcredits"]
        self.report.expect("transaction of the hold", charged["id"], hold_id)
        self.report.expect_credits("cost, capped by the hold", cost, min(price_of(usage), hold.amount))
        self.report.expect_credits("balance", await self._available(), before - cost)
        return cost

    async def refund(self, spent: int) -> None:
        self.report.step("An admin refunds the payment: the credits are taken back, what was spent is debt")
        payment = (await self.admin.reads.run(lambda db: payments_page(db, account_id=account_key(USER))))[0]
        if self.admin.shop is None:
            msg = "the admin's service has no Stripe key"
            raise CheckFailed(msg)
        refund = await refund_payment(
            self.admin.shop,
            payment_id=payment.id,
            amount_minor=None,
            reason="requested_by_customer",
            note="demo --check",
            actor="demo-check",
            idempotency_key=f"demo-check-{payment.id}",
        )
        refunded = (refund.status, refund.amount_minor)
        self.report.expect("refund", refunded, (RefundStatus.SUCCEEDED, 1_000), shown="$10.00")
        await asyncio.wait_for(self.demo.sandbox.drain(), DRAIN_S)
        taken = [line for line in await self._transactions() if line["type"] == "refund"]
        self.report.expect("claw-backs", len(taken), 1)
        self.report.expect_credits("taken back", -taken[0]["amount"]["microcredits"], BOUGHT)
        self.report.expect_credits("balance", await self._available(), -spent)
        answer = await self.visitor.chat("Still there?")
        self.report.expect("chat in debt", (answer.status, answer.body["code"]), (402, "account_in_debt"))

    async def audit(self) -> None:
        self.report.step("Audit of the books")
        bad = [
            line.type for line in await self._inbox() if line.status not in (InboxStatus.PROCESSED, InboxStatus.IGNORED)
        ]
        self.report.expect("events that were not processed", bad, [])
        result = await asyncio.to_thread(audit, self.admin.database)
        self.report.expect("open holds", result.open_holds, 0)
        self.report.expect("findings", result.findings, [], shown=f"0 in {result.transfers} transfers")

    async def _expect_held(self, hold_id: str) -> Any:
        holds = await self.admin.reads.run(lambda db: open_holds(db, account_key(USER)))
        held = (await self.visitor.get("/api/credits/balance")).body["held"]["microcredits"]
        self.report.expect("open holds", [str(hold.id) for hold in holds], [hold_id])
        self.report.expect_credits("held", held, holds[0].amount)
        bound = {"input": holds[0].input_tokens, "output": 1_024}
        self.report.expect_credits("that is the most it can cost", holds[0].amount, price_of(bound))
        return holds[0]

    async def _expect_settled(self, hold_id: str, usage: Mapping[str, int], *, before: int) -> int:
        charged = (await self._transactions())[0]
        cost: int = -charged["amount"]["microcredits"]
        self.report.note(f"usage: {usage['input']} in, {usage['cache_read']} cached, {usage['output']} out")
        self.report.expect("transaction of the hold", (charged["type"], charged["id"]), ("usage", hold_id))
        self.report.expect("usage on it", charged["usage"], dict(usage), shown="the same")
        self.report.expect_credits("cost", cost, price_of(usage))
        body = (await self.visitor.get("/api/credits/balance")).body
        self.report.expect_credits("balance", body["balance"]["microcredits"], before - cost)
        self.report.expect_credits("held", body["held"]["microcredits"], 0)
        return cost

    async def _available(self) -> int:
        balance = (await self.visitor.get("/api/credits/balance")).body
        available: int = balance["available"]["microcredits"]
        return available

    async def _transactions(self) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = (await self.visitor.get("/api/credits/transactions")).body["transactions"]
        return lines

    async def _inbox(self) -> list[Any]:
        return await self.admin.reads.run(lambda db: inbox_page(db, limit=100))


def price_of(usage: Mapping[str, int]) -> int:
    """Return what usage of the local model costs in microcredits: dollars, 100 credits each, plus 15 %, rounded up."""
    price = {name: Decimal(text) for name, text in PRICES[DEFAULT_MODEL].items()}
    price["cache_write"], price["reasoning"] = price["input"], price["output"]  # as settings files mean it
    usd = sum((Decimal(count) * price[kind] for kind, count in usage.items()), Decimal(0)) / 1_000_000
    credits_used = usd * _CREDITS_PER_USD * _MARKUP
    return int((credits_used * 1_000_000).to_integral_value(ROUND_CEILING))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
