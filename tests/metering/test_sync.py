"""The same metering from worker threads, with event loops running here, elsewhere or nowhere."""

from __future__ import annotations

import asyncio
import signal
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace

import pytest
from metering_seed import PRICES, balance

from credits_plugin import AIRequest, Estimate, Hold, Outcome, OutcomeStatus, Refusal, RequestRefused, Settings, Usage
from credits_plugin.bootstrap import Credits, build
from credits_plugin.errors import Overloaded
from credits_plugin.ledger.audit import audit
from credits_plugin.ledger.entries import Code, PostTransfer
from credits_plugin.ledger.ids import account_key, now_ms
from credits_plugin.metering import streamed
from credits_plugin.metering.streamed import StreamedText
from credits_plugin.pricing.tokens import count_text_tokens

START = 10_000_000
TEN = Usage(input=10)
ASKED = AIRequest("anna", "toy", [{"role": "user", "content": "hello"}], max_output_tokens=100)


@pytest.fixture
def service(database_url: str):
    built = build(Settings(database_url=database_url, prices=PRICES))
    grant = PostTransfer(account_key("anna"), "anna", built.new_id(), Code.PROMOTION, START, now_ms(), "test grant")
    built.writer.execute_sync(grant)
    yield built
    built.close_sync()


def test_a_call_without_any_event_loop_is_held_and_charged(service: Credits):
    with service.sync.metered(ASKED) as call:
        assert balance(service, "anna")[1] == call.hold.amount_microcredits
        assert call.deliver("hello")
        call.report(TEN)
    assert balance(service, "anna") == (START - 1_150, 0)
    assert audit(service.database).clean


def test_admit_settle_and_estimate_answer_as_the_async_ones(service: Credits):
    estimate = service.sync.estimate(ASKED)
    hold = service.sync.admit(ASKED)
    assert isinstance(estimate, Estimate)
    assert isinstance(hold, Hold)
    assert hold.estimate == estimate
    assert service.sync.settle(hold, Outcome(OutcomeStatus.COMPLETED, TEN)).amount == 1_150
    assert isinstance(service.sync.admit(replace(ASKED, account_id="bob")), Refusal)


def test_a_refused_call_never_runs(service: Credits):
    with pytest.raises(RequestRefused) as refused, service.sync.metered(replace(ASKED, account_id="bob")):
        raise AssertionError
    assert refused.value.refusal.code == "insufficient_credits"
    assert refused.value.refusal.purchase_url in str(refused.value)


def test_a_stream_that_is_left_pays_for_what_it_delivered(service: Credits):
    def stream():
        with service.sync.metered(ASKED) as call:
            call.deliver("one two three")
            yield "one two three"

    left = stream()
    next(left)
    left.close()
    left_over, held = balance(service, "anna")
    assert (held, left_over < START) == (0, True)


def test_many_threads_are_each_charged_once(service: Credits):
    def call(_: int) -> None:
        with service.sync.metered(ASKED) as call:
            call.report(TEN)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(call, range(40)))
    assert balance(service, "anna") == (START - 40 * 1_150, 0)


async def test_it_answers_in_a_thread_whose_own_loop_is_running(service: Credits):
    with service.sync.metered(ASKED) as call:
        call.report(TEN)
    assert balance(service, "anna") == (START - 1_150, 0)


async def test_it_answers_in_worker_threads_of_a_running_loop(service: Credits):
    def work() -> None:
        with service.sync.metered(ASKED) as call:
            call.report(TEN)

    await asyncio.gather(*(asyncio.to_thread(work) for _ in range(10)))
    assert balance(service, "anna") == (START - 11_500, 0)


async def test_layers_of_both_kinds_are_one_call(service: Credits):
    def provider() -> None:
        with service.sync.metered(ASKED) as inner:
            inner.report(TEN)

    async with service.metered(ASKED):
        await asyncio.to_thread(provider)
    assert balance(service, "anna") == (START - 1_150, 0)


def test_called_in_its_own_loop_it_says_so_instead_of_waiting_for_ever(service: Credits):
    async def mistaken() -> None:
        service.sync.estimate(ASKED)

    with pytest.raises(RuntimeError, match="await the async methods"):
        service.sync.run(mistaken())


def test_after_the_service_is_closed_requests_are_refused_by_value(service: Credits):
    service.sync.estimate(ASKED)
    service.close_sync()
    assert service.sync.admit(ASKED).code == "overloaded"
    with pytest.raises(Overloaded):
        service.sync.estimate(ASKED)


def test_who_waits_when_the_service_is_closed_hears_of_it(service: Credits):
    began, heard = threading.Event(), []

    async def endless() -> None:
        began.set()
        await asyncio.Event().wait()

    def wait() -> None:
        try:
            service.sync.run(endless())
        except Overloaded as error:
            heard.append(error.code)

    thread = threading.Thread(target=wait)
    thread.start()
    began.wait()
    service.close_sync()
    thread.join(10)
    assert heard == ["overloaded"]


def test_an_interrupt_while_waiting_undoes_what_was_not_decided(service: Credits):
    undone = threading.Event()

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            undone.set()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    with pytest.raises(KeyboardInterrupt):
        service.sync.run(endless())
    signal.signal(signal.SIGALRM, before)
    assert undone.wait(10)


def test_a_thread_waits_for_credits_and_goes_on_once_they_are_there(service: Credits):
    poor = replace(ASKED, account_id="bob")
    refusal = service.sync.admit(poor)
    assert isinstance(refusal, Refusal)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(service.sync.wait_for_credits, refusal, timeout_s=60)
        assert not service.sync.wait_for_credits(refusal, timeout_s=0)
        grant = PostTransfer(account_key("bob"), "bob", service.new_id(), Code.PROMOTION, START, now_ms(), "test grant")
        service.writer.execute_sync(grant)
        assert waiting.result(30)
    assert isinstance(service.sync.admit(poor), Hold)


def test_a_thread_that_waits_for_credits_is_let_go_when_the_service_closes(service: Credits):
    refusal = service.sync.admit(replace(ASKED, account_id="bob"))
    assert isinstance(refusal, Refusal)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(service.sync.wait_for_credits, refusal, timeout_s=60)
        service.close_sync()
        with suppress(Overloaded):  # it came after the end, or the loop ended first
            assert waiting.result(30) is False


def test_text_that_arrives_while_the_event_loop_counts_is_counted_too(monkeypatch: pytest.MonkeyPatch):
    text, is_counting, may_go_on = StreamedText(), threading.Event(), threading.Event()

    def counted_slowly(fresh: str, model: str) -> int:
        is_counting.set()
        may_go_on.wait(10)
        return count_text_tokens(fresh, model)

    monkeypatch.setattr(streamed, "count_text_tokens", counted_slowly)
    text.add("one two three")
    with ThreadPoolExecutor(2) as threads:
        counting = threads.submit(text.tokens_at_most, 0, "toy")
        assert is_counting.wait(10)
        adding = threads.submit(text.add, " and many more words")
        wait([adding], timeout=0.1)  # without the lock it is there now, and lost when the count ends
        may_go_on.set()
        counting.result(10), adding.result(10)
    assert str(text) == "one two three and many more words"
    assert text.tokens_at_most(0, "toy") >= count_text_tokens(str(text), "toy")
