"""One host of several, as a process: a RoutedWriter that places and settles holds on one account until its input ends.

Prints ``ready``, then one JSON line per acknowledged command when ``--tell``, and at the end its counts.
Arguments: URL, secret, callers, ttl_ms, and the flags routed|plain and tell|quiet.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading

from credits_plugin import Usage
from credits_plugin.database import open_database
from credits_plugin.distributed.router import RoutedWriter
from credits_plugin.errors import InsufficientCredits, OutcomeUnknown
from credits_plugin.ledger.entries import PlaceHold, SettleHold
from credits_plugin.ledger.ids import IdMaker, account_key, now_ms
from credits_plugin.ledger.writer import LedgerWriter

KEY = account_key("anna")


async def main() -> None:  # noqa: C901 - one closure per thing that happens at once
    url, secret, callers, ttl_ms, routed, tell = sys.argv[1:7]
    new_id, database = IdMaker(), open_database(url)
    if routed == "routed":
        writer = RoutedWriter(database, new_id=new_id, secret=secret.encode(), ttl_ms=int(ttl_ms), answer_within_s=1.0)
    else:
        writer = LedgerWriter(database, new_id=new_id)
    writer.start()
    counts = {"pairs": 0, "refused": 0, "settled": 0}
    stopping = False

    def listen() -> None:
        nonlocal stopping
        sys.stdin.read()
        stopping = True

    async def insist(command):
        while True:
            try:
                return await writer.execute(command)
            except OutcomeUnknown:
                continue

    async def call() -> None:
        while not stopping:
            now = now_ms()
            try:
                placed = await insist(PlaceHold(KEY, "anna", new_id(), 10, now, now + 600_000, 1, 1))
            except InsufficientCredits:
                counts["refused"] += 1
                await asyncio.sleep(0.01)
                continue
            if tell == "tell":
                print(json.dumps(["placed", placed.hold_id]), flush=True)
            settled = await insist(SettleHold(KEY, placed.hold_id, 7, now_ms(), Usage(input=7)))
            assert settled.amount == 7
            counts["pairs"] += 1
            counts["settled"] += 7
            if tell == "tell":
                print(json.dumps(["settled", placed.hold_id]), flush=True)

    print("ready", flush=True)
    sys.stdin.readline()
    threading.Thread(target=listen, daemon=True).start()
    await asyncio.gather(*(call() for _ in range(int(callers))))
    counts["forwarded"] = writer.forwarded if isinstance(writer, RoutedWriter) else 0
    writer.close()
    print(json.dumps(counts), flush=True)


asyncio.run(main())
