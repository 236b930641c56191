"""The pure rules and both real databases against a naive oracle, through random lives of two accounts."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass

import pytest
from budget_oracle import NaiveBudgets
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from ledger_oracle import NaiveAccount

from credits_plugin import Usage
from credits_plugin.database import Database, migrate, open_database
from credits_plugin.errors import CreditsError
from credits_plugin.ledger.attribution import lot_reports, paid_by
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.book import Book
from credits_plugin.ledger.budget_entries import (
    Budgeted,
    BudgetKind,
    BudgetPeriod,
    PauseRun,
    RemoveBudget,
    SetBudget,
    StartRun,
)
from credits_plugin.ledger.entries import (
    INCOMING,
    Code,
    ExpireHold,
    ExpireLots,
    ExtendHold,
    LotTerms,
    PlaceHold,
    PostTransfer,
    Released,
    ReleaseHold,
    RollOver,
    SettleHold,
    TransferRow,
)
from credits_plugin.ledger.ids import CLOCKS_DIFFER_MS, IdMaker, account_key, id_at, now_ms
from credits_plugin.ledger.replay import LotReplay, Movement, stored_lots_differ
from credits_plugin.ledger.rules import decide
from credits_plugin.ledger.store import budget_row
from credits_plugin.ledger.writer import LedgerWriter
from credits_plugin.models import Payment, Refund

AMOUNTS = st.integers(1, 1_000)
COSTS = st.integers(0, 600) | st.sampled_from([0, 50, 400, 2_000])
LEAST = st.none() | st.integers(0, 200)
WHO = st.integers(0, 1)
PICK = st.integers(0, 1_000)
RUN_BUDGET = 500
CAPS = st.sampled_from(
    [(BudgetKind.ACCOUNT, ""), (BudgetKind.MEMBER, "m"), (BudgetKind.KEY, "k"), (BudgetKind.KEY, "l")]
)
PERIODS = st.sampled_from(list(BudgetPeriod))
RUNS = st.sampled_from(["r", "s"])
LIMITS = st.integers(0, 900)
STARTED_MS = now_ms() - 30 * 86_400_000
"""Lives are lived in the past, so that every expiry of theirs is over by the writer's own clock too."""
numbers = itertools.count(0, 2)
lives = itertools.count()


@dataclass
class Host:
    """One real database behind its writer."""

    database: Database
    writer: LedgerWriter
    loop: asyncio.AbstractEventLoop

    def send(self, commands):
        async def all_at_once():
            return await asyncio.gather(*(self.writer.execute(one) for one in commands), return_exceptions=True)

        return self.loop.run_until_complete(all_at_once())

    def rows(self, sql, account_id):
        sql = sql.replace("%s", self.database.primary.param)
        return sorted(self.database.primary.execute_sql(sql, (account_id,)).fetchall())


@contextmanager
def running_host(url: str) -> Iterator[Host]:
    database = open_database(url)
    migrate(database)
    writer = LedgerWriter(database, new_id=IdMaker(), run_budget=RUN_BUDGET)
    writer.start()
    with closing(asyncio.new_event_loop()) as loop:
        yield Host(database, writer, loop)
    writer.close()
    database.close_thread()


