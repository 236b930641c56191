"""examples/agent_server.py as examples/README.md says to run it: a process, configured by the environment."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from stripe_schema import CheckedSandbox

from credits_plugin.payments.packages import parse_packages
from credits_plugin.pricing.overrides import parse_overrides
from credits_plugin.sandbox import SandboxSettings
from credits_plugin.sandbox.demo import PRICES
from credits_plugin.sandbox.visitor import Visitor
from credits_plugin.settings import DEFAULT_PACKAGES, load_settings

REPOSITORY = Path(__file__).parents[2]
SETTINGS = REPOSITORY / "examples" / "credits.toml"


def test_settings_file_has_the_standard_packages_and_the_local_models_price():
    settings = load_settings({"CREDITS_SETTINGS": str(SETTINGS)})
    assert parse_packages(settings.packages) == parse_packages(DEFAULT_PACKAGES)
    assert parse_overrides(settings.prices) == parse_overrides(PRICES)
    assert settings.markup_bps == 1_500


@pytest.fixture
def installed(tmp_path):
    """A folder that makes the clone look installed to pluggy: the metadata of a distribution with our entry point."""
    metadata = tmp_path / "installed" / "credits_plugin-0.1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: credits-plugin\nVersion: 0.1.0\n")
    entry_point = "[credits_plugin]\ncredits = credits_plugin.plugin:environment_plugin\n"
    (metadata / "entry_points.txt").write_text(entry_point)
    return metadata.parent


@contextmanager
def running_example(port, **environment):
    variables = {"PATH": os.environ["PATH"], "AGENT_PORT": str(port), "CREDITS_SETTINGS": str(SETTINGS), **environment}
    command = [sys.executable, str(REPOSITORY / "examples" / "agent_server.py")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=variables) as host:
        try:
            wait_until_up(host, f"http://127.0.0.1:{port}/healthz")
            yield host
        finally:
            host.send_signal(signal.SIGINT)
            host.communicate(timeout=10)


def wait_until_up(host, url):
    for _ in range(200):
        assert host.poll() is None, host.stderr.read()
        try:
            with urlopen(url) as response:
                assert response.status == 200
            return
        except URLError:
            time.sleep(0.05)
    raise AssertionError(f"{url} did not answer")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.mark.parametrize("load", ["entrypoint", "registered"])
async def test_credits_are_bought_and_spent_however_the_plugin_was_loaded(tmp_path, installed, load):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    stripe = SandboxSettings(webhook_url=f"{url}/api/credits/webhook")
    async with CheckedSandbox(stripe) as sandbox, Visitor(url) as visitor:
        environment = {
            "PYTHONPATH": f"{installed}{os.pathsep}{REPOSITORY}" if load == "entrypoint" else str(REPOSITORY),
            "AGENT_LOAD": load,
            "DATABASE_URL": f"sqlite:///{tmp_path / 'credits.db'}",
            "FRONTEND_URL": url,
            "STRIPE_SECRET_KEY": stripe.secret_key,
            "STRIPE_WEBHOOK_SECRET": stripe.webhook_secret,
            "CREDITS_STRIPE_API_BASE": sandbox.url,
        }
        with running_example(port, **environment):
            await visitor.sign_in("bob", "demo")
            assert (await visitor.chat("Hello")).status == 402
            await visitor.buy(package_id=1)
            answer = await visitor.chat("repeat: it works")
            assert answer.body["reply"] == "it works"
            charge = (await visitor.get("/api/credits/transactions")).body["transactions"][0]
            assert charge["id"] == answer.body["hold_id"]
