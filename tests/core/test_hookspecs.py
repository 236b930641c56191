"""The hook contract: documented, tested, failing closed."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import subprocess
import sys
from collections.abc import Coroutine
from pathlib import Path

import pluggy
import pytest

import hookspecs
from credits_plugin import (
    ASYNC_HOOKS,
    PROJECT_NAME,
    AIRequest,
    CreditEvent,
    CreditsSpecs,
    Estimate,
    Hold,
    HookCaller,
    HookContractError,
    Outcome,
    OutcomeStatus,
    Refusal,
    Usage,
    hookimpl,
)

REQUEST = AIRequest(account_id="anna", model="m")
ESTIMATE = Estimate("m", 1, 1, 1)
HOLD = Hold(1, "anna", 1, ESTIMATE, 1, 0)
DONE = Outcome(OutcomeStatus.COMPLETED, Usage(input=1))


def manager(*plugins: object) -> pluggy.PluginManager:
    pm = pluggy.PluginManager(PROJECT_NAME)
    pm.add_hookspecs(CreditsSpecs)
    for plugin in plugins:
        pm.register(plugin)
    return pm


class Gate:
    """Answers what it was made with, and remembers what it was told."""

    def __init__(self, answer: object = HOLD) -> None:
        self.answer = answer
        self.asked = 0
        self.ended: list[Outcome] = []

    @hookimpl
    async def before_ai_request(self, request):
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    @hookimpl
    async def after_ai_request(self, request, hold, outcome):
        self.ended.append(outcome)


class SyncGate(Gate):
    @hookimpl
    def before_ai_request(self, request):
        return self.answer

    @hookimpl
    def after_ai_request(self, outcome):
        self.ended.append(outcome)


def hook_names() -> list[str]:
    return [name for name, _ in inspect.getmembers(CreditsSpecs, inspect.isfunction) if not name.startswith("_")]


@pytest.mark.parametrize("name", hook_names())
def test_every_hook_has_a_docstring_and_a_row_in_the_docs(name: str):
    assert getattr(CreditsSpecs, name).__doc__
    docs = (Path(__file__).parents[2] / "docs" / "hooks.md").read_text()
    assert re.search(rf"^\| `{name}\(", docs, re.MULTILINE), f"{name} has no row in docs/hooks.md"


@pytest.mark.parametrize("name", hook_names())
def test_every_hook_is_called_in_some_test(name: str):
    tests = Path(__file__).parents[1].rglob("test_*.py")
    pattern = re.compile(rf"@hookimpl(\([^)]*\))?\s+(async )?def {name}\(")
    assert any(pattern.search(path.read_text()) for path in tests), f"no test implements {name}"


def test_every_public_name_is_exported_by_the_package():
    import credits_plugin

    public = {
        name
        for name, value in vars(hookspecs).items()
        if getattr(value, "__module__", None) == "hookspecs" and not name.startswith("_")
    }
    assert public <= set(credits_plugin.__all__)


async def test_a_hold_passes_through_async_and_sync_gates():
    assert await HookCaller(manager(Gate())).before_ai_request(REQUEST) is HOLD
    assert await HookCaller(manager(SyncGate())).before_ai_request(REQUEST) is HOLD


async def test_the_first_refusal_ends_it_and_gives_an_earlier_hold_back():
    refusal = Refusal("budget", "no")
    last, refusing, holding = Gate(None), Gate(refusal), Gate()
    caller = HookCaller(manager(last, refusing, holding))  # pluggy asks the last registered first
    assert await caller.before_ai_request(REQUEST) is refusal
    assert (holding.asked, refusing.asked, last.asked) == (1, 1, 0)
    assert [outcome.status for outcome in holding.ended] == [OutcomeStatus.FAILED_BEFORE_SEND]


@pytest.mark.parametrize("answer", [RuntimeError("broken"), "yes", True, 1])
async def test_a_gate_that_raises_or_answers_nonsense_refuses(answer: object):
    refusal = await HookCaller(manager(Gate(answer))).before_ai_request(REQUEST)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "gate_failed"


async def test_another_plugins_allow_cannot_replace_the_gate():
    refusal = Refusal("insufficient_credits", "no")
    assert await HookCaller(manager(Gate(refusal), Gate(None))).before_ai_request(REQUEST) is refusal


async def test_no_opinion_from_every_gate_is_a_refusal():
    assert (await HookCaller(manager(Gate(None))).before_ai_request(REQUEST)).code == "gate_failed"


async def test_two_holds_on_one_request_are_both_given_back():
    first, second = Gate(), Gate()
    assert (await HookCaller(manager(first, second)).before_ai_request(REQUEST)).code == "gate_failed"
    assert len(first.ended) == len(second.ended) == 2  # each hold is reported to every plugin


async def test_every_after_hook_runs_although_one_raises():
    class Broken:
        @hookimpl
        def after_ai_request(self, request, hold, outcome):
            raise RuntimeError("broken")

    gate, other = Gate(), Gate(None)
    await HookCaller(manager(gate, Broken(), other)).after_ai_request(REQUEST, HOLD, DONE)
    assert gate.ended == other.ended == [DONE]


class Waiting:
    """Another plugin, which waits in its hook until somebody stops it."""

    def __init__(self) -> None:
        self.is_waiting = asyncio.Event()

    async def wait(self) -> None:
        self.is_waiting.set()
        await asyncio.Event().wait()


class WaitsBefore(Waiting):
    @hookimpl
    async def before_ai_request(self):
        await self.wait()


class WaitsAfter(Waiting):
    @hookimpl
    async def after_ai_request(self):
        await self.wait()


async def cancelled_in(plugin: Waiting, work: Coroutine[object, object, object]) -> None:
    task = asyncio.ensure_future(work)
    await plugin.is_waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_hold_is_given_back_when_its_caller_is_cancelled_in_another_plugins_gate():
    waiting, gate = WaitsBefore(), Gate()
    await cancelled_in(waiting, HookCaller(manager(waiting, gate)).before_ai_request(REQUEST))
    assert [outcome.status for outcome in gate.ended] == [OutcomeStatus.FAILED_BEFORE_SEND]


async def test_every_after_hook_runs_although_the_caller_is_cancelled_in_one():
    waiting, gate = WaitsAfter(), Gate()
    await cancelled_in(waiting, HookCaller(manager(gate, waiting)).after_ai_request(REQUEST, HOLD, DONE))
    assert gate.ended == [DONE]


def test_a_host_without_a_gate_refuses_to_start():
    with pytest.raises(HookContractError, match="no plugin implements before_ai_request"):
        HookCaller(manager())
    with pytest.raises(HookContractError, match="add_hookspecs"):
        HookCaller(pluggy.PluginManager(PROJECT_NAME))


async def test_a_gate_that_was_unregistered_later_stops_every_request():
    gate = Gate()
    pm = manager(gate)
    caller = HookCaller(pm)
    pm.unregister(gate)
    with pytest.raises(HookContractError):
        await caller.before_ai_request(REQUEST)


@pytest.mark.parametrize("name", ASYNC_HOOKS)
def test_a_wrapper_on_an_async_hook_is_refused(name: str):
    def wrap(self):
        yield

    wrapper = type("Wrapper", (), {name: hookimpl(wrapper=True)(wrap)})
    with pytest.raises(HookContractError, match="wraps"):
        HookCaller(manager(Gate(), wrapper()))


async def test_plugins_resolve_accounts_and_override_estimates():
    class Host:
        @hookimpl
        async def resolve_account(self, http_request):
            return http_request["user"]

        @hookimpl
        def estimate_ai_request(self, request):
            return ESTIMATE if request.model == "m" else None

    caller = HookCaller(manager(Gate(), Host()))
    assert await caller.resolve_account({"user": "anna"}) == "anna"
    assert await caller.estimate_ai_request(REQUEST) is ESTIMATE
    assert await caller.estimate_ai_request(AIRequest("anna", "other")) is None


async def test_every_plugin_hears_an_event_and_a_failure_is_reported_for_another_try():
    heard = []

    class Listener:
        @hookimpl
        async def on_credit_event(self, event):
            heard.append(event.kind)

    class Broken:
        @hookimpl
        def on_credit_event(self, event):
            raise RuntimeError("broken")

    caller = HookCaller(manager(Gate(), Listener(), Broken(), Listener()))
    with pytest.raises(ExceptionGroup):
        await caller.on_credit_event(CreditEvent(1, "purchased", "anna", {}))
    assert heard == ["purchased", "purchased"]


def test_plugins_learn_of_the_host_and_the_service_also_when_registered_later():
    told = []

    class Plugin:
        @hookimpl
        def host_ready(self, hooks):
            told.append(hooks)

        @hookimpl
        def credits_ready(self, service):
            told.append(service)

    pm = manager(Gate())
    caller = HookCaller(pm)
    caller.credits_ready("service")
    pm.register(Plugin())
    assert caller in told
    assert "service" in told


def test_a_web_app_can_be_provided():
    class Web:
        @hookimpl
        def provide_web_app(self):
            return "app"

    assert manager(Gate(), Web()).hook.provide_web_app() == ["app"]


@pytest.mark.parametrize("count", [-1, 1.0, True, "1", None])
def test_a_token_count_must_be_a_whole_number(count: object):
    with pytest.raises(ValueError, match=r"usage\.output"):
        Usage(output=count)


def test_the_contract_imports_nothing_but_pluggy_and_the_standard_library():
    code = "import sys, hookspecs; print(sorted({n.partition('.')[0] for n in sys.modules}))"
    modules = set(ast.literal_eval(subprocess.check_output([sys.executable, "-c", code], text=True)))
    assert not modules & {"credits_plugin", "admin_tui", "peewee", "stripe", "textual", "aiohttp", "genai_prices"}
