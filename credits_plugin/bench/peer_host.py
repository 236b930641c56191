"""Runs one peer's debits inside the peer's own virtual environment; :mod:`.peers` starts it as a script.

``peer_host.py PEER TARGET CALLERS`` prepares the peer's tables and accounts and prints ``ready``. For each line with a
number of seconds on its input it debits for that long and prints ``DEBITS SECONDS``. It imports nothing of this
package, which is not installed there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from uuid import uuid4

Run = Callable[[float], tuple[int, float]]


def main() -> int:
    """Serve until the input ends."""
    peer, target, callers = sys.argv[1], sys.argv[2], int(sys.argv[3])
    run = _PEERS[peer](target, callers)
    print("ready", flush=True)  # noqa: T201 - its protocol
    for line in sys.stdin:
        debits, seconds = run(float(line))
        print(debits, seconds, flush=True)  # noqa: T201 - its protocol
    return 0


def _plutus_agent(url: str, _callers: int) -> Run:
    """One embedded meter per organisation, from one thread: SQLite has one writer anyway, and a meter one connection.

    The driver's own durability is kept: WAL with ``synchronous=FULL``, which is SQLite's default.
    """
    from plutus_agent import Meter  # noqa: PLC0415 - installed where this runs

    path = url.removeprefix("sqlite:///")
    configuration = {"pricing": {"block_over_balance": True}}
    meters = [Meter(f"bench-{place}", tier="pro", db_path=path, config=configuration) for place in range(50)]
    for meter in meters:
        meter.topup(1_000_000.0)
        if meter.conn.execute("PRAGMA synchronous").fetchone()[0] != 2:
            raise SystemExit("plutus-agent does not run with synchronous=FULL")
    turns = count()

    def debit() -> None:
        meter = meters[next(turns) % len(meters)]
        result = meter.track(
            "anthropic", model="claude-opus-4-8", input_tokens=900, output_tokens=250, cost_usd=0.000321
        )
        if not result.recorded:
            raise SystemExit("plutus-agent refused a debit that was paid for")

    def run(seconds: float) -> tuple[int, float]:
        started, debits = time.perf_counter(), 0
        while time.perf_counter() < started + seconds:
            debit()
            debits += 1
        return debits, time.perf_counter() - started

    return run


def _credit_ledger(url: str, callers: int) -> Run:
    """Its functions block, so one thread per caller, with as many pooled connections; a tenant for each caller."""
    from credit_ledger import metering  # noqa: PLC0415 - installed where this runs
    from sqlalchemy import create_engine, text  # noqa: PLC0415 - see above

    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1), pool_size=callers)
    with engine.begin() as connection:
        for statement in _CREDIT_LEDGER_TABLES.split(";"):
            connection.execute(text(statement))
    tenants = [str(uuid4()) for _ in range(callers)]
    for tenant in tenants:
        metering.grant(tenant, 1_000_000, idempotency_key="grant", engine=engine)

    def debit(caller: int) -> object:
        charge = metering.decrement(tenants[caller], "0.0321", idempotency_key=uuid4().hex, engine=engine)
        if not charge.ok:
            raise SystemExit("credit-ledger refused a debit that was paid for")
        return charge

    return lambda seconds: _in_threads(debit, callers, seconds)


# The wheel has no schema: this is what its statements need, with the unique key that its README describes.
_CREDIT_LEDGER_TABLES = """
CREATE TABLE credit_balance (
    tenant_id uuid PRIMARY KEY, credits numeric(18, 4) NOT NULL, updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE credit_ledger (
    id uuid PRIMARY KEY, tenant_id uuid NOT NULL, delta numeric(18, 4) NOT NULL, reason varchar(120) NOT NULL,
    idempotency_key varchar(200), balance_after numeric(18, 4), created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, idempotency_key)
)
"""


def _hf_nostro(url: str, callers: int) -> Run:
    """A thread and a pooled connection per caller; an account for each, named by its id, which saves a look-up."""
    from nostro import Ledger  # noqa: PLC0415 - installed where this runs
    from nostro.migrate import migrate  # noqa: PLC0415 - see above
    from psycopg_pool import ConnectionPool  # noqa: PLC0415 - see above

    migrate(dsn=url, scale=6)
    ledger = Ledger(pool=ConnectionPool(url, min_size=callers, max_size=callers, open=True), scale=6)
    accounts = [ledger.accounts.get_or_create("bench", f"caller-{place}") for place in range(callers)]
    for account in accounts:
        ledger.credit(account, ledger.amount("1000000"), category="topup", idempotency_key="grant")
    cost = ledger.amount("0.000321")

    def debit(caller: int) -> object:
        return ledger.debit(accounts[caller], cost, category="llm_usage", idempotency_key=uuid4().hex)

    return lambda seconds: _in_threads(debit, callers, seconds)


def _in_threads(debit: Callable[[int], object], callers: int, seconds: float) -> tuple[int, float]:
    started = time.perf_counter()

    def call(caller: int) -> int:
        debits = 0
        while time.perf_counter() < started + seconds:
            debit(caller)
            debits += 1
        return debits

    with ThreadPoolExecutor(callers) as pool:
        debits = sum(pool.map(call, range(callers)))
    return debits, time.perf_counter() - started


_PEERS: dict[str, Callable[[str, int], Run]] = {
    "plutus-agent": _plutus_agent,
    "hf-nostro": _hf_nostro,
    "credit-ledger": _credit_ledger,
}

if __name__ == "__main__":
    sys.exit(main())
