"""``credits demo``: the whole product on this machine, with a stand-in for Stripe and one for the model provider.

Everything but the two stand-ins is what a host runs in production: the example host, loaded from
``examples/agent_server.py``, its plugin, and the ledger in ``DATA/credits.db``.
"""

from __future__ import annotations

import asyncio
import fcntl
import importlib.util
import json
import logging
import secrets
import shlex
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from aiohttp import web

from credits_plugin.database import sqlite_url
from credits_plugin.errors import ConfigurationError
from credits_plugin.sandbox import Sandbox, SandboxSettings
from credits_plugin.sandbox.model_server import DEFAULT_MODEL, ModelServer, ModelServerSettings
from credits_plugin.sandbox.visitor import TEST_CARD, Visitor
from credits_plugin.settings import Settings

PRICES: Final[Mapping[str, Mapping[str, str]]] = {
    DEFAULT_MODEL: {"input": "2.50", "cache_read": "1.25", "output": "10.00"}
}
"""The local model's price in USD per million tokens, as the settings file would have it: that of a mid-sized model."""
WEBHOOK_PATH: Final = "/api/credits/webhook"
PASSWORD: Final = "demo"  # noqa: S105 - the demo's users are for anybody on this machine
WORD_DELAY_S: Final = 0.03
SHUTDOWN_S: Final = 1.0

_SEEDED_USER: Final = "carla"
_SEEDED_MESSAGES: Final = (
    "Count: a ledger moves credits, and never loses one",
    "Summarise: Holds come first. Settlement follows. Nothing is spent twice.",
    "Repeat 4 times: paid in advance",
    "Echo: the answer costs more than the question",
)


@dataclass(frozen=True, slots=True)
class RunningDemo:
    """A demo that is up. ``is_new`` says that its database was made just now."""

    url: str
    sandbox: Sandbox
    settings: Settings
    data: Path
    is_new: bool


@dataclass(frozen=True, slots=True)
class _State:
    """What a demo remembers in ``DATA/demo.json``: logins, and stored links to the sandbox, outlive a restart."""

    session_key: str
    sandbox_port: int
    seeded: bool


async def run_demo(*, port: int = 8080, data: Path) -> None:
    """Run until SIGINT or SIGTERM. Everything is stored below ``data``, and is there again at the next start.

    Raises:
        ConfigurationError: the port is taken, or ``data`` is unusable or another demo's; the message says what to do.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    logging.getLogger("stripe").setLevel(logging.WARNING)  # its requests would bury the lines of the plugin
    async with start_demo(data, port=port) as demo:
        _say(describe(demo))
        await stop.wait()
        _say("Stopping. Run the same command again to go on where you left off.\n")


@asynccontextmanager
async def start_demo(data: Path, *, port: int = 0, word_delay_s: float = WORD_DELAY_S) -> AsyncIterator[RunningDemo]:
    """Bring everything up on 127.0.0.1; port 0 is any. A new database gets a buyer with a little history."""
    async with AsyncExitStack() as stack:
        folder = _prepare(data, stack)
        listener = stack.enter_context(_listen(port))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        state = _read_state(folder)
        is_new = not (folder / "credits.db").exists()
        sandbox = await _start_sandbox(stack, folder, state, webhook_url=url + WEBHOOK_PATH)
        model = await stack.enter_async_context(ModelServer(ModelServerSettings(word_delay_s=word_delay_s)))
        settings = demo_settings(folder, url=url, sandbox=sandbox)
        await _start_host(stack, settings, listener=listener, model_url=model.url, session_key=state.session_key)
        if not state.seeded:
            await _seed(url)
        _write_state(folder, _State(state.session_key, int(sandbox.url.rpartition(":")[2]), seeded=True))
        yield RunningDemo(url, sandbox, settings, folder, is_new)


def demo_settings(folder: Path, *, url: str, sandbox: Sandbox) -> Settings:
    """Return the settings of the demo's host: the standard packages, and a price for the local model."""
    return Settings(
        database_url=sqlite_url(folder / "credits.db"),
        frontend_url=url,
        stripe_secret_key=sandbox.settings.secret_key,
        stripe_webhook_secrets=(sandbox.settings.webhook_secret,),
        stripe_api_base=sandbox.url,
        prices=PRICES,
    )