class Life(RuleBasedStateMachine):
    """Commands gather in ``pending``; ``send`` gives them to the rules, to the oracle and, at once, to each host."""

    hosts: tuple[Host, ...] = ()

    def __init__(self):
        super().__init__()
        life = next(lives)
        self.names = [f"anna-{life}", f"boris-{life}"]
        self.keys = [account_key(name) for name in self.names]
        self.naive = {key: NaiveAccount(budgets=NaiveBudgets(RUN_BUDGET)) for key in self.keys}
        self.book = Book(run_budget=RUN_BUDGET)
        self.events = set()
        self.transfers = []
        self.clock = STARTED_MS
        self.pending, self.sent, self.made = [], [], set()
        self.holds, self.payments, self.clawed, self.refunds, self.lots = [], [], {}, [], []
        self.refunded = {}

    @initialize(amounts=st.tuples(AMOUNTS, AMOUNTS))
    def both_begin_with_something(self, amounts):
        for who, amount in enumerate(amounts):
            self.post(who, Code.PROMOTION, 500 + amount)
            self.give(who, 500, priority=1, lifetime=60)
        self.send()

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    def new_id(self) -> int:
        """An id as a host makes it, at the life's own time; different in every life."""
        return id_at(next(numbers), self.clock)

    def post(self, who, code, amount, *, reference=None, payment_id=None, terms=None) -> int:
        transfer_id = self.new_id()
        fields = (code, amount, self.tick(), reference, payment_id, terms or LotTerms())
        self.pending.append(PostTransfer(self.keys[who], self.names[who], transfer_id, *fields))
        return transfer_id

    @rule(who=WHO, amount=AMOUNTS, priority=st.integers(0, 2), lifetime=st.none() | st.integers(1, 40))
    def give(self, who, amount, priority, lifetime):
        expires = None if lifetime is None else self.clock + lifetime
        lot = self.post(who, Code.PROMOTION, amount, terms=LotTerms(priority, expires))
        if expires is not None:
            self.lots.append((who, lot, expires))

    @rule(who=WHO, amount=AMOUNTS, priority=st.integers(0, 2))
    def sell(self, who, amount, priority):
        payment = self.new_id()
        grant = self.post(who, Code.PURCHASE, amount, payment_id=payment, terms=LotTerms(priority))
        self.payments.append((payment, who, amount, grant))
        self.clawed[payment] = 0

    @precondition(lambda self: self.payments)
    @rule(pick=PICK, part=st.integers(1, 4))
    def claw_back(self, pick, part):
        payment, who, amount, _ = self.payments[pick % len(self.payments)]
        taken = (amount - self.clawed[payment] + part - 1) // part
        if taken:
            self.clawed[payment] += taken
            self.refunds.append((f"re_{self.new_id()}", payment, who))
            self.refunded[self.refunds[-1][0]] = taken
            self.post(who, Code.REFUND, taken, reference=self.refunds[-1][0], payment_id=payment)

    @precondition(lambda self: any(self.clawed.values()))
    @rule(pick=PICK)
    def give_back(self, pick):
        clawed = [one for one in self.payments if self.clawed[one[0]]]
        payment, who, _, _ = clawed[pick % len(clawed)]
        self.post(who, Code.REFUND_FAILED, self.clawed[payment], payment_id=payment)
        for reference in (name for name, refunded, _ in self.refunds if refunded == payment):
            self.refunded[reference] = -abs(self.refunded[reference])  # that one failed
        self.clawed[payment] = 0

    @rule(who=WHO, amount=AMOUNTS)
    def take_by_hand(self, who, amount):
        self.post(who, Code.ADJUSTMENT_OUT, amount)

    @rule(
        who=WHO,
        amount=st.integers(0, 400),
        ttl=st.integers(1, 90),
        times=st.integers(1, 4),
        least=LEAST,
        run=st.none() | RUNS,
        key=st.sampled_from([None, "k", "l", "no cap"]),
        member=st.sampled_from([None, "m"]),
    )
    def place(self, who, amount, ttl, times, least, run, key, member):
        for _ in range(times):
            hold, now = self.new_id(), self.tick()
            asked = (hold, amount, now, now + ttl, 1, 10, None, run, key, member, least)
            self.pending.append(PlaceHold(self.keys[who], self.names[who], *asked))
            self.holds.append((who, hold))

    @rule(who=WHO, cap=CAPS, period=PERIODS, limit=LIMITS)
    def set_budget(self, who, cap, period, limit):
        fields = (self.new_id(), *cap, period, limit, self.tick())
        self.pending.append(SetBudget(self.keys[who], self.names[who], *fields))

    @rule(who=WHO, cap=CAPS | RUNS.map(lambda run: (BudgetKind.RUN, run)), period=PERIODS)
    def remove_budget(self, who, cap, period):
        period = BudgetPeriod.NONE if cap[0] is BudgetKind.RUN else period
        self.pending.append(RemoveBudget(self.keys[who], *cap, period))

    @rule(who=WHO, run=RUNS, limit=st.none() | LIMITS)
    def start_run(self, who, run, limit):
        self.pending.append(StartRun(self.keys[who], self.names[who], self.new_id(), run, limit, self.tick()))

    @rule(who=WHO, run=RUNS, limit=LIMITS)
    def resume_run(self, who, run, limit):
        fields = (self.new_id(), BudgetKind.RUN, run, BudgetPeriod.NONE, limit, self.tick())
        self.pending.append(SetBudget(self.keys[who], self.names[who], *fields))

    @rule(who=WHO, run=RUNS)
    def pause_run(self, who, run):
        self.pending.append(PauseRun(self.keys[who], run, self.new_id(), self.tick()))

    @precondition(lambda self: self.clock < STARTED_MS + 25 * 86_400_000)
    @rule(hours=st.integers(1, 30))
    def a_day_passes(self, hours):
        self.clock += hours * 3_600_000

    @precondition(lambda self: self.holds)
    @rule(pick=PICK, amount=st.integers(1, 900), longer=st.integers(0, 90), least=LEAST)
    def extend(self, pick, amount, longer, least):
        who, hold = self.some_hold(pick)
        now = self.tick()
        self.pending.append(ExtendHold(self.keys[who], hold, amount, now, now + longer, least))

    def some_hold(self, pick) -> tuple[int, int]:
        """An open hold, mostly; else any of the newest, whatever became of it."""
        newest = self.holds[-8:]
        now_open = [(who, hold) for who, hold in self.holds if self.naive[self.keys[who]].is_open(hold)]
        choice = newest if pick % 4 == 0 or not now_open else now_open
        return choice[pick % len(choice)]

    @precondition(lambda self: self.holds)
    @rule(costs=st.lists(st.tuples(PICK, COSTS), min_size=1, max_size=4))
    def settle(self, costs):
        for pick, cost in costs:
            who, hold = self.some_hold(pick)
            self.pending.append(SettleHold(self.keys[who], hold, cost, self.tick(), Usage(input=cost)))

    @precondition(lambda self: self.holds)
    @rule(pick=PICK, charge=st.integers(0, 100), kind=st.sampled_from(["release", "expire"]))
    def end_otherwise(self, pick, charge, kind):
        who, hold = self.some_hold(pick)
        key = self.keys[who]
        release = ReleaseHold(key, hold, self.tick())
        self.pending.append(release if kind == "release" else ExpireHold(key, hold, self.clock, charge))

    @rule(who=WHO, steps=st.integers(1, 30))
    def time_passes(self, who, steps):
        self.clock += steps
        self.pending.append(ExpireLots(self.keys[who], self.new_id(), self.clock))

    @precondition(lambda self: self.lots)
    @rule(pick=PICK, cap=st.none() | st.integers(0, 500), longer=st.none() | st.integers(1, 60))
    def roll_over(self, pick, cap, longer):
        who, lot, expires = self.lots[pick % len(self.lots)]
        later, transfer_id = None if longer is None else expires + longer, self.new_id()
        self.pending.append(RollOver(self.keys[who], lot, transfer_id, self.tick(), later, cap))
        if later is not None:
            self.lots.append((who, transfer_id | 1, later))

    @precondition(lambda self: self.sent)
    @rule(pick=PICK)
    def repeat(self, pick):
        again = self.sent[-1 - pick % min(len(self.sent), 12)]
        if getattr(again, "at_ms", self.clock) > self.clock - CLOCKS_DIFFER_MS:  # nobody tries for longer than a day
            self.pending.append(again)

    @precondition(lambda self: self.pending)
    @rule()
    def send(self):
        commands, expected = [], []
        for command in self.pending:
            if not self.was_charged_and_forgotten(command) and not self.was_removed_since(command):
                commands.append(command)
                expected.append(self.decide(command))
        self.sent += commands
        self.pending = []
        for host in self.hosts:
            assert list(map(comparable, host.send(commands))) == list(map(comparable, expected))
            self.rows_equal_the_book(host)

    def was_charged_and_forgotten(self, command) -> bool:
        """A hold without request id, asked for again after its charge: only its next settle finds out."""
        return isinstance(command, PlaceHold) and command.hold_id in self.book.settled.keys() - self.book.holds.keys()

    def was_removed_since(self, command) -> bool:
        """What made a budget, again after its removal: nobody sends it; whoever wants another makes another id."""
        makes = isinstance(command, SetBudget | StartRun) and command in self.sent
        return makes and command.budget_id not in self.book.budgets_by_id and command.budget_id in self.made

    def decide(self, command):
        """Return the pure rules' answer, having compared it with the oracle's."""
        naive = self.naive[command.account_id]
        known = isinstance(command, PlaceHold) and command.hold_id in naive.holds
        state = naive.holds[command.hold_id][1] if known else None
        wanted = naive.apply(command)
        answer = outcome(self.book, command)
        if isinstance(answer, CreditsError):
            assert type(answer) is wanted or (known and state != "open"), (command, answer, wanted)
        else:
            told = answer[1:5] if isinstance(answer, Budgeted) else getattr(answer, "amount", wanted)
            assert told == wanted, (command, answer, wanted)
        assert isinstance(answer, CreditsError | Budgeted | Released) or wanted is not None
        self.made |= self.book.budgets_by_id.keys()
        self.events |= {(event[0], event[1]) for event in self.book.new_events}
        self.transfers += map(TransferRow._make, self.book.new_transfers)
        self.book.clear_writes()
        return answer

    def rows_equal_the_book(self, host):
        for key in self.keys:
            account = self.book.accounts.get(key)
            columns = "balance, held, seq, last_transfer_id, last_hash, next_expiry_at_ms, budgets"
            rows = host.rows(f"SELECT {columns} FROM account WHERE id = %s", key)
            assert rows == ([] if account is None else [tuple(getattr(account, name) for name in columns.split(", "))])
            lots = host.rows("SELECT id, priority, amount, remaining, expired FROM lot WHERE account_id = %s", key)
            mine = self.book.lots.get(key, [])
            assert lots == sorted((lot.id, lot.priority, lot.amount, lot.remaining, lot.expired) for lot in mine)
            holds = host.rows("SELECT id, amount, state, expires_at_ms, budgets FROM hold WHERE account_id = %s", key)
            kept = [hold for hold in self.book.holds.values() if hold.account_id == key]
            assert holds == sorted(
                (hold.id, hold.amount, hold.status, hold.expires_at_ms, hold.budgets) for hold in kept
            )
            columns = 'id, kind, name, period, "limit", spent, held, starts_at_ms, state, used_at_ms'
            budgets = host.rows(f"SELECT {columns} FROM budget WHERE account_id = %s", key)
            states = (budget_row(one) for one in self.book.budgets_by_id.values() if one.account_id == key)
            assert budgets == sorted((row[0], *row[2:]) for row in states)
            events = host.rows("SELECT id, account_id FROM outbox_message WHERE account_id = %s", key)
            assert events == sorted(event for event in self.events if event[1] == key)
            chain = host.rows("SELECT seq, id, code, amount, balance_after FROM transfer WHERE account_id = %s", key)
            links = [row for row in self.transfers if row.account_id == key]
            assert chain == [(row.seq, row.id, row.code, row.amount, row.balance_after) for row in links]

    @invariant()
    def books_agree(self):
        for key, naive in self.naive.items():
            account = self.book.accounts.get(key)
            assert (account is not None) == naive.exists
            if account is not None:
                assert (account.balance, account.held) == (naive.balance, naive.held)
            mine = [budget for budget in self.book.budgets_by_id.values() if budget.account_id == key]
            kept = {(one.kind, one.name, one.period): (one.limit, one.spent, one.held, one.status) for one in mine}
            assert kept == {key: budget.facts() for key, budget in naive.budgets.rows.items()}
            assert len(mine) == len(kept) == (account.budgets if account is not None else 0)

    @invariant()
    def replayed_chains_end_with_the_stored_lots(self):
        for key, naive in self.naive.items():
            replay = self.replayed(key)
            stored = [type(lot)(**asdict(lot)) for lot in self.book.lots.get(key, [])]
            assert stored_lots_differ(stored, replay) == []
            left = {lot.id: (lot.left, lot.expired) for lot in naive.lots}
            assert {lot.id: (lot.remaining, lot.expired) for lot in replay.lots.values()} == left

    def replayed(self, key) -> LotReplay:
        payments = {reference: payment for reference, payment, _ in self.refunds}
        replay = LotReplay({lot.id: lot for lot in self.book.lots.get(key, [])})
        for row in self.transfers:
            if row.account_id == key and (row.code != Code.USAGE or row.balance_after < 0):
                fields = (row.id, row.code, row.amount, row.balance_after, row.at_ms, row.reference)
                replay.apply(Movement(*fields, payments.get(row.reference)))
        if key in self.book.accounts:
            replay.spend_down(self.book.accounts[key].balance)
        assert replay.problems == []
        assert replay.rolling == 0
        return replay

    def anna_ends_in_debt_with_a_hold_open(self):
        """A true history that the audit must not find fault with."""
        self.give(0, 900, priority=1, lifetime=None)
        self.place(0, 20, ttl=9, times=2, least=0, run=None, key=None, member=None)
        self.pending.append(SettleHold(self.keys[0], self.holds[-2][1], 9_000, self.tick(), Usage(input=1)))

    def teardown(self):
        self.anna_ends_in_debt_with_a_hold_open()
        self.send()
        for host in self.hosts:
            self.write_payments(host.database)
            assert audit(host.database, transfers_per_range=20).findings == []
            for key in self.keys:
                self.attribution_agrees(host.database, key)

    def attribution_agrees(self, database, key):
        if key not in self.book.accounts:
            return
        naive = self.naive[key]
        for row in [row for row in self.transfers if row.account_id == key and row.code not in INCOMING][-12:]:
            paid = paid_by(database.reader, key, row.id)
            assert [(share.lot_id, share.microcredits) for share in paid.shares] == naive.took[row.id]
            assert paid.owed == sum(left for identifier, left in naive.debts if identifier == row.id)
        left = {lot.id: (lot.amount, lot.left, lot.expired) for lot in naive.lots}
        reports = lot_reports(database.reader, key)
        assert {one.lot_id: (one.granted, one.remaining, one.expired) for one in reports} == left
        for one in reports:
            gone = one.spent + one.not_yet_attributed + one.clawed_back + one.withdrawn + one.expired + one.rolled_over
            assert one.granted == gone + one.remaining

    def write_payments(self, database):
        """What our side of Stripe would have written beside the grants and claw-backs."""
        common = {"status": "paid", "package_id": 1, "package_name": "p", "currency": "eur"}
        common |= {"livemode": 0, "created_at_ms": 0, "updated_at_ms": 0}
        granted = {row.id for row in self.transfers}
        with database.primary.connection_context():
            for payment, who, amount, grant in self.payments:
                assert grant in granted
                row = {"id": payment, "account_id": self.keys[who], "microcredits": amount, "grant_transfer_id": grant}
                row |= {"clawed_back": self.clawed[payment], "idempotency_key": str(payment)}
                row |= {"amount_minor": amount, "refunded_minor": self.clawed[payment]}  # one credit, one cent
                Payment.insert({**common, **row}).execute(database.primary)
            for reference, payment, who in self.refunds:
                row = {"id": int(reference[3:]), "payment_id": payment, "account_id": self.keys[who], "reason": ""}
                row |= {"stripe_refund_id": reference, "idempotency_key": reference, "actor": "stripe"}
                taken = self.refunded[reference]
                row |= {"status": "succeeded" if taken > 0 else "failed", "amount_minor": abs(taken), "currency": "eur"}
                Refund.insert({**row, "created_at_ms": 0, "updated_at_ms": 0}).execute(database.primary)


def outcome(book, command):
    """The rules' answer, or the error that they raise."""
    try:
        return decide(book, command)
    except CreditsError as error:
        return error


def comparable(answer):
    return type(answer) if isinstance(answer, BaseException) else answer


LIVES_ON_DISK = int(os.environ.get("CREDITS_TEST_LIVES", "30"))
PATIENT = settings(deadline=None, suppress_health_check=list(HealthCheck))


def test_the_rules_agree_with_a_naive_ledger():
    run_state_machine_as_test(Life, settings=settings(PATIENT, max_examples=200, stateful_step_count=50))


@pytest.mark.parametrize("kind", ["sqlite_url", "fresh_postgresql_url"])
def test_a_real_database_agrees_with_the_rules_and_a_naive_ledger(kind: str, request: pytest.FixtureRequest):
    with running_host(request.getfixturevalue(kind)) as host:
        machine = type("LifeOnDisk", (Life,), {"hosts": (host,)})
        # Without shrinking: the pure machine finds the short stories, and a database would replay them for minutes.
        quick = settings(PATIENT, max_examples=LIVES_ON_DISK, stateful_step_count=50, phases=[Phase.generate])
        run_state_machine_as_test(machine, settings=quick)
