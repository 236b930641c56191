"""Several hosts on one PostgreSQL: one leads each account, and nothing depends on which one it is."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from credits_plugin import Usage
from credits_plugin.database import Database, migrate, open_database
from credits_plugin.distributed import wire
from credits_plugin.distributed.channel import ForgedFrame, accept_channel, open_channel
from credits_plugin.distributed.leases import PARTITIONS, Lease, Leases, leaders
from credits_plugin.distributed.peers import Call, Peer
from credits_plugin.distributed.router import RoutedWriter
from credits_plugin.distributed.wire import (
    NotUnderstood,
    command_message,
    command_of,
    error_message,
    outcome_of,
    pack,
    unpack,
)
from credits_plugin.errors import BudgetExceeded, ConfigurationError, HoldEnded, InsufficientCredits
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.budget_entries import (
    BudgetKind,
    BudgetPeriod,
    PauseRun,
    RemoveBudget,
    SetBudget,
    StartRun,
)
from credits_plugin.ledger.entries import (
    Code,
    ExpireHold,
    ExpireLots,
    ExtendHold,
    LotTerms,
    PlaceHold,
    PostTransfer,
    ReleaseHold,
    RollOver,
    SettleHold,
)
from credits_plugin.ledger.ids import IdMaker, account_key, now_ms
from credits_plugin.ledger.writer import LedgerWriter

HOST = Path(__file__).with_name("host_process.py")
SECRET = b"a secret of all hosts"
KEY = account_key("anna")
TTL_MS = 600
new_id = IdMaker()


@pytest.fixture
def shared(fresh_postgresql_url: str) -> Iterator[Database]:
    database = open_database(fresh_postgresql_url)
    migrate(database)
    yield database
    database.close_thread()


@pytest.fixture
def hosts(shared: Database, fresh_postgresql_url: str) -> Iterator[list[RoutedWriter]]:
    """Three hosts of this process, which have met."""
    writers = [routed(fresh_postgresql_url) for _ in range(3)]
    for writer in writers:
        writer.start()
    wait_until(lambda: all(reach(writer) == 2 for writer in writers))
    yield writers
    for writer in writers:
        writer.close()


def routed(url: str, **options) -> RoutedWriter:
    options = {"ttl_ms": TTL_MS, "answer_within_s": 1.0} | options
    return RoutedWriter(open_database(url), new_id=IdMaker(), secret=SECRET, **options)


def reach(writer: RoutedWriter) -> int:
    """How many other hosts it sends commands to."""
    return len({peer for peer in writer._routes if peer is not None})


def wait_until(condition, *, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def grant(amount: int, user: str = "anna", **rest) -> PostTransfer:
    return PostTransfer(account_key(user), user, new_id(), Code.PROMOTION, amount, now_ms(), **rest)


def hold(amount: int, user: str = "anna") -> PlaceHold:
    return PlaceHold(account_key(user), user, new_id(), amount, now_ms(), now_ms() + 60_000, 1, 1)


def settle(hold_id: int, amount: int) -> SettleHold:
    return SettleHold(KEY, hold_id, amount, now_ms(), Usage(input=amount))


def test_a_lease_is_acquired_renewed_released_and_lost_by_the_databases_clock(shared: Database):
    first, second = (Leases(shared.primary, owner=name, ttl_ms=200) for name in ("a", "b"))
    first.prepare()
    first.prepare()
    assert first.renew("a:1") == (Lease("a", "a:1", 1),)
    assert [lease.owner for lease in second.renew("b:1")] == ["a", "b"]
    first.release()
    assert [lease.owner for lease in second.renew("b:1")] == ["b"]
    first.renew("a:1")
    time.sleep(0.25)
    assert [lease.owner for lease in second.renew("b:1")] == ["b"], "whoever does not renew is dead"
    assert first.renew("a:2")[0] == Lease("a", "a:2", 2), "a lapse is counted"
    first.disconnect()


def test_partitions_are_shared_evenly_and_only_a_dead_hosts_share_moves():
    live = [Lease(f"host-{number}", "h:1", 1) for number in range(4)]
    before = leaders(live)
    assert len(before) == PARTITIONS
    assert all(PARTITIONS / 8 < share < PARTITIONS / 2 for share in Counter(before).values())
    after = leaders(live[1:])
    assert all(now == was for was, now in zip(before, after, strict=True) if was != live[0])
    assert leaders(list(reversed(live))) == before, "every host computes the same"
    assert set(leaders([])) == {None}


COMMANDS = [
    hold(5),
    hold(5)._replace(request_id="r", run_id="ü"),
    hold(5)._replace(run_id="r", key_id="k", member_id="m", least=3),
    ExtendHold(KEY, 1, 2, 3, 4, least=1),
    SettleHold(KEY, 1, 2, 3, Usage(1, 2, 3, 4, 5)),
    ReleaseHold(KEY, 1, 2),
    ExpireHold(KEY, 1, 2, 3, Usage(input=1)),
    ExpireHold(KEY, 1, 2),
    grant(7, terms=LotTerms(5, 9)),
    ExpireLots(KEY, 1, 2),
    RollOver(KEY, 1, 2, 3, 4, cap=5),
    RollOver(KEY, 1, 2, 3, None),
    SetBudget(KEY, "anna", 1, BudgetKind.KEY, "k", BudgetPeriod.DAY, 5, 2),
    StartRun(KEY, "anna", 1, "r", None, 2),
    PauseRun(KEY, "r", 1, 2),
    RemoveBudget(KEY, BudgetKind.ACCOUNT, "", BudgetPeriod.MONTH, 3),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_a_command_survives_the_wire(command):
    (message,) = unpack(pack([command_message(1, command)]))
    received = command_of(message)
    assert (received, type(received)) == (command, type(command))
    assert [type(value) for value in received] == [type(value) for value in command]


@pytest.mark.parametrize(
    "message",
    [
        [1, "SplitHold", KEY, 2],
        [*command_message(1, RollOver(KEY, 1, 2, 3, None)), "a field of the next version"],
        command_message(1, RollOver(KEY, 1, 2, 3, None))[:-1],
        [1, "PostTransfer", KEY, "anna", 2, 99, 5, 6, None, None, [0, None]],
        [1, "PostTransfer", KEY, "anna", 2, Code.PROMOTION, 5, 6, None, None, [0, None, "a term of the next version"]],
        [1, "SettleHold", KEY, 1, 2, 3, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, {}, 12]],
        [1, "SettleHold", KEY, 1, 2, 3, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]],
        [1, "PlaceHold", KEY, "anna", 1, 5, 2, 3, 1, 1, None, None],
        [1, "SetBudget", KEY, "anna", 1, "planet", "k", "day", 5, 2],
    ],
    ids=[
        "command",
        "more fields",
        "fewer fields",
        "code",
        "terms",
        "usage",
        "tool calls",
        "no key or member",
        "budget",
    ],
)
def test_a_command_of_another_version_is_an_error_that_says_so(message):
    with pytest.raises(NotUnderstood, match="unknown"):
        command_of(message)


@pytest.mark.parametrize(
    "command", [settle(1, 2), ReleaseHold(KEY, 1, 2), ExpireHold(KEY, 1, 2)], ids=lambda command: type(command).__name__
)
def test_a_host_that_knows_no_budgets_ends_no_hold_for_others_but_may_have_its_own_ended(command):
    number, name, *fields = unpack(pack([command_message(1, command)]))[0]
    assert name != type(command).__name__, "the name by which the version before would know it"
    assert command_of([number, type(command).__name__, *fields]) == command


@pytest.mark.parametrize(
    "message",
    [
        [1, "Split", 2],
        [1, "Settled", 2, 3, 4, False, "a field of the next version"],
        [1, "an_error_of_the_next_version", "it failed", {}],
        [1, "insufficient_credits", "it lacks", {}],
        error_message(1, NotUnderstood("unknown command 'SplitHold' of 2 fields")),
    ],
    ids=["answer", "more fields", "error", "error without its fields", "not understood"],
)
def test_an_answer_of_another_version_is_an_error_that_says_so(message):
    (received,) = unpack(pack([message]))
    with pytest.raises(NotUnderstood, match="unknown"):
        outcome_of(received)


async def test_what_a_leader_of_the_previous_version_does_not_know_runs_here_and_the_rest_goes_on_there(
    hosts: list[RoutedWriter], shared: Database, monkeypatch: pytest.MonkeyPatch
):
    leader = next(writer for writer in hosts if writer._routes[KEY % PARTITIONS] is None)
    sender = next(writer for writer in hosts if writer is not leader)
    soon = grant(500, terms=LotTerms(expires_at_ms=now_ms() + 3_600_000))
    await sender.execute(soon)
    known = {name: kind for name, kind in wire._COMMANDS.items() if kind is not RollOver}
    monkeypatch.setattr(wire, "_COMMANDS", known)
    peer, before = sender._routes[KEY % PARTITIONS], sender.forwarded
    roll_over = RollOver(KEY, soon.transfer_id, new_id(), now_ms(), None, cap=200)
    rolled, placed = await asyncio.gather(sender.execute(roll_over), sender.execute(hold(10)))
    assert (rolled.amount, placed.available) == (200, 490)
    assert sender.forwarded == before + 2
    assert (await sender.execute(settle(placed.hold_id, 4))).balance == 496
    assert sender._routes[KEY % PARTITIONS] is peer, "the leader was not left"
    assert sender.forwarded == before + 3
    assert audit(shared).findings == []


async def test_an_answer_of_the_next_version_is_asked_for_here_again_and_its_neighbours_are_told(shared: Database):
    here = LedgerWriter(shared, new_id=IdMaker())
    here.start()
    await here.execute(grant(1_000))
    channels = []

    async def answer(reader, writer):
        channel = await accept_channel(reader, writer, secret=SECRET)
        channels.append(channel)
        first, second, third = unpack(await channel.receive())
        placed = await here.execute(command_of(second))
        channel.send(pack([[first[0], "PlacedAnew", 1], [second[0], "Placed", *placed], [999, "Settled"], third]))

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    lease = Lease("next", f"127.0.0.1:{server.sockets[0].getsockname()[1]}", 1)
    peer = Peer(lease, secret=SECRET, run_here=here.execute, queue_limit=10, answer_within_s=5)
    connected = asyncio.Event()
    running = asyncio.create_task(peer.run(connected.set))
    await connected.wait()
    loop = asyncio.get_running_loop()
    futures = [loop.create_future() for _ in range(3)]
    for future in futures:
        peer.put(Call(hold(100), loop, future))
    async with asyncio.timeout(10):
        placed = await asyncio.gather(*futures)
        await running
    assert len({one.hold_id for one in placed}) == 3
    assert shared.primary.execute_sql("SELECT held FROM account").fetchone() == (300,)
    channels[0].close()
    server.close()
    here.close()


@pytest.mark.parametrize(
    "error",
    [
        InsufficientCredits("anna", needed=5, available=3),
        HoldEnded("it ended", hold_id=7),
        BudgetExceeded("too much", needed=5, available=3, account_id="anna", kind="run", period_ends_at_ms=None),
    ],
    ids=lambda e: e.code,
)
def test_an_error_survives_the_wire(error):
    (message,) = unpack(pack([error_message(1, error)]))
    received = outcome_of(message)
    assert (type(received), str(received), received.fields) == (type(error), str(error), error.fields)


async def test_commands_of_all_hosts_meet_at_one_leader(hosts: list[RoutedWriter], shared: Database):
    await hosts[0].execute(grant(100_000))
    before = sum(writer.forwarded for writer in hosts)

    async def pair(writer: RoutedWriter) -> None:
        placed = await writer.execute(hold(10))
        assert (await writer.execute(settle(placed.hold_id, 4))).amount == 4

    await asyncio.gather(*(pair(writer) for writer in hosts for _ in range(40)))
    assert sum(writer.forwarded for writer in hosts) - before == 2 * 80, "two of three hosts sent theirs"
    too_much = [writer.execute(hold(10**9)) for writer in hosts]
    for refused in await asyncio.gather(*too_much, return_exceptions=True):
        assert isinstance(refused, InsufficientCredits)
        assert refused.available == 100_000 - 120 * 4
    row = shared.primary.execute_sql("SELECT balance, held FROM account").fetchone()
    assert row == (100_000 - 120 * 4, 0)
    assert audit(shared).findings == []


async def test_threads_without_a_loop_and_units_of_work_use_the_same_door(hosts: list[RoutedWriter], shared: Database):
    for writer in hosts:
        await asyncio.to_thread(writer.execute_sync, grant(5))
        await writer.work([KEY], lambda tx: tx.decide(grant(3)))
    assert shared.primary.execute_sql("SELECT balance FROM account").fetchone() == (24,)


async def test_a_leader_that_leaves_hands_over_at_once(hosts: list[RoutedWriter], shared: Database):
    await hosts[0].execute(grant(100_000))
    leader = next(writer for writer in hosts if writer._routes[KEY % PARTITIONS] is None)
    others = [writer for writer in hosts if writer is not leader]
    running = [asyncio.ensure_future(writer.execute(hold(1))) for writer in others for _ in range(200)]
    await asyncio.sleep(0)
    await asyncio.to_thread(leader.close)
    placed = await asyncio.gather(*running)
    assert len({answer.hold_id for answer in placed}) == 400
    assert shared.primary.execute_sql("SELECT held FROM account").fetchone() == (400,)
    wait_until(lambda: sum(writer._routes[KEY % PARTITIONS] is None for writer in others) == 1)
    assert audit(shared).findings == []


async def test_a_hold_that_a_lost_leader_places_late_does_not_come_back_to_life(
    shared: Database, fresh_postgresql_url: str
):
    """The leader took the command and said nothing; it ran here and was settled; then the leader awakes and runs it."""
    here, leader = (LedgerWriter(open_database(fresh_postgresql_url), new_id=IdMaker()) for _ in range(2))
    here.start()
    leader.start()
    await here.execute(grant(1_000))
    late, channels = [], []

    async def swallow(reader, writer):
        channel = await accept_channel(reader, writer, secret=SECRET)
        channels.append(channel)
        late.extend(command_of(message) for message in unpack(await channel.receive()))

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    lease = Lease("sleeper", f"127.0.0.1:{server.sockets[0].getsockname()[1]}", 1)
    peer = Peer(lease, secret=SECRET, run_here=here.execute, queue_limit=10, answer_within_s=0.2)
    connected = asyncio.Event()
    running = asyncio.create_task(peer.run(connected.set))
    await connected.wait()
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    peer.put(Call(hold(100), loop, future))
    placed = await future
    assert (await here.execute(settle(placed.hold_id, 30))).balance == 970

    (again,) = await asyncio.gather(leader.execute(late[0]), return_exceptions=True)
    assert isinstance(again, Exception)
    assert shared.primary.execute_sql("SELECT balance, held FROM account").fetchone() == (970, 0)
    assert audit(shared).findings == []
    await running
    channels[0].close()
    server.close()
    for writer in (here, leader):
        writer.close()


async def test_a_stranger_without_the_secret_executes_nothing(hosts: list[RoutedWriter], shared: Database):
    await hosts[0].execute(grant(100))
    address = hosts[0]._live[0].address
    host, _, port = address.rpartition(":")
    channel = await open_channel(host, int(port), secret=b"another secret, quite as long")
    channel.send(pack([command_message(1, grant(1_000_000))]))
    with pytest.raises((OSError, asyncio.IncompleteReadError, ForgedFrame)):
        await channel.receive()
    channel.close()
    await asyncio.sleep(0.01)  # the transport closes in the loop
    assert shared.primary.execute_sql("SELECT balance FROM account").fetchone() == (100,)


async def test_a_frame_that_is_replayed_or_reflected_is_refused():
    accepted: asyncio.Queue = asyncio.Queue()

    async def accept(reader, writer):
        await accepted.put(await accept_channel(reader, writer, secret=SECRET))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    caller = await open_channel("127.0.0.1", server.sockets[0].getsockname()[1], secret=SECRET)
    desk = await accepted.get()
    caller.send(b"[]")
    caller._sent = 0  # the same number again: what a replay looks like
    caller.send(b"[]")
    assert await desk.receive() == b"[]"
    with pytest.raises(ForgedFrame):
        await desk.receive()
    desk._out = b"call"  # its own direction again: a reflection
    desk.send(b"[]")
    with pytest.raises(ForgedFrame):
        await caller.receive()
    caller.close()
    desk.close()
    server.close()


def test_a_short_secret_and_a_sqlite_file_are_refused(sqlite_url: str, postgresql_url: str):
    with pytest.raises(ConfigurationError, match="16 bytes"):
        RoutedWriter(open_database(postgresql_url), new_id=new_id, secret=b"short")
    with pytest.raises(ConfigurationError, match="SQLite"):
        RoutedWriter(open_database(sqlite_url), new_id=new_id, secret=SECRET)


def spawn(url: str, *, callers: int, tell: str = "quiet") -> subprocess.Popen:
    command = [sys.executable, str(HOST), url, SECRET.decode(), str(callers), str(TTL_MS), "routed", tell]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


async def test_three_processes_overdraw_nothing_when_one_is_killed(shared: Database, fresh_postgresql_url: str):
    """The account affords 2,000 requests; the leader is killed under load; every acknowledged settle is there, once."""
    seed = LedgerWriter(open_database(fresh_postgresql_url), new_id=new_id)
    seed.start()
    await seed.execute(grant(14_000))
    seed.close()
    processes = [spawn(fresh_postgresql_url, callers=8, tell="tell") for _ in range(3)]
    query = "SELECT owner, address FROM writer_lease"
    assert len(shared.primary.execute_sql(query).fetchall()) == 3
    await asyncio.sleep(TTL_MS / 1_000)  # they have met
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    await asyncio.sleep(0.3)
    killed = processes[0]
    killed.send_signal(signal.SIGKILL)
    await asyncio.sleep(2.0)
    outputs = [process.communicate(timeout=30)[0].splitlines(keepends=True) for process in processes]
    lines = [json.loads(line) for output in outputs for line in output if line.endswith("\n")]
    told = Counter((line[0], line[1]) for line in lines if isinstance(line, list))
    counts = [line for line in lines if isinstance(line, dict)]
    assert len(counts) == 2
    assert set(told.values()) == {1}
    settled = {identifier for what, identifier in told if what == "settled"}
    rows = shared.primary.execute_sql("SELECT id FROM transfer WHERE code = 2").fetchall()
    charged = {row[0] for row in rows}
    assert len(rows) == len(charged) <= 2_000
    assert settled <= charged
    assert len(charged - settled) <= 8, "only the killed host's callers were not told"
    balance, held = shared.primary.execute_sql("SELECT balance, held FROM account").fetchone()
    assert balance == 14_000 - 7 * len(charged)
    assert 0 <= held <= 80
    assert audit(shared).findings == []
