"""A small shop with a fixed clock and fixed ids, written through the real ledger writer; and the screen on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from functools import partial
from typing import Any, TypeAlias

from textual.pilot import Pilot
from textual.worker import WorkerCancelled, WorkerFailed

from admin_tui.app import AdminApp
from admin_tui.screens.base import AccountChosen
from credits_plugin import Usage
from credits_plugin.database import Database, migrate, open_database
from credits_plugin.ledger.budget_entries import BudgetKind, BudgetPeriod, PauseRun, SetBudget, StartRun
from credits_plugin.ledger.entries import Code, LotTerms, PlaceHold, PostTransfer, SettleHold
from credits_plugin.ledger.ids import IdMaker, account_key
from credits_plugin.ledger.work import Transaction
from credits_plugin.ledger.writer import LedgerWriter
from credits_plugin.metering.observation_rows import store
from credits_plugin.metering.observations import ALL_ACCOUNTS, Event, Kind, Seen
from credits_plugin.models import Account, InboxEvent, Payment, PriceVersion, Refund

NOW = 1_774_000_800_000  # 2026-03-20 10:00 UTC
SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
CREDIT = 1_000_000

HOSTILE = "[/]\u202e$€[@click=app.quit]evil[red]\u200b"
HOSTILE_TEXT = "\x1b]52;c;ZXZpbA==\x07\x1b[2J\x9b31m\u202egnp.exe[/b][@click=app.bell]x[/]"


class Clock:
    """A clock that the seed moves on by hand."""

    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def fixed_ids(clock: Clock) -> IdMaker:
    """Ids with the same random part in every run."""
    maker = IdMaker(clock)
    maker._node = 0
    return maker


def seed(url: str, *, customers: int = 6) -> None:
    """Migrate the database and fill it: purchases, usage, holds, a refund, a debt, a hostile name, events."""
    database = open_database(url)
    migrate(database)
    database.close_thread()
    with shop_on(url, now=NOW - 3 * DAY) as shop:
        shop.fill(customers)


@contextmanager
def shop_on(url: str, *, now: int = NOW) -> Iterator[Shop]:
    """A host process of its own on the same database."""
    database = open_database(url)
    clock = Clock(now)
    new_id = fixed_ids(clock)
    writer = LedgerWriter(database, new_id=new_id)
    writer.start()
    try:
        yield Shop(database, writer, clock, new_id)
    finally:
        writer.close()
        database.close_thread()


class Shop:
    """Writes what a week of business would."""

    def __init__(self, database: Database, writer: LedgerWriter, clock: Clock, new_id: Callable[[], int]) -> None:
        self.database = database.primary
        self.writer = writer
        self.clock = clock
        self.new_id = new_id

    def fill(self, customers: int) -> None:
        price = {"id": 1, "digest": "d", "provider": "openai", "model": "gpt-4.1-mini", "record": "{}"}
        PriceVersion.insert(**price, created_at_ms=NOW).execute(self.database)
        for number in range(customers):
            self.buy(f"usr_{number:06x}", email=f"user{number}@example.io", number=number)
        carla = "usr_carla"
        first = self.buy(carla, email="carla@example.io", number=100)
        self.grant(carla, 250 * CREDIT, Code.PROMOTION, terms=LotTerms(priority=10, expires_at_ms=NOW + 12 * DAY))
        for turn in range(60):
            self.clock.now += 7 * MINUTE
            self.use(carla, 1_234_500 + 91_111 * (turn % 7), Usage(input=1_200 + turn, cache_read=800, output=310))
        self.refund(carla, first, amount_minor=200, number=1)
        self.clock.now = NOW - 71 * SECOND
        self.hold(carla, 50 * CREDIT, request_id="req_98966c", ttl_ms=60 * SECOND)
        self.clock.now = NOW - 4 * SECOND
        self.hold(carla, 73 * CREDIT, request_id="req_98967d")
        self.grant("usr_debt", 120 * CREDIT, Code.DISPUTE, reference="dp_1Q")
        self.grant(HOSTILE, 7 * CREDIT, Code.ADJUSTMENT_IN, reference=HOSTILE_TEXT)
        Account.update(email=HOSTILE_TEXT).where(Account.external_id == HOSTILE).execute(self.database)
        self.pending("usr_000000", email="user0@example.io")
        self.events()

    def grant(self, name: str, amount: int, code: Code, **fields: Any) -> int:
        transfer_id = self.new_id()
        self.writer.execute_sync(
            PostTransfer(account_key(name), name, transfer_id, code, amount, self.clock.now, **fields)
        )
        return transfer_id

    def buy(self, name: str, *, email: str, number: int) -> int:
        payment_id = self.new_id()
        intent = f"pi_3Q{number:06d}"
        grant_id = self.grant(name, 1_000 * CREDIT, Code.PURCHASE, reference=intent, payment_id=payment_id)
        self.payment(payment_id, name, status="paid", email=email, intent=intent, grant_id=grant_id)
        Account.update(email=email).where(Account.id == account_key(name)).execute(self.database)
        return payment_id

    def pending(self, name: str, *, email: str) -> None:
        self.payment(self.new_id(), name, status="open", email=email, intent=None, grant_id=None)

    def payment(
        self, payment_id: int, name: str, *, status: str, email: str, intent: str | None, grant_id: int | None
    ) -> None:
        row = {
            "id": payment_id,
            "account_id": account_key(name),
            "status": status,
            "package_id": 1,
            "package_name": "Starter",
            "microcredits": 1_000 * CREDIT,
            "amount_minor": 1_000,
            "currency": "usd",
            "livemode": 0,
            "idempotency_key": f"purchase-{payment_id}",
            "stripe_session_id": f"cs_test_{payment_id}",
            "payment_intent_id": intent,
            "email": email,
            "grant_transfer_id": grant_id,
            "created_at_ms": self.clock.now,
            "updated_at_ms": self.clock.now,
            "paid_at_ms": self.clock.now if grant_id else None,
        }
        Payment.insert(row).execute(self.database)

    def refund(self, name: str, payment_id: int, *, amount_minor: int, number: int) -> None:
        taken = 1_000 * CREDIT * amount_minor // 1_000
        reference = f"re_3Q{number:06d}"
        self.grant(name, taken, Code.REFUND, reference=reference, payment_id=payment_id)
        changes = {"status": "partially_refunded", "refunded_minor": amount_minor, "clawed_back": taken}
        Payment.update(changes).where(Payment.id == payment_id).execute(self.database)
        row = {
            "id": self.new_id(),
            "payment_id": payment_id,
            "account_id": account_key(name),
            "status": "succeeded",
            "amount_minor": amount_minor,
            "currency": "usd",
            "reason": "requested_by_customer",
            "note": "bought twice by mistake",
            "actor": "dana",
            "idempotency_key": f"refund-{number}",
            "stripe_refund_id": reference,
            "created_at_ms": self.clock.now,
            "updated_at_ms": self.clock.now,
        }
        Refund.insert(row).execute(self.database)

    def use(self, name: str, amount: int, usage: Usage) -> None:
        hold_id = self.hold(name, amount)
        self.writer.execute_sync(SettleHold(account_key(name), hold_id, amount, self.clock.now, usage))

    def hold(self, name: str, amount: int, *, request_id: str | None = None, ttl_ms: int = 600_000) -> int:
        now = self.clock.now
        command = PlaceHold(account_key(name), name, self.new_id(), amount, now, now + ttl_ms, 1, 2_000, request_id)
        self.writer.execute_sync(command)
        return command.hold_id

    def cap(self, name: str, limit: int, kind: BudgetKind, whose: str, period: BudgetPeriod) -> None:
        fields = (self.new_id(), kind, whose, period, limit, self.clock.now)
        self.writer.execute_sync(SetBudget(account_key(name), name, *fields))

    def budgets(self, name: str) -> None:
        """Cap an account, its keys and members; let runs pause, go on and merely be counted. Some names are hostile."""
        key = account_key(name)
        self.cap(name, 500 * CREDIT, BudgetKind.ACCOUNT, "", BudgetPeriod.MONTH)
        self.cap(name, 40 * CREDIT, BudgetKind.ACCOUNT, "", BudgetPeriod.DAY)
        self.cap(name, 12_500_000, BudgetKind.KEY, "ci", BudgetPeriod.DAY)
        self.cap(name, 100 * CREDIT, BudgetKind.MEMBER, "dana@example.io", BudgetPeriod.MONTH)
        self.cap(name, 5 * CREDIT, BudgetKind.KEY, HOSTILE_TEXT, BudgetPeriod.NONE)
        for run_id, limit in (
            ("nightly-42", 10 * CREDIT),
            ("report-7", 80 * CREDIT),
            ("seen", None),
            (HOSTILE, CREDIT),
        ):
            self.writer.execute_sync(StartRun(key, name, self.new_id(), run_id, limit, self.clock.now))
        self.writer.execute_sync(PauseRun(key, "nightly-42", self.new_id(), self.clock.now))
        now = self.clock.now
        for amount, run_id, key_id in ((3_250_000, "report-7", "ci"), (1_500_000, "seen", None)):
            hold = PlaceHold(key, name, self.new_id(), amount, now, now + MINUTE, 1, 10, run_id=run_id, key_id=key_id)
            self.writer.execute_sync(hold)
            if key_id:
                self.writer.execute_sync(SettleHold(key, hold.hold_id, amount, now, Usage(input=5, output=5)))

    def observations(self) -> None:
        """Count what hosts saw of the holds of three models, one with a hostile name."""
        for model in ("claude-opus-4", "gpt-4.1-mini", HOSTILE_TEXT):
            seen = [(Kind.CHARGED, 2, 85), (Kind.CHARGED, 17, 15), (Kind.OUTPUT, 20, 90), (Kind.OUTPUT, 33, 10)]
            seen += [(Kind.EVENT, Event.CUT, 4), (Kind.EVENT, Event.EXTENDED, 12), (Kind.EVENT, Event.REFUSED, 1_234)]
            rows = [Seen(ALL_ACCOUNTS, kind, model, bucket, times) for kind, bucket, times in seen]
            self.writer.work_sync([], partial(store, seen=sorted(rows)))

    def use_many(self, name: str, times: int) -> None:
        """Write many small usage transfers in one unit of work."""
        key, now = account_key(name), self.clock.now

        def run(tx: Transaction) -> None:
            for _ in range(times):
                hold = PlaceHold(key, name, tx.new_id(), 1_000, now, now + MINUTE, 1, 10)
                tx.decide(hold)
                tx.decide(SettleHold(key, hold.hold_id, 1_000, now, Usage(input=5, output=5)))

        self.writer.work_sync([key], run)

    def events(self) -> None:
        for number, (kind, status, detail) in enumerate(EVENTS):
            at = NOW - (len(EVENTS) - number) * 9 * MINUTE
            row = {
                "event_id": f"evt_{number:04d}",
                "type": kind,
                "status": status,
                "object_id": f"cs_test_{number:04d}",
                "account_id": account_key("usr_carla"),
                "livemode": 0,
                "attempts": 1 + (status == "failed"),
                "detail": detail,
                "payload": "{}",
                "created_at_ms": at - SECOND,
                "received_at_ms": at,
            }
            InboxEvent.insert(row).execute(self.database)


EVENTS = (
    ("checkout.session.completed", "processed", "granted 1,000 credits to usr_carla"),
    ("payment_intent.succeeded", "processed", None),
    ("refund.created", "processed", "took 200 credits back"),
    ("customer.updated", "ignored", "not a type that this version handles"),
    ("checkout.session.completed", "quarantined", "amount 1 usd differs from the order's $10.00"),
    ("charge.refunded", "failed", HOSTILE_TEXT),
)


class Screen:
    """The running UI as a person sees it: keys in, text out."""

    def __init__(self, app: AdminApp, pilot: Pilot) -> None:
        self.app = app
        self._pilot = pilot

    async def press(self, *keys: str) -> None:
        """Press keys one after the other; what opens or searches something has had its effect before the next."""
        await self.settle()
        for key in keys:
            await self._pilot.press(key)
            if not (len(key) == 1 and key.isalpha()):
                await self.settle()
        await self.settle()

    async def open_customer(self, external_id: str) -> None:
        """Open a customer as a list does, without the keys that lead there."""
        await self.settle()
        self.app.post_message(AccountChosen(account_key(external_id), external_id))
        await self.settle()

    async def type(self, text: str) -> None:
        await self._pilot.press(*text)
        await self.settle()

    async def settle(self) -> None:
        """Wait until nothing is being read or drawn; how a worker ended is the UI's to show."""
        await self._pilot.pause()
        for worker in [worker for worker in self.app.workers if not worker.is_finished]:
            with suppress(WorkerFailed, WorkerCancelled):
                await worker.wait()
        await self._pilot.pause()

    async def resize(self, width: int, height: int) -> None:
        await self._pilot.resize_terminal(width, height)
        await self.settle()

    async def refresh(self) -> None:
        """Do what the screen's timer does every second."""
        self.app.screen.refresh_soon()
        await self.settle()

    @property
    def lines(self) -> list[str]:
        """The terminal's lines."""
        strips = self.app.screen._compositor.render_strips()
        return ["".join(segment.text for segment in strip).rstrip() for strip in strips]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def notices(self) -> str:
        """What the UI says in passing."""
        return "\n".join(notice.message for notice in self.app._notifications)

    @property
    def cursor_line(self) -> str:
        """The table's line with the cursor."""
        return next(line for line in self.lines if "▸ " in line[:6])


Opener: TypeAlias = Callable[..., AbstractAsyncContextManager[Screen]]
"""``open_screen(*keys, customer="", size=(columns, lines))``: the UI on the seeded database, after these keys."""
