"""The settings and the command reach what they name."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from credits_plugin import AIRequest, Hold, Outcome, OutcomeStatus, Settings, Usage, build
from credits_plugin.distributed.router import RoutedWriter
from credits_plugin.errors import ConfigurationError
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.entries import Code, PostTransfer
from credits_plugin.ledger.ids import account_key, now_ms

PRICES = {"toy": {"input": "1", "output": "2"}}
SECRET = "a secret that all hosts share, long enough"


async def test_hosts_with_a_shared_secret_send_each_account_home(fresh_postgresql_url: str):
    settings = Settings(database_url=fresh_postgresql_url, prices=PRICES, hosts_secret=SECRET)
    hosts = [build(settings) for _ in range(2)]
    assert all(isinstance(host.writer, RoutedWriter) for host in hosts)
    key = account_key("anna")
    await hosts[0].writer.execute(
        PostTransfer(key, "anna", hosts[0].new_id(), Code.PROMOTION, 10**9, now_ms(), "test grant")
    )

    async def one(number: int) -> None:
        host = hosts[number % 2]
        hold = await host.admit(AIRequest("anna", "toy", max_output_tokens=10))
        assert isinstance(hold, Hold), hold
        await host.settle(hold, Outcome(OutcomeStatus.COMPLETED, Usage(input=1)))

    await asyncio.gather(*map(one, range(40)))
    report = audit(hosts[0].database)
    assert (report.findings, report.open_holds, report.balance_total) == ([], 0, 10**9 - 40 * 115)
    for host in hosts:
        await host.close()


def test_a_secret_that_is_too_short_or_a_bad_address_is_refused(fresh_postgresql_url: str):
    with pytest.raises(ConfigurationError, match="secret"):
        build(Settings(database_url=fresh_postgresql_url, hosts_secret="short"))
    with pytest.raises(ConfigurationError, match="CREDITS_HOSTS_LISTEN"):
        Settings(hosts_listen="somewhere")


def test_the_layout_needs_its_engine_and_says_so(fresh_postgresql_url: str):
    command = [sys.executable, "-m", "credits_plugin", "migrate", "--database", fresh_postgresql_url]
    done = subprocess.run([*command, "--distributed", "citus"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "itus" in done.stderr
    assert "Traceback" not in done.stderr
