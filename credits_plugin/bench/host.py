"""``python -m credits_plugin.bench.host URL``: one host process of the benchmark, told what to do by lines of JSON."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from ..database import open_database
from ..ledger.ids import IdMaker, account_key
from ..ledger.writer import LedgerWriter
from .ledger import account_name, place_hold, settle_hold, writers


def main() -> None:
    """Answer each line of standard input with one line, until it ends."""
    database = open_database(sys.argv[1])
    with writers(database, count=1) as (writer,):
        for line in sys.stdin:
            order = json.loads(line)
            answer = {"ready": True} if "ready" in order else asyncio.run(_drive(writer, order))
            print(json.dumps(answer), flush=True)  # noqa: T201 - the measuring process reads it


async def _drive(writer: LedgerWriter, order: dict[str, Any]) -> dict[str, Any]:
    """Place and settle from ``begin`` (the machine's monotonic clock) on, at least once per caller."""
    new_id, end = IdMaker(), order["begin"] + order["seconds"]
    latencies: list[float] = []
    await asyncio.sleep(order["begin"] - time.monotonic())

    async def call(number: int) -> None:
        name = account_name(number % order["accounts"])
        key = account_key(name)
        while True:
            started = time.monotonic()
            hold_id = await place_hold(writer, key, name, new_id)
            latencies.append(round(time.monotonic() - started, 6))
            await settle_hold(writer, key, hold_id)
            if time.monotonic() >= end:
                break

    await asyncio.gather(*(call(number) for number in range(order["callers"])))
    rate = len(latencies) / (time.monotonic() - order["begin"])
    return {"pairs_per_second": rate, "latencies": latencies}


if __name__ == "__main__":
    main()
