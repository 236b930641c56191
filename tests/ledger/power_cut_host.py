"""``python power_cut_host.py URL``: places and settles until it is killed, and prints each acknowledgement."""

import asyncio
import os
import sys

from credits_plugin.bench.ledger import account_name
from credits_plugin.database import open_database
from credits_plugin.ledger.entries import PlaceHold, SettleHold
from credits_plugin.ledger.ids import IdMaker, account_key, now_ms
from credits_plugin.ledger.writer import LedgerWriter
from hookspecs import Usage

CALLERS = 16


async def main(url):
    new_id = IdMaker()
    writer = LedgerWriter(open_database(url), new_id=new_id)
    writer.start()

    async def call(number):
        name = account_name(number)
        key = account_key(name)
        while True:
            now = now_ms()
            hold_id = new_id()
            await writer.execute(PlaceHold(key, name, hold_id, 5, now, now + 600_000, 1, 1))
            say("held", hold_id)
            await writer.execute(SettleHold(key, hold_id, 3, now_ms(), Usage(input=1)))
            say("settled", hold_id)

    await asyncio.gather(*(call(number) for number in range(CALLERS)))


def say(what, hold_id):
    os.write(1, f"{what} {hold_id}\n".encode())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
