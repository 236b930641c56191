"""examples/metering_proxy.py as examples/README.md says to run it: a process, configured by the environment."""

import base64
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import aiohttp
import openai
import pytest
from proxy_host import proxy
from stripe_schema import CheckedSandbox
from test_running_it import REPOSITORY, SETTINGS, free_port

from credits_plugin.sandbox import SandboxSettings
from credits_plugin.sandbox.visitor import Visitor


def run(environment, *words):
    command = [sys.executable, proxy.__file__, *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)


@contextmanager
def running(environment):
    command = [sys.executable, proxy.__file__]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as host:
        try:
            assert any("Running on" in line for line in iter(host.stdout.readline, ""))
            yield host
        finally:
            host.send_signal(signal.SIGINT)
            host.communicate(timeout=10)


async def open_the_pages(visitor, url, key):
    """Give a visitor the key as a browser keeps it: sent to this origin, on every way to it."""
    password = base64.b64encode(f":{key}".encode()).decode()

    async def sign(request, handler):
        if str(request.url.origin()) == url:
            request.headers["Authorization"] = f"Basic {password}"
        return await handler(request)

    await visitor.http.close()
    visitor.http = aiohttp.ClientSession(middlewares=(sign,))


async def test_key_is_made_credits_are_bought_with_it_and_spent_by_an_unchanged_program(tmp_path):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    stripe = SandboxSettings(webhook_url=f"{url}/api/credits/webhook")
    async with CheckedSandbox(stripe) as sandbox, Visitor(url) as visitor:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONUNBUFFERED": "1",
            "PROXY_PORT": str(port),
            "PROXY_KEYS": str(tmp_path / "keys.db"),
            "CREDITS_SETTINGS": str(SETTINGS),
            "DATABASE_URL": f"sqlite:///{tmp_path / 'credits.db'}",
            "FRONTEND_URL": url,
            "STRIPE_SECRET_KEY": stripe.secret_key,
            "STRIPE_WEBHOOK_SECRET": stripe.webhook_secret,
            "CREDITS_STRIPE_API_BASE": sandbox.url,
        }
        key_id, key = run(environment, "add-key", "acme").stdout.split()
        with running(environment):
            async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key) as client:
                messages = [{"role": "user", "content": "repeat: it works"}]
                with pytest.raises(openai.APIStatusError, match=f"{url}/credits"):
                    await client.chat.completions.create(model="local-small", messages=messages)
                await open_the_pages(visitor, url, key)
                await visitor.buy(package_id=1)
                answer = await client.chat.completions.create(model="local-small", messages=messages)
                assert answer.choices[0].message.content == "it works"
                charge = (await visitor.get("/api/credits/transactions")).body["transactions"][0]
                assert charge["type"] == "usage"
                assert run(environment, "revoke-key", key_id).returncode == 0  # while the proxy runs
                with pytest.raises(openai.AuthenticationError):
                    await client.models.list()


def test_unknown_key_and_unknown_command_are_errors(tmp_path):
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "PROXY_KEYS": str(tmp_path / "keys.db")}
    assert "there is no key key_1" in run(environment, "revoke-key", "key_1").stderr
    assert "add-key ACCOUNT" in run(environment, "help").stderr