def describe(demo: RunningDemo) -> str:
    """Return what a person needs to know to use the demo."""
    return f"""
  Credits demo is up.  Everything runs on this machine; no money moves.

  Chat           {demo.url}/
                 sign in as alice or bob (no credits yet) or carla (has bought some); password: {PASSWORD}
  Credits        {demo.settings.purchase_url}
  Test card      {TEST_CARD}, any future date, any CVC
  Stripe         {demo.sandbox.url}/sandbox  (the stand-in: what happened, disputes, late money, faults)
  Data           {demo.data}

  Admin terminal, in a second window:

  {admin_command(demo.settings)}

  Ctrl-C stops the demo.
"""


def admin_command(settings: Settings) -> str:
    """Return the line that opens the admin UI on the demo's database, with what it needs to make refunds."""
    beside = Path(sys.executable).with_name("credits-admin")
    program = str(beside) if beside.exists() and not shutil.which("credits-admin") else "credits-admin"
    environment = {
        "STRIPE_SECRET_KEY": settings.stripe_secret_key,
        "STRIPE_WEBHOOK_SECRET": ",".join(settings.stripe_webhook_secrets),
        "CREDITS_STRIPE_API_BASE": settings.stripe_api_base or "",
    }
    words = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
    return " ".join([*words, shlex.quote(program), "--database", shlex.quote(settings.database_url)])


def load_example(example: str = "agent_server") -> ModuleType:
    """Load an example: the clone's file where there is a clone, else the copy that the package carries.

    Raises:
        ConfigurationError: neither is there.
    """
    name = f"credits_example_{example}"
    if name in sys.modules:
        return sys.modules[name]
    clone, package = Path(__file__).parents[2], Path(__file__).parent
    folder = clone if (clone / "pyproject.toml").is_file() else package
    path = folder / "examples" / f"{example}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        msg = f"the example is missing: {path} does not exist; install credits-plugin again"
        raise ConfigurationError(msg)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


def _prepare(data: Path, stack: AsyncExitStack) -> Path:
    """Make the folder and keep other demos out of it while this one runs."""
    folder = data.absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = stack.enter_context((folder / "demo.lock").open("w"))
    except OSError as error:
        msg = f"{folder} cannot be used for the demo's data ({error.strerror}): choose another folder with --data"
        raise ConfigurationError(msg) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        msg = f"another demo is running in {folder}: stop it, or choose another folder with --data"
        raise ConfigurationError(msg) from error
    return folder


def _listen(port: int) -> socket.socket:
    if not 0 <= port <= 65_535:
        msg = f"a port is 0 to 65535, not {port}: choose another with --port"
        raise ConfigurationError(msg)
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as error:
        msg = f"cannot use 127.0.0.1:{port} ({error.strerror}): stop what listens there, or choose another with --port"
        raise ConfigurationError(msg) from error


async def _start_sandbox(stack: AsyncExitStack, folder: Path, state: _State, *, webhook_url: str) -> Sandbox:
    settings = SandboxSettings(webhook_url=webhook_url, data_path=folder / "sandbox.db", merchant_name="Credits demo")
    try:
        return await stack.enter_async_context(Sandbox(settings, port=state.sandbox_port))
    except OSError:  # somebody has taken the port since; only links of unfinished purchases are lost with it
        return await stack.enter_async_context(Sandbox(settings))


async def _start_host(
    stack: AsyncExitStack, settings: Settings, *, listener: socket.socket, model_url: str, session_key: str
) -> None:
    example = load_example()
    agent = example.AgentSettings(
        provider_url=model_url,
        model=DEFAULT_MODEL,
        session_key=bytes.fromhex(session_key),
    )
    runner = web.AppRunner(example.create_app(agent, settings), access_log=None, shutdown_timeout=SHUTDOWN_S)
    stack.push_async_callback(runner.cleanup)
    await runner.setup()
    await web.SockSite(runner, listener).start()


async def _seed(url: str) -> None:
    """Let one user buy the second package and chat, the way a person would."""
    async with Visitor(url) as visitor:
        await visitor.sign_in(_SEEDED_USER, PASSWORD)
        await visitor.buy(package_id=2)
        await asyncio.gather(*(visitor.chat(message) for message in _SEEDED_MESSAGES))


def _read_state(folder: Path) -> _State:
    try:
        stored: dict[str, Any] = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
        return _State(**stored)
    except FileNotFoundError:
        return _State(session_key=secrets.token_hex(32), sandbox_port=0, seeded=False)
    except (ValueError, TypeError) as error:
        msg = f"{folder / 'demo.json'} is damaged: remove it, or choose another folder with --data"
        raise ConfigurationError(msg) from error


def _write_state(folder: Path, state: _State) -> None:
    text = json.dumps({name: getattr(state, name) for name in ("session_key", "sandbox_port", "seeded")})
    path = folder / "demo.json"
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
